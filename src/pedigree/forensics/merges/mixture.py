"""Affine mixtures: which of several sources a model lies between, and at which weights.

Least squares with weights that sum to one, from Gram matrices alone. A small residual is not enough to speak of a
merge: three models that grew apart from one hidden start also have a best mixture. What tells them apart is geometry.
Let m be the mixture of the other sources, d = P - m the way to source P, w its weight. If the child merely shares an
ancestor with P, changes along different branches being orthogonal, the residual energy cannot be smaller than
w (1 - w) |d|^2: the branch point itself lies that far from the line. A merge lies on the line; what was trained after
it adds its own energy. The ratio of the two is the *branch ratio*: 1 or more for relatives by descent, 0 for a merge.

Proof for one segment. Branch point v, squared branch lengths b^2 to P and c^2 to m, orthogonal: |d|^2 = b^2 + c^2. The
foot of v on the segment has w = c^2 / (b^2 + c^2) and squared distance b^2 c^2 / (b^2 + c^2) = w (1 - w) |d|^2; what
the child changed since v is orthogonal and only adds to it.

A parent that is not among the sources gives its weight to relatives of its own. Let f of the squared way |d|^2 be what
such a relative X has in common with P, and let X have gone as far alone as P did. A part u of X looks like w = f u of
P, and leaves u^2 (f (1 - f) + (1 - f)) |d|^2 = w^2 |d|^2 (1 - f^2) / f^2. So the residual over w^2 |d|^2, the *own
ratio*, is at least 1 while X and P have less than 0.7 of their ways in common, and at least a half up to 0.8.

Source  squared distances add along branches (forensics study 9.6); regression on deltas: modelDNA and 9.7 there.
Shapes  S = sources, M = models of the Gram matrix (the child is number 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BRANCH_RATIO = 0.5
"""A source takes part in a merge only below this branch ratio; descent alone gives 1 or more."""

OWN_RATIO = 0.5
"""The same of its own ratio: above it the part may be that of a relative that is not among the sources."""

MIN_WEIGHT = 0.01
"""Weights below this are given as zero."""

SURE = 4.0
"""Standard errors that a weight must be away from zero."""


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture.

    Attributes:
        sources: model numbers, in order.
        weights: their weights, which sum to one.
        residual: squared distance from the child to the mixture.
        branch_ratios: for each source, see the module's text; infinite where the weight is zero or one.
        own_ratios: for each source; infinite where it stands alone or has no weight.
    """

    sources: tuple[int, ...]
    weights: tuple[float, ...]
    residual: float
    branch_ratios: tuple[float, ...]
    own_ratios: tuple[float, ...] = ()

    def weight(self, source: int) -> float:
        """Weight of a source, zero for one that takes no part."""
        return dict(zip(self.sources, self.weights, strict=True)).get(source, 0.0)


def fit_mixture(gram_MM: Tensor, sources: Sequence[int]) -> Mixture:
    """Weights summing to one that bring the mixture of `sources` nearest to model 0."""
    weights_S = affine_weights(gram_MM, sources)
    residual = mixture_residual(gram_MM, sources, weights_S)
    ratios = [_branch_ratio(gram_MM, sources, weights_S, k, residual) for k in range(len(sources))]
    own = [_own_ratio(gram_MM, sources, float(weights_S[k]), k, residual) for k in range(len(sources))]
    return Mixture(tuple(sources), tuple(weights_S.tolist()), residual, tuple(ratios), tuple(own))


def affine_weights(gram_MM: Tensor, sources: Sequence[int]) -> Tensor:
    """The least-squares weights themselves, double precision [S]."""
    index = torch.tensor(sources)
    if len(sources) == 1:
        return torch.ones(1, dtype=torch.float64)
    first, rest = index[0], index[1:]
    g = gram_MM
    # Deltas from the first source: <Pi - P0, Pj - P0> and <Pi - P0, B - P0>.
    delta = g[rest][:, rest] - g[rest][:, first, None] - g[first, rest][None, :] + g[first, first]
    toward = g[rest, 0] - g[rest, first] - g[first, 0] + g[first, first]
    scale = delta.diagonal().clamp_min(1e-300).sqrt()
    normal = delta / scale[:, None] / scale[None, :]
    solved: Tensor = torch.linalg.lstsq(normal, (toward / scale)[:, None], driver="gelsd").solution[:, 0] / scale
    return torch.cat([1.0 - solved.sum()[None], solved])


def mixture_residual(gram_MM: Tensor, sources: Sequence[int], weights_S: Tensor) -> float:
    """|B - sum w P|^2, through distances to the first source so that large common parts cancel early."""
    index = torch.tensor([0, *sources])
    signed = torch.cat([torch.ones(1, dtype=torch.float64), -weights_S])
    return max(0.0, float(signed @ gram_MM[index][:, index] @ signed))


def _branch_ratio(gram_MM: Tensor, sources: Sequence[int], weights_S: Tensor, k: int, residual: float) -> float:
    w = float(weights_S[k])
    if len(sources) < 2 or min(abs(w), abs(1.0 - w)) < 1e-9:
        return float("inf")
    index = torch.tensor(sources)
    away = -weights_S / (1.0 - w)
    away[k] = 1.0
    length = float(away @ gram_MM[index][:, index] @ away)
    return residual / max(abs(w * (1.0 - w)) * length, 1e-300)


def _own_ratio(gram_MM: Tensor, sources: Sequence[int], w: float, k: int, residual: float) -> float:
    if len(sources) < 2 or abs(w) < 1e-9:
        return float("inf")
    return residual / max(w * w * own_way(gram_MM, sources, k), 1e-300)


def own_way(gram_MM: Tensor, sources: Sequence[int], k: int) -> float:
    """Squared distance from source k to the nearest mixture of the others: what it has for itself."""
    others = [s for s in sources if s != sources[k]]
    order = torch.tensor([sources[k], *others])
    own_MM = gram_MM[order][:, order]
    numbers = list(range(1, len(order)))
    return mixture_residual(own_MM, numbers, affine_weights(own_MM, numbers))


def distance(gram_MM: Tensor, i: int, j: int) -> float:
    """Squared distance of two models."""
    return max(0.0, float(gram_MM[i, i] + gram_MM[j, j] - 2 * gram_MM[i, j]))


def cosine(gram_MM: Tensor, i: int, j: int) -> float:
    """Cosine of two models."""
    return float(gram_MM[i, j] / (gram_MM[i, i] * gram_MM[j, j]).clamp_min(1e-300).sqrt())


def jackknife(grams: Sequence[Tensor], sources: Sequence[int]) -> list[float]:
    """Standard errors of the weights, leaving out one tensor after the other."""
    n = len(grams)
    if n < 3:
        return [float("inf")] * len(sources)
    total = torch.stack(list(grams)).sum(0)
    left = torch.stack([affine_weights(total - gram, sources) for gram in grams])
    spread = ((left - left.mean(0)) ** 2).sum(0) * (n - 1) / n
    return [float(v) for v in spread.sqrt()]


def select_sources(grams: Sequence[Tensor], sources: Sequence[int], kept: Sequence[int] = ()) -> Mixture:
    """The mixture of those sources that take part, found by leaving out the least convincing one until all convince.

    Args:
        grams: one Gram matrix for each tensor.
        sources: candidates.
        kept: sources that stay whatever their weight (a base model).
    """
    total = torch.stack(list(grams)).sum(0)
    active = list(sources)
    while True:
        fitted = fit_mixture(total, active)
        errors = jackknife(grams, active)
        doubtful = [
            (max(ratio, own) if abs(w) >= MIN_WEIGHT else float("inf"), -abs(w), source)
            for source, w, ratio, own, error in zip(
                active, fitted.weights, fitted.branch_ratios, fitted.own_ratios, errors, strict=True
            )
            if source not in kept
            and not (ratio < BRANCH_RATIO and own < OWN_RATIO and abs(w) >= max(MIN_WEIGHT, SURE * error))
        ]
        if not doubtful or len(active) == 1:
            return fitted
        active.remove(max(doubtful)[2])
