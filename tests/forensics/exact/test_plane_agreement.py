"""Plane agreement: its p-value on independent planes, what cannot change it, and what it sees."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.plane_agreement import LEAST_PLANES, LEAST_RATIO, PlaneMeter
from pedigree.forensics.sides.linear import thin_qr


def planes(count: int, views: int, width: int, seed: int, uneven: float = 0.0, alike: float = 0.0) -> Tensor:
    """Blocks of length one; `uneven` makes directions more common than others, `alike` joins the rows of a plane."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, views, 2, width, generator=generator, dtype=torch.float64)
    common = torch.randn(count, 1, 2, width, generator=generator, dtype=torch.float64)
    drawn = (drawn + alike * common) * torch.arange(1, width + 1).double() ** -uneven
    unit: Tensor = drawn / drawn.norm(dim=(2, 3), keepdim=True)
    return unit


def agreement(*layers: tuple[Tensor, Tensor], choices: float = 0.0) -> TestOutcome:
    meter = PlaneMeter()
    for a_PV2D, b_PV2D in layers:
        meter.add(a_PV2D, b_PV2D)
    return meter.outcome(choices)


@pytest.mark.parametrize(
    ("count", "views", "width", "uneven", "alike"),
    [(8, 3, 48, 0.0, 0.0), (6, 5, 24, 0.3, 0.0), (16, 2, 32, 0.0, 1.0), (12, 3, 16, 0.3, 0.5)],
)
def test_independent_planes_are_rejected_no_more_often_than_the_level_says(
    count: int, views: int, width: int, uneven: float, alike: float
) -> None:
    pairs = 300
    ps = []
    for k in range(pairs):
        layers = [
            tuple(planes(count, views, width, 10 * k + 2 * layer + side, uneven, alike) for side in (0, 1))
            for layer in range(4)
        ]
        ps.append(_bare(agreement(*layers)))  # type: ignore[arg-type]
    for level in (0.5, 0.25, 0.1, 0.05, 0.01):
        share = sum(p <= math.log10(level) for p in ps) / pairs
        assert share <= level + 3.0 * math.sqrt(level * (1.0 - level) / pairs), level
    assert min(ps) > -4.0


def _bare(outcome: TestOutcome) -> float:
    """log10 p as it would be without the least ratio, which only makes it larger."""
    ratio, n = outcome.statistic, outcome.n
    return -n * (ratio - 1.0 - math.log(ratio)) / math.log(10.0) if ratio > 1.0 else 0.0


def shifted(b_PV2D: Tensor, seed: int) -> Tensor:
    """Every plane turned by an angle of its own, query and key alike."""
    angle_P = torch.rand(len(b_PV2D), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 * math.pi
    cos_P, sin_P = angle_P.cos()[:, None, None], angle_P.sin()[:, None, None]
    first, second = b_PV2D[:, :, 0], b_PV2D[:, :, 1]
    return torch.stack([cos_P * first - sin_P * second, sin_P * first + cos_P * second], dim=2)


def test_planes_that_were_turned_agree_as_they_did() -> None:
    layers = []
    for layer in range(3):
        a_PV2D, c_PV2D = planes(8, 3, 64, layer), planes(8, 3, 64, 50 + layer)
        mixed = 0.3 * a_PV2D + 0.9 * c_PV2D
        layers.append((a_PV2D, mixed / mixed.norm(dim=(2, 3), keepdim=True)))
    plain = agreement(*layers)
    assert plain.log10_p is not None
    assert plain.log10_p < -12.0
    turn_DD = thin_qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(9), dtype=torch.float64))[0]
    for other in (
        agreement(*((a, shifted(b, 3)) for a, b in layers)),
        agreement(*((shifted(a, 4), b) for a, b in layers)),
        agreement(*((a @ turn_DD, b @ turn_DD) for a, b in layers)),
    ):
        assert other.statistic == pytest.approx(plain.statistic)
    paid = agreement(*layers, choices=7.0)
    assert paid.log10_p == pytest.approx(plain.log10_p + 7.0 / math.log(10.0))


def test_small_excess_says_nothing_however_many_planes_there_are() -> None:
    a_PV2D, c_PV2D = planes(600, 3, 64, 0), planes(600, 3, 64, 1)
    mixed = 0.05 * a_PV2D + c_PV2D
    outcome = agreement((a_PV2D, mixed / mixed.norm(dim=(2, 3), keepdim=True)))
    assert 1.3 < outcome.statistic < LEAST_RATIO
    assert _bare(outcome) < -12.0
    assert outcome.log10_p == 0.0


def test_too_few_planes_are_not_tested() -> None:
    outcome = agreement((planes(LEAST_PLANES - 1, 3, 16, 0), planes(LEAST_PLANES - 1, 3, 16, 1)))
    assert not outcome.applicable
    dead = agreement((torch.zeros(20, 3, 2, 8), planes(20, 3, 8, 1)))
    assert not dead.applicable
