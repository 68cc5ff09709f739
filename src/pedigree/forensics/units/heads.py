"""Attention heads compared as subspaces.

Inside a head, values may be mixed by any invertible matrix that the output projection undoes, and query/key planes may
be rotated and scaled; the row space of V, the column space of O and the row spaces of K and Q survive. Heads are
matched by one subspace (V) and confirmed on another (O), pooled over all layers on the layer map; K confirmed on Q
likewise.

Null      the heads of B that were matched could have borne each other's held-out subspaces
Assumes   one residual frame

Shapes: H = heads of A, J = heads of B, C = head dimension, D = residual width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from pedigree.forensics.exact.assignment import permutation_z
from pedigree.forensics.sides.gauge import Gauge
from pedigree.forensics.sides.linear import thin_qr
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.views import UnitSet

MIN_HEADS = 4


def bases(rows_UD: Tensor, label_U: Tensor) -> Tensor:
    """Orthonormal bases of the row space of each head: [H, C, D]."""
    heads = int(torch.unique(label_U).numel())
    rows_HCD = rows_UD.reshape(heads, -1, rows_UD.shape[1])
    q_HDC, _ = thin_qr(rows_HCD.transpose(1, 2))
    return q_HDC.transpose(1, 2)


def _bases_of(units: UnitSet, name: str, gauge: Gauge, side: str) -> Tensor:
    """Bases in B's frame, seen through the gauge's lens where it has one."""
    rows_UD = units.rows(name)
    return bases(gauge.view_a(rows_UD) if side == "a" else gauge.view_b(rows_UD), units.label_U)


def _shared_gauge(a: UnitSet, b: UnitSet, gauge: Gauge) -> Gauge:
    """The gauge for one pair of layers; its lens is used only where heads of both are narrow enough to differ in it."""
    widest = max(head_dim(a), head_dim(b))
    narrow = gauge.lens_BK is not None and gauge.lens_BK.shape[1] < 2 * widest
    return replace(gauge, lens_BK=None) if narrow else gauge


def head_dim(units: UnitSet) -> int:
    """Dimensions of each head of a unit set."""
    return units.count // int(torch.unique(units.label_U).numel())


def overlap(a_HCD: Tensor, b_JCD: Tensor) -> Tensor:
    """Share of each subspace of A that lies in each subspace of B: [H, J], 1 for equal, about C/D for strangers."""
    h, c, d = a_HCD.shape
    j, e, _ = b_JCD.shape
    right_DN = b_JCD.reshape(j * e, d).T
    rows = [((head_CD @ right_DN) ** 2).reshape(c, j, e).sum(dim=(0, 2)) for head_CD in a_HCD]
    return torch.stack(rows).reshape(h, j) / min(c, e)


def match_heads(a: UnitSet, b: UnitSet, gauge: Gauge) -> tuple[Tensor, Tensor, Tensor]:
    """Best head of B for each head of A by the first projection, and held-out overlaps.

    Returns:
        match_H (index into B's heads), first-projection overlap [H, J], held-out overlap [H, J].
    """
    first, second = a.names[0], a.names[1]
    seen_HJ = overlap(_bases_of(a, first, gauge, "a"), _bases_of(b, first, gauge, "b"))
    held_HJ = overlap(_bases_of(a, second, gauge, "a"), _bases_of(b, second, gauge, "b"))
    return seen_HJ.argmax(dim=1), seen_HJ, held_HJ


MOST_NUMBERS = 1 << 26
"""Numbers of the bases of one model that are held (0.27 GB); beyond, some heads of each layer take part."""


def pooled_score(pairs: Iterable[tuple[UnitSet, UnitSet]], gauge: Gauge, layers: int = 0) -> tuple[float, float, int]:
    """Match heads inside each layer pair and score all held-out overlaps against shuffles over layers and heads.

    Args:
        pairs: units of attention of both models, layer by layer; asked for one after the other.
        gauge: the frame.
        layers: how many pairs there are, where all their heads may be too many to hold.

    Returns:
        (z, effect, number of heads); zeros when there are too few heads.
    """
    left, right, label = [], [], []
    for number, (a, b) in enumerate(pairs):
        if not _has_heads(a) or not _has_heads(b):
            continue
        shared = _shared_gauge(a, b, gauge)
        first, second = a.names[:2]
        match_H = overlap(_bases_of(a, first, shared, "a"), _bases_of(b, first, shared, "b")).argmax(dim=1)
        left_HCD = _bases_of(a, second, shared, "a")
        most = MOST_NUMBERS // max(1, layers * left_HCD[0].numel())
        pick_H = spread_evenly(len(match_H), max(1, most) if layers else None)
        left.append(left_HCD[pick_H])
        right.append(_bases_of(b, second, shared, "b")[match_H[pick_H]])
        label.append(match_H[pick_H] + (number << 32))
    if not left or sum(x.shape[0] for x in left) < MIN_HEADS:
        return 0.0, 0.0, 0
    if len({x.shape[1] for x in left}) > 1 or len({x.shape[1] for x in right}) > 1:
        return 0.0, 0.0, 0
    score_HH = overlap(torch.cat(left), torch.cat(right))
    z, effect = permutation_z(score_HH, torch.arange(score_HH.shape[0]), torch.cat(label))
    return z, effect, int(score_HH.shape[0])


def _has_heads(units: UnitSet) -> bool:
    return len(units.names) > 1 and units.count % int(torch.unique(units.label_U).numel()) == 0


SAME_HEAD = 0.5
"""How far from chance to equality the overlap of two heads has to be, held out, for them to be one. Subspaces of C and
E dimensions that have nothing in common overlap by max(C, E) / D: by a half where a lens of 32 directions sees heads of
16."""


def moved_heads(a: UnitSet, b: UnitSet, gauge: Gauge) -> int:
    """How many heads of B are heads of A that stand in another place; zero where both have other numbers of heads."""
    if not _has_heads(a) or not _has_heads(b) or len(torch.unique(a.label_U)) != len(torch.unique(b.label_U)):
        return 0
    shared = _shared_gauge(a, b, gauge)
    match_H, seen_HJ, held_HJ = match_heads(a, b, shared)
    places_H = torch.arange(len(match_H))
    least = _least_overlap(a, b, shared)
    clear_H = (held_HJ[places_H, match_H] > least) & (seen_HJ[places_H, match_H] > least)
    return int((clear_H & (match_H != places_H)).sum())


def shared_heads(a: UnitSet, b: UnitSet, gauge: Gauge) -> tuple[Tensor, Tensor]:
    """Which units of A and of B belong to heads that are in both by what they read, two masks of units; what they write
    may be gone."""
    if not _has_heads(a) or not _has_heads(b):
        return torch.zeros(a.count, dtype=torch.bool), torch.zeros(b.count, dtype=torch.bool)
    shared = _shared_gauge(a, b, gauge)
    seen_HJ = match_heads(a, b, shared)[1] > _least_overlap(a, b, shared)
    return (
        seen_HJ.any(dim=1).repeat_interleave(head_dim(a)),
        seen_HJ.any(dim=0).repeat_interleave(head_dim(b)),
    )


def _least_overlap(a: UnitSet, b: UnitSet, gauge: Gauge) -> float:
    """Overlap from which two heads are one."""
    chance = max(head_dim(a), head_dim(b)) / _width_seen(b, gauge)
    return chance + SAME_HEAD * (1.0 - chance)


def _width_seen(units: UnitSet, gauge: Gauge) -> int:
    """Directions in which subspaces can differ: those of the stream, or of the lens that they are seen through."""
    return units.width if gauge.lens_BK is None else int(gauge.lens_BK.shape[1])
