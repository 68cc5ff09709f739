"""Feed-forward units of a layer that are read when they are asked for.

A layer of a large model does not fit into memory beside its counterpart: gate, up and down of one layer of 70 B
parameters are 2.8 GB in single precision, and a mixture has that many times over. So at full depth of a large model a
unit set holds no numbers: it knows where each unit lies and reads those that somebody wants, canonical and rounded
exactly as those of `views.read_units` are. Who walks through all of them does it in `blocks`.

Shapes: U = units of the layer, K = units asked for, D = residual width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pedigree.forensics.sides.sampling import Sample
from pedigree.forensics.sides.views import UnitSet, ffn_groups, read_ffn_view
from pedigree.weights.anatomy import Anatomy
from pedigree.weights.part import Part

BLOCK_NUMBERS = 1 << 23
"""Numbers of one projection that are held at once, in single precision 32 MB."""


@dataclass(frozen=True)
class _Stretch:
    """Units of one expert: their places in the set, and where their projections lie."""

    begin: int
    end: int
    parts: dict[str, Part]


@dataclass(frozen=True)
class StreamedUnits(UnitSet):
    """All feed-forward units of a layer, none of them in memory; `views_UD` is empty.

    Attributes:
        order: projection names, the matching one first.
        anatomy, layer, sample: what they are read with.
        stretches: the experts, in order; a dense layer has one.
    """

    order: tuple[str, ...]
    anatomy: Anatomy
    layer: int
    sample: Sample
    stretches: tuple[_Stretch, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Projection names, the matching one first."""
        return self.order

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.anatomy.d_model or self.stretches[0].parts["up"].shape[1]

    def read_by(self, reader: str) -> StreamedUnits:
        """Gated units as plain ones, whose way up is one of the two projections that read the stream."""
        stretches = (replace(s, parts={"up": s.parts[reader], "down": s.parts["down"]}) for s in self.stretches)
        return replace(self, order=("up", "down"), stretches=tuple(stretches))

    def rows(self, name: str, pick_U: Tensor | None = None) -> Tensor:
        """Rows of a projection in float32, read now: all of them, or those at the given places, [K, D]."""
        pick_K = torch.arange(self.count) if pick_U is None else pick_U
        if pick_K.dtype == torch.bool:
            pick_K = torch.nonzero(pick_K).flatten()
        places_K, back_K = torch.unique(pick_K, return_inverse=True)  # sorted, each once
        tables = []
        for stretch in self.stretches:
            inside_K = places_K[(places_K >= stretch.begin) & (places_K < stretch.end)] - stretch.begin
            if len(inside_K):
                rows = read_ffn_view(self.anatomy, self.layer, stretch.parts[name], name, inside_K, self.sample)
                tables.append(rows.float())
        if not tables:
            return torch.zeros(0, self.width)
        rows_KD = tables[0] if len(tables) == 1 else torch.cat(tables)
        return rows_KD if len(rows_KD) == len(back_K) and _is_range(back_K) else rows_KD[back_K]


def stream_units(anatomy: Anatomy, layer: int, sample: Sample) -> StreamedUnits | None:
    """The feed-forward units of a layer without reading any; None where it has none."""
    groups = ffn_groups(anatomy, layer)
    if not groups:
        return None
    order = ("gate", "up", "down") if "gate" in groups[0][1] else ("up", "down")
    index, label, stretches, begin = [], [], [], 0
    for expert, parts in groups:
        n_units = parts["up"].shape[0]
        rows_U = torch.arange(n_units)
        index.append(rows_U)
        label.append(torch.full_like(rows_U, expert))
        stretches.append(_Stretch(begin, begin + n_units, parts))
        begin += n_units
    return StreamedUnits(
        "ffn", {}, torch.cat(index), torch.cat(label), begin, order, anatomy, layer, sample, tuple(stretches)
    )


def blocks(count: int, width: int, numbers: int | None = None) -> Iterator[Tensor]:
    """Places of units that are held at once, block by block in order."""
    step = max(64, (numbers or BLOCK_NUMBERS) // max(1, width))
    for begin in range(0, count, step):
        yield torch.arange(begin, min(begin + step, count))


def _is_range(back_K: Tensor) -> bool:
    return bool((back_K == torch.arange(len(back_K))).all())
