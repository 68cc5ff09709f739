"""Same random start, or descent?

Two models trained apart from one random start keep the bulk of that start in common but not what they learned; a
descendant keeps what its parent learned. Along the singular directions of A, r_k = u_k^T B v_k / s_k tells how much
of direction k lives on in B. In a twin the strongest (learned) directions die while the middle of the spectrum, which
is still the random start, lives; in a descendant both live; in a merge both shrink alike.

Source: forensics study, section 9.10 (twin 0.13 against 0.84, child 0.99 against 0.99, 50/50 merge 0.50 against 0.50).

Shapes: N = matched units, D = residual width, K = singular directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pedigree.forensics.linear import symmetric_eigen

MIN_DIRECTIONS = 16

LEAST_SQUARE = 1e-4
"""Directions of A whose squared strength is below this share of the strongest are not followed: matrices of low rank
(latent attention) have nothing there that could live on."""

TWIN_RATIO = 0.8
"""Survival of learned over bulk directions below which only the random start is shared."""

CLEAR_RATIO, OWN_COSINE = 0.92, -0.47
"""Between the two ratios models have learned so little that the start still makes most of every direction. There the
difference itself decides: both lack what the other learned, so seen from either it takes away what that one has. In
pairs of the calibration split with a ratio below 1 the better of the two cosines is at most -0.51 in twins and at least
-0.42 in descendants and siblings."""

LITTLE_LEARNED = 0.5
"""Survival of the bulk below which that much cannot be left of the start."""

DOUBTFUL_RATIO = 0.87
"""Below this, where the difference does not decide either, nothing is said."""

FAINT_RATIO = 1.25
"""Ratio up to which a small share counts as even on the average."""

MERGED_MIDDLE = 0.75
"""One share throughout, and clearly less than the whole, is a merge; twins that learned little live on nearly whole."""

Origin = Literal["start", "descent", "unknown"]

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
    """

    top: float
    middle: float
    unevenness: float
    matrices: int
    residual: float = 1.0
    own: float = 0.0

    @property
    def ratio(self) -> float:
        """Top over middle: near 1 in a descendant or merge, near 0 in a twin of the same random start."""
        return self.top / self.middle if self.middle > 1e-6 else 1.0


class SurvivalMeter:
    """Adds up the survival of A's directions in B, one pair of matrices after the other."""

    def __init__(self) -> None:
        self._tops: list[float] = []
        self._middles: list[float] = []
        self._residuals: list[float] = []
        self._own: list[float] = []

    def add(self, a_ND: Tensor, b_ND: Tensor) -> None:
        """Take in matrices [N, D] of A and of B in one frame, rows of B in A's order; small ones are passed over."""
        n = min(a_ND.shape)
        # A silent copy (zeroed writers) has no directions to follow.
        if n < MIN_DIRECTIONS or not 1e-4 < float(b_ND.norm() / a_ND.norm().clamp_min(1e-30)) < 1e4:
            return
        r_K, rest_K, strength_K = _follow(a_ND.double(), b_ND.double())
        n = min(n, len(r_K))
        if n < MIN_DIRECTIONS:
            return
        top, middle = slice(max(1, n // 16)), slice(n // 4, n // 2)
        self._tops.append(float(r_K[top].mean()))
        self._middles.append(float(r_K[middle].mean()))
        self._residuals.append(float(rest_K[top].mean() / rest_K[middle].mean().clamp_min(1e-300)))
        along_K, many = (r_K[top] - 1.0) * strength_K[top], len(r_K[top])
        self._own.append(float(along_K.sum() / (many * rest_K[top].sum()).sqrt().clamp_min(1e-300)))

    def result(self) -> Survival | None:
        """Averages over the matrices, or None when none was large enough."""
        n = len(self._tops)
        if n == 0:
            return None
        middle = sum(self._middles) / n
        gap = sum(abs(t - m) for t, m in zip(self._tops, self._middles, strict=True)) / n
        residual = sorted(self._residuals)[n // 2]
        own = sum(self._own) / n
        return Survival(sum(self._tops) / n, middle, gap / max(abs(middle), 1e-6), n, residual, own)


def _follow(a_ND: Tensor, b_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """r_k = u_k^T B v_k / s_k, |u_k^T (B - A)|^2 and s_k for the singular directions of A, strongest first.

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
    return r_K.flip(0)[:strong], rest_K.flip(0)[:strong], values_K.clamp_min(0.0).sqrt().flip(0)[:strong]


def origin_of(forward: Survival | None, backward: Survival | None, *, faint: bool = False) -> Origin:
    """Whether two models share a random start and nothing learned, or descend from one another or from one ancestor.

    The direction along which the bulk lives on best decides: followed from a parent, learned directions live on as
    the bulk does. The other direction is blurred by whatever one side learned or was disturbed by later, with one
    exception: the minor parent of a merge lives on evenly, by the same share in every direction of every matrix.

    Args:
        forward, backward: survival of A's directions in B, and of B's in A.
        faint: whether so little is shared that single matrices scatter; then a share that is the same on the average of
            all matrices is even.

    Returns:
        "unknown" where the answer is not clear, or no matrices could be laid side by side: agreement of units alone
        does not tell a start from descent, since two models of one seed begin with the same numbers wherever their
        shapes overlap.
    """
    both = [s for s in (forward, backward) if s is not None]
    if not both:
        return "unknown"
    main = max(both, key=lambda s: s.middle)
    even = [s for s in both if TWIN_RATIO <= s.ratio <= FAINT_RATIO and s.middle > 0.05]
    if faint and even and main.middle < MERGED_MIDDLE:
        return "descent"
    if main.ratio < TWIN_RATIO:
        return "descent" if any(s.unevenness < EVEN and s.middle > 0.05 for s in both) else "start"
    if main.ratio >= CLEAR_RATIO or main.middle < LITTLE_LEARNED:
        return "descent"
    if len(both) == 2 and max(s.own for s in both) < OWN_COSINE:
        return "start"
    if main.ratio >= DOUBTFUL_RATIO or any(s.unevenness < EVEN and 0.05 < s.middle < MERGED_MIDDLE for s in both):
        return "descent"
    return "unknown"
