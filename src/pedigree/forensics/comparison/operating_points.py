"""Two points at which a pair is judged, never mixed.

*accuse* is the verdict: a relation is only said where no choice of order, signs and frame of an unrelated model could
show as much, and where the bank of independent pairs comes nowhere near.

*screen* answers another question: does this pair deserve a closer look (more depth, decoys, the other parent of a
merge)? It flags what the verdict names, and what no honest, independent training shows, though an edited file could:
units in the order or with the signs of the other's, a layer pair or vocabulary rows beyond what the bank's calibration
pairs reach. It changes no verdict and supports none.

Null of the screen: independent trainings, nobody has chosen order, signs or frame. Thresholds are the largest values of
the calibration split (bank.json, `screen`); how often the test split is flagged is measured and said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pedigree.forensics.comparison.bank import error_rate, load_bank, upper_95
from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.comparison.verdict import Judgment
from pedigree.records.comparison import OperatingPoint, OperatingPoints

RELATIONS = frozenset({"identical", "related", "partly-related", "shared-initialization"})

SCREEN_LOG10_P = -4.0
"""Exact tests flag below this, after paying for their number. Under the null once in ten thousand pairs."""

EXACT = ("body-signs", "body-fixed-points", "embed-fixed-points", "head-fixed-points")


def operating_points(found: Findings, judgment: Judgment) -> OperatingPoints:
    """Whether the pair is flagged at each of the two points, and why."""
    rate = error_rate()
    accused = judgment.verdict in RELATIONS
    accuse = OperatingPoint(
        flagged=accused,
        rule="the verdict names a relation",
        reasons=[f"verdict {judgment.verdict}"] if accused else [],
        false_positive_upper_95=None if rate is None else rate.false_positive_upper_95,
        pairs=None if rate is None else rate.pairs,
    )
    screen = load_screen()
    reasons = [*accuse.reasons, *flags(strongest(found), screen)]
    return OperatingPoints(
        accuse=accuse,
        screen=OperatingPoint(
            flagged=bool(reasons),
            rule="a relation, an exact test below 1e-4, or more than any calibration pair of the bank shows",
            reasons=reasons,
            false_positive_upper_95=screen.get("false_positive_upper_95"),
            pairs=screen.get("pairs"),
        ),
    )


def strongest(found: Findings) -> dict[str, float]:
    """The three numbers that the screen looks at: exact tests, matched units, vocabulary rows."""
    exact = smallest_of_all([found.log10_p(name) for name in EXACT])
    quiet = max((value for name, value in found.tables.items() if name.endswith("-quiet")), default=0.0)
    best = found.evidence.best_z() if found.evidence.grids else 0.0
    return {"exact_log10_p": exact, "best_z": best, "table_quiet": quiet}


def smallest_of_all(log10_ps: Sequence[float]) -> float:
    """The smallest of several p-values, paying for all of them (Holm), as log10."""
    return min(0.0, min(log10_ps) + math.log10(len(log10_ps)))


def flags(numbers: dict[str, float], screen: dict[str, Any]) -> list[str]:
    """Reasons, in words, why these numbers are flagged.

    Args:
        numbers: as `strongest` gives them.
        screen: thresholds `best_z` and `table_quiet`; one that is missing flags nothing.
    """
    found = []
    if numbers["exact_log10_p"] <= SCREEN_LOG10_P:
        found.append(f"order and signs of units: log10 p <= {numbers['exact_log10_p']:.0f}")
    if numbers["best_z"] > screen.get("best_z", math.inf):
        found.append(f"matched units of one layer pair: z = {numbers['best_z']:.1f}")
    if numbers["table_quiet"] > screen.get("table_quiet", math.inf):
        found.append(f"vocabulary rows agree at {numbers['table_quiet']:.2f} outside their leading directions")
    return found


def load_screen() -> dict[str, Any]:
    """Thresholds of the screen and how often independent pairs pass them, from the bank; empty without one."""
    bank = load_bank()
    told = {} if bank is None else dict(bank.get("screen", {}))
    if told:
        told["false_positive_upper_95"] = upper_95(int(told["flagged"]), int(told["pairs"]))
    return told
