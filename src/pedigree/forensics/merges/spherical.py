"""Spherical interpolation between two models, as merge tools do it tensor by tensor.

slerp(t) = sin((1-t) o)/sin(o) P1 + sin(t o)/sin(o) P2, o the angle between the two tensors read as vectors. Its two
coefficients sum to more than one, which no weighted mean does: that is how the two are told apart. Tensors that are
nearly parallel are interpolated linearly by the tools, and then nothing tells.

Source  Shoemake 1985; tensors flattened, threshold 0.9995 as in common merge tools.
Shapes  M = models of a Gram matrix: 0 the child, then the sources.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from pedigree.forensics.merges.mixture import cosine

PARALLEL = 0.9995


def coefficients(gram_MM: Tensor, first: int, second: int, t: float) -> tuple[float, float]:
    """Coefficients of the two sources at `t` for one tensor; linear where the two are nearly parallel."""
    cos = cosine(gram_MM, first, second)
    if abs(cos) > PARALLEL:
        return 1.0 - t, t
    angle = math.acos(cos)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def spherical_residual(grams: Sequence[Tensor], first: int, second: int, t: float) -> float:
    """Squared distance from the child to the interpolation at `t`, over several tensors."""
    total = 0.0
    for g in grams:
        a, b = coefficients(g, first, second, t)
        bent = g[0, 0] - 2 * a * g[0, first] - 2 * b * g[0, second]
        bent += a * a * g[first, first] + 2 * a * b * g[first, second] + b * b * g[second, second]
        total += max(0.0, float(bent))
    return total


def fit_spherical(grams: Sequence[Tensor], first: int, second: int) -> float:
    """The t in 0..1 that comes nearest to the child over several tensors."""
    from scipy.optimize import minimize_scalar

    scale = sum(float(g[0, 0]) for g in grams) or 1.0
    found = minimize_scalar(
        lambda t: spherical_residual(grams, first, second, float(t)) / scale,
        bounds=(0.0, 1.0),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(found.x)


def is_bent(grams: Sequence[Tensor], first: int, second: int) -> bool:
    """Whether any tensor is far enough from parallel for the two ways of interpolation to differ."""
    return any(abs(cosine(g, first, second)) <= PARALLEL for g in grams)
