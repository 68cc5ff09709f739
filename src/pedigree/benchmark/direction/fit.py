"""Few numbers from many pairs: log-odds of the direction given descent, and of descent given a pair.

Two questions, two fits, both by penalized maximum likelihood.
1. *If one of the two descends from the other, which?* Log-odds are a slope times how far the share leans (`Share`).
2. *Which of three: A is the ancestor, B is, or neither (siblings)?* Utilities offset + slope x lean + rate x log moved,
   offset - slope x lean + rate x log moved, and zero. Half of the weight lies on siblings, whatever their number.

What the fits do is counted on families that took no part in them, one family left out after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pedigree.forensics.comparison.bank import upper_95
from pedigree.forensics.comparison.direction import ABSTAIN_BELOW, is_mixed
from pedigree.forensics.descent.survival import Survival

Floats = npt.NDArray[np.float64]
Row = Mapping[str, Any]

PENALTY_LINE, PENALTY_PAIR = 2e-3, 2e-4


def calibrate(rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """The shipped numbers.

    Args:
        rows: of `pairs.measured`, by size.
    """
    usable = [{**row, "size": size} for size, some in rows.items() for row in some if _is_usable(row)]
    lines = [row for row in usable if row["truth"] == "parent"]
    siblings = [row for row in usable if row["truth"] == "sibling"]
    twins = [row for row in usable if row["truth"] == "twin"]
    pairs = lines + siblings
    lean_N, moved_N = _numbers(pairs)
    is_line_N = np.array([row["truth"] == "parent" for row in pairs])
    family_N = np.array([f"{row['size']}/{row['a'].split('.')[0]}" for row in pairs])
    slope = fit_line(lean_N[is_line_N])
    three = fit_pair(lean_N, moved_N, is_line_N)
    out_line_N, out_pair_N = np.zeros(len(pairs)), np.zeros(len(pairs))
    for family in sorted(set(family_N)):
        held = family_N == family
        out_line_N[held] = fit_line(lean_N[~held & is_line_N]) * lean_N[held]
        out_pair_N[held] = pair_odds(
            fit_pair(lean_N[~held], moved_N[~held], is_line_N[~held]), lean_N[held], moved_N[held]
        )
    twin_odds = pair_odds(three, *_numbers(twins)) if twins else np.zeros(0)
    return {
        "line": {"slope": round(slope, 4)},
        "pair": {name: round(value, 4) for name, value in zip(("offset", "slope", "rate"), three, strict=True)},
        "measured": {
            "families": len(set(family_N)), "line": _counted(out_line_N[is_line_N]),
            "pair": _counted(out_pair_N[is_line_N]),
            "siblings": len(siblings),
            "siblings_with_arrow": int((np.abs(out_pair_N[~is_line_N]) >= ABSTAIN_BELOW).sum()),
            "twins": len(twins), "twins_with_arrow": int((np.abs(twin_odds) >= ABSTAIN_BELOW).sum()),
        },
    }  # fmt: skip


def _is_usable(row: Row) -> bool:
    """Pairs that a comparison calls related and of which the share can speak."""
    if row["verdict"] not in ("related", "partly-related") or row["share"] is None:
        return False
    return not is_mixed(*(Survival(**row[side]) if row[side] else None for side in ("forward", "backward")))


def _numbers(rows: Sequence[Row]) -> tuple[Floats, Floats]:
    lean = [0.5 - row["share"]["of_a"] for row in rows]
    return np.array(lean), np.array([math.log(max(row["share"]["moved"], 1e-6)) for row in rows])


def _counted(odds_N: Floats) -> dict[str, Any]:
    """Right, wrong and silent of pairs whose first model is the ancestor, and the bound on the rate of wrong ones."""
    right, wrong = int((odds_N >= ABSTAIN_BELOW).sum()), int((odds_N <= -ABSTAIN_BELOW).sum())
    told = right + wrong
    return {
        "right": right, "wrong": wrong, "silent": len(odds_N) - told, "leans_wrong": int((odds_N < 0).sum()),
        "leans_wrong_upper_95": round(upper_95(int((odds_N < 0).sum()), len(odds_N)), 4),
    }  # fmt: skip


def fit_line(lean_N: Floats) -> float:
    """Slope of the log-odds that A is the ancestor, from pairs in which it is."""
    from scipy.optimize import minimize_scalar

    scale = float(np.sqrt((lean_N**2).mean()))

    def loss(slope: float) -> float:
        return float(np.logaddexp(0.0, -slope * lean_N).mean() + PENALTY_LINE * (slope * scale) ** 2)

    return float(minimize_scalar(loss, bounds=(0.0, 100.0), method="bounded").x)


def fit_pair(lean_N: Floats, moved_N: Floats, is_line_N: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    """Offset, slope and rate of the three-way fit; in pairs of a line the first model is the ancestor."""
    from scipy.optimize import minimize

    weight_N = np.where(is_line_N, 0.5 / is_line_N.sum(), 0.5 / (~is_line_N).sum())

    def loss(three: Floats) -> float:
        first, _, neither = _log_shares(three, lean_N, moved_N)
        return float(-(weight_N * np.where(is_line_N, first, neither)).sum() + PENALTY_PAIR * (three**2).sum())

    offset, slope, rate = minimize(loss, np.zeros(3), method="L-BFGS-B").x
    return float(offset), float(slope), float(rate)


def _log_shares(three: Sequence[float] | Floats, lean_N: Floats, moved_N: Floats) -> tuple[Floats, Floats, Floats]:
    offset, slope, rate = three
    first, second = offset + slope * lean_N + rate * moved_N, offset - slope * lean_N + rate * moved_N
    total = np.logaddexp(0.0, np.logaddexp(first, second))
    return first - total, second - total, -total


def pair_odds(three: Sequence[float] | Floats, lean_N: Floats, moved_N: Floats) -> Floats:
    """Log-odds that A is the ancestor where that is more likely than not, minus those of B where that is, else zero."""
    first, second, neither = _log_shares(three, lean_N, moved_N)
    for_a, for_b = first - np.logaddexp(second, neither), second - np.logaddexp(first, neither)
    return np.asarray(np.maximum(for_a, 0.0) - np.maximum(for_b, 0.0))
