"""What lies between two models that share numbers: was it learned, or is it noise, rounding or nothing at all?

Two trainings of one random start both learned something, and what is learned has few strong directions: so their
difference has them, however short the trainings were. Noise, rounding and masks have none; neither has a copy in
another frame. Where the difference is of that kind, one of the two was made from the other, or both from a third,
whatever can be seen of learning in them. And a model whose gains still have the one value that they began with was
never trained: it is the start itself, and whatever shares its numbers was made from it.

Measured on calibration families (docs/LOG.md, 2026-11-30): of trainings of one start, of a tenth to four times the
root's steps, the difference has 17 to 90 % of its energy above the edge of a random matrix; added noise 0.0 %.

Muon's steps have no strong directions either, but too few weak ones: all their singular values are one, and what two
short trainings leave is more even than numbers drawn at random can be. Squares of singular values of noise have a known
spread (Marchenko and Pastur 1967): their mean square over their squared mean is 1 + (K + 1) / R.

Shapes: N = matched units, D = residual width, K = smaller side of a matrix, R = its larger one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pedigree.forensics.descent.gains import IN_LAYERS, LearnedGains, are_same
from pedigree.forensics.descent.survival import MIN_DIRECTIONS, learning_of, standing_out
from pedigree.forensics.sides.linear import singular_values, without_damage
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import read_gain

STILL, TRACE, SAME = 0.01, 1e-3, 1e-5
"""Length of the difference over that of the weights below which a cast or another frame may have left it, if it has no
strong directions; below which nothing is asked of models that learned something; and up to which arithmetic in another
frame leaves it (float32 keeps seven digits). A few steps at a low rate lie between the first two, a single one between
the others."""

WHITE = 0.05
"""Share of the energy of the difference above the edge of a random matrix below which it is noise."""

TOO_EVEN, DEVIATIONS = 0.95, 4.0
"""Unevenness of the singular values of the difference, one for numbers drawn at random, below which they are more even
than chance makes them; and by how many of its deviations, 2 / K for a matrix. Noise has 1.00 to 1.07, rounding and
masks 1.2 to 1.3, two trainings by Muon from one start 0.52 to 0.83 (docs/LOG.md, 2026-11-30)."""

TAKES = -0.08
"""Cosine of the difference with the strongest directions of a model from which it takes them away. What is added to a
model takes nothing from it (0.04 at most in noisy, rounded and cast copies); two trainings whose steps have no strong
directions take from both, from 12 steps on (-0.14 and less)."""

STANDS_OUT, TABLE_ROWS = 1.1, 1024
"""Largest singular value of a table over the edge of a random one, from which it was trained: 1.03 at most as drawn,
1.3 and more after a dozen steps; and rows that are looked at."""

KEPT, FOREIGN = 0.1, 1.0
"""Length of the difference over that of the weights of a matrix that was kept, and of one that is foreign (1.41)."""


STEP, BESIDE = 1 / 3, 0.02
"""Step of the singular values behind the last direction of an adapter, and share of energy that may lie behind it."""


@dataclass(frozen=True)
class Additions:
    """The difference of matched matrices.

    Attributes:
        moved: its length over that of A's matrix, mean of the matrices.
        structure: share of its energy that stands out of what a random matrix can have, likewise.
        untrained: whether one side was never trained, as far as its gains tell.
        matrices: how many were laid side by side.
        least, most: the same of the matrix that moved least, and most.
        rank: most directions that the difference of a matrix has, where all have a few and nothing else; else 0.
        both_untrained: whether neither side was ever trained, as far as their gains tell.
        bare: the side that is as it was drawn, where the other was trained and its gains show it. Gains that stay at
            one in both were frozen, or too coarse to move (bfloat16 has none near enough to one), and tell nothing.
        unevenness: of the singular values of the difference, mean of the matrices: one for numbers drawn at random,
            zero where all directions are equally long.
        unevenness_error: deviation of that by chance.
        folded_alike: whether one side has no gains left and its matrices hold the other's.
    """

    moved: float
    structure: float
    untrained: bool
    matrices: int
    least: float = 0.5
    most: float = 0.5
    rank: int = 0
    both_untrained: bool = False
    unevenness: float = 1.0
    unevenness_error: float = 0.0
    folded_alike: bool = False
    bare: Literal["a", "b"] | None = None

    @property
    def moves(self) -> bool:
        """Whether the difference is more than what a cast leaves."""
        return self.moved >= STILL

    @property
    def is_planted(self) -> bool:
        """Whether some matrices are nearly the same and others foreign: training moves them all, so these were put
        there, or never trained. That is no sign of a common start of the others."""
        return self.least < KEPT and self.most > FOREIGN

    @property
    def is_white(self) -> bool:
        """Whether the difference has no strong directions. Noise has none; neither have steps of an optimizer that
        makes all directions of a step equally long (Muon), however much was learned."""
        return self.structure < WHITE

    @property
    def is_too_even(self) -> bool:
        """Whether the difference is more even than noise, in any frame: somebody trained with steps that are."""
        return self.unevenness < min(TOO_EVEN, 1.0 - DEVIATIONS * self.unevenness_error)

    def is_noise(self, gains: LearnedGains | None, own: float = 0.0) -> bool:
        """Whether the difference is nothing, or of a kind that training does not leave.

        Muon takes vectors by other rules than matrices, so gains tell whether two models were trained apart: they were
        not where both hold the same learned gains, or neither holds any. Without that word nothing is said. But where
        neither holds any, gains may have been folded into the matrices: so the difference itself has to look drawn in
        any case, and what steps of equal directions leave does not. Gains may have been given noise like all else: then
        one side is as it was drawn.

        Args:
            gains: agreement of learned gains; None where they cannot be laid side by side.
            own: cosine of the difference with the strongest directions of the model from which it takes less away.
        """
        if self.moved < TRACE:
            return True
        if not self.is_white or self.is_too_even:
            return False
        if self.folded_alike or are_same(gains):
            return True
        drawn = self.both_untrained or self.bare is not None
        return (self.moved < STILL or drawn) and own > TAKES


class AdditionsMeter:
    """Takes in matched matrices of A and B, one pair after the other."""

    def __init__(self) -> None:
        self._moved: list[float] = []
        self._structure: list[float] = []
        self._ranks: list[int] = []
        self._uneven: list[tuple[float, float]] = []

    def add(self, a_ND: Tensor, b_ND: Tensor) -> None:
        """Take in matrices [N, D] of A and B in one frame, rows of B in A's order; small ones are passed over."""
        length = float(a_ND.norm())
        if min(a_ND.shape) < MIN_DIRECTIONS or length == 0.0:
            return
        difference_ND = b_ND - a_ND
        self._moved.append(float(difference_ND.norm()) / length)
        if self._moved[-1] < TRACE:
            return
        there_R = singular_values(difference_ND)
        self._ranks.append(few_directions(there_R))
        self._uneven.append((uneven(there_R, *a_ND.shape), 2.0 / min(a_ND.shape)))
        learned = learning_of(there_R, *a_ND.shape)
        self._structure.append(1.0 if learned is None else learned)  # a difference of few directions is all structure

    def take(self, other: AdditionsMeter) -> None:
        """Add what another one took in."""
        self._moved += other._moved
        self._structure += other._structure
        self._ranks += other._ranks
        self._uneven += other._uneven

    def result(self, a: Side, b: Side) -> Additions | None:
        """Means over the matrices, or None when none was large enough."""
        n = len(self._moved)
        if n == 0:
            return None
        structure = sum(self._structure) / len(self._structure) if self._structure else 0.0
        never = (is_untrained(a), is_untrained(b))
        rank = max(self._ranks) if self._ranks and min(self._ranks) > 0 else 0
        least, most = min(self._moved), max(self._moved)
        even, error = 1.0, 0.0
        if self._uneven:
            even = sum(value for value, _ in self._uneven) / len(self._uneven)
            error = math.hypot(*(one for _, one in self._uneven)) / len(self._uneven)
        return Additions(
            sum(self._moved) / n, structure, any(never), n, least, most, rank, all(never),
            even, error, bare=_bare(a, b),
        )  # fmt: skip


def uneven(strength_K: Tensor, rows: int, columns: int) -> float:
    """How uneven singular values [K] are: one in the mean for a matrix drawn at random, zero where all are equal.

    Of independent numbers the mean fourth power of the singular values is 1 + (K + 1) / R times the square of the mean
    second one.
    """
    square_K = strength_K.double() ** 2
    kurtosis = float((square_K**2).mean() / square_K.mean().square().clamp_min(1e-300))
    return (kurtosis - 1.0) * max(rows, columns) / (min(rows, columns) + 1)


def few_directions(strength_R: Tensor) -> int:
    """How many directions a difference has where it has a few and next to nothing beside them; else 0.

    A merged adapter ends in a step: behind its rank there is rounding. What training leaves fades out.

    Args:
        strength_R: singular values, strongest first.
    """
    few = len(strength_R) // 4
    energy_R = strength_R**2
    left_R = 1.0 - energy_R.cumsum(0) / energy_R.sum().clamp_min(1e-300)
    for k in range(1, few + 1):
        if float(strength_R[k]) < STEP * float(strength_R[k - 1]) and float(left_R[k - 1]) < BESIDE:
            return k
    return 0


UNMOVED_GAINS = 1e-4
"""How far gains may lie apart in a model that was not trained: an optimizer's step moves each by the learning rate, and
ten steps at 1e-5 move no matrix by more than a hundredth of what it is drawn with."""


def _bare(a: Side, b: Side) -> Literal["a", "b"] | None:
    """The side that is as it was drawn, beside one whose gains were trained."""
    unmoved = tuple(is_untrained(side, moved=0.0) for side in (a, b))
    if unmoved[0] == unmoved[1] or _shows_training(a if unmoved[0] else b):
        return None
    return "a" if unmoved[0] else "b"


def _shows_training(side: Side) -> bool:
    """Whether a table of vocabulary rows has a direction that numbers drawn at random have not: gains may have been
    folded away, or frozen, and output rows move together from the first steps on."""
    for role in ("embed", "head"):
        part = side.anatomy.part(role)
        if part is None or min(part.shape) < MIN_DIRECTIONS:
            continue
        rows = [int(row) for row in spread_evenly(int(part.shape[0]), TABLE_ROWS)]
        rows_ND = without_damage(part.read(rows=rows))
        if standing_out(singular_values(rows_ND), max(rows_ND.shape)) > STANDS_OUT:
            return True
    return False


def is_untrained(side: Side, moved: float = UNMOVED_GAINS) -> bool:
    """Whether all gains of a model, and it has some, are the one number that gains begin with, or within `moved` of it:
    by default a first step away."""
    seen = False
    for layer in range(side.n_layers):
        for role in IN_LAYERS:
            gain_D = read_gain(side.anatomy, role, layer)
            if gain_D is None or gain_D.numel() < 2:
                continue
            if float((gain_D - gain_D[0]).abs().max()) > moved * abs(float(gain_D[0])):
                return False  # of a trained model the first gain tells: no other is read
            seen = True
    return seen
