"""All models of a family beside one of them: the same rows of everybody, in one frame and one order.

Pairs are matched one by one, and what matches differs: a widened model beside a cut one has other units in common
than either has with their parent. Distances that are to add up need the same rows. So every model is laid beside one of
the family, the hub; three models are then compared on those rows of the hub that all three have (`laid_beside`).

Shapes  R = rows of the hub, N = models, U = units of a layer, K = kept dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pedigree.errors import PedigreeError
from pedigree.forensics.compare import measure_pair
from pedigree.forensics.comparison.laid_beside import Beside, Key, beside, kept_dimensions
from pedigree.forensics.spread import ANY_FAULT, spread_out
from pedigree.forensics.trees.family_bulk import Bulk, thinned
from pedigree.forensics.trees.handed_rows import EQUAL, Handed, handed_rows, table_beside, ways_in_rows
from pedigree.forensics.trees.worn_rows import Marks, came_later, marks

LEAST = 0.05
"""Share of the rows that several models have to have in common."""

MIN_ROWS = 64
"""Fewer rows than this are fitted by nothing."""

BLOCK = 32
"""Neighboring rows, mostly of one matrix: what moved a whole matrix shows there."""

CHANCE, SPREAD, BLOCK_SPREAD, EXCLUDED = 5.0, 1.3, 2.0, 8.0
"""What chance leaves at the most: in standard deviations over all rows, as a mean square over single rows, and over
blocks of them; and the standard deviations from which on a history is excluded."""

NEAR = 3.0
"""The same over all rows, where a way of one's own would hide in it: of a sibling that hardly moved."""

WORN_ROWS = 512
"""Rows of the input table that are kept for their marks."""

TOUCH = 1e-6
"""What is added to the diagonal of a fit, as a part of its trace."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Laying:
    """The hub and a model, by their places."""

    number: int
    hub: str
    other: str
    allow_pickle: bool = False


def lay_beside(task: Laying) -> Beside | None:
    """The rows of a model beside those of the hub; None where none can be laid so."""
    try:
        a, b, found, _ = measure_pair(task.hub, task.other, allow_pickle=task.allow_pickle)
        laid = beside(a, b, found)
        if laid is not None:
            laid.table = table_beside(a, b, found, kept_dimensions(a.width))
        return laid
    except (PedigreeError, *ANY_FAULT):
        return None


@dataclass(frozen=True)
class Fit:
    """What a history leaves unexplained, in standard deviations of chance.

    Attributes:
        sum: of all rows together.
        spread: mean square over single rows; one where nothing but chance is left.
        blocks: the same over the sums of `BLOCK` neighbors.
    """

    sum: float
    spread: float
    blocks: float

    @classmethod
    def of(cls, left_R: Floats, variance_R: Floats) -> Fit:
        """From what is left of each row, and the variance that chance gives it."""
        starts = np.arange(0, len(left_R), BLOCK)
        total = float(variance_R.sum()) or 1e-300
        squares = (float((np.add.reduceat(left_R, at) ** 2).sum()) for at in (np.arange(len(left_R)), starts))
        return cls(float(left_R.sum()) / total**0.5, *(square / total for square in squares))

    @property
    def is_chance(self) -> bool:
        """Whether chance explains everything."""
        return abs(self.sum) <= CHANCE and self.spread <= SPREAD and self.blocks <= BLOCK_SPREAD


def _stands_upright(own: Fit, other: Fit) -> bool:
    """Whether only one of two models is at a right angle to their difference."""
    return own.is_chance and abs(own.sum) <= NEAR and other.sum <= -EXCLUDED


@dataclass
class CommonRows:
    """Inner products of every row of the hub between all models.

    Attributes:
        gram_RNN: inner products, zero where a model lacks the row.
        there_RN: which models have a row.
        hub: number of the hub.
        width: dimensions of a row.
        bulk: some of the rows themselves.
        rounded: models that stand on a grid of few numbers.
        table_RNN, table_RN: the same two of the rows of the input table, which take no part in distances.
        worn_NRK: some rows of that table, those that most models have in the hub's direction; see `worn_rows`.
        worn_NR: which models have them.
    """

    gram_RNN: npt.NDArray[np.float64]
    there_RN: npt.NDArray[np.bool_]
    hub: int
    width: int = 0
    bulk: Bulk = field(default_factory=Bulk)
    rounded: frozenset[int] = frozenset()
    table_RNN: Floats | None = None
    table_RN: npt.NDArray[np.bool_] | None = None
    worn_NRK: Floats | None = None
    worn_NR: npt.NDArray[np.bool_] | None = None
    _known: dict[tuple[int, ...], Floats | None] = field(default_factory=dict)
    _handed: dict[tuple[int, int, int], Handed] = field(default_factory=dict)
    _marks: dict[tuple[int, int, int], Marks | None] = field(default_factory=dict)

    def distances(self, models: Sequence[int]) -> Floats | None:
        """Squared distances of some models for each row [n, n], relative to the hub's rows; None where they have too
        few rows in common."""
        key = tuple(models)
        if key not in self._known:
            self._known[key] = self._distances(list(models))
        return self._known[key]

    def _distances(self, models: list[int]) -> Floats | None:
        common_R = np.all(self.there_RN[:, models], axis=1)
        count = int(common_R.sum())
        if count < LEAST * len(self.there_RN):
            return None
        gram = self.gram_RNN[:, models][:, :, models][common_R].sum(0)
        square = np.diag(gram)
        out: Floats = np.maximum(0.0, square[:, None] + square[None, :] - 2.0 * gram) / (count * self._unit())
        return out

    def _unit(self) -> float:
        """Mean square of the hub's rows: distances are relative to it, as those of pairs are to their own."""
        own_R = self.gram_RNN[self.there_RN[:, self.hub], self.hub, self.hub]
        return float(own_R.mean()) or 1.0

    def kept_and_joint(self, parent: int, i: int, j: int) -> tuple[float, float] | None:
        """How much of what i moved is in j, and how much both merely move in the same rows; see `placement`.

        With the ways from the parent, row by row, their inner products are fitted by |i|^2 and by |i||j|.
        """
        steps = self._steps(parent, i, j)
        if steps is None:
            return None
        of_i_R, of_j_R, both_R = steps
        same = np.stack([of_i_R, np.sqrt(of_i_R * of_j_R)], 1)
        normal, toward = same.T @ same, same.T @ both_R
        # A way without length says nothing; a touch of the diagonal keeps two like columns from blowing up.
        kept, joint = np.linalg.solve(normal + (TOUCH * np.trace(normal) + 1e-300) * np.eye(2), toward)
        return (float(kept), float(joint)) if np.isfinite(kept + joint) else None

    def by_chance(self, parent: int, i: int, j: int) -> tuple[Fit, Fit] | None:
        """How well two histories explain the inner products of the ways from the parent to i and to j: that j continues
        i, or that both have nothing in common but the parent.

        What was added independently of a step has an inner product with it that is zero but for chance, of variance
        |x|^2 |y|^2 over the dimensions of a row. Noise and rounding are like that; trainings on like texts are not,
        and then neither history fits.
        """
        steps = self._steps(parent, i, j)
        if steps is None or self.width < 1:
            return None
        of_i_R, of_j_R, both_R = steps
        rest_R = np.maximum(0.0, of_i_R + of_j_R - 2.0 * both_R)
        moved_R = (of_i_R > 0) & (of_j_R > 0) & (rest_R > 0)
        if int(moved_R.sum()) < MIN_ROWS:
            return None
        of_i_R, of_j_R, both_R, rest_R = (x[moved_R] for x in (of_i_R, of_j_R, both_R, rest_R))
        return Fit.of(both_R - of_i_R, of_i_R * rest_R / self.width), Fit.of(both_R, of_i_R * of_j_R / self.width)

    def handed(self, parent: int, i: int, j: int) -> Handed:
        """What rows that were handed down say of two models, seen from a third; see `handed_rows`. Of two models on
        grids of few numbers, on which rows may meet, only that they are apart."""
        key = (parent, i, j)
        if key not in self._handed:
            found, models = Handed(), list(key)
            for gram_RNN, there_RN in ((self.gram_RNN, self.there_RN), (self.table_RNN, self.table_RN)):
                if gram_RNN is not None and there_RN is not None:
                    common_R = there_RN[:, models].all(1)
                    found += handed_rows(gram_RNN[:, models][:, :, models][common_R])
            meet = {i, j} <= self.rounded
            self._handed[key] = replace(found, kept=0) if meet else found
        return self._handed[key]

    def came_later(self, x: int, y: int) -> int:
        """As `worn_rows.came_later`, by rows of the input table."""
        if self.table_RNN is None or self.table_RN is None:
            return 0
        common_R = self.table_RN[:, [x, y]].all(1)
        return came_later(self.table_RNN[:, [x, y]][:, :, [x, y]][common_R])

    def in_the_table(self, parent: int, i: int, j: int) -> float | None:
        """Cosine of the ways from the parent to two models in those rows of the input table that either turned; None
        where these are too few."""
        if self.table_RNN is None or self.table_RN is None:
            return None
        models = [parent, i, j]
        way_R22, turned_R = ways_in_rows(self.table_RNN[:, models][:, :, models][self.table_RN[:, models].all(1)])
        if int(turned_R.sum()) < MIN_ROWS:
            return None
        way_22 = way_R22[turned_R].sum(0)
        return float(way_22[0, 1] / (way_22[0, 0] * way_22[1, 1]) ** 0.5) if min(np.diag(way_22)) > 0 else None

    def marks(self, parent: int, i: int, j: int) -> Marks | None:
        """As `worn_rows.marks`; None where they say nothing."""
        if self.worn_NRK is None or self.worn_NR is None:
            return None
        key = (parent, i, j)
        if key not in self._marks:
            models = list(key)
            self._marks[key] = marks(self.worn_NRK[models][:, self.worn_NR[models].all(0)])
        return self._marks[key]

    def first_by_chance(self, x: int, y: int) -> int:
        """One where the first model came first, minus one where the second did, zero where it cannot be told.

        What was added independently of a model stands at a right angle to it, but for chance, and not to the sum of
        both. Neither of two siblings is at a right angle to their difference.
        """
        common_R = np.all(self.there_RN[:, [x, y]], axis=1)
        if int(common_R.sum()) < MIN_ROWS or self.width < 1:
            return 0
        gram = self.gram_RNN[:, [x, y]][:, :, [x, y]][common_R]
        apart_R = np.maximum(0.0, gram[:, 0, 0] + gram[:, 1, 1] - 2.0 * gram[:, 0, 1])
        left, right = (
            Fit.of(gram[:, 0, 1] - gram[:, own, own], gram[:, own, own] * apart_R / self.width) for own in (0, 1)
        )
        return int(_stands_upright(left, right)) - int(_stands_upright(right, left))

    def _steps(self, parent: int, i: int, j: int) -> tuple[Floats, Floats, Floats] | None:
        """Row by row, squared lengths of the ways from the parent to i and to j, and their inner product [R] each; None
        where the three have too few rows in common."""
        models = [parent, i, j]
        common_R = np.all(self.there_RN[:, models], axis=1)
        if int(common_R.sum()) < max(MIN_ROWS, LEAST * len(self.there_RN)):
            return None
        gram = self.gram_RNN[:, models][:, :, models][common_R]
        of_i_R = np.maximum(0.0, gram[:, 1, 1] - 2 * gram[:, 0, 1] + gram[:, 0, 0])
        of_j_R = np.maximum(0.0, gram[:, 2, 2] - 2 * gram[:, 0, 2] + gram[:, 0, 0])
        both_R = gram[:, 1, 2] - gram[:, 0, 1] - gram[:, 0, 2] + gram[:, 0, 0]
        return of_i_R, of_j_R, both_R


def common_rows(
    hub: int, locations: Sequence[str | Path], *, allow_pickle: bool = False, workers: int = 1, fleet: str | None = None
) -> CommonRows | None:
    """Lay models beside one of them.

    Args:
        hub: which of the models.
        locations: of all of them.
        allow_pickle: read torch files (weights only).
        workers, fleet: as `spread.spread_out` takes them.
    """
    tasks = [Laying(k, str(locations[hub]), str(place), allow_pickle) for k, place in enumerate(locations) if k != hub]
    laid: dict[int, Beside] = {}
    for done in spread_out(lay_beside, tasks, workers=workers, address=fleet):
        if done.result is not None:
            laid[done.task.number] = done.result
    return gathered(hub, len(locations), laid)


def gathered(hub: int, n: int, laid: dict[int, Beside]) -> CommonRows | None:
    """One table of everything that was laid beside the hub; None where that is nothing."""
    keys: dict[Key, Tensor] = {}
    for one in laid.values():
        for key, rows in one.hub.items():
            keys.setdefault(key, rows)
    if not keys:
        return None
    grams, there, all_rows = [], [], []
    for key, own_UK in keys.items():
        rows_NUK = torch.zeros(n, *own_UK.shape, dtype=torch.float64)
        there_NU = torch.zeros(n, own_UK.shape[0], dtype=torch.bool)
        rows_NUK[hub], there_NU[hub] = own_UK.double(), True
        for k, one in laid.items():
            # Another sample of the hub's units (a partner of another size class) is left out.
            if key in one.other and one.hub[key].shape == own_UK.shape and torch.equal(one.hub[key], own_UK):
                rows_NUK[k], there_NU[k] = one.other[key].double(), one.there[key]
        there_NU &= torch.isfinite(rows_NUK).all(2)
        rows_NUK = torch.where(there_NU[:, :, None], rows_NUK, 0.0)
        grams.append(torch.einsum("nuk,muk->unm", rows_NUK, rows_NUK).numpy())
        there.append(there_NU.T.numpy())
        all_rows.append(rows_NUK.numpy())
    width, bulk = all_rows[0].shape[2], thinned(all_rows, [x.T for x in there])
    rounded = {k for k, one in laid.items() if one.rounded[1]} | {hub for one in laid.values() if one.rounded[0]}
    out = CommonRows(np.concatenate(grams), np.concatenate(there), hub, width, bulk, frozenset(rounded))
    _add_tables(out, hub, n, laid)
    return out


def _add_tables(out: CommonRows, hub: int, n: int, laid: dict[int, Beside]) -> None:
    """Add what is kept of the hub's input table and of what was laid beside it, where there is any."""
    tables = {k: one.table for k, one in laid.items() if one.table is not None}
    if not tables:
        return
    own_VK = next(iter(tables.values()))[0]
    rows_NVK = torch.zeros(n, *own_VK.shape, dtype=torch.float64)
    there_NV = torch.zeros(n, len(own_VK), dtype=torch.bool)
    rows_NVK[hub], there_NV[hub] = own_VK, True
    for k, (_, other_VK, there_V) in tables.items():
        rows_NVK[k], there_NV[k] = other_VK, there_V
    gram_VNN = torch.einsum("nvk,mvk->vnm", rows_NVK, rows_NVK)
    square_VN = torch.einsum("vnn->vn", gram_VNN)
    sine_VN = 1.0 - gram_VNN[:, hub] ** 2 / (square_VN * square_VN[:, hub, None]).clamp_min(1e-300)
    stand_V = (there_NV.T & (sine_VN <= EQUAL)).sum(1)
    worn_R = stand_V.argsort(descending=True, stable=True)[:WORN_ROWS]
    out.table_RNN, out.table_RN = gram_VNN.numpy(), there_NV.T.numpy()
    out.worn_NRK, out.worn_NR = rows_NVK[:, worn_R].numpy(), there_NV[:, worn_R].numpy()
