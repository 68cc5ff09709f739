"""Comparing units of layers that are walked through block by block, where `matching` and `unit_map` hold them whole.

What is computed is the same: rows are centered by the mean of the whole layer, seen through the gauge and scaled to
length one; each row's nearest is found by a maximum that runs over the blocks. Only the length below which a row counts
as empty is taken from some of the rows.

Shapes: U = units of a layer, K = units asked for, M = units of A, N = units of B, D = residual width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pedigree.forensics.sides.gauge import Gauge, unit_rows
from pedigree.forensics.sides.linear import product
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.streamed_units import blocks
from pedigree.forensics.sides.views import UnitKind, UnitSet
from pedigree.forensics.units.matching import MatchScore, Table, confirm
from pedigree.forensics.units.unit_map import THRESHOLD_SAMPLES, UnitMap, threshold_of

FLOOR_ROWS = 1024
"""Rows whose median length tells which rows are empty."""

HELD_NUMBERS = 1 << 26
"""Numbers of A's tables that are held while all blocks of B pass by (0.27 GB)."""

CONFIRMED_ROWS = 2048
"""Units of B from which on the held-out projections of no further layer of A's matches are read with them."""

Which = Literal["a", "b"]


class Walk:
    """Units of one layer under one gauge, made into tables some at a time.

    Args:
        side: the model.
        kind, layer: which units.
        gauge: the frame and the lens.
        which: "a" (rows are carried) or "b".
        units: the units themselves, where they were asked for already.
    """

    def __init__(
        self, side: Side, kind: UnitKind, layer: int, gauge: Gauge, which: Which, units: UnitSet | None = None
    ) -> None:
        found = units if units is not None else side.units(kind, layer)
        if found is None:
            raise ValueError(f"layer {layer} has no units of kind {kind}")
        self.units = found
        self._side, self._kind, self._layer = side, kind, layer
        self._view = gauge.view_a if which == "a" else gauge.view_b
        self._floors: dict[str, Tensor] = {}

    @property
    def seen_width(self) -> int:
        """Width of rows as they are seen."""
        return int(self._view(torch.zeros(1, self.units.width)).shape[1])

    def table(self, pick_K: Tensor, names: tuple[str, ...] | None = None) -> Table:
        """The table of some units, the first of `names` being what matches are made on."""
        table, _ = self.block(pick_K, names)
        return table

    def block(self, pick_K: Tensor, names: tuple[str, ...] | None = None) -> tuple[Table, dict[str, Tensor]]:
        """The same, with the length of each row as it is stored, by projection."""
        names = names or self.units.names
        match_KD, lengths = None, {}
        confirm_KD: dict[str, Tensor] = {}
        for name in names:
            rows_KD, lengths[name] = self._seen(name, pick_K)
            if match_KD is None:
                match_KD = unit_rows(rows_KD, self._floor(name, None))
            else:
                rows_KD -= (rows_KD * match_KD).sum(dim=1, keepdim=True) * match_KD
                confirm_KD[name] = unit_rows(rows_KD, self._floor(name, names[0]))
        if match_KD is None:
            raise ValueError("a table needs a projection")
        units = self.units
        return Table(
            units.kind, match_KD, confirm_KD, names[0], units.index_U[pick_K], units.label_U[pick_K], units.total
        ), lengths

    def nearest(self, left_MD: Tensor) -> Tensor:
        """For each row the unit nearest to it by the matching projection, [M]."""
        best_M = torch.full((len(left_MD),), -torch.inf)
        at_M = torch.zeros(len(left_MD), dtype=torch.long)
        signed = self.units.kind != "ffn"
        # At most twice as many similarities as there are numbers in a block.
        for pick_K in blocks(self.units.count, max(self.units.width, len(left_MD) // 2)):
            table = self.table(pick_K, self.units.names[:1])
            similarity_MK = product(left_MD, table.match_UD.T)
            value_M, place_M = (similarity_MK.abs() if signed else similarity_MK).max(dim=1)
            better_M = value_M > best_M
            best_M = torch.where(better_M, value_M, best_M)
            at_M = torch.where(better_M, pick_K[place_M], at_M)
        return at_M

    def _seen(self, name: str, pick_K: Tensor) -> tuple[Tensor, Tensor]:
        rows_KD = self.units.rows(name, pick_K)
        length_K = rows_KD.norm(dim=1)
        dead_K = length_K == 0
        rows_KD = rows_KD - self._side.mean_unit(self.units, self._layer, name)
        rows_KD[dead_K] = 0.0
        return self._view(rows_KD), length_K

    def _floor(self, name: str, match: str | None) -> Tensor:
        """A millionth of the median length of rows, or of what is left of them outside the matching projection."""
        key = f"{name} outside {match}"
        if key not in self._floors:
            pick_K = spread_evenly(self.units.count, FLOOR_ROWS)
            rows_KD, _ = self._seen(name, pick_K)
            if match is not None:
                match_KD = unit_rows(self._seen(match, pick_K)[0])
                rows_KD = rows_KD - (rows_KD * match_KD).sum(dim=1, keepdim=True) * match_KD
            self._floors[key] = 1e-6 * rows_KD.norm(dim=1).median().clamp_min(1e-30)
        return self._floors[key]


def score_against(left: dict[int, Table], right: Walk) -> dict[int, MatchScore]:
    """`score_layers` for chosen units of several layers of A against all units of a layer of B.

    Args:
        left: layer of A to the table of its chosen units.
        right: the layer of B.
    """
    width = right.seen_width
    fits = {i: t for i, t in left.items() if t.name == right.units.names[0] and t.match_UD.shape[1] == width}
    scores = {i: MatchScore(0.0, 0.0, 0) for i in left}
    if not fits:
        return scores
    best_M = right.nearest(torch.cat([table.match_UD for table in fits.values()]))
    sizes = [len(table.match_UD) for table in fits.values()]
    group: list[tuple[int, Tensor]] = []
    for i, best_K in zip(fits, torch.split(best_M, sizes), strict=True):
        group.append((i, best_K))
        if sum(len(b) for _, b in group) >= CONFIRMED_ROWS:
            scores |= _confirmed(group, fits, right)
            group = []
    return scores | _confirmed(group, fits, right)


def _confirmed(group: list[tuple[int, Tensor]], left: dict[int, Table], right: Walk) -> dict[int, MatchScore]:
    if not group:
        return {}
    places_P = torch.unique(torch.cat([best_M for _, best_M in group]))
    table = right.table(places_P)
    out = {}
    for i, best_M in group:
        match_M = torch.searchsorted(places_P, best_M)
        z, effect = confirm(left[i], table, torch.arange(len(best_M)), match_M)
        out[i] = MatchScore(z, effect, len(best_M))
    return out


@dataclass
class _Best:
    """The best unit of A so far for each unit of B, and what is kept of it."""

    score_N: Tensor
    origin_N: Tensor
    cosine_N: Tensor
    sampled: list[Tensor]

    @classmethod
    def empty(cls, count: int) -> _Best:
        return cls(torch.full((count,), -torch.inf), torch.zeros(count, dtype=torch.long), torch.zeros(count), [])


def walk_unit_map(a: Walk, b: Walk, layer_a: int, layer_b: int) -> UnitMap | None:
    """`map_units` without holding either layer: A's tables in a few pieces, all blocks of B past each of them."""
    names = (a.units.names[0], *(n for n in a.units.names[1:] if n in b.units.names[1:]))
    if a.units.names[0] != b.units.names[0] or len(names) < 2 or a.seen_width != b.seen_width:
        return None
    n_a, n_b = a.units.count, b.units.count
    best = _Best.empty(n_b)
    norm_a_M, norm_b_N, writes_N = torch.zeros(n_a), torch.zeros(n_b), None
    if "down" in b.units.names:
        writes_N = torch.zeros(n_b)
    for pick_M in blocks(n_a, a.seen_width * len(names), HELD_NUMBERS):
        left, lengths = a.block(pick_M, names)
        norm_a_M[pick_M] = lengths[names[1]]
        for pick_K in blocks(n_b, max(b.units.width, len(pick_M) // 2)):
            right, lengths = b.block(pick_K, names)
            norm_b_N[pick_K] = lengths[names[1]]
            if writes_N is not None:
                writes_N[pick_K] = lengths["down"] if "down" in lengths else b.units.rows("down", pick_K).norm(dim=1)
            _improve(best, left, right, names[1:], pick_M, pick_K, n_b, n_a)
    threshold = threshold_of(torch.cat(best.sampled), n_a)
    origin_N = torch.where(best.score_N > threshold, best.origin_N, -1)
    hit_N = origin_N >= 0
    sign_N, log_scale_N = torch.zeros(n_b), torch.full((n_b,), float("nan"))
    sign_N[hit_N] = torch.where(best.cosine_N[hit_N] < 0, -1.0, 1.0)
    log_scale_N[hit_N] = torch.log(norm_b_N[hit_N].clamp_min(1e-30) / norm_a_M[origin_N[hit_N]].clamp_min(1e-30))
    silent_N = torch.zeros(n_b, dtype=torch.bool)
    if writes_N is not None:
        silent_N = writes_N <= 1e-6 * writes_N.max().clamp_min(1e-30)
    x, y = a.units, b.units
    return UnitMap(
        layer_a, layer_b, origin_N, best.score_N, x.index_U, x.label_U, y.index_U, y.label_U,
        silent_N, log_scale_N, sign_N, x.total, y.total,
    )  # fmt: skip


def _improve(
    best: _Best, left: Table, right: Table, names: tuple[str, ...], pick_M: Tensor, pick_K: Tensor, n_b: int, n_a: int
) -> None:
    """Take in the scores of some units of A against some of B."""
    score_MK = product(left.match_UD, right.match_UD.T)
    if left.kind != "ffn":
        score_MK = score_MK.abs()
    alive_MK = torch.ones_like(score_MK)
    cosines_MK = None
    for name in names:
        x_MD, y_KD = left.confirm_UD[name], right.confirm_UD[name]
        cos_MK = product(x_MD, y_KD.T)
        cosines_MK = cos_MK if cosines_MK is None else cosines_MK
        score_MK += cos_MK.abs()
        alive_MK += (x_MD.abs().amax(1) > 0).float()[:, None] * (y_KD.abs().amax(1) > 0).float()[None, :]
    score_MK /= alive_MK
    value_K, place_K = score_MK.max(dim=0)
    better_K = value_K > best.score_N[pick_K]
    at_K = pick_K[better_K]
    best.score_N[at_K] = value_K[better_K]
    best.origin_N[at_K] = pick_M[place_K[better_K]]
    if cosines_MK is not None:
        best.cosine_N[at_K] = cosines_MK[place_K[better_K], torch.nonzero(better_K).flatten()]
    # The same entries of the whole matrix that `map_units` would look at for its threshold.
    step = max(1, n_a * n_b // THRESHOLD_SAMPLES)
    place_S = torch.arange(0, n_a * n_b, step)
    row_S, column_S = place_S // n_b, place_S % n_b
    inside_S = (row_S >= pick_M[0]) & (row_S <= pick_M[-1]) & (column_S >= pick_K[0]) & (column_S <= pick_K[-1])
    best.sampled.append(score_MK[row_S[inside_S] - pick_M[0], column_S[inside_S] - pick_K[0]])
