"""Squared distances of the models of a family on one scale, and how far to trust them.

Lengths of weights grow along branches and only differences add up, so distances of a family are taken for each number
and not over the length of the weights. What is matched has to be the same where three models are laid against each
other: heads that were moved cannot be matched, and then feed-forward units alone are the measure.

Shapes  N = models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pedigree.forensics.direction import ROUNDED
from pedigree.forensics.family_rows import CommonRows
from pedigree.forensics.strains import Pairs, kinship

FAR = 2.0
"""Squared distance of relatives of which nothing could be matched row by row: that of strangers."""

Floats = npt.NDArray[np.float64]


@dataclass
class Ways:
    """Distances between models.

    Attributes:
        all_NN: of everything that was matched.
        units_NN: of feed-forward units alone; equal to `all_NN` where a pair has none.
        whole_NN: whether heads were matched as well.
        rounded_NN: whether the second is the first one rounded to a coarser grid.
        rows: the same rows of all models, where they could be laid beside one of them.
        numbers: the models' numbers among those.
    """

    all_NN: Floats
    units_NN: Floats
    whole_NN: npt.NDArray[np.bool_]
    rounded_NN: npt.NDArray[np.bool_]
    rows: CommonRows | None = None
    numbers: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.all_NN)

    @classmethod
    def of(cls, distance_NN: Floats) -> Ways:
        """Distances of one kind."""
        shape = distance_NN.shape
        return cls(distance_NN, distance_NN, np.ones(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_))

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

    def length(self, i: int, j: int) -> float:
        """One distance."""
        return float(self.between(i, j)[0, 1])

    def part(self, models: Sequence[int]) -> Ways:
        """Those of some models, renumbered."""
        at = np.ix_(models, models)
        numbers = () if self.rows is None else tuple(self.numbers[k] for k in models)
        return Ways(
            self.all_NN[at], self.units_NN[at], self.whole_NN[at], self.rounded_NN[at], self.rows, numbers
        )  # fmt: skip


def ways_of(heads: Sequence[int], pairs: Pairs) -> Ways:
    """The distances of some models, in their order; one where the scale is that of the median pair."""
    both = [kinship(pairs, i, j) for i in heads for j in heads if i < j]
    scale = float(np.median([pair.mean_square for pair in both if pair.related] or [1.0])) or 1.0
    n = len(heads)
    out = Ways.of(np.zeros((n, n)))
    out.units_NN = np.zeros((n, n))
    for x, i in enumerate(heads):
        for y, j in enumerate(heads):
            if x == y:
                continue
            pair = kinship(pairs, i, j)
            if pair.distance2 is None or not pair.related:
                out.all_NN[x, y] = out.units_NN[x, y] = FAR
                continue
            out.all_NN[x, y] = pair.distance2 * pair.mean_square / scale
            units = (pair.distance2, pair.mean_square) if pair.units is None else pair.units
            out.units_NN[x, y] = units[0] * units[1] / scale
            out.rounded_NN[x, y] = pair.structural == ROUNDED and out.all_NN[x, y] < FAR / 10
            out.whole_NN[x, y] = pair.units is None or pair.units != (pair.distance2, pair.mean_square)
    return out
