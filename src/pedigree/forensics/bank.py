"""The bank: scores of pairs that are known to be independent, shipped as numbers.

`data/bank.json` is written by `python -m pedigree.benchmark.bank` from families trained for the purpose; thresholds
come from it, and the false-positive rate printed beside a verdict is what it measured.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from pedigree.records.comparison import ErrorRate


def load_bank() -> dict[str, Any] | None:
    """The shipped numbers, or None where the package was built without them."""
    return _shipped("bank.json")


@cache
def _shipped(name: str) -> dict[str, Any] | None:
    source = files("pedigree.forensics").joinpath("data", name)
    if not source.is_file():
        return None
    return dict(json.loads(source.read_text(encoding="utf-8")))


def error_rate() -> ErrorRate | None:
    """Upper 95 % bound of the false-positive rate on independent pairs of the bank's test split."""
    bank = load_bank()
    if bank is None:
        return None
    test = bank["test"]
    return ErrorRate(
        false_positive_upper_95=upper_95(int(test["false_positives"]), int(test["pairs"])),
        pairs=int(test["pairs"]),
        benchmark=str(bank["benchmark"]),
        note=str(test["note"]),
    )


def load_fingerprint_bank() -> dict[str, Any] | None:
    """The shipped counts of comparisons on fingerprints alone, or None where the package was built without them."""
    return _shipped("fingerprint_bank.json")


def fingerprint_error_rate() -> ErrorRate | None:
    """Upper 95 % bound of the false-positive rate of comparisons on fingerprints alone, on pairs of the test split.

    `python -m pedigree.benchmark.bank fingerprints` measures it; it is not that of `error_rate`, which is for weights.
    """
    bank = load_fingerprint_bank()
    if bank is None:
        return None
    test = bank["test"]
    # A pair whose fingerprints hold nothing in common cannot be called anything, so it bounds nothing.
    left_out = int(test["verdicts"].get("not-testable", 0))
    pairs = int(test["pairs"]) - left_out
    return ErrorRate(
        false_positive_upper_95=upper_95(int(test["false_positives"]), pairs),
        pairs=pairs,
        benchmark=str(bank["benchmark"]),
        note=f"{test['note']}; {left_out} of them could not be compared and are not counted",
    )


def false_positives() -> int | None:
    """How many pairs of the bank's test split were called related, None where there is no bank."""
    bank = load_bank()
    return None if bank is None else int(bank["test"]["false_positives"])


def upper_95(errors: int, pairs: int) -> float:
    """One-sided 95 % Clopper-Pearson upper bound of a rate."""
    from scipy.stats import beta

    if pairs <= 0:
        return 1.0
    return 1.0 if errors >= pairs else float(beta.ppf(0.95, errors + 1, pairs - errors))
