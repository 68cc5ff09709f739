"""A model as baselines see it: matrices by role as they are stored, hidden states on demand, a count of bytes read.

Nothing is folded and no frame is aligned: what a method's paper does not do is not done for it here. Grouped keys and
values are repeated for their queries where a method multiplies them; the latent attention of DeepSeek is multiplied
out.

Shapes  R = rows (head or inner dimensions), D = residual width, V = vocabulary, T = tokens, N = inputs
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.tokenizers.vocabulary import Vocabulary, read_vocabulary
from pedigree.weights.anatomy import Anatomy, read_anatomy
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION = ("q", "k", "v", "o")
BATCH = 50
"""Inputs that go through a model at once."""


@dataclass
class Model:
    """One model under test; everything is read once, on first use.

    Args:
        folder: where it lies.
    """

    folder: Path
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The open files."""
        return open_checkpoint(self.folder)

    @cached_property
    def anatomy(self) -> Anatomy:
        """Which tensor is what."""
        return read_anatomy(self.checkpoint)

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """Token bytes to rows."""
        return read_vocabulary(self.checkpoint)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.anatomy.n_layers

    @property
    def bytes_read(self) -> int:
        """Weight bytes read so far."""
        return self.checkpoint.meter.read if "checkpoint" in self.__dict__ else 0

    def part(self, role: str, layer: int | None = None, expert: int | None = None) -> Tensor | None:
        """A part as stored, float32; None where the model has none."""
        key = (role, layer, expert)
        if key not in self.kept:
            found = self.anatomy.part(role, layer, expert)
            self.kept[key] = None if found is None else found.read()
        value: Tensor | None = self.kept[key]
        return value

    def embedding(self) -> Tensor | None:
        """The embedding table [V, D]."""
        return self.part("embed")

    def attention(self, layer: int) -> dict[str, Tensor]:
        """Matrices "q", "k", "v" [R, D] and "o" [D, R] of a layer; those that it lacks are left out."""
        found = {name: part for name in ATTENTION if (part := self.part(f"attn.{name}", layer)) is not None}
        q_a, q_b = self.part("attn.q_a", layer), self.part("attn.q_b", layer)
        if "q" not in found and q_a is not None and q_b is not None:
            found["q"] = q_b @ q_a
        kv_a, k_b, v_b = (self.part(f"attn.{name}", layer) for name in ("kv_a", "k_b", "v_b"))
        if kv_a is not None and k_b is not None and v_b is not None:
            latent_RD = kv_a[: k_b.shape[1]]
            found |= {"k": k_b @ latent_RD, "v": v_b @ latent_RD}
        return {name: found[name] for name in ATTENTION if name in found}

    def grouped(self, layer: int) -> dict[str, Tensor]:
        """As `attention`, keys and values repeated so that they have as many rows as queries and outputs."""
        found = dict(self.attention(layer))
        heads, groups = self.anatomy.n_heads, self.anatomy.n_kv_heads
        if heads and groups and groups < heads:
            for name in ("k", "v"):
                if name in found:
                    rows_GED = found[name].reshape(groups, -1, found[name].shape[1])
                    found[name] = rows_GED.repeat_interleave(heads // groups, dim=0).flatten(0, 1)
        return found

    def networks(self, layer: int) -> list[dict[str, Tensor]]:
        """Feed-forward networks of a layer, "gate" (where there is one), "up" [R, D] and "down" [D, R]: one of a dense
        layer, one for each expert otherwise."""
        experts = self.anatomy.experts(layer)
        places = [("moe.expert", e) for e in range(experts)] if experts else [("mlp", None)]
        found = []
        for stem, expert in places:
            parts = {name: self.part(f"{stem}.{name}", layer, expert) for name in ("gate", "up", "down")}
            found.append({name: part for name, part in parts.items() if part is not None})
        return found

    @cached_property
    def runnable(self) -> Any:
        """The model in the library that trains it, in evaluation mode.

        Raises:
            MissingInput: transformers is not installed.
        """
        from pedigree.benchmark.zoo.architecture import open_model

        return open_model(self.folder)

    def encode(self, text: str) -> list[int]:
        """Ids of a text by the model's own tokenizer."""
        if "tokenizer" not in self.kept:
            from tokenizers import Tokenizer

            self.kept["tokenizer"] = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        return list(self.kept["tokenizer"].encode(text).ids)

    def last_states(self, inputs: Sequence[Sequence[int]], key: str) -> list[Tensor]:
        """States of the last token of each input behind every layer: one [N, D] a layer, the embeddings first.

        Args:
            inputs: ids.
            key: names the inputs; states of one key are computed once.
        """
        import torch

        if ("states", key) not in self.kept:
            found: list[list[Tensor]] = []
            with torch.no_grad():
                for ids_BT, last_B in _batches(inputs):
                    output = self.runnable(input_ids=ids_BT, output_hidden_states=True)
                    found.append([_at(state, last_B) for state in output.hidden_states])
            self.kept["states", key] = [torch.cat(layer) for layer in zip(*found, strict=True)]
        states: list[Tensor] = self.kept["states", key]
        return states

    def network_inputs(self, inputs: Sequence[Sequence[int]], key: str) -> dict[int, Tensor]:
        """What the feed-forward network of each layer reads at the last token of each input: layer -> [N, D].

        Args:
            inputs: ids.
            key: names the inputs; states of one key are computed once.
        """
        import torch

        if ("inputs", key) not in self.kept:
            seen: dict[int, Tensor] = {}
            hooks = [
                module.register_forward_pre_hook(_keeper(seen, layer))
                for layer, module in enumerate(_network_modules(self.runnable))
            ]
            rows: dict[int, list[Tensor]] = {}
            with torch.no_grad():
                for ids_BT, last_B in _batches(inputs):
                    self.runnable(input_ids=ids_BT)
                    for layer, state in seen.items():
                        rows.setdefault(layer, []).append(_at(state.reshape(*ids_BT.shape, -1), last_B))
            for hook in hooks:
                hook.remove()
            self.kept["inputs", key] = {layer: torch.cat(states) for layer, states in rows.items()}
        found: dict[int, Tensor] = self.kept["inputs", key]
        return found

    def forget(self) -> None:
        """Close the files and let everything go."""
        if "checkpoint" in self.__dict__:
            self.checkpoint.close()
        for name in ("checkpoint", "anatomy", "vocabulary", "runnable"):
            self.__dict__.pop(name, None)
        self.kept.clear()


def _batches(inputs: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids [B, T], padded behind, and the place of each input's last token [B]; what stands behind it is not seen by it,
    since these models look back alone."""
    import torch

    for start in range(0, len(inputs), BATCH):
        rows = [torch.tensor(list(ids)) for ids in inputs[start : start + BATCH]]
        last_B = torch.tensor([len(row) - 1 for row in rows])
        yield torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), last_B


def _at(state_BTD: Tensor, last_B: Tensor) -> Tensor:
    """The state of the last token of each row, [B, D]."""
    import torch

    return state_BTD[torch.arange(len(last_B)), last_B]


def _keeper(seen: dict[int, Tensor], layer: int) -> Any:
    def keep(_module: Any, inputs: tuple[Any, ...]) -> None:
        seen[layer] = inputs[0].detach()

    return keep


def _network_modules(runnable: Any) -> list[Any]:
    """The feed-forward module of every block."""
    base = runnable.base_model
    blocks = getattr(base, "layers", None) or getattr(base, "h", None) or []
    names = ("mlp", "block_sparse_moe", "feed_forward")
    return [next(getattr(block, name) for name in names if hasattr(block, name)) for block in blocks]


def shared_rows(a: Model, b: Model) -> tuple[Tensor, Tensor]:
    """Embedding rows of tokens of one spelling: two [T, D]; the same rows by number where a vocabulary is missing."""
    import torch

    one, two = a.embedding(), b.embedding()
    if one is None or two is None:
        return torch.zeros(0, 0), torch.zeros(0, 0)
    if a.vocabulary is None or b.vocabulary is None:
        n = min(len(one), len(two))
        return one[:n], two[:n]
    other = b.vocabulary.tokens
    rows = sorted(
        (i, other[token]) for token, i in a.vocabulary.tokens.items()
        if token in other and i < len(one) and other[token] < len(two)
    )  # fmt: skip
    return one[[i for i, _ in rows]], two[[j for _, j in rows]]
