"""How much of a model is read at each depth.

A sample is a pure function of shapes and depth, never of weights, so both models of a pair are read at the same
positions and nothing can be chosen to please a hypothesis.

Shapes: U = units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Depth = Literal["glance", "standard", "full"]

WHOLE_MODEL_BYTES = 256 * 1024**2
"""Below this size a standard comparison reads everything: sampling would save less than a second."""


UNIT_NUMBERS, ATTENTION_NUMBERS = 160_000_000, 96_000_000
"""Numbers of feed-forward units and of attention that are held of a sampled model, two bytes each."""


UNITS_OF_EXPERT = 16
"""Units of an expert that are read at least, where it is read at all."""


MOST_EXPERT_UNITS = 2048
"""Units of a layer of experts that are read at most where models are sampled; 128 experts have a few each."""


MOST_UNITS = 4096
"""Units of a layer that is read whole: all of most models, of very wide ones enough to find the units of a sample."""


@dataclass(frozen=True)
class Sample:
    """Which units of each layer are read.

    Attributes:
        max_units: at most this many feed-forward units (and key/value dimensions) per layer; None for all.
        column_layers: in how many layers, spread over the depth, projections that store units as columns (down,
            output) are read, since they cost a whole matrix; None for all.
        attention: whether attention is read.
        attention_layers: in how many layers, spread over the depth; None for all.
        compact: keep tables as bfloat16 to halve the memory.
        max_anchors: at most this many vocabulary rows.
        ladder: whether frames other than the plain one are tried.
        expert_units: at most this many units of a layer of experts, where that is more than `max_units`: layers of
            hundreds of experts are read by some of their experts; None for all experts.
        goes_on: whether a deeper look follows unless this one is certain. Then it ends where nothing stands in place,
            and a few layers that alone have no place are read whole, which settles what they are.
        by_tokens: whether the coordinates are those of `fingerprints/token_frame.py`: tokens name them, the loud half
            before the quiet one.
        layer_units: feed-forward units that a layer of the model has, where a file holds only some of them; 0 where
            the file is the model.
    """

    max_units: int | None
    column_layers: int | None
    attention: bool
    compact: bool
    max_anchors: int
    ladder: bool = True
    attention_layers: int | None = None
    expert_units: int | None = None
    goes_on: bool = False
    by_tokens: bool = False
    layer_units: int = 0

    @property
    def search_units(self) -> int:
        """Units of each layer of A that take part in the search over all layer pairs."""
        return 256 if self.max_units is None else 128

    @property
    def streamed(self) -> bool:
        """Whether all units are wanted of a model too large to hold them: they are read as they are walked through."""
        return self.max_units is None and self.compact

    def fitted(self, layers: int, width: int) -> Sample:
        """The same sample with fewer units, and attention in fewer layers, where those of all layers would not fit.

        Nothing changes up to about 30 billion parameters.

        Args:
            layers, width: of the larger of the two models.
        """
        if self.max_units is None or not layers or not width:
            return self
        most = UNIT_NUMBERS // (2 * layers * width)
        units = self.max_units if most >= self.max_units else min(self.max_units, max(32, 16 * (most // 16)))
        attended = min(layers, self.attention_layers or layers, max(4, ATTENTION_NUMBERS // (2 * 192 * width)))
        attention_layers = None if attended == layers else attended
        expert_units = max(units, min(most, MOST_EXPERT_UNITS))
        return replace(self, max_units=units, expert_units=expert_units, attention_layers=attention_layers)

    def units(self, total: int) -> int:
        """How many of `total` units are read."""
        return total if self.max_units is None else min(total, self.max_units)

    def experts(self, total: int) -> list[int]:
        """Which of the experts of a layer are read, in order: all, or some from the first to the last."""
        wanted = total if self.expert_units is None else max(1, self.expert_units // UNITS_OF_EXPERT)
        if wanted >= total:
            return list(range(total))
        return [(k * (total - 1)) // max(1, wanted - 1) for k in range(wanted)]

    def whole_layers(self, n_layers: int) -> list[int]:
        """Layers of B that are read with all their units where the others are sampled."""
        if self.max_units is None or not self.column_layers:
            return []
        return [layer for layer in range(n_layers) if self.columns(layer, n_layers)]

    def all_units(self) -> Sample:
        """The same sample with nearly every unit, without the projections stored as columns."""
        return replace(self, max_units=MOST_UNITS, expert_units=None, column_layers=0)

    def columns(self, layer: int, n_layers: int) -> bool:
        """Whether projections stored as columns are read in this layer."""
        return self.column_layers is None or layer in _spread(self.column_layers, n_layers)

    def attends(self, layer: int, n_layers: int) -> bool:
        """Whether attention is read in this layer."""
        return self.attention and (self.attention_layers is None or layer in _spread(self.attention_layers, n_layers))

    def rows(self, total: int, wanted: int) -> Tensor:
        """Positions of the units to read: all of them, or contiguous blocks spread over the range.

        Blocks keep the number of range requests small; the same total gives the same blocks in every model.
        """
        if self.max_units is None or wanted >= total:
            return torch.arange(total)
        return runs(total, wanted, 64)

    def heads(self, total: int, head_dim: int) -> list[int]:
        """Key/value heads to read: all, or as many whole ones as `max_units` dimensions hold, spread evenly."""
        if self.max_units is None:
            return list(range(total))
        wanted = min(total, max(1, self.max_units // max(1, head_dim)))
        return [((2 * k + 1) * total) // (2 * wanted) for k in range(wanted)]


def _spread(wanted: int, n_layers: int) -> set[int]:
    """That many layers in the middles of equal stretches of the depth."""
    return {((2 * k + 1) * n_layers) // (2 * wanted) for k in range(wanted)}


def spread_evenly(total: int, wanted: int | None) -> Tensor:
    """At most `wanted` of `total` places, evenly spaced; all of them by default."""
    if wanted is None or wanted >= total:
        return torch.arange(total)
    return (torch.arange(wanted) * total) // wanted


def runs(total: int, wanted: int, length: int) -> Tensor:
    """About `wanted` of `total` positions as distinct runs of `length`, spread evenly from first to last, in order."""
    length = max(1, min(length, wanted))
    n_runs = max(1, wanted // length)
    if n_runs == 1:
        starts = [(total - length) // 2]
    else:
        # total >= wanted >= n_runs * length, so neighbors stand at least one length apart.
        starts = [(k * (total - length)) // (n_runs - 1) for k in range(n_runs)]
    return torch.cat([torch.arange(s, s + length) for s in starts])


def choose_sample(depth: Depth, model_bytes: int) -> Sample:
    """Sample for a depth and the size of the larger model, in bytes."""
    if depth == "full" or (depth == "standard" and model_bytes <= WHOLE_MODEL_BYTES):
        return Sample(None, None, True, model_bytes > WHOLE_MODEL_BYTES, 1 << 30)
    if depth == "standard":
        return Sample(192, 2, True, True, 2048)
    return Sample(64, 0, True, True, 512, ladder=False, attention_layers=4)
