"""The sign-flip test: its bound against all sign patterns, its products, its families."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.errors import UsageError
from pedigree.forensics.exact.sign_flip import block_products, family_flip, sign_flip
from pedigree.forensics.exact.tails import fisher_log10


@settings(deadline=None)
@given(st.lists(st.floats(min_value=0.01, max_value=100.0), min_size=1, max_size=8))
def test_the_bound_holds_over_all_sign_patterns(magnitudes: list[float]) -> None:
    size_N = torch.tensor(magnitudes, dtype=torch.float64)
    log10_ps = []
    for signs in itertools.product((1.0, -1.0), repeat=len(magnitudes)):
        result = family_flip(size_N * torch.tensor(signs, dtype=torch.float64))
        assert result is not None
        log10_ps.append(result.log10_p)
    for value in log10_ps:
        share = sum(other <= value + 1e-12 for other in log10_ps) / len(log10_ps)
        assert share <= 10**value * (1 + 1e-9)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("rows", [0, 5, 203])
def test_products_are_inner_products_of_rows_or_columns(rows: int, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pedigree.forensics.exact.sign_flip.ENTRIES_AT_ONCE", 700)  # slabs of a hundred rows
    generator = torch.Generator().manual_seed(rows)
    a_RC, b_RC = torch.randn(rows, 7, generator=generator), torch.randn(rows, 7, generator=generator)
    expected = (a_RC.double() * b_RC.double()).sum(1 - axis)
    torch.testing.assert_close(block_products(a_RC, b_RC, axis), expected, rtol=1e-12, atol=1e-12)


def test_products_of_half_precision_are_taken_in_full_precision() -> None:
    a_RC = torch.full((2, 4096), 0.1, dtype=torch.bfloat16)
    expected = 4096 * float(a_RC[0, 0]) ** 2
    assert float(block_products(a_RC, a_RC, 0)[0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (4, 4), (4,)])
def test_products_of_unequal_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="Two matrices of one shape"):
        block_products(torch.zeros(4, 5), torch.zeros(shape), 0)
    with pytest.raises(UsageError, match="rows or columns"):
        block_products(torch.zeros(4, 5), torch.zeros(4, 5), 2)


def test_a_copy_reaches_the_largest_z_that_its_blocks_allow() -> None:
    result = family_flip(torch.full((896,), 2.5))
    assert result is not None
    assert result.z == pytest.approx(896**0.5)
    assert result.log10_p == pytest.approx(-194.56, abs=0.01)  # the study's 1e-194


def test_negative_association_is_no_descent_and_is_shown() -> None:
    outcome = sign_flip({"ffn": -torch.ones(400)})
    assert outcome.log10_p == 0.0
    family = outcome.extra["families"]["ffn"]
    assert family["z"] == pytest.approx(-20.0)
    assert family["log10_p_two_sided"] < -86


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e100])
def test_the_scale_of_the_weights_does_not_matter(scale: float) -> None:
    products_N = torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 1.0
    plain, scaled = family_flip(products_N), family_flip(products_N * scale)
    assert plain is not None
    assert scaled is not None
    assert scaled.z == pytest.approx(plain.z, rel=1e-12)


def test_families_are_combined_by_fisher_and_listed() -> None:
    outcome = sign_flip({"ffn": torch.ones(100), "vo": torch.tensor([1.0, -1.0, 1.0]), "planes": torch.zeros(5)})
    families = outcome.extra["families"]
    assert outcome.log10_p == pytest.approx(fisher_log10([families["ffn"]["log10_p"], families["vo"]["log10_p"]]))
    assert (outcome.n, outcome.statistic) == (103, pytest.approx(10.0))
    assert list(outcome.extra["left_out"]) == ["planes"]


def test_dead_and_overflowing_blocks_are_left_out_and_counted() -> None:
    result = family_flip(torch.tensor([1.0, 0.0, float("nan"), float("inf"), 1.0]))
    assert result is not None
    assert (result.n, result.n_dropped) == (2, 3)


def test_without_a_live_block_the_test_does_not_apply() -> None:
    outcome = sign_flip({"ffn": torch.zeros(4), "vo": torch.empty(0)})
    assert not outcome.applicable
    assert not sign_flip({}).applicable
