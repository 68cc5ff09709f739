"""Rows that no step touched wear: weight decay shortens them, and every step leaves its errors of rounding in them.

The input row of a token that a text has not gets no gradient. Decoupled decay multiplies it in every step all the same,
all such rows by one factor, in single precision. So it keeps its direction, and two things are left in it that have
nothing to do with what was learned:

- *its length*. Nothing makes such a row longer again. Of two models of which one descends from the other, the one with
  the shorter rows came later. Of two children of one model the longer training has the shorter rows.
- *marks*. Each product is rounded; the errors of many steps are what a row differs by from the row before, scaled. They
  are passed on like the row itself: what continues a model has all of its marks, and its own beside them. Two trainings
  leave marks of their own, however alike their texts, unless their rates were the same from the first step on; then
  they leave the very same. So marks that are missing prove that a model is no ancestor; marks in common alone prove
  nothing.

Null   j continues i: the marks that j adds have no correlation with those of i. Where rates are constant, or so small
       that a step takes less than a few units of the last place, errors repeat and have some: of 2,908 simulated pairs
       of trainings (constant, cosine and linear rates from 1e-5 to 5e-3, decays of 0.01 to 0.1, 6 to 1,000 steps) 17
       pass for other children, and of other children 72 %, of two below a missing model 55 % (docs/LOG.md,
       2026-11-30, "Rows that wear").
Nothing is said where nothing decays, where tables are tied to the output (every step touches every row), where they
were frozen, and where fewer bits are stored than in single precision.

Source  decoupled weight decay (Loshchilov and Hutter 2019); the rest is not from the literature.
Shapes  R = rows, K = kept dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pedigree.forensics.trees.handed_rows import EQUAL, LEAST

Floats = npt.NDArray[np.float64]

ONE_FACTOR = 1e-5
"""Relative difference of two ratios of lengths up to which they are one: single precision leaves 1e-7 of a row, and a
thousand steps 2e-6."""

ONE_STEP = 1e-9
"""Length of marks over that of a row below which there are none: a single step leaves 2e-8, arithmetic here 1e-15."""

MOST_KEPT, AGAINST, DEVIATIONS = 0.92, -0.2, 8.0
"""Part of a model's marks up to which, and correlation with what is added beyond them down to which, another does not
continue it; and standard deviations of chance that this correlation has to reach."""

APART, APART_DEVIATIONS = 0.05, 3.0
"""Cosine of the marks of two models up to which they have no ancestor in common that took more than a twentieth of the
steps, and how many standard deviations of chance that has to be."""


@dataclass(frozen=True)
class Marks:
    """Marks of two models, seen from a third.

    Attributes:
        one, two, both: their squared lengths and inner product.
        numbers: how many there are.
    """

    one: float
    two: float
    both: float
    numbers: int

    @property
    def share(self) -> float:
        """Part of the first one's marks that the second has."""
        return self.both / self.one

    @property
    def cosine(self) -> float:
        """Of the marks of both."""
        return float(self.both / (self.one * self.two) ** 0.5)

    @property
    def lacking(self) -> bool:
        """Whether the second does not continue the first."""
        beyond = self.one + self.two - 2.0 * self.both
        if beyond <= 0:
            return False
        against = (self.both - self.one) / (self.one * beyond) ** 0.5
        return bool(self.share <= MOST_KEPT and against <= min(AGAINST, -DEVIATIONS / self.numbers**0.5))

    @property
    def apart(self) -> bool:
        """Whether they have none in common."""
        return bool(abs(self.cosine) <= APART) and bool(APART * self.numbers**0.5 >= APART_DEVIATIONS)


def marks(rows_3RK: Floats) -> Marks | None:
    """The marks of two models seen from a third, the first of the three; None where fewer than three rows stand as they
    stood, or one of them has no marks."""
    square_3R = (rows_3RK**2).sum(2)
    rows_3RK, square_3R = rows_3RK[:, (square_3R > 0).all(0)], square_3R[:, (square_3R > 0).all(0)]
    along_2R = np.einsum("rk,nrk->nr", rows_3RK[0], rows_3RK[1:])
    stood_R = (1.0 - along_2R**2 / (square_3R[0] * square_3R[1:]) <= EQUAL).all(0)
    if int(stood_R.sum()) < LEAST:
        return None
    own_RK, lengths_R1 = rows_3RK[0, stood_R], np.sqrt(square_3R[0, stood_R])[:, None]
    factors_2 = along_2R[:, stood_R].sum(1) / square_3R[0, stood_R].sum()
    one_RK, two_RK = (rows_3RK[1:, stood_R] / factors_2[:, None, None] - own_RK) / lengths_R1
    found = Marks(float((one_RK**2).sum()), float((two_RK**2).sum()), float((one_RK * two_RK).sum()), one_RK.size)
    return found if min(found.one, found.two) >= int(stood_R.sum()) * ONE_STEP**2 else None


def came_later(gram_R22: Floats) -> int:
    """One where the second of two models has the shorter rows, minus one where the first has, zero where that cannot be
    told: fewer than three rows stand as they stood, most have no factor in common, or it is one."""
    square_R2 = np.einsum("rnn->rn", gram_R22)
    gram_R22, square_R2 = gram_R22[(square_R2 > 0).all(1)], square_R2[(square_R2 > 0).all(1)]
    stood_R = 1.0 - gram_R22[:, 0, 1] ** 2 / square_R2.prod(1) <= EQUAL
    if int(stood_R.sum()) < LEAST:
        return 0
    longer_R = 0.5 * np.log(square_R2[stood_R, 1] / square_R2[stood_R, 0])
    factor = float(np.median(longer_R))
    alike = int((np.abs(longer_R - factor) <= ONE_FACTOR).sum())
    if alike < LEAST or 2 * alike <= int(stood_R.sum()) or abs(factor) <= ONE_FACTOR:
        return 0
    return -int(np.sign(factor))
