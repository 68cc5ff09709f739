"""A model run layer by layer: one layer's weights are held, and the states of all tokens between two layers.

Shapes  B = sequences, T = tokens of one, N = B * T, d = channels, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from pedigree.errors import MissingInput, UsageError
from pedigree.model.block import Block
from pedigree.model.context import Context, build_context
from pedigree.model.hf_checkpoint import plan
from pedigree.model.hf_config import config_from_hf
from pedigree.model.hf_layout import Slot
from pedigree.model.norm import build_norm
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
        if self.config.query_layer != "none":
            raise UsageError("a query layer is not run layer by layer yet", where=checkpoint.location)

    def logits(self, tokens_BT: Tensor, progress: Progress | None = None) -> Tensor:
        """Logits of all places, float32 [N, V]."""
        x_BTd = tokens_BT
        for layer, states_BTd in enumerate(self.states(tokens_BT)):
            x_BTd = states_BTd
            if progress is not None:
                progress("verifying", layer / (self.config.n_layers + 1), f"layer {layer} of {self.config.n_layers}")
        return self.head(x_BTd)

    def head(self, x_BTd: Tensor) -> Tensor:
        """Logits of states behind the last layer, float32 [N, V]."""
        with torch.device("meta"):
            norm = build_norm(self.config, final=True)
        with torch.no_grad():
            self._fill(norm, "norm.")
            return self._head(norm(x_BTd).reshape(-1, x_BTd.shape[-1]))

    def states(self, tokens_BT: Tensor) -> Iterator[Tensor]:
        """The stream in front of the first layer and behind each, [B, T, d]."""
        context = self.context(tokens_BT)
        x_BTd = self._rows("embed.weight", tokens_BT.reshape(-1)).reshape(*tokens_BT.shape, -1)
        if self.config.learned_positions:
            places_BT = context.positions_BT
            rows = self._rows("positions.weight", places_BT.reshape(-1)).reshape(*places_BT.shape, -1)
            x_BTd = x_BTd + rows * context.homotopy.positions
        yield x_BTd
        for layer in range(self.config.n_layers):
            block = self.block(layer)
            with torch.no_grad():
                x_BTd, _ = block(x_BTd, context)
            del block
            yield x_BTd

    def context(self, tokens_BT: Tensor) -> Context:
        """What blocks need beside the stream."""
        return build_context(
            self.config, tokens_BT, document_BT=None, domain_BT=None, cache=None, restart_positions=True
        )

    def block(self, layer: int) -> Block:
        """One layer with its weights."""
        with torch.device("meta"):
            block = Block(self.config, layer)
        with torch.no_grad():
            self._fill(block, f"layers.{layer}.")
        return block

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
