"""Same random start, or descent?

Two models trained apart from one random start keep the bulk of that start in common but not what they learned; a
descendant keeps what its parent learned. Along the singular directions of A, r_k = u_k^T B v_k / s_k tells how much
of direction k lives on in B. In a twin the strongest (learned) directions die while the middle of the spectrum, which
is still the random start, lives; in a descendant both live; in a merge both shrink alike.

Source: forensics study, section 9.10 (twin 0.13 against 0.84, child 0.99 against 0.99, 50/50 merge 0.50 against 0.50).

Shapes: N = matched units, D = residual width, K = singular directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pedigree.forensics.sides.linear import singular_values, symmetric_eigen

MIN_DIRECTIONS = 16

LEAST_SQUARE = 1e-4
"""Directions of A whose squared strength is below this share of the strongest are not followed: matrices of low rank
(latent attention) have nothing there that could live on."""

ROUNDING = 1e-6
"""Singular values below this share of the largest are rounding."""

MIXED_EVEN, MIXED_SPREAD, MIXED_MIDDLE = 0.08, 0.14, 0.86
"""A parent of a merge lives on by one share: even to this part of it in the mean and in every matrix, and less than
whole."""

NEARLY_WHOLE = 0.8
"""Share of directions that a matrix has to have for its spectrum to be held against that of a random one; a LayerNorm
takes one of them away."""

FOREIGN, FOREIGN_SHARE = 0.05, 0.25
"""Survival of the middle of the spectrum, and of that of the better matrices, below which a matrix has nothing of the
other's in it. In narrow matrices chance alone reaches 0.1."""

EVEN = 0.2
"""Unevenness below which a model lives on by one share throughout, as in a merge."""


@dataclass(frozen=True)
class Survival:
    """Mean survival of the strongest sixteenth and of the second quarter of A's singular directions in B.

    Attributes:
        top, middle: averages over matrices.
        unevenness: mean over matrices of |top - middle|, relative to the middle.
        matrices: how many.
        residual: energy of B - A along A's strongest sixteenth over that along the second quarter; 1 when what came
            on top of A is white noise, above it when it was learned.
        own: cosine between B - A and A's own strongest directions: none in a child of A, clearly below zero in a twin,
            which lacks what A learned.
        alike: cosine of the matrices.
        excess: share of A's energy that stands out of what a random matrix can have: what was learned and can be seen.
        cut: how many matrices of A are those of B with some directions left out.
        beyond_chance: how far the middle of the spectrum lives on, over all matrices, in deviations of what independent
            ones of these lengths and shapes have there. Matrices are chosen by it for the numbers above, so that
            those say nothing where this is small.
    """

    top: float
    middle: float
    unevenness: float
    matrices: int
    residual: float = 1.0
    own: float = 0.0
    alike: float = 1.0
    excess: float = 0.0
    cut: int = 0
    beyond_chance: float = math.inf

    @property
    def mean(self) -> float:
        """How much of the strong and the middling directions together lives on."""
        return (self.top + self.middle) / 2

    @property
    def ratio(self) -> float:
        """Top over middle: near 1 in a descendant or merge, near 0 in a twin of the same random start."""
        return self.top / self.middle if self.middle > 1e-6 else 1.0

    @property
    def is_even_part(self) -> bool:
        """Whether one share, less than whole, lives on of everything: of a parent in a merge."""
        even = abs(self.top - self.middle) < MIXED_EVEN * abs(self.middle) and self.unevenness < MIXED_SPREAD
        return even and self.middle < MIXED_MIDDLE


class SurvivalMeter:
    """Adds up the survival of A's directions in B, one pair of matrices after the other."""

    def __init__(self) -> None:
        self._tops: list[float] = []
        self._middles: list[float] = []
        self._residuals: list[float] = []
        self._own: list[float] = []
        self._alike: list[float] = []
        self._excess: list[float | None] = []
        self._chance: list[float] = []
        self._cut = 0

    def add(self, a_ND: Tensor, b_ND: Tensor) -> None:
        """Take in matrices [N, D] of A and of B in one frame, rows of B in A's order; small ones are passed over."""
        n = min(a_ND.shape)
        # A silent copy (zeroed writers) has no directions to follow.
        if n < MIN_DIRECTIONS or not 1e-4 < float(b_ND.norm() / a_ND.norm().clamp_min(1e-30)) < 1e4:
            return
        r_K, rest_K, strength_N = _follow(a_ND.double(), b_ND.double())
        strength_K = strength_N[: len(r_K)]
        n = min(n, len(r_K))
        if n < MIN_DIRECTIONS:
            return
        top, middle = slice(max(1, n // 16)), slice(n // 4, n // 2)
        self._tops.append(float(r_K[top].mean()))
        self._middles.append(float(r_K[middle].mean()))
        # u^T B v of a matrix that knows nothing of u and v has the mean square of its numbers for a variance.
        spread_K = b_ND.double().square().mean() / strength_K[middle].square()
        self._chance.append(float(spread_K.sum()) / len(spread_K) ** 2)
        self._residuals.append(float(rest_K[top].mean() / rest_K[middle].mean().clamp_min(1e-300)))
        along_K, many = (r_K[top] - 1.0) * strength_K[top], len(r_K[top])
        apart = float((many * rest_K[top].sum()).sqrt())
        # Where nothing differs rounding would be divided by rounding.
        self._own.append(float(along_K.sum()) / apart if apart > ROUNDING * float(strength_K[0]) else 0.0)
        self._alike.append(float((a_ND * b_ND).sum() / (a_ND.norm() * b_ND.norm())))
        self._excess.append(learning_of(strength_N, *a_ND.shape))
        if self._excess[-1] is None:
            self._cut += _is_cut(a_ND.double(), b_ND.double())

    def take(self, other: SurvivalMeter) -> None:
        """Add what another one took in."""
        self._tops += other._tops
        self._middles += other._middles
        self._chance += other._chance
        self._residuals += other._residuals
        self._own += other._own
        self._alike += other._alike
        self._excess += other._excess
        self._cut += other._cut

    def result(self) -> Survival | None:
        """Averages over the matrices, or None when none was large enough.

        Matrices of which nothing lives on are left out where others do: a part that was drawn anew has neither the
        start nor what was learned, and averaged with the others it would make any two look like a merge.
        """
        least = max(FOREIGN, FOREIGN_SHARE * _upper_quartile(self._middles))
        live = [k for k, middle in enumerate(self._middles) if middle >= least] or list(range(len(self._tops)))
        n = len(live)
        if n == 0:
            return None
        tops, middles, residuals, owns, alikes = (
            [numbers[k] for k in live]
            for numbers in (self._tops, self._middles, self._residuals, self._own, self._alike)
        )
        middle = sum(middles) / n
        gap = sum(abs(t - m) for t, m in zip(tops, middles, strict=True)) / n
        excesses = [e for k in live if (e := self._excess[k]) is not None]
        excess = sum(excesses) / max(1, len(excesses))
        return Survival(
            sum(tops) / n, middle, gap / max(abs(middle), 1e-6), n, sorted(residuals)[n // 2],
            sum(owns) / n, sum(alikes) / n, excess, self._cut, self._beyond_chance(),
        )  # fmt: skip

    def _beyond_chance(self) -> float:
        """All middles together, each by how sure it is, over the deviation of that."""
        sure = [1.0 / max(variance, 1e-30) for variance in self._chance]
        total = sum(weight * middle for weight, middle in zip(sure, self._middles, strict=True))
        return total / math.sqrt(sum(sure))


CUT = 1e-3
"""Share of the energy of B - A along what A has up to which A is a part of B that was cut out; what training adds lies
there as much as anywhere."""


def _is_cut(a_ND: Tensor, b_ND: Tensor) -> bool:
    """Whether B is A and, beside it, something that no row or no column of A has: A is what a truncated decomposition
    of B, or of matrices of which B is a part, leaves."""
    rest_ND = b_ND - a_ND
    energy = float((rest_ND**2).sum())
    if energy <= ROUNDING * float((a_ND**2).sum()):
        return False
    for side_ND, other_ND in ((a_ND, rest_ND), (a_ND.T, rest_ND.T)):
        values_D, vectors_DD = symmetric_eigen(side_ND.T @ side_ND)
        there_DK = vectors_DD[:, values_D > ROUNDING * float(values_D[-1])]
        if float(((other_ND @ there_DK) ** 2).sum()) < CUT * energy:
            return True
    return False


def _upper_quartile(numbers: list[float]) -> float:
    return sorted(numbers)[3 * len(numbers) // 4] if numbers else 0.0


def _follow(a_ND: Tensor, b_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """r_k = u_k^T B v_k / s_k and |u_k^T (B - A)|^2 of the singular directions of A that are followed, strongest first,
    and s_k of all.

    With G = A A^T = U S^2 U^T and v_k = A^T u_k / s_k this is (u_k^T B A^T u_k) / s_k^2: the smaller Gram matrix is all
    that is decomposed. Only the upper half of the spectrum is used, where squaring loses nothing that matters.
    """
    if a_ND.shape[0] > a_ND.shape[1]:
        gram_KK, cross_KK, rest_NK = a_ND.T @ a_ND, a_ND.T @ b_ND, b_ND - a_ND
    else:
        gram_KK, cross_KK, rest_NK = a_ND @ a_ND.T, b_ND @ a_ND.T, (b_ND - a_ND).T
    values_K, u_KK = symmetric_eigen(gram_KK)
    strong = int((values_K > LEAST_SQUARE * float(values_K[-1])).sum())
    r_K = (u_KK * (cross_KK @ u_KK)).sum(dim=0) / values_K.clamp_min(1e-6 * float(values_K[-1]) + 1e-300)
    rest_K = ((rest_NK @ u_KK) ** 2).sum(dim=0)
    return r_K.flip(0)[:strong], rest_K.flip(0)[:strong], values_K.clamp_min(0.0).sqrt().flip(0)


SEEN_LEARNING = 0.03
"""Share of energy above the edge of a random matrix from which learning is seen; of matrices drawn at random none with
24 rows or more has as much (0.02 at most)."""

EDGE = 1.03
"""Factor on the edge of the random bulk that the largest singular value of a random matrix stays below."""


def learning_of(strength_R: Tensor, rows: int, columns: int) -> float | None:
    """What can be seen to be learned in a matrix of this shape, by its singular values, strongest first; None where it
    has too few directions to be held against a random one."""
    there_R = strength_R[strength_R > ROUNDING * strength_R[0]]
    if len(there_R) < NEARLY_WHOLE * min(rows, columns):
        return None
    return visible_learning(there_R, max(rows, columns))


def visible_learning(strength_N: Tensor, m: int) -> float:
    """Share of the energy of a matrix above the edge of the spectrum that a random matrix of its bulk has.

    The bulk is sized by the middle third of the singular values, which learning of low rank leaves alone; the edge is
    that of Marchenko and Pastur 1967. What was learned but stays below (Baik, Ben Arous, Peche 2005) is not seen.

    Args:
        strength_N: all singular values, strongest first.
        m: the longer side of the matrix.
    """
    edge2 = _edge2(strength_N, m) * EDGE**2
    energy = float((strength_N**2).sum())
    return float((strength_N**2 - edge2).clamp_min(0.0).sum()) / max(energy, 1e-300)


def standing_out(strength_N: Tensor, m: int) -> float:
    """Largest singular value over that edge."""
    return float(strength_N[0]) / max(math.sqrt(_edge2(strength_N, m)), 1e-150)


def _edge2(strength_N: Tensor, m: int) -> float:
    """Square of the largest singular value that a random matrix of the same bulk has (Marchenko and Pastur)."""
    n = len(strength_N)
    middle = slice(n // 3, max(n // 3 + 1, 2 * n // 3))
    drawn_N = torch.tensor(bulk_spectrum(n, m), dtype=strength_N.dtype)
    variance = float((strength_N[middle] ** 2 / drawn_N[middle]).median())
    return variance * (math.sqrt(n) + math.sqrt(m)) ** 2


@lru_cache(maxsize=64)
def bulk_spectrum(n: int, m: int) -> tuple[float, ...]:
    """Squared singular values, largest first, of an n x m matrix of independent numbers of variance one, n <= m."""
    ratio = n / m
    low, high = (1.0 - math.sqrt(ratio)) ** 2, (1.0 + math.sqrt(ratio)) ** 2
    # With x = (low + high) / 2 - cos(t) (high - low) / 2 the density is smooth in t, also where n = m.
    t_G = np.linspace(0.0, np.pi, 4097)[1:-1]
    x_G = (low + high) / 2 - np.cos(t_G) * (high - low) / 2
    mass_G = np.sin(t_G) ** 2 / x_G
    share_G = np.cumsum(mass_G) / mass_G.sum()
    return tuple(float(v) * m for v in np.interp((np.arange(n)[::-1] + 0.5) / n, share_G, x_G))


LONGER, MOST_LONGER, ALIKE_LENGTHS = 1.5, 20.0, 1.25
"""Factor between the bulks of two matrices that no training leaves, but starts drawn at two sizes have; the largest
that is taken for one, beyond that between whole lengths; and the one between lengths up to which it is not looked for.
Weight decay that shrinks a body to nothing shrinks bulk and length alike; a matrix of low rank has length and no bulk.
"""


def bulk_ratio(a_ND: Tensor, b_ND: Tensor) -> float:
    """How much larger the random bulk of B is than A's, by the middle third of their singular values; one where their
    lengths are much alike, and where one has no bulk, being of low rank."""
    lengths = float(b_ND.norm() / a_ND.norm().clamp_min(1e-30))
    if 1.0 / ALIKE_LENGTHS < lengths < ALIKE_LENGTHS:
        return 1.0
    bulks = []
    for m_ND in (a_ND, b_ND):
        strength_K = singular_values(m_ND)
        n = len(strength_K)
        bulks.append(float(strength_K[n // 3 : max(n // 3 + 1, 2 * n // 3)].median()))
    ratio = bulks[1] / bulks[0] if min(bulks) > 0.0 else 1.0
    most = MOST_LONGER * max(lengths, 1.0 / max(lengths, 1e-30))
    return ratio if 1.0 / most < ratio < most else 1.0
