"""Numbers of the leaderboard with their bounds: areas under curves, shares, and what zero false alarms are worth.

Laws
1. A pair that a method cannot compare counts as the lowest score there is: not found, and no false alarm.
2. Bounds come from drawing whole families anew: two children of one parent are not two observations.

Shapes  P = relatives, N = strangers
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pedigree.records.benchmark import Interval

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float64]

DRAWS = 200
SEED = 7


@dataclass(frozen=True)
class Scored:
    """Scores of one kind of pair, with the families of both models."""

    scores: Sequence[float | None]
    families: Sequence[tuple[str, str]]


def area(relatives: Vector, strangers: Vector, weight_p: Vector | None = None, weight_n: Vector | None = None) -> float:
    """Chance that a relative scores higher than a stranger, ties counted half."""
    import numpy as np

    weight_p = np.ones(len(relatives)) if weight_p is None else weight_p
    weight_n = np.ones(len(strangers)) if weight_n is None else weight_n
    order = np.argsort(strangers, kind="stable")
    ranked, heights = strangers[order], np.concatenate([[0.0], np.cumsum(weight_n[order])])
    below = heights[np.searchsorted(ranked, relatives, side="left")]
    upto = heights[np.searchsorted(ranked, relatives, side="right")]
    total = float(weight_p.sum() * weight_n.sum())
    return float((weight_p * (below + upto) / 2).sum() / total) if total else float("nan")


def above_all(
    relatives: Vector, strangers: Vector, weight_p: Vector | None = None, _weight_n: Vector | None = None
) -> float:
    """Share of relatives above every stranger that is there; how often each one is drawn makes no difference."""
    import numpy as np

    weight_p = np.ones(len(relatives)) if weight_p is None else weight_p
    found = relatives > strangers.max()
    return float((weight_p * found).sum() / weight_p.sum()) if weight_p.sum() else float("nan")


def numbers(scores: Sequence[float | None]) -> Vector:
    """Scores as an array; what was not compared stands below everything."""
    import numpy as np

    return np.array([-np.inf if score is None else score for score in scores], dtype=float)


def by_families(
    relatives: Scored, strangers: Scored, measure: Callable[[Vector, Vector, Vector, Vector], float]
) -> Interval:
    """A measure with bounds from drawing families with replacement; a pair counts as often as both families do."""
    import numpy as np

    p, n = numbers(relatives.scores), numbers(strangers.scores)
    if not len(p) or not len(n):
        return Interval()
    names = sorted({name for side in (relatives, strangers) for pair in side.families for name in pair})
    place = {name: i for i, name in enumerate(names)}
    pairs_p, pairs_n = (np.array([[place[a], place[b]] for a, b in s.families]) for s in (relatives, strangers))
    value = measure(p, n, np.ones(len(p)), np.ones(len(n)))
    generator = np.random.default_rng(SEED)
    drawn = []
    for _ in range(DRAWS):
        counts = np.bincount(generator.integers(0, len(names), len(names)), minlength=len(names)).astype(float)
        weights = [_weights(pairs, counts) for pairs in (pairs_p, pairs_n)]
        if weights[0].sum() and weights[1].sum():
            kept = weights[1] > 0
            drawn.append(measure(p, n[kept], weights[0], weights[1][kept]))
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if drawn else (float("nan"), float("nan"))
    return Interval(value=_rounded(value), low=_rounded(float(low)), high=_rounded(float(high)))


def _weights(pairs: Any, counts: Vector) -> Vector:
    import numpy as np

    weights: Vector = np.where(
        pairs[:, 0] == pairs[:, 1], counts[pairs[:, 0]], counts[pairs[:, 0]] * counts[pairs[:, 1]]
    )
    return weights


def _rounded(value: float) -> float | None:
    import math

    return round(value, 4) if math.isfinite(value) else None


def upper_95(wrong: int, of: int) -> float | None:
    """Upper end of the one-sided 95 % interval of a share (Clopper and Pearson); about 3 / N where none is wrong."""
    from scipy.stats import beta

    if not of:
        return None
    return 1.0 if wrong >= of else round(float(beta.ppf(0.95, wrong + 1, of - wrong)), 5)


def curve(relatives: Vector, strangers: Vector, points: int = 60) -> list[list[float]]:
    """Points (share of strangers, share of relatives) from the strictest threshold to the laxest."""
    import numpy as np

    steps = np.unique(np.concatenate([relatives, strangers]))[::-1]
    if len(steps) > 4 * points:
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, 4 * points).astype(int))]
    found = [[0.0, 0.0]]
    for step in steps:
        point = [round(float((strangers >= step).mean()), 4), round(float((relatives >= step).mean()), 4)]
        if point != found[-1]:
            found.append(point)
    return found if found[-1] == [1.0, 1.0] else [*found, [1.0, 1.0]]
