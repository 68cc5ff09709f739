"""Vocabulary rows that one training learned and the other never touched: an exact sign of descent.

A row of an input table is moved only by steps whose text has its token; all others leave it as it is, but for weight
decay, which shortens every row by one factor. So rows of tokens that neither training saw point in one direction in
two models of one start, to the last digits. In a child there are also rows that its parent learned and that its own
text did not have: they, too, point where they pointed. In a twin there are none: what one learned the other would have
had to learn to the last digit. So the question is whether among the rows that did not turn there are any that had been
trained. Their lengths tell, and their directions: rows as they were drawn scatter little around one length, and have
no direction in common, while training moves rows together.

Null   the rows that did not turn are as they were drawn: squares of their lengths are draws of one gamma distribution,
       whose mean and spread are taken from their median and lower tenth (where most of the rows were trained that is
       too wide, and nothing is said). P(k rows of n beyond a point with tail p) <= C(n, k) p^k, the choice of k paid.
Not asked where tables are tied to the output, since every row then takes part in every step and none stays; where
coordinates were moved; and without tokens that both have. Asked only where start or descent is open otherwise.
Source not from the literature (docs/LOG.md, 2026-11-30).

Shapes: T = shared tokens, D = residual width, C = rows that did not turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.descent.survival import bulk_spectrum
from pedigree.forensics.exact.tails import LN10
from pedigree.forensics.sides.anchors import SharedTokens
from pedigree.forensics.sides.linear import singular_values, symmetric_eigen, without_damage
from pedigree.forensics.sides.side import Side

TURNED = 1e-5
"""One minus the cosine from which a row has turned: rounding to bfloat16 leaves 2e-6, a single step 1e-3."""

RATIO = 2e-3
"""Deviation of the ratio of lengths from that of the other rows beyond which a row was not only shortened."""

LEAST_ROWS, LEAST_TRAINED, MOST_ROWS = 48, 3, 65_536

SURE_LOG10_P = -12.0
"""What the test of lengths has to reach."""

HEAVY = 4.0
"""Kurtosis of numbers from which lengths scatter more than the null knows; three for normal numbers."""

STRUCTURE, AS_DRAWN = 1.2, 1.15
"""What the strongest direction has to reach: 1,432 pairs that were trained apart from one start have 0.89 to 1.04; and
the most that it may have in rows as they were drawn."""


@dataclass(frozen=True)
class UntouchedRows:
    """Rows that point in one direction in both tables.

    Attributes:
        rows: how many did not turn.
        trained: how many of them are longer than rows as they were drawn can be.
        log10_p: that so many are so long by chance.
        structure: energy of their strongest common direction over the most that rows drawn one by one can have.
    """

    rows: int
    trained: int
    log10_p: float
    structure: float

    @property
    def told(self) -> bool:
        """Whether rows that were learned were handed down."""
        return (self.trained >= LEAST_TRAINED and self.log10_p <= SURE_LOG10_P) or self.structure >= STRUCTURE


def untouched_rows(a: Side, b: Side, tokens: SharedTokens) -> UntouchedRows | None:
    """Rows of shared tokens that did not turn, and whether any were trained; None where that cannot be asked."""
    left, right = a.anatomy.part("embed"), b.anatomy.part("embed")
    if left is None or right is None or a.anatomy.tied or b.anatomy.tied or left.shape[1] != right.shape[1]:
        return None
    chosen = tokens.of_width(MOST_ROWS, 2 * int(left.shape[1]))
    if chosen.count < LEAST_ROWS:
        return None
    rows = [part.read(rows=[int(r) for r in t]) for part, t in ((left, chosen.a_T), (right, chosen.b_T))]
    return compare_rows(*(without_damage(table).double() for table in rows))


def compare_rows(a_TD: Tensor, b_TD: Tensor) -> UntouchedRows | None:
    """The same of rows side by side, as they are stored."""
    long_a, long_b = a_TD.norm(dim=1), b_TD.norm(dim=1)
    there_T = (long_a > 0) & (long_b > 0)
    cosine_T = (a_TD * b_TD).sum(dim=1) / (long_a * long_b).clamp_min(1e-30)
    kept_T = there_T & (cosine_T > 1.0 - TURNED)
    if int(kept_T.sum()) < LEAST_ROWS:
        return None
    ratio_C = long_b[kept_T] / long_a[kept_T]
    rows_CD = a_TD[kept_T][(ratio_C / ratio_C.median() - 1.0).abs() < RATIO]
    # Rows that are copies of each other (added tokens, padding) were not drawn one by one.
    rows_CD = torch.unique(rows_CD, dim=0)
    if len(rows_CD) < LEAST_ROWS or _is_heavy_tailed(rows_CD):
        return None
    trained, log10_p = _longer_than_drawn(rows_CD.square().sum(dim=1), int(a_TD.shape[1]))
    return UntouchedRows(len(rows_CD), trained, log10_p, _structure(rows_CD))


def _is_heavy_tailed(rows_CD: Tensor) -> bool:
    """Whether numbers of the shorter half of the rows are of a kind that nothing is drawn from, by their kurtosis."""
    square_C = rows_CD.square().sum(dim=1)
    short_ND = rows_CD[square_C <= square_C.median()]
    return float(short_ND.pow(4).mean() / short_ND.square().mean().square()) > HEAVY


def _structure(rows_CD: Tensor) -> float:
    """Energy of the strongest common direction over the most that rows drawn one by one have.

    None where the half of the rows that lies along it least has directions in common, too: then it is how the table was
    drawn (positive numbers, one mean, groups, waves), and no sign of training.
    """
    along_C = (rows_CD @ _leading_direction(rows_CD)).abs()
    quiet_CD = rows_CD[along_C <= along_C.median()]
    return _over_edge(rows_CD) if _over_edge(quiet_CD) <= AS_DRAWN else 0.0


def _leading_direction(rows_CD: Tensor) -> Tensor:
    """The direction [D] along which rows are longest."""
    return symmetric_eigen(rows_CD.T @ rows_CD)[1][:, -1]


def _over_edge(rows_CD: Tensor) -> float:
    """Largest squared singular value over the edge of a random matrix whose bulk is as large (Marchenko and Pastur)."""
    n, m = sorted(rows_CD.shape)
    square_K = singular_values(rows_CD).square()
    middle = slice(n // 3, max(n // 3 + 1, 2 * n // 3))
    drawn_K = torch.tensor(bulk_spectrum(n, m), dtype=square_K.dtype)
    variance = float((square_K[middle] / drawn_K[middle]).median())
    return float(square_K[0]) / max(variance * (math.sqrt(n) + math.sqrt(m)) ** 2, 1e-300)


def _longer_than_drawn(square_C: Tensor, width: int) -> tuple[int, float]:
    """How many rows are longer than drawn ones can be, and log10 of the probability."""
    n = len(square_C)
    middle, low = float(square_C.quantile(0.5)), float(square_C.quantile(0.1))
    # A gamma distribution of that spread; numbers drawn from a normal distribution have shape D / 2.
    spread = max((middle - low) / 1.28, middle * math.sqrt(2.0 / width))
    shape = (middle / spread) ** 2
    nats_C = _gamma_tail(shape, square_C.sort(descending=True).values * shape / middle)
    best, trained = 0.0, 0
    for k in range(LEAST_TRAINED, n // 2 + 1):
        choices = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        value = k * float(nats_C[k - 1]) + choices + math.log(n)
        if value < best:
            best, trained = value, k
    return trained, best / LN10


def _gamma_tail(shape: float, x_C: Tensor) -> Tensor:
    """A bound on ln P(gamma variable of this shape >= x): Chernoff's, (x / s)^s exp(s - x) above the mean."""
    nats_C: Tensor = shape * (x_C / shape).clamp_min(1e-30).log() + shape - x_C
    return torch.where(x_C > shape, nats_C, torch.zeros_like(nats_C))
