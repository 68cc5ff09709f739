"""The byte counter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pedigree.errors import BudgetExceeded
from pedigree.weights.meter import ByteMeter


def charge_or_refuse(meter: ByteMeter) -> bool:
    try:
        meter.charge(3, "f")
    except BudgetExceeded:
        return False
    return True


def test_no_thread_gets_past_the_budget() -> None:
    meter = ByteMeter(1000)
    with ThreadPoolExecutor(8) as pool:
        granted = sum(pool.map(lambda _: charge_or_refuse(meter), range(2000)))
    assert granted == 333
    assert (meter.read, meter.left) == (999, 1)


def test_a_refused_read_is_not_counted_and_an_exact_one_fits() -> None:
    meter = ByteMeter(10)
    with pytest.raises(BudgetExceeded, match=r"f\.gguf, got 0 bytes read and 11 more wanted, expected at most 10"):
        meter.charge(11, "f.gguf")
    meter.charge(10, "f.gguf")
    assert meter.left == 0


def test_without_a_budget_everything_is_counted() -> None:
    meter = ByteMeter()
    meter.charge(10**15, "f")
    meter.set_total(7)
    assert (meter.read, meter.left, meter.total, meter.budget) == (10**15, None, 7, None)
