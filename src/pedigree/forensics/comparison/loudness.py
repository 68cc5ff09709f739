"""Whether a model hears the parts of it that another one has as well.

A framer may put somebody's trained layers, heads or units into a stranger and keep every answer as it was, by letting
them write nothing, or nothing to speak of. The numbers are there, and they are listed; but no answer of the model comes
from them, so they say nothing about the whole.

What units do together is a sum of outer products of their rows, one for each projection. Its length comes from their
inner products, does not change when a scale moves from one projection to another, and vanishes for units that stand
there twice and cancel each other.

Shapes: U = units, D = residual width.
"""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor

from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitKind, UnitSet
from pedigree.forensics.units.heads import shared_heads

HEARD = 0.1
"""Loudness, over that of the rest of the model, below which parts are not heard. Where anything stands beside what
agrees, pairs of the calibration split that share numbers have 0.6 and more."""

MOST_UNITS = 512
"""Units of a layer that are laid beside each other."""

WRITERS: dict[UnitKind, str] = {"ffn": "down", "vo": "o"}


def unheard(a: Side, b: Side, found: Findings) -> str | None:
    """Which model does not hear what agrees, in words; None where both do, or nothing stands beside it.

    Args:
        a, b: the two models.
        found: what was measured, unit maps among it.
    """
    for kind in WRITERS:
        told_by: tuple[UnitKind, ...] = ("ffn",) if kind == "ffn" else ("vo", "qk")
        if not found.layers_hit(*told_by):
            continue
        masks = _masks(a, b, found, kind)
        for name, side, place in (("A", a, 0), ("B", b, 1)):
            loud = _over_the_rest(side, kind, {pair[place]: mask[place] for pair, mask in masks.items()})
            if loud < HEARD:
                what = "feed-forward units" if kind == "ffn" else "heads"
                return f"{what} that agree are at {loud:.1g} of the loudness of the others in {name}, which hears none"
    return None


def _masks(a: Side, b: Side, found: Findings, kind: UnitKind) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """For each pair of layers that the map gives, which units of A's layer and of B's are in both."""
    masks: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for j, i in enumerate(found.layer_map):
        left, right = None if i is None else a.units(kind, i), b.units(kind, j)
        if i is None or left is None or right is None:
            continue
        if kind == "vo":
            masks[i, j] = shared_heads(left, right, found.evidence.gauge)
        elif (units := found.unit_maps.get(j)) is not None:
            kept_M = torch.zeros(left.count, dtype=torch.bool)
            kept_M[units.origin_N[units.matched_N]] = True
            masks[i, j] = kept_M, units.matched_N
    return masks


def _over_the_rest(side: Side, kind: UnitKind, masks: dict[int, Tensor]) -> float:
    """Loudness of the units under the masks over that of all others; infinite where there are no others."""
    inside: list[float] = []
    outside: list[float] = []
    for number in range(side.n_layers):
        units = side.units(kind, number)
        if units is None or WRITERS[kind] not in units.names:
            continue
        mask_U = masks.get(number, torch.zeros(units.count, dtype=torch.bool))
        # Where units cannot be told one by one, the layer is in both as a whole.
        mask_U = mask_U if number not in masks or bool(mask_U.any()) else ~mask_U
        for lengths, of_U in ((inside, mask_U), (outside, ~mask_U)):
            if bool(of_U.any()):
                lengths.append(_loudness(units, of_U))
    rest = statistics.median(outside) if outside else 0.0
    return statistics.fmean(inside) / rest if inside and rest > 0.0 else math.inf


def _loudness(units: UnitSet, mask_U: Tensor) -> float:
    """Length of what the units under a mask, one at least, do together, over the root of their number."""
    places_U = torch.nonzero(mask_U).flatten()
    pick_U = places_U[spread_evenly(len(places_U), MOST_UNITS)]
    inner_UU = torch.ones(len(pick_U), len(pick_U), dtype=torch.float64)
    for name in units.names:
        rows_UD = units.rows(name, pick_U).double()
        inner_UU *= rows_UD @ rows_UD.T
    return math.sqrt(max(0.0, float(inner_UU.sum())) / len(pick_U))
