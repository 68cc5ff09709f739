"""The outcome type refuses to carry nonsense."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pedigree.errors import InternalError
from pedigree.forensics.exact.card import TestCard, TestOutcome

CARD = TestCard(name="some-test", version=1, null="chance", assumes="fairness", source="here", unit="points")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"statistic": math.nan, "log10_p": -1.0}, "not a finite number"),
        ({"statistic": 1.0, "log10_p": math.nan}, "outside its range"),
        ({"statistic": 1.0, "log10_p": -math.inf}, "outside its range"),
        ({"statistic": 1.0, "log10_p": 0.1}, "outside its range"),
        ({"statistic": 1.0, "log10_p": -1.0, "applicable": False}, "must give a reason"),
        ({"statistic": 1.0, "log10_p": -1.0, "why_not": "no units"}, "must give a reason"),
        ({"statistic": 1.0, "log10_p": -1.0, "applicable": False, "why_not": "no units"}, "claims a p-value"),
    ],
)
def test_an_outcome_that_contradicts_itself_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InternalError, match=sentence):
        TestOutcome(CARD, n=3, **fields)


def test_a_test_that_does_not_apply_says_why_and_claims_nothing() -> None:
    outcome = TestOutcome.not_applicable(CARD, "widths differ", n=4)
    assert (outcome.applicable, outcome.why_not, outcome.log10_p, outcome.statistic) == (
        False,
        "widths differ",
        None,
        0.0,
    )
