"""Tails in log space agree with scipy where scipy can follow, and with closed forms where it cannot."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pedigree.errors import InternalError
from pedigree.forensics.exact.tails import fisher_log10, normal_log10_sf

LOG10_PS = st.lists(st.floats(min_value=-30.0, max_value=0.0), min_size=1, max_size=8)


@settings(deadline=None)
@given(LOG10_PS)
def test_fisher_agrees_with_scipy_where_scipy_can_follow(logs: list[float]) -> None:
    ours = fisher_log10(logs)
    theirs = stats.combine_pvalues([10.0**value for value in logs], method="fisher").pvalue
    assert ours == pytest.approx(math.log10(theirs), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(LOG10_PS)
def test_fisher_does_not_depend_on_the_order(logs: list[float]) -> None:
    assert fisher_log10(logs) == pytest.approx(fisher_log10(logs[::-1]), abs=1e-12)


@pytest.mark.parametrize("log10_p", [0.0, -1e-9, -3.0, -400.0, -1e5, -1e8])
def test_fisher_of_one_p_value_is_that_p_value(log10_p: float) -> None:
    assert fisher_log10([log10_p]) == pytest.approx(log10_p, rel=1e-12, abs=1e-15)


def test_fisher_of_two_extreme_p_values_matches_the_closed_form() -> None:
    # P(p1 p2 <= c) = c (1 - ln c)
    log10_c = -100_000.0 - 250_000.0
    expected = log10_c + math.log10(1.0 - log10_c * math.log(10.0))
    assert fisher_log10([-100_000.0, -250_000.0]) == pytest.approx(expected, rel=1e-14)


def test_a_family_without_evidence_weakens_fisher_but_stays_finite() -> None:
    assert -1e5 < fisher_log10([-1e5, 0.0, 0.0, 0.0]) < -99_980.0


def test_nothing_combines_to_certainty_of_the_null() -> None:
    assert fisher_log10([]) == 0.0
    assert fisher_log10([0.0, 0.0]) == 0.0


@pytest.mark.parametrize("bad", [math.nan, -math.inf, 0.5])
def test_fisher_refuses_what_is_no_p_value(bad: float) -> None:
    with pytest.raises(InternalError, match="outside its range"):
        fisher_log10([-1.0, bad])


@settings(deadline=None)
@given(st.floats(min_value=-8.0, max_value=37.0))
def test_the_normal_tail_agrees_with_scipy(z: float) -> None:
    assert normal_log10_sf(z) == pytest.approx(float(stats.norm.logsf(z)) / math.log(10.0), rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("z", [1e2, 1e3, 1e5])
def test_the_far_normal_tail_lies_between_mills_bounds(z: float) -> None:
    density = -z * z / 2 - 0.5 * math.log(2 * math.pi)
    low, high = density + math.log(z / (z * z + 1)), density - math.log(z)
    slack = 1e-15 * z * z  # rounding of the logarithm itself
    assert low - slack <= normal_log10_sf(z) * math.log(10.0) <= high + slack


def test_the_normal_tail_refuses_nan() -> None:
    with pytest.raises(InternalError, match="not a finite number"):
        normal_log10_sf(math.nan)
