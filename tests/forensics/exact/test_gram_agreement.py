"""Gram agreement: its p-value on independent units, what cannot change it, and that a framer does not reach it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pedigree.benchmark.framer import drawn_at_random, frame_units
from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.gram_agreement import LEAST_UNITS, GramMeter, log_pairings
from pedigree.forensics.sides.linear import thin_qr


def rows(units: int, width: int, seed: int, uneven: float = 0.0) -> Tensor:
    """Unit-length rows of three projections; `uneven` makes some directions more common than others."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(units, 3, width, generator=generator) * torch.arange(1, width + 1).float() ** -uneven
    unit: Tensor = drawn / drawn.norm(dim=-1, keepdim=True)
    return unit


def agreement(*layers: tuple[Tensor, Tensor], choices: float = 0.0) -> TestOutcome:
    meter = GramMeter()
    for a_UVD, b_UVE in layers:
        meter.add(a_UVD, b_UVE)
    return meter.outcome(choices)


def turn(width: int, seed: int) -> Tensor:
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return thin_qr(drawn)[0]


@pytest.mark.parametrize(("units", "width", "uneven"), [(8, 24, 0.0), (60, 12, 0.0), (40, 16, 0.5), (120, 8, 0.3)])
def test_independent_units_are_rejected_no_more_often_than_the_level_says(
    units: int, width: int, uneven: float
) -> None:
    pairs = 300
    ps = [
        float(agreement((rows(units, width, 2 * k, uneven), rows(units, width, 2 * k + 1, uneven))).log10_p or 0.0)
        for k in range(pairs)
    ]
    for level in (0.5, 0.25, 0.1, 0.05, 0.01):
        share = sum(p <= math.log10(level) for p in ps) / pairs
        assert share <= level + 3.0 * math.sqrt(level * (1.0 - level) / pairs), level
    assert min(ps) > -6.0


def test_few_units_that_agree_are_told_in_any_frame_and_width() -> None:
    a_UVD = rows(12, 32, 0).double()
    b_UVD = a_UVD + 0.3 * rows(12, 32, 1)
    wide_UVE = torch.zeros(12, 3, 40, dtype=torch.float64)
    wide_UVE[..., :32] = b_UVD
    plain = agreement((a_UVD, b_UVD), choices=log_pairings(200, 200, 12))
    assert plain.log10_p is not None
    assert plain.log10_p < -12.0
    for other in (b_UVD @ turn(32, 5), wide_UVE @ turn(40, 6)):
        turned = agreement((a_UVD, other), choices=log_pairings(200, 200, 12))
        assert turned.statistic == pytest.approx(plain.statistic)
        assert turned.log10_p == pytest.approx(plain.log10_p)


def test_many_units_that_agree_a_little_are_told_in_a_wide_model_and_not_in_a_narrow_one() -> None:
    """A fifth of one model and four fifths of another: what a framer can choose outweighs it at width 32 only."""

    def minor(layers: int, units: int, width: int) -> float:
        parts = []
        for layer in range(layers):
            a_UVD, c_UVD = rows(units, width, 10 + layer), rows(units, width, 50 + layer)
            mixed_UVD = 0.2 * a_UVD + 0.8 * c_UVD
            parts.append((a_UVD, mixed_UVD / mixed_UVD.norm(dim=-1, keepdim=True)))
        outcome = agreement(*parts, choices=layers * log_pairings(units, units, units))
        assert outcome.extra["log10_p_given"] < -50.0
        return float(outcome.log10_p or 0.0)

    assert minor(3, 96, 32) == 0.0
    assert minor(6, 640, 256) < -12.0


@pytest.mark.parametrize("kept", [None, 4, 12])
@pytest.mark.parametrize(("layers", "units", "width"), [(3, 48, 16), (2, 64, 32), (3, 64, 24)])
def test_a_framer_of_random_units_stays_below_the_bound(layers: int, units: int, width: int, kept: int | None) -> None:
    for seed in range(2):
        a, b = (drawn_at_random(layers, units, width, 100 * seed + k) for k in (1, 2))
        framed = frame_units(a, b, kept=kept, starts=1, seed=seed)
        assert 0.0 < framed.used < 0.75
        assert framed.outcome.log10_p == 0.0


@pytest.mark.parametrize(("layers", "units", "width"), [(3, 64, 24), (2, 64, 64)])
def test_a_framer_who_shakes_his_frame_reaches_further_and_stays_below_the_bound(
    layers: int, units: int, width: int
) -> None:
    a, b = (drawn_at_random(layers, units, width, k) for k in (1, 2))
    nearest, shaken = (frame_units(a, b, starts=1, shaken=count) for count in (0, 1))
    assert nearest.used < shaken.used < 0.85
    assert shaken.start.startswith("shaken")
    assert shaken.outcome.log10_p == 0.0


def test_a_framer_finds_a_reordered_and_negated_copy() -> None:
    """The optimizer is no straw man, though it climbs to the nearest top only: a turned copy it may well miss."""
    a = drawn_at_random(2, 64, 16, 1)
    generator = torch.Generator().manual_seed(4)
    b = [layer[torch.randperm(64, generator=generator)] * torch.tensor([1.0, -1.0, -1.0])[:, None] for layer in a]
    framed = frame_units(a, b, starts=0)
    assert framed.used > 1.0
    assert framed.outcome.log10_p is not None
    assert framed.outcome.log10_p < -12.0


def test_what_cannot_be_tested_says_why() -> None:
    few = agreement((rows(LEAST_UNITS - 1, 16, 0), rows(LEAST_UNITS - 1, 16, 1)))
    assert not few.applicable
    assert few.why_not is not None
    empty = agreement((torch.zeros(20, 3, 8), rows(20, 8, 1)))
    assert not empty.applicable or empty.log10_p == 0.0


def test_pairings_are_counted() -> None:
    assert log_pairings(5, 5, 5, signed=False) == pytest.approx(math.log(120))
    assert log_pairings(4, 6, 2, signed=False) == pytest.approx(math.log(6 * 30))
    assert log_pairings(4, 6, 2) == pytest.approx(math.log(6 * 30 * 4))
    assert log_pairings(4, 6, 0) == 0.0
