"""Whose the difference is: points of known descent, with a bulk, something learned, and gains."""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import generator
from torch import Tensor

from pedigree.forensics.descent.share import Share, ShareMeter

N, D, RANK, MATRICES = 64, 96, 6, 8


def bulk(seed: int) -> Tensor:
    return torch.randn(N, D, generator=generator(seed))


def learned(seed: int, size: float) -> Tensor:
    """A few strong directions on top of a little noise, as training leaves them."""
    g = generator(10_000 + seed)
    strong = torch.randn(N, RANK, generator=g) @ torch.randn(RANK, D, generator=g)
    return size * (strong + 0.3 * torch.randn(N, D, generator=g))


def ancestor(seed: int) -> Tensor:
    return bulk(seed) + learned(seed, 1.0)


def share(a: list[Tensor], b: list[Tensor]) -> Share:
    meter = ShareMeter()
    for x, y in zip(a, b, strict=True):
        meter.add(x, y)
    found = meter.result()
    assert found is not None
    return found


def moved(start: int, size: float) -> list[Tensor]:
    return [ancestor(k) + learned(100 * start + k, size) for k in range(MATRICES)]


PARENTS = [ancestor(k) for k in range(MATRICES)]


def test_of_a_parent_and_a_child_the_whole_difference_belongs_to_the_child() -> None:
    child = moved(1, 0.5)
    there, back = share(PARENTS, child), share(child, PARENTS)
    assert there.of_a == pytest.approx(0.0, abs=0.12)
    assert back.of_a == pytest.approx(1.0 - there.of_a)
    assert there.turned().of_a == pytest.approx(back.of_a)
    assert there.lean > 0.35
    assert there.error < 0.1
    assert there.matrices == MATRICES


@pytest.mark.parametrize(("first", "second"), [(0.3, 0.3), (0.2, 0.4), (0.4, 0.2)])
def test_siblings_share_the_difference_by_how_far_each_went(first: float, second: float) -> None:
    found = share(moved(1, first), moved(2, second))
    # The strongest directions of both are taken out, and with them some of what the one that went farther learned.
    assert found.of_a == pytest.approx(first**2 / (first**2 + second**2), abs=0.15)


def test_changes_of_gains_alone_say_nothing() -> None:
    meter = ShareMeter()
    for k, parent in enumerate(PARENTS):
        meter.add(parent, parent * (1 + 0.01 * torch.randn(1, D, generator=generator(k))))
    assert meter.result() is None


def test_equal_small_and_silent_matrices_are_passed_over() -> None:
    meter = ShareMeter()
    meter.add(PARENTS[0], PARENTS[0])
    meter.add(torch.randn(8, D), torch.randn(8, D))
    meter.add(torch.zeros(N, D), torch.zeros(N, D))
    assert meter.result() is None


def test_rows_and_columns_may_change_places() -> None:
    child = moved(1, 0.5)
    there = share(PARENTS, child)
    assert share([p.T for p in PARENTS], [c.T for c in child]).of_a == pytest.approx(there.of_a, abs=1e-6)
