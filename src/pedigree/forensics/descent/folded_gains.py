"""Whether gains of one model stand in the matrices of the other.

Who converts a model to norms of another kind folds gains into the matrices behind them, and training goes on from
gains of one. What these learn says nothing of where the model comes from: laid beside the parent's gains they look like
those of a twin. But the parent's gains are still there, as the scale of columns: B's matrices as they are stored are
A's times A's gains, channel by channel, and what training added. In models whose gains stayed gains the scale of
columns knows nothing of them.

Null    for models that share numbers: training changes the scale of a column whatever gain stood in front of it.
        There is no p-value; of 195 twins and 135 relatives of the calibration families whose gains stayed gains the
        mean cosine is 0.13 and 0.21 at most, of models folded and trained for as long as before 0.2 to 0.5
        (docs/LOG.md, 2026-11-30). What follows is only that gains are left out.

Shapes: N = rows, D = residual width, C = channels of all norms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from pedigree.forensics.descent.gains import SAME_SLOPE
from pedigree.forensics.sides.gauge import Gauge
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import read_gain
from pedigree.forensics.units.unit_map import UnitMap
from pedigree.weights.anatomy import Part

LEAST_COSINE, DEVIATIONS = 0.2, 6.0
"""Cosine of gains with the scale of the other model's columns from which they stand there, and in deviations of
chance."""

SLOPE = (0.5, 1.5)
"""How much of a gain the scale of a column has then: all of it, but for what training did to the column."""

LEARNED = 1e-3
"""Deviation of gains from their mean below which there is nothing to look for."""

SOME_ROWS, SOME_LAYERS = 64, 6
"""Rows of a matrix, and layers, that are read of models of which only samples are."""

SOME_EXPERTS, LEAST_UNITS = 8, 8
"""Pairs of experts of a layer that are asked, and units that they have to have in common."""


def folded_side(
    a: Side, b: Side, layer_map: Sequence[int | None], unit_maps: Mapping[int, UnitMap], gauge: Gauge
) -> Literal["a", "b"] | None:
    """The model whose matrices hold gains of the other, None where neither does.

    Args:
        a, b: the models.
        layer_map: for each layer of B its layer in A.
        unit_maps: origin of the feed-forward units of each layer of B.
        gauge: the frame; coordinates have to stand where they stood, or be permuted and negated.
    """
    if not gauge.keeps_channels:
        return None
    pairs = _some_pairs(layer_map, None if a.sample.max_units is None else SOME_LAYERS)
    scales = [scale for i, j in pairs for scale in _scales(a, b, i, j, unit_maps.get(j), gauge)]
    # Heads that were moved, mixed or drawn anew have columns of no scale, and deviations from nothing drown all others;
    # units of the feed-forward are laid side by side in any order, so they are asked alone, too.
    for names in (("norm.attn", "norm.mlp"), ("norm.mlp",)):
        chosen = [scale for name, *scale in scales if name in names]
        if not chosen:
            continue
        of_a_C, there_C, of_b_C, back_C = (torch.cat(parts) for parts in zip(*chosen, strict=True))
        if _stand_there(of_a_C, there_C):
            return "b"
        if _stand_there(of_b_C, back_C):
            return "a"
    return None


SAME_COSINE = 0.8
"""Cosine of gains with those that the other model's columns hold, noise of the columns taken out, where both models
learned the same gains. Twins of an optimizer that leaves no strong directions have cosines of 0.4 and less."""


def same_gains_folded(
    a: Side, b: Side, layer_map: Sequence[int | None], unit_maps: Mapping[int, UnitMap], gauge: Gauge
) -> bool:
    """Whether the matrices of one model hold the other's gains, all of them and no others, having none of their own.

    This reads gains where a disguise folded them away and turned the stream: rows of matched feed-forward units are
    carried back, and the scale of their columns is what was folded in. Null: models that were trained apart learned
    gains of their own.

    Args:
        a, b: the models.
        layer_map: for each layer of B its layer in A.
        unit_maps: origin of the feed-forward units of each layer of B.
        gauge: the frame; it has to reach all of the stream.
    """
    if a.width != b.width or not gauge.reaches_all:
        return False
    of_a, of_b = list[tuple[Tensor, ...]](), list[tuple[Tensor, ...]]()
    for i, j in _some_pairs(layer_map, SOME_LAYERS):
        gain_a, gain_b = (_gain(side, layer) for side, layer in ((a, i), (b, j)))
        if gain_a is None or gain_b is None or _are_one(gain_a) == _are_one(gain_b):
            return False
        rows = list(_feed_forward(a, b, i, j, unit_maps.get(j)))
        if not rows:
            return False
        if _are_one(gain_b):
            of_a += _scale_beside(gain_a, ((x_ND, gauge.inverse().carry(y_ND)) for x_ND, y_ND in rows))
        else:
            of_b += _scale_beside(gain_b, ((y_ND, gauge.carry(x_ND)) for x_ND, y_ND in rows))
    return any(_are_same(*map(torch.cat, zip(*found, strict=True))) for found in (of_a, of_b) if found)


def _some_pairs(layer_map: Sequence[int | None], most: int | None) -> list[tuple[int, int]]:
    """Layers of A and of B that the map lays side by side, of many some that are spread over the depth."""
    pairs = [(i, j) for j, i in enumerate(layer_map) if i is not None]
    return [pairs[k] for k in spread_evenly(len(pairs), most).tolist()]


def _gain(side: Side, layer: int) -> Tensor | None:
    gain_D = read_gain(side.anatomy, "norm.mlp", layer)
    return None if gain_D is None else _deviations(gain_D.double())


def _are_one(deviation_D: Tensor) -> bool:
    return float(deviation_D.abs().max()) <= LEARNED


def _scale_beside(gain_D: Tensor, rows: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Gains as deviations, and likewise the scale of the second rows' columns over the first's by either half of the
    rows; units may have been rescaled."""
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for x_ND, y_ND in rows:
        y_ND = y_ND * (x_ND.norm(dim=1, keepdim=True) / y_ND.norm(dim=1, keepdim=True).clamp_min(1e-30))
        for k, half in enumerate(halves):
            cross_D, length_D, _ = _products((x_ND[k::2], y_ND[k::2]))
            half.append(torch.stack((cross_D, length_D)))
    sums = [torch.stack(half).sum(dim=0) for half in halves]
    one_D, other_D = (_deviations(cross_D / length_D.clamp_min(1e-300)) for cross_D, length_D in sums)
    if one_D is not None and other_D is not None:
        yield gain_D, one_D, other_D


def _are_same(gain_C: Tensor, one_C: Tensor, other_C: Tensor) -> bool:
    """Whether columns hold these gains and no others, by two looks whose noise is not the same.

    What the looks have in common is what stands in the columns; the cosine is that of gains with it, and two of its
    errors have to lie between it and its limit.
    """
    n = len(gain_C)
    scale_C = (one_C + other_C) / 2
    gain2, there2 = float(gain_C.square().mean()), float((one_C * other_C).mean())
    cross = float((scale_C * gain_C).mean())
    if gain2 <= LEARNED**2 or there2 <= 0.0 or cross <= 0.0:
        return False
    scale2, one2, other2 = (float(x_C.square().mean()) for x_C in (scale_C, one_C, other_C))
    error = math.hypot(math.sqrt(gain2 * scale2 / n) / cross, math.sqrt(one2 * other2 / n) / (2.0 * there2))
    cosine = cross / math.sqrt(gain2 * there2)
    return cosine * (1.0 - 2.0 * error) >= SAME_COSINE and SAME_SLOPE[0] <= cross / gain2 <= SAME_SLOPE[1]


def _stand_there(gain_C: Tensor, scale_C: Tensor) -> bool:
    """Whether the scale of columns has gains in it; both as deviations from their mean."""
    cross, gain2, scale2 = float(gain_C @ scale_C), float(gain_C @ gain_C), float(scale_C @ scale_C)
    if gain2 <= LEARNED**2 * len(gain_C) or scale2 <= 0.0:
        return False
    least = max(LEAST_COSINE, DEVIATIONS / math.sqrt(len(gain_C)))
    return cross >= least * math.sqrt(gain2 * scale2) and SLOPE[0] <= cross / gain2 <= SLOPE[1]


def _scales(
    a: Side, b: Side, i: int, j: int, units: UnitMap | None, gauge: Gauge
) -> Iterator[tuple[str, Tensor, Tensor, Tensor, Tensor]]:
    """For each norm in front of a branch its role, A's gain, the scale of B's columns over A's, B's gain, and the scale
    of A's columns over B's, channels in B's order. A model that has no norm there has a gain of one."""
    for norm, rows in (("norm.attn", _attention(a, b, i, j)), ("norm.mlp", _feed_forward(a, b, i, j, units))):
        pairs = [(gauge.carry(x_ND.float()), y_ND) for x_ND, y_ND in rows]
        if not pairs:
            continue
        plain_D = torch.ones(pairs[0][0].shape[1])
        gain_a, gain_b = (
            plain_D if gain is None else gain for gain in (read_gain(a.anatomy, norm, i), read_gain(b.anatomy, norm, j))
        )
        if len(gain_a) != len(plain_D) or len(gain_b) != len(plain_D):
            continue
        if gauge.map_AB is not None:
            gain_a = gain_a.float() @ gauge.map_AB.abs().float()
        cross_D, a_D, b_D = (torch.stack(sums).sum(dim=0) for sums in zip(*map(_products, pairs), strict=True))
        there_D, back_D = cross_D / a_D.clamp_min(1e-300), cross_D / b_D.clamp_min(1e-300)
        found = tuple(_deviations(x_D) for x_D in (gain_a.double(), there_D, gain_b.double(), back_D))
        if all(x_D is not None for x_D in found):
            a_2D, b_2D = (
                _without(a_D.clamp_min(1e-300).log(), *found[:2]),
                _without(b_D.clamp_min(1e-300).log(), *found[2:]),
            )
            yield norm, *a_2D, *b_2D


def _products(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products of columns of both, and their squares; a row may have been negated."""
    x_ND, y_ND = (rows_ND.double() for rows_ND in pair)
    y_ND = y_ND * torch.sign((x_ND * y_ND).sum(dim=1, keepdim=True))
    return (x_ND * y_ND).sum(dim=0), x_ND.square().sum(dim=0), y_ND.square().sum(dim=0)


def _attention(a: Side, b: Side, i: int, j: int) -> Iterator[tuple[Tensor, Tensor]]:
    for role in ("attn.q", "attn.k", "attn.v"):
        left, right = a.anatomy.part(role, i), b.anatomy.part(role, j)
        if left is not None and right is not None and left.shape == right.shape:
            some = [int(row) for row in spread_evenly(left.shape[0], _most(a))]
            yield left.read(rows=some), right.read(rows=some)


def _feed_forward(a: Side, b: Side, i: int, j: int, units: UnitMap | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of units that are one: of dense layers, or of experts that are one, some of many."""
    if units is None or not bool(units.matched_N.any()) or bool(a.anatomy.experts(i)) != bool(b.anatomy.experts(j)):
        return
    hit_N = units.matched_N
    origin_K, pairs_K2 = units.origin_N[hit_N], units.pairs()
    label_K2 = torch.stack([units.label_a_M[origin_K], units.label_b_N[hit_N]], dim=1)
    experts = torch.unique(label_K2, dim=0)
    kind = "moe.expert" if a.anatomy.experts(i) else "mlp"
    for label_2 in experts[spread_evenly(len(experts), SOME_EXPERTS)]:
        of_one_K2 = pairs_K2[(label_K2 == label_2).all(dim=1)]
        if len(of_one_K2) < LEAST_UNITS or int(label_2.min()) < 0:
            continue
        numbers = label_2.tolist() if kind == "moe.expert" else (None, None)
        for name in ("gate", "up"):
            left, right = (
                side.anatomy.part(f"{kind}.{side.reader if side.reader and name == 'up' else name}", layer, number)
                for side, layer, number in ((a, i, numbers[0]), (b, j, numbers[1]))
            )
            if left is not None and right is not None and left.shape[1] == right.shape[1]:
                some_K2 = of_one_K2[spread_evenly(len(of_one_K2), _most(a))]
                yield _rows(left, some_K2[:, 0]), _rows(right, some_K2[:, 1])


def _most(side: Side) -> int | None:
    return None if side.sample.max_units is None else SOME_ROWS


def _rows(part: Part, rows_K: Tensor) -> Tensor:
    """Rows in the order asked for, which may repeat some."""
    places_U, back_K = torch.unique(rows_K, return_inverse=True)
    return part.read(rows=[int(row) for row in places_U])[back_K]


def _without(length_D: Tensor, gain_D: Tensor | None, scale_D: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gains and scales without what lengths of columns tell of them: noise takes most of the scale of a short column.

    And short columns may have small gains.
    """
    length_D = length_D - length_D.mean()
    length2 = float(length_D @ length_D) or 1.0
    parts = [torch.zeros_like(length_D) if x_D is None else x_D for x_D in (gain_D, scale_D)]
    gain_D, scale_D = (x_D - length_D * (float(length_D @ x_D) / length2) for x_D in parts)
    return gain_D, scale_D


def _deviations(x_D: Tensor) -> Tensor | None:
    mean = float(x_D.mean())
    if not math.isfinite(mean) or abs(mean) < 1e-6 or not bool(torch.isfinite(x_D).all()):
        return None
    return x_D / mean - 1.0
