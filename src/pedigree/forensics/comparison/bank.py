"""The bank: scores of pairs that are known to be independent, shipped as numbers.

`data/bank.json` is written by `python -m pedigree.benchmark.bank` from families trained for the purpose; thresholds
come from it, and the false-positive rate printed beside a verdict is what it measured.
"""

from __future__ import annotations

import json
import math
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
    return _rate(bank, int(test["pairs"]), str(test["note"]))


def _rate(bank: dict[str, Any], counted: int, note: str) -> ErrorRate:
    """The bound on the test split of a bank, over so many pairs or looks."""
    return ErrorRate(
        false_positive_upper_95=upper_95(int(bank["test"]["false_positives"]), counted),
        pairs=counted,
        benchmark=str(bank["benchmark"]),
        note=note,
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
    return _rate(bank, pairs, f"{test['note']}; {left_out} of them could not be compared and are not counted")


def load_rest_bank() -> dict[str, Any] | None:
    """The shipped counts of looks at what a parent leaves, or None where the package was built without them."""
    return _shipped("rest_bank.json")


def rest_error_rate() -> ErrorRate | None:
    """Upper 95 % bound of how often a model that is independent of two relatives is called kin of what one leaves of
    the other; `python -m pedigree.benchmark.bank rests` measures it on the test split."""
    bank = load_rest_bank()
    if bank is None:
        return None
    test = bank["test"]
    # Where no rest could be made nothing could be called anything, so such looks bound nothing.
    looks = int(test["looks"]) - int(test["not_made"])
    return _rate(bank, looks, str(test["note"]))


def false_positives() -> int | None:
    """How many pairs of the bank's test split were called related, None where there is no bank."""
    bank = load_bank()
    return None if bank is None else int(bank["test"]["false_positives"])


def upper_95(errors: int, pairs: int) -> float:
    """One-sided 95 % Clopper-Pearson upper bound of a rate."""
    if pairs <= 0 or errors >= pairs:
        return 1.0
    if errors == 0:  # the bound in closed form: what 19 of 20 such banks would not have shown
        return -math.expm1(math.log(0.05) / pairs)
    return _rate_with_tail(errors, pairs, 0.05)


def _rate_with_tail(errors: int, pairs: int, tail: float) -> float:
    """The rate at which so few errors or fewer are seen with a chance of `tail`, by halving an interval."""
    logs = [math.lgamma(pairs + 1) - math.lgamma(k + 1) - math.lgamma(pairs - k + 1) for k in range(errors + 1)]
    low, high = 0.0, 1.0
    while (rate := (low + high) / 2.0) not in (low, high):
        log_p, log_q = math.log(rate), math.log1p(-rate)
        chance = math.fsum(math.exp(c + k * log_p + (pairs - k) * log_q) for k, c in enumerate(logs))
        low, high = (rate, high) if chance > tail else (low, rate)
    return rate
