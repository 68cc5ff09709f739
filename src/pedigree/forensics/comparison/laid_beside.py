"""The rows of one model beside those of another: each in the other's frame, order and signs, as far as they match.

Rows are projected to `KEPT` dimensions by random signs, which keeps differences, and mixtures exactly: memory does not
grow with the width.

Source  random projections (Johnson and Lindenstrauss 1984), by signs (Achlioptas 2003).
Shapes  U = units of a layer of the first model (the hub), N = of the second, D = residual width, K = kept dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.comparison.following import UNEVEN, dimensions_stand, kinds_that_stand, layers_once
from pedigree.forensics.comparison.grids import is_on_grid
from pedigree.forensics.sides.side import Side
from pedigree.forensics.units.unit_map import UnitMap

KEPT = 256
"""Dimensions that are kept of a row."""

OTHER_LENGTH = 0.5
"""Logarithm of the length of a row over its counterpart's, against the median, from which it was rescaled on purpose:
copies of a unit share what it wrote."""

FOREIGN = 0.5
"""How far below that of the others the cosine of a row may lie before it is taken for another row in its place: units
that two models were widened by, each by copies of its own."""

Key = tuple[str, int, str]


@dataclass
class Beside:
    """One model beside the hub.

    Attributes:
        hub, other: rows [U, K] of each matrix of the hub and of the other model in its frame; (kind, layer, name).
        there: which rows have a counterpart [U].
        rounded: whether the hub and the other model stand on a grid of few numbers.
        table: the same of the input table; see `trees.handed_rows.table_beside`, which tells it.
    """

    hub: dict[Key, Tensor] = field(default_factory=dict)
    other: dict[Key, Tensor] = field(default_factory=dict)
    there: dict[Key, Tensor] = field(default_factory=dict)
    rounded: tuple[bool, bool] = (False, False)
    table: tuple[Tensor, Tensor, Tensor] | None = None


def beside(a: Side, b: Side, found: Findings) -> Beside | None:
    """The rows of B beside those of A, from what was found of the pair."""
    frame = found.evidence.gauge
    if frame.partial or a.width != b.width:
        return None
    out, back, signs_DK = Beside(rounded=(is_on_grid(a), is_on_grid(b))), frame.inverse(), kept_dimensions(a.width)
    for j in layers_once(found):
        i = found.layer_map[j]
        for kind in kinds_that_stand(found):
            left = None if i is None else a.units(kind, i)
            right = b.units(kind, j)
            if i is None or left is None or right is None:
                continue
            names = [name for name in left.names if name in right.names]
            if kind == "ffn":
                rows_U = _counterparts(found, j, left.count, right.count)
            else:
                stand = left.count == right.count and bool(names) and dimensions_stand(
                    frame.carry(left.rows(names[0])), right.rows(names[0])
                )  # fmt: skip
                rows_U = torch.arange(left.count) if stand else torch.full((left.count,), -1)
            for name in names:
                x_UD, y_UD = left.rows(name), back.carry(right.rows(name))
                y_UD = y_UD[rows_U.clamp_min(0)]
                sign_U1 = torch.sign((x_UD * y_UD).sum(1, keepdim=True)) if kind == "ffn" else 1.0
                key, there_U = (kind, i, name), rows_U >= 0
                y_UD = y_UD * sign_U1
                if kind == "ffn":
                    y_UD = _with_lengths(x_UD, y_UD, there_U)
                if kind == "ffn" and name == "down":
                    there_U = there_U & ~_copied(found, j, left.count)  # copies share what the unit wrote
                out.there[key] = there_U & _alike(x_UD, y_UD, there_U)
                out.hub[key], out.other[key] = x_UD @ signs_DK, y_UD @ signs_DK
    return out if out.hub else None


def _counterparts(found: Findings, j: int, hubs: int, others: int) -> Tensor:
    """Row of B for each unit of A, -1 where there is none; of copies the most alike one."""
    units = found.unit_maps.get(j)
    rows_U = torch.full((hubs,), -1)
    if units is None or not bool(units.matched_N.any()):
        return torch.arange(hubs) if hubs == others else rows_U
    score_N = units.score_N.float()
    told_N = torch.nonzero((units.origin_N >= 0) & (score_N > -torch.inf) & of_one_expert(units)).flatten()
    best_first_N = told_N[score_N[told_N].argsort(descending=True, stable=True)].flip(0).numpy()
    rows_U.numpy()[units.origin_N.numpy()[best_first_N]] = best_first_N  # of several the last one stays: the best
    if hubs == others and units.in_place_share > 0.98:
        # What stands between units that kept their places kept its own, however far it moved.
        rows_U = torch.where(rows_U < 0, torch.arange(hubs), rows_U)
    return rows_U


def _copied(found: Findings, j: int, hubs: int) -> Tensor:
    """Which units of A stand several times in B."""
    units = found.unit_maps.get(j)
    if units is None:
        return torch.zeros(hubs, dtype=torch.bool)
    origin_N = units.origin_N[units.matched_N & of_one_expert(units)]
    several_U: Tensor = torch.bincount(origin_N, minlength=hubs)[:hubs] > 1
    return several_U


MOST_COVERED = 0.9
"""Of the experts of a mixture that was made of a dense model, the first that has so much of what any has is taken."""


def of_one_expert(units: UnitMap) -> Tensor:
    """Which units of B count: of a mixture beside a dense model those of one expert, the same one in all its
    descendants. The best copy of each unit would be one of another expert in every model."""
    every_N = torch.ones_like(units.matched_N)
    labels = torch.unique(units.label_b_N)
    if len(labels) < 2 or len(torch.unique(units.label_a_M)) > 1:
        return every_N
    covered = [len(torch.unique(units.origin_N[units.matched_N & (units.label_b_N == e)])) for e in labels]
    first = next(e for e, count in zip(labels, covered, strict=True) if count >= MOST_COVERED * max(covered))
    mine_N: Tensor = units.label_b_N == first
    return mine_N


def _with_lengths(x_UD: Tensor, y_UD: Tensor, there_U: Tensor) -> Tensor:
    """Rows of y with the lengths of x, where units were rescaled one by one; a GLU lets up and down be scaled against
    each other."""
    if not bool(there_U.any()):
        return y_UD
    length_U = x_UD.norm(dim=1).clamp_min(1e-30) / y_UD.norm(dim=1).clamp_min(1e-30)
    off_U = (length_U.log() - length_U[there_U].log().median()).abs()
    return y_UD * length_U[:, None] if float(off_U[there_U].median()) >= UNEVEN else y_UD


def _alike(x_UD: Tensor, y_UD: Tensor, there_U: Tensor) -> Tensor:
    if not bool(there_U.any()):
        return there_U
    cosine_U = torch.nn.functional.cosine_similarity(x_UD, y_UD, dim=1)
    length_U = (y_UD.norm(dim=1) / x_UD.norm(dim=1).clamp_min(1e-30)).clamp_min(1e-30).log()
    usual_U: Tensor = cosine_U > cosine_U[there_U].median() - FOREIGN
    alike_U: Tensor = usual_U & ((length_U - length_U[there_U].median()).abs() < OTHER_LENGTH)
    return alike_U


def kept_dimensions(width: int) -> Tensor:
    """The projection [D, K]: all dimensions of narrow models."""
    if width <= KEPT:
        return torch.eye(width)
    drawn_DK = torch.randint(0, 2, (width, KEPT), generator=torch.Generator().manual_seed(width))
    signs_DK: Tensor = (2.0 * drawn_DK - 1.0) / KEPT**0.5
    return signs_DK
