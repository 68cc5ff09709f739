"""What is said of the error rates of fingerprints and of rests."""

from __future__ import annotations

from pedigree.benchmark.bank.rests import rest_looks, rest_summary
from pedigree.forensics.comparison.bank import (
    fingerprint_error_rate,
    load_fingerprint_bank,
    load_rest_bank,
    rest_error_rate,
    upper_95,
)


def test_pairs_that_could_not_be_compared_bound_nothing() -> None:
    bank, rate = load_fingerprint_bank(), fingerprint_error_rate()
    assert bank is not None
    assert rate is not None
    verdicts = bank["test"]["verdicts"]
    assert rate.pairs == sum(verdicts.values()) - verdicts["not-testable"]
    wrong = sum(verdicts.get(word, 0) for word in ("related", "partly-related", "identical"))
    assert bank["test"]["false_positives"] == wrong
    assert rate.false_positive_upper_95 == upper_95(wrong, rate.pairs) < 0.02
    assert f"{verdicts['not-testable']} of them could not be compared" in rate.note


def test_the_rate_of_rests_is_that_of_looks_that_could_be_made() -> None:
    bank, rate = load_rest_bank(), rest_error_rate()
    assert bank is not None
    assert rate is not None
    test = bank["test"]
    assert rate.pairs == test["looks"] - test["not_made"] >= 300
    assert rate.pairs == sum(test["verdicts"].values())
    assert test["moved"] >= 100
    wrong = sum(test["verdicts"].get(w, 0) for w in ("related", "partly-related", "shared-initialization", "identical"))
    assert test["false_positives"] == wrong == 0
    assert rate.false_positive_upper_95 == upper_95(wrong, rate.pairs) < 0.01
    for shares in bank["uniformity"]["test"].values():
        assert all(shares[level] <= float(level) for level in ("0.01", "0.05", "0.1", "0.25", "0.5"))


def test_looks_at_rests_share_no_start_with_what_the_rest_is_made_of_and_fewer_are_the_first_of_more() -> None:
    for split in ("calibration", "test"):
        looks = rest_looks(split)
        assert all(look.a not in (look.b.parent, look.b.minor) for look in looks)
        assert all(not look.b.name.startswith(f"{look.a}.") for look in looks)
        assert rest_looks(split, 50) == looks[:50]
        assert {look.b.moved for look in looks[:50]} == {False, True}


def test_a_false_word_and_a_look_that_could_not_be_made_are_counted() -> None:
    row = {"a": "x", "b": "y", "score": 1.0, "moved": False, "taken_out": 0.8, "log10_p": {"body-signs": -0.5}}
    rows = [row | {"verdict": word, "why_not": None} for word in ("unrelated", "related", None)]
    found = rest_summary([], rows)
    assert (found["test"]["looks"], found["test"]["not_made"], found["test"]["false_positives"]) == (3, 1, 1)
    assert found["test"]["wrong"] == [{"a": "x", "b": "y", "verdict": "related", "score": 1.0}]
    assert found["uniformity"]["test"]["body-signs"] == {
        "looks": 3, "0.01": 0.0, "0.05": 0.0, "0.1": 0.0, "0.25": 0.0, "0.5": 1.0
    }  # fmt: skip
