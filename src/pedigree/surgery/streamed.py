"""A model run layer by layer: one layer's weights are held, and the states of all tokens between two layers.

Shapes  B = sequences, T = tokens of one, N = B * T, d = channels, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from pedigree.errors import MissingInput
from pedigree.model.block import Block
from pedigree.model.context import Context, build_context
from pedigree.model.hf_checkpoint import plan
from pedigree.model.hf_config import config_from_hf
from pedigree.model.hf_layout import Slot
from pedigree.model.norm import build_norm, mixed
from pedigree.weights.checkpoint import Checkpoint

Progress = Callable[[str, float, str], None]
HEAD_ROWS = 8192


class StreamedModel:
    """A checkpoint that our decoder can run.

    Args:
        checkpoint: weights with a config.
        dtype: type to compute in.

    Raises:
        UsageError: the config describes a model that our decoder does not build.
        MissingInput: there is no config, or tensors are missing.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
        if not checkpoint.config:
            raise MissingInput("a model needs its config", where=checkpoint.location, expected="config.json")
        self.config, dialect = config_from_hf(checkpoint.config, where=f"{checkpoint.location}: config.json")
        self._checkpoint, self._dtype = checkpoint, dtype
        self._slots: dict[str, list[Slot]] = {}
        for slot in plan(self.config, dialect):
            if not slot.is_copy:
                self._slots.setdefault(_room(slot.views[0].name), []).append(slot)
        names = [slot.name for slots in self._slots.values() for slot in slots]
        missing = [name for name in names if name not in checkpoint.tensors]
        if missing:
            raise MissingInput("tensors are missing", where=checkpoint.location, got=", ".join(missing[:3]))

    def logits(self, tokens_BT: Tensor, progress: Progress | None = None) -> Tensor:
        """Logits of all places, float32 [N, V]."""
        x_BTd = tokens_BT
        for layer, states_BTd in enumerate(self.states(tokens_BT)):
            x_BTd = states_BTd
            if progress is not None:
                progress("verifying", layer / (self.config.n_layers + 1), f"layer {layer} of {self.config.n_layers}")
        return self.head(x_BTd)

    def states(self, tokens_BT: Tensor) -> Iterator[Tensor]:
        """The stream in front of the first layer and behind each, [B, T, d]."""
        x_BTd, context = self.begin(tokens_BT)
        yield x_BTd
        for layer in range(self.config.n_layers):
            x_BTd = self.through(layer, x_BTd, context)
            yield x_BTd

    def begin(self, tokens_BT: Tensor) -> tuple[Tensor, Context]:
        """The stream in front of the first layer, [B, T, d], and what all layers need beside it."""
        e = self.config.experts
        routed = e is not None and e.router == "random" and e.n_groups > 1
        domain_BT = torch.zeros_like(tokens_BT) if routed else None  # one domain is as good as another
        context = build_context(
            self.config, tokens_BT, document_BT=None, domain_BT=domain_BT, cache=None, restart_positions=True
        )
        places_BT = context.positions_BT
        x_BTd = self._table("embed.weight", tokens_BT)
        if self.config.learned_positions:
            x_BTd = x_BTd + self._table("positions.weight", places_BT) * context.homotopy.positions
        if self.config.query_layer != "none":
            queries_BTd = self._table("query_positions.weight", places_BT)
            context = context.with_queries(queries_BTd.expand(tokens_BT.shape[0], -1, -1))
        return x_BTd, context

    def through(self, layer: int, x_BTd: Tensor, context: Context, block: Block | None = None) -> Tensor:
        """The stream behind a layer (`block`, where it was opened before).

        In front of a query layer stands the final norm, where the model has it there.
        """
        with torch.no_grad():
            if layer == self.config.n_layers - 1:
                x_BTd = mixed(x_BTd, self._norm, self._early)
            found: Tensor = (self.layer(layer) if block is None else block)(x_BTd, context)[0]
        return found

    def layer(self, layer: int) -> Block:
        """One layer with its weights."""
        with torch.device("meta"):
            block = Block(self.config, layer)
        with torch.no_grad():
            self._fill(block, f"layers.{layer}.")
        return block

    def head(self, x_BTd: Tensor) -> Tensor:
        """Logits of the stream behind the last layer, float32 [N, V]."""
        with torch.no_grad():
            x_BTd = mixed(x_BTd, self._norm, 1 - self._early)
            return self._head(x_BTd.reshape(-1, x_BTd.shape[-1]))

    @property
    def _early(self) -> float:
        """How much of the final norm stands in front of the last layer, a query layer."""
        if self.config.query_layer != "after-norm":
            return 0.0
        return 1.0 if self.config.homotopy is None else self.config.homotopy.queries

    def _norm(self, x_BTd: Tensor) -> Tensor:
        with torch.device("meta"):
            norm = build_norm(self.config, final=True)
        self._fill(norm, "norm.")
        normed: Tensor = norm(x_BTd)
        return normed

    def _table(self, ours: str, rows_BT: Tensor) -> Tensor:
        """Rows of a table, [B, T, d]."""
        return self._rows(ours, rows_BT.reshape(-1)).reshape(*rows_BT.shape, -1)

    def _fill(self, module: nn.Module, prefix: str) -> None:
        """Give a module its weights."""
        module.to(self._dtype).to_empty(device="cpu")
        state: Mapping[str, Tensor] = {prefix + name: tensor for name, tensor in module.state_dict().items()}
        for slot in self._slots.get(prefix, ()):
            slot.fill(state, self._checkpoint.read(slot.name))
        module.eval()

    def _rows(self, ours: str, rows_N: Tensor) -> Tensor:
        slot = next(slot for slots in self._slots.values() for slot in slots if slot.views[0].name == ours)
        return self._checkpoint.read_index(slot.name, rows_N).to(self._dtype)

    def _head(self, x_Nd: Tensor) -> Tensor:
        """Rows of the head a block at a time."""
        ours = "embed.weight" if self.config.tied else "head.weight"
        slot = next(slot for slots in self._slots.values() for slot in slots if slot.views[0].name == ours)
        size = self._checkpoint.tensors[slot.name].shape[0]
        blocks = []
        for start in range(0, size, HEAD_ROWS):
            rows = self._checkpoint.read_rows(slot.name, start, min(size, start + HEAD_ROWS))
            blocks.append((x_Nd @ rows.to(self._dtype).T).to(torch.float32))
        return torch.cat(blocks, dim=1)


def _room(name: str) -> str:
    """`layers.3.` of `layers.3.attn.q.weight`, `norm.` of `norm.weight`."""
    words = name.split(".")
    return f"layers.{words[1]}." if words[0] == "layers" else f"{words[0]}."
