"""Frames: what was planted is found, what cannot be found is not invented."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from forensics.tiny_models import generator, random_rotation, signed_permutation
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pedigree.forensics.sides import gauge as gauges
from pedigree.forensics.sides.gauge import (
    MIN_ANCHORS,
    Gauge,
    SpanMap,
    center,
    fit_rotation,
    identity_gauge,
    refit_on_units,
    round_to_permutation,
    unit_rows,
)

D = 24


def rows(seed: int, n: int = 200, d: int = D) -> Tensor:
    return torch.randn(n, d, generator=generator(seed))


def fitted(a: Tensor, b: Tensor) -> Gauge:
    gauge = fit_rotation(a, b, "rows")
    assert gauge is not None
    return gauge


def is_isometry(gauge: Gauge) -> bool:
    """Whether every singular value is zero or one."""
    assert gauge.map_AB is not None
    values = torch.linalg.svdvals(gauge.map_AB)
    return bool(((values < 1e-4) | ((values - 1).abs() < 1e-4)).all())


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_planted_rotation_is_found(seed: int) -> None:
    turn = random_rotation(D, seed)
    a = rows(seed)
    gauge = fitted(a, a @ turn + 0.3)
    assert gauge.kind == "orthogonal"
    assert not gauge.is_trivial
    assert gauge.map_AB is not None
    torch.testing.assert_close(gauge.map_AB, turn, rtol=0, atol=1e-4)
    held_out = rows(seed + 1)
    torch.testing.assert_close(gauge.carry(held_out), held_out @ turn, rtol=0, atol=1e-3)


def test_a_rotation_is_found_under_noise() -> None:
    turn, a = random_rotation(D, 1), rows(1, 2000)
    gauge = fitted(a, a @ turn + rows(2, 2000))
    held_out = rows(3)
    assert float((unit_rows(gauge.carry(held_out)) * unit_rows(held_out @ turn)).sum(1).mean()) > 0.95


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_planted_signed_permutation_survives_rounding_exactly(seed: int) -> None:
    planted, a = signed_permutation(D, seed), rows(seed, 400)
    gauge = round_to_permutation(fitted(a, a @ planted + 0.3 * rows(seed + 1, 400)))
    assert gauge is not None
    assert gauge.kind == "signed-permutation"
    assert gauge.map_AB is not None
    assert torch.equal(gauge.map_AB, planted)


def test_a_rotation_close_to_nothing_rounds_to_the_identity() -> None:
    a = rows(0)
    gauge = round_to_permutation(fitted(a, a + 0.1 * rows(1)))
    assert gauge is not None
    assert gauge.kind == "identity"
    assert gauge.is_trivial
    assert torch.equal(gauge.carry(a), a)


def test_a_true_rotation_is_not_rounded() -> None:
    a = rows(0)
    assert round_to_permutation(fitted(a, a @ random_rotation(D, 0))) is None
    assert round_to_permutation(identity_gauge(D, D)) is None


@pytest.mark.parametrize(("d_a", "d_b"), [(24, 32), (32, 24)])
def test_between_two_widths_a_planted_partial_isometry_is_found(d_a: int, d_b: int) -> None:
    a = rows(0, 300, d_a)
    planted = random_rotation(max(d_a, d_b), 3)[:d_a, :d_b]
    if d_a > d_b:
        planted = random_rotation(d_a, 3)[:, :d_b]
    gauge = fitted(a, a @ planted)
    assert gauge.kind == "partial-isometry"
    assert gauge.partial
    assert gauge.map_AB is not None
    assert gauge.map_AB.shape == (d_a, d_b)
    assert is_isometry(gauge)
    assert float((unit_rows(gauge.carry(a)) * unit_rows(a @ planted)).sum(1).mean()) > 0.97


def test_a_selection_of_channels_rounds_to_a_selection() -> None:
    a = rows(0, 300, 32)
    chosen = torch.randperm(32, generator=generator(0))[:D]
    gauge = round_to_permutation(fitted(a, -a[:, chosen]))
    assert gauge is not None
    assert gauge.kind == "partial-isometry"
    torch.testing.assert_close(gauge.carry(a), -a[:, chosen])


def test_too_few_anchors_fit_nothing() -> None:
    a = rows(0, MIN_ANCHORS - 1)
    assert fit_rotation(a, a, "rows") is None
    assert refit_on_units(a, a, torch.ones(MIN_ANCHORS - 1), "units") is None


def test_rows_that_are_all_alike_fit_nothing() -> None:
    assert fit_rotation(torch.ones(100, D), rows(0, 100), "rows") is None


def test_fewer_anchors_than_channels_reach_only_a_part_of_the_frame_and_say_so() -> None:
    a = rows(0, 80, 128)
    turn = random_rotation(128, 0)
    gauge = fitted(a, a @ turn)
    assert gauge.partial
    assert is_isometry(gauge)
    carried = gauge.carry(center(a))
    torch.testing.assert_close(carried, center(a @ turn), rtol=0, atol=1e-3)
    # What lies outside the reach of the map is left out on both sides.
    outside = rows(1, 50, 128)
    assert float(gauge.carry(outside).norm() / outside.norm()) < 0.9
    assert float(gauge.meet(outside).norm() / outside.norm()) < 0.9
    torch.testing.assert_close(gauge.meet(carried), carried, rtol=0, atol=1e-3)


def test_a_frame_fitted_on_strangers_aligns_nothing_it_was_not_fitted_on() -> None:
    gauge = fitted(rows(0), rows(1))
    cosines = (unit_rows(gauge.carry(rows(2))) * unit_rows(rows(3))).sum(1)
    assert abs(float(cosines.mean())) < 0.08


def test_the_inverse_brings_rows_back() -> None:
    a = rows(0)
    for gauge in (fitted(a, a @ random_rotation(D, 4)), identity_gauge(D, D)):
        torch.testing.assert_close(gauge.inverse().carry(gauge.carry(a)), a, rtol=0, atol=1e-4)
    wider = identity_gauge(D, 32)
    torch.testing.assert_close(wider.inverse().carry(wider.carry(a)), a)


def test_the_identity_keeps_coordinates_and_pads_between_widths() -> None:
    a = rows(0)
    assert identity_gauge(D, D).kind == "identity"
    assert torch.equal(identity_gauge(D, D).carry(a), a)
    assert torch.equal(identity_gauge(D, 32).carry(a)[:, :D], a)
    assert float(identity_gauge(D, 32).carry(a)[:, D:].abs().sum()) == 0.0
    assert torch.equal(identity_gauge(D, 16).carry(a), a[:, :16])
    assert identity_gauge(D, 32).is_trivial


def test_refitting_on_matched_units_mends_a_rough_frame() -> None:
    turn, units = random_rotation(D, 5), rows(6, 500)
    gauge = refit_on_units(units, units @ turn, torch.rand(500, generator=generator(1)) + 0.1, "units")
    assert gauge is not None
    assert gauge.map_AB is not None
    torch.testing.assert_close(gauge.map_AB, turn, rtol=0, atol=1e-3)


def test_numbers_that_are_not_finite_do_not_reach_the_fit() -> None:
    turn, a = random_rotation(D, 7), rows(0)
    b = a @ turn
    a[3, 4], b[9, 1] = float("nan"), float("inf")
    gauge = fitted(a, b)
    assert is_isometry(gauge)
    assert float((unit_rows(gauge.carry(rows(5))) * unit_rows(rows(5) @ turn)).sum(1).mean()) > 0.9


def test_rows_of_almost_no_length_stay_without_direction() -> None:
    table = rows(0, 10)
    table[4] *= 1e-9
    directions = unit_rows(table)
    assert float(directions[4].abs().sum()) == 0.0
    torch.testing.assert_close(directions[5].norm(), torch.tensor(1.0))


@pytest.mark.parametrize("d_b", [80, 96])
def test_a_frame_in_factors_is_the_frame(monkeypatch: pytest.MonkeyPatch, d_b: int) -> None:
    """Of wide models few rows fit a frame: kept as two bases and a turn it is the same."""
    a, b = rows(1, 70, 96), rows(2, 70, d_b)
    plain = fitted(a, b)
    monkeypatch.setattr(gauges, "EXACT_WIDTH", 32)
    factors = fitted(a, b)
    assert isinstance(factors.frame_AB, SpanMap)
    assert not isinstance(plain.frame_AB, SpanMap)
    lens_BK = torch.linalg.qr(rows(3, d_b, 20))[0]
    left, right = rows(4, 11, 96), rows(5, 13, d_b)
    for one, other in ((plain, factors), (replace(plain, lens_BK=lens_BK), replace(factors, lens_BK=lens_BK))):
        near = partial(torch.testing.assert_close, rtol=0, atol=2e-4)
        near(one.carry(left), other.carry(left))
        near(one.meet(right), other.meet(right))
        near(one.view_a(left), other.view_a(left))
        near(one.view_b(right), other.view_b(right))
        near(one.inverse().carry(right), other.inverse().carry(right))
        for (x, y), (other_x, other_y) in zip(one.views(left, right), other.views(left, right), strict=True):
            near(x @ y.T, other_x @ other_y.T, atol=2e-3)
        near(one.map_AB, other.map_AB)
    assert is_isometry(factors)


def test_a_permutation_is_seen_in_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    planted, a = signed_permutation(96, 1), rows(1, 90, 96)
    monkeypatch.setattr(gauges, "EXACT_WIDTH", 32)
    rounded = round_to_permutation(fitted(a, a @ planted))
    assert rounded is not None
    assert rounded.map_AB is not None
    torch.testing.assert_close(rounded.map_AB, planted)
    assert round_to_permutation(fitted(a, a @ random_rotation(96, 2))) is None
