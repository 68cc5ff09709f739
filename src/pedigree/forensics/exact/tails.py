"""Tails of distributions as base-ten logarithms, exact far below the smallest float.

Nothing here leaves log space, so evidence of 1e-100000 is as accurate as evidence of 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from pedigree.errors import InternalError

LN10 = math.log(10.0)


def normal_log10_sf(z: float) -> float:
    """log10 P(N > z) for a standard normal N, for any finite z.

    Raises:
        InternalError: z is not finite.
    """
    if not math.isfinite(z):
        raise InternalError("A z-score is not a finite number", got=z)
    return min(0.0, float(torch.special.log_ndtr(torch.tensor(-z, dtype=torch.float64))) / LN10)


def fisher_log10(log10_ps: Iterable[float]) -> float:
    """log10 of Fisher's combination of k p-values: P(chi2 with 2k degrees of freedom > -2 sum ln p).

    For an even number of degrees of freedom the tail is a finite sum, exp(-u) * sum_{i<k} u^i / i! with
    u = -sum ln p, which is taken in logarithms. Valid when each p is super-uniform given the ones before it;
    independence is a special case. No p-values at all combine to p = 1.

    Raises:
        InternalError: a logarithm is not finite or lies above 0.
    """
    logs = list(log10_ps)
    bad = [value for value in logs if not (math.isfinite(value) and value <= 0.0)]
    if bad:
        raise InternalError("A log10 p-value lies outside its range", got=bad[0], expected="a finite number, at most 0")
    u = -math.fsum(logs) * LN10
    if u == 0.0:
        return 0.0
    terms = [i * math.log(u) - math.lgamma(i + 1) for i in range(len(logs))]
    top = max(terms)
    return min(0.0, (top + math.log(math.fsum(math.exp(term - top) for term in terms)) - u) / LN10)


def log_choose(n: float, k: float) -> float:
    """Natural logarithm of the binomial coefficient n over k, 0 <= k <= n."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
