"""The screen flags what deserves a closer look; the verdict is another point, and neither moves the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forensics.tiny_models import llama, shaken, side, words

from pedigree.benchmark.bank.numbers import screen
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.operating_points import flags, operating_points
from pedigree.forensics.comparison.verdict import judge
from pedigree.records.comparison import OperatingPoints

TOKENS = words(64)
QUIET: dict[str, float] = {"exact_log10_p": 0.0, "best_z": 2.0, "table_quiet": 0.1}
LIMITS = {"best_z": 4.5, "table_quiet": 0.35}


def points(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> tuple[str, OperatingPoints]:
    left, right = side(a, tokens=TOKENS), side(b, tokens=TOKENS)
    found = measure(left, right, whole_bits=True)
    judgment = judge(left, right, found)
    return judgment.verdict, operating_points(found, judgment)


def test_a_relation_is_flagged_at_both_points() -> None:
    verdict, both = points(llama(0), shaken(llama(0), 1))
    assert (verdict, both.accuse.flagged, both.screen.flagged) == ("related", True, True)


def test_a_stranger_is_flagged_at_neither() -> None:
    verdict, both = points(llama(0), llama(9))
    assert (verdict, both.accuse.flagged, both.screen.flagged) == ("unrelated", False, False)


def test_units_in_order_that_prove_nothing_are_worth_a_closer_look() -> None:
    """A fifth of the other model in every weight: order and signs show it, an edited stranger could show it too."""
    a, stranger = llama(0), llama(9)
    verdict, both = points(a, {name: stranger[name] + 0.25 * a[name] for name in stranger})
    assert verdict == "inconclusive"
    assert (both.accuse.flagged, both.screen.flagged) == (False, True)


@pytest.mark.parametrize(
    ("name", "value"), [("exact_log10_p", -5.0), ("best_z", 5.0), ("table_quiet", 0.5)], ids=lambda value: str(value)
)
def test_each_number_flags_by_itself(name: str, value: float) -> None:
    assert not flags(QUIET, LIMITS)
    assert len(flags({**QUIET, name: value}, LIMITS)) == 1


def test_thresholds_are_the_largest_of_calibration_pairs_and_the_rate_is_that_of_test_pairs() -> None:
    def row(z: float, p: float = 0.0, verdict: str = "unrelated") -> dict[str, Any]:
        return {"best_z": z, "log10_p": {"body-signs": p}, "tables": {"embed-quiet": 0.2}, "verdict": verdict}

    told = screen([row(3.0), row(4.0)], [row(3.9), row(4.1), row(1.0, -9.0), row(1.0, verdict="related")])
    assert (told["best_z"], told["table_quiet"], told["flagged"], told["pairs"]) == (4.0, 0.2, 3, 4)
