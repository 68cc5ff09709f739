"""What is said of the error rate of fingerprints."""

from __future__ import annotations

from pedigree.forensics.bank import fingerprint_error_rate, load_fingerprint_bank, upper_95


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
