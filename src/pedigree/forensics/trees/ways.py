"""Squared distances of the models of a family on one scale, and how far to trust them.

Lengths of weights grow along branches and only differences add up, so distances of a family are taken for each number
and not over the length of the weights. What is matched has to be the same where three models are laid against each
other: heads that were moved cannot be matched, and then feed-forward units alone are the measure.

Shapes  N = models.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pedigree.forensics.comparison.direction import ROUNDED
from pedigree.forensics.descent.share import Share
from pedigree.forensics.trees.family_bulk import Shared
from pedigree.forensics.trees.family_rows import MIN_ROWS, CommonRows, Fit
from pedigree.forensics.trees.handed_rows import Handed
from pedigree.forensics.trees.kinship import SAME, Shape
from pedigree.forensics.trees.strains import Pairs, kinship
from pedigree.forensics.trees.worn_rows import Marks

FAR = 2.0
"""Squared distance of relatives of which nothing could be matched row by row: that of strangers."""

HALF = 0.5
"""Part of the rows of a model that another must have to take part in a mixture."""

Floats = npt.NDArray[np.float64]


@dataclass
class Ways:
    """Distances between models.

    Attributes:
        all_NN: of everything that was matched.
        units_NN: of feed-forward units alone; equal to `all_NN` where a pair has none.
        whole_NN: whether heads were matched as well.
        rounded_NN: whether the second is the first one rounded to a coarser grid.
        matched_NN: how many numbers of every two were matched.
        shapes: of the models, see `kinship.shape_of`; empty where they are not known.
        rows: the same rows of all models, where they could be laid beside one of them.
        numbers: the models' numbers among those.
    """

    all_NN: Floats
    units_NN: Floats
    whole_NN: npt.NDArray[np.bool_]
    rounded_NN: npt.NDArray[np.bool_]
    matched_NN: npt.NDArray[np.int64]
    shapes: tuple[Shape, ...]
    rows: CommonRows | None = None
    numbers: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.all_NN)

    @classmethod
    def of(cls, distance_NN: Floats) -> Ways:
        """Distances of one kind."""
        shape = distance_NN.shape
        yes_NN, no_NN = np.ones(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
        return cls(distance_NN, distance_NN, yes_NN, no_NN, np.zeros(shape, dtype=np.int64), ((),) * len(distance_NN))

    def between(self, *models: int) -> Floats:
        """Distances of some models [n, n], by one measure."""
        if self.rows is not None:
            found = self.rows.distances([self.numbers[k] for k in models])
            if found is not None:
                return found
        at = np.ix_(models, models)
        return self.all_NN[at] if bool(self.whole_NN[at].all()) else self.units_NN[at]

    def kept_and_joint(self, parent: int, i: int, j: int) -> tuple[float, float] | None:
        """As `CommonRows.kept_and_joint`; None where models were not laid side by side."""
        if self.rows is None:
            return None
        return self.rows.kept_and_joint(*(self.numbers[k] for k in (parent, i, j)))

    def by_chance(self, parent: int, i: int, j: int) -> tuple[Fit, Fit] | None:
        """As `CommonRows.by_chance`; None where models were not laid side by side."""
        if self.rows is None:
            return None
        return self.rows.by_chance(*(self.numbers[k] for k in (parent, i, j)))

    def in_the_bulk(self, parent: int, i: int, j: int) -> Shared | None:
        """As `Bulk.shared`; None where models were not laid side by side."""
        if self.rows is None:
            return None
        return self.rows.bulk.shared(*(self.numbers[k] for k in (parent, i, j)))

    def own_share(self, of: int, others: Sequence[int]) -> Share | None:
        """Share of the difference between a model and the mixture of others that is nearest to it if they went ways of
        their own; see `Bulk.own_share`. Others that have less than half of its rows are left out."""
        if self.rows is None:
            return None
        kept = [k for k in others if self.in_common(of, k) >= HALF]
        if len(kept) < 2:
            return None
        weights = np.array([1.0 / max(self.length(of, k), SAME) for k in kept])
        mine, *theirs = (self.numbers[k] for k in (of, *kept))
        return self.rows.bulk.own_share(mine, theirs, (weights / weights.sum()).astype(np.float32))

    def is_rounded(self, k: int) -> bool:
        """Whether a model stands on a grid of few numbers; no where models were not laid side by side."""
        return self.rows is not None and self.numbers[k] in self.rows.rounded

    def in_common(self, *models: int) -> float:
        """Part of the rows of the first model that all of them have; one where they were not laid side by side."""
        if self.rows is None:
            return 1.0
        there_RN = self.rows.there_RN[:, [self.numbers[k] for k in models]]
        return float(there_RN.all(1).sum()) / max(1, int(there_RN[:, 0].sum()))

    def came_back(self, parent: int, i: int, j: int) -> bool:
        """Whether j has most of what its smaller relative i lost of the parent: what was cut away does not come back,
        and what is put in its place later are other rows."""
        sizes = zip(self.shapes[parent], self.shapes[i], self.shapes[j], strict=False)
        if self.rows is None or not any(less < whole <= again for whole, less, again in sizes):
            return False
        whole_R, less_R, again_R = (self.rows.there_RN[:, self.numbers[k]] for k in (parent, i, j))
        lost_R = whole_R & ~less_R
        return int(lost_R.sum()) >= MIN_ROWS and int((lost_R & again_R).sum()) >= HALF * int(lost_R.sum())

    def handed(self, parent: int, i: int, j: int) -> Handed:
        """As `CommonRows.handed`; nothing where models were not laid side by side."""
        if self.rows is None:
            return Handed()
        return self.rows.handed(*(self.numbers[x] for x in (parent, i, j)))

    def in_the_table(self, parent: int, i: int, j: int) -> float | None:
        """As `CommonRows.in_the_table`; None where models were not laid side by side."""
        if self.rows is None:
            return None
        return self.rows.in_the_table(*(self.numbers[x] for x in (parent, i, j)))

    def marks(self, parent: int, i: int, j: int) -> Marks | None:
        """As `CommonRows.marks`; None where models were not laid side by side."""
        if self.rows is None:
            return None
        return self.rows.marks(*(self.numbers[x] for x in (parent, i, j)))

    def first_by_chance(self) -> Floats:
        """As `CommonRows.first_by_chance`, of every two models [n, n]; zeros where they were not laid side by side."""
        return self._of_every_two(None if self.rows is None else self.rows.first_by_chance)

    def came_later(self) -> Floats:
        """As `CommonRows.came_later`, in the same form: one where the second came later."""
        return self._of_every_two(None if self.rows is None else self.rows.came_later)

    def _of_every_two(self, tell: Callable[[int, int], int] | None) -> Floats:
        out = np.zeros((len(self), len(self)))
        if tell is not None:
            for x, y in itertools.combinations(range(len(self)), 2):
                out[x, y] = tell(self.numbers[x], self.numbers[y])
        return out - out.T

    def length(self, i: int, j: int) -> float:
        """One distance."""
        return float(self.between(i, j)[0, 1])

    def reshaped(self, parent: int, i: int) -> bool:
        """Whether the second is the first one with something put in or taken away, and nothing else."""
        return self.shapes[parent] != self.shapes[i] and bool(self.all_NN[parent, i] <= SAME)

    def part(self, models: Sequence[int]) -> Ways:
        """Those of some models, renumbered."""
        at = np.ix_(models, models)
        numbers = () if self.rows is None else tuple(self.numbers[k] for k in models)
        return Ways(
            self.all_NN[at], self.units_NN[at], self.whole_NN[at], self.rounded_NN[at], self.matched_NN[at],
            tuple(self.shapes[k] for k in models), self.rows, numbers,
        )  # fmt: skip


def shape_in(pairs: Pairs, i: int, others: Sequence[int]) -> Shape:
    """The shape of a model, which every pair that was compared knows."""
    return next((shape for j in others if (shape := kinship(pairs, i, j).shapes[0])), ())


def ways_of(heads: Sequence[int], pairs: Pairs) -> Ways:
    """The distances of some models, in their order; one where the scale is that of the median pair."""
    both = [kinship(pairs, i, j) for i in heads for j in heads if i < j]
    scale = float(np.median([pair.mean_square for pair in both if pair.related] or [1.0])) or 1.0
    n = len(heads)
    out = Ways.of(np.zeros((n, n)))
    out.units_NN = np.zeros((n, n))
    out.shapes = tuple(shape_in(pairs, i, [j for j in heads if j != i]) for i in heads)
    for x, i in enumerate(heads):
        for y, j in enumerate(heads):
            if x == y:
                continue
            pair = kinship(pairs, i, j)
            out.matched_NN[x, y] = pair.matched
            if pair.distance2 is None or not pair.related:
                out.all_NN[x, y] = out.units_NN[x, y] = FAR
                continue
            out.all_NN[x, y] = pair.distance2 * pair.mean_square / scale
            units = (pair.distance2, pair.mean_square) if pair.units is None else pair.units
            out.units_NN[x, y] = units[0] * units[1] / scale
            out.rounded_NN[x, y] = pair.structural == ROUNDED and out.all_NN[x, y] < FAR / 10
            out.whole_NN[x, y] = pair.units is None or pair.units != (pair.distance2, pair.mean_square)
    return out
