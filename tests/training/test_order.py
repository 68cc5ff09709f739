"""The order of the data is a permutation, a pure function, and keeps the shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.training.order import PERIOD, Order, mix, permute, shares


@given(size=st.integers(1, 3000), key=st.integers(0, 2**63))
def test_every_place_is_hit_once(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


def test_a_permutation_scatters_and_depends_on_its_key() -> None:
    one, other = permute(np.arange(5000), 5000, 1), permute(np.arange(5000), 5000, 2)
    # Fixed points of a random permutation: Poisson with mean 1. Neighbors stay neighbors in 2 of 5000 places.
    assert (one == np.arange(5000)).sum() < 8
    assert (np.abs(np.diff(one)) == 1).sum() < 12
    assert (one == other).sum() < 8
    assert abs(np.corrcoef(np.arange(5000), one)[0, 1]) < 0.06


@given(first=st.integers(0, 3 * PERIOD), cut=st.integers(1, 40))
def test_any_way_to_cut_the_reading_gives_the_same_order(first: int, cut: int) -> None:
    order = Order([50, 700, 3], [1.0, 5.0, 0.01], seed=3)
    whole = order.draw(first, 41)
    parts = [order.draw(first, cut), order.draw(first + cut, 41 - cut)]
    for i in range(2):
        assert np.array_equal(whole[i], np.concatenate([part[i] for part in parts]))


def test_shares_are_kept_in_every_period_and_every_epoch_is_whole() -> None:
    order = Order([100, 1000], [1.0, 3.0], seed=0)
    source, sequence = order.draw(0, 2 * PERIOD)
    for period in range(2):
        here = source[period * PERIOD : (period + 1) * PERIOD]
        assert (here == 0).sum() == PERIOD // 4
    drawn = sequence[source == 0]
    for epoch in range(len(drawn) // 100):
        assert np.array_equal(np.sort(drawn[epoch * 100 : (epoch + 1) * 100]), np.arange(100))
    assert order.epochs(2 * PERIOD) == pytest.approx([20.48, 6.144])


def test_another_seed_is_another_order() -> None:
    one, other = (Order([5000], [1.0], seed).draw(0, 1000)[1] for seed in (0, 1))
    assert (one == other).sum() < 8


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_shares_fill_the_period_and_leave_nobody_out(weights: list[float]) -> None:
    share = shares(weights)
    assert share.sum() == PERIOD
    assert share.min() >= 1


def test_mixing_is_pinned_because_orders_are_kept_promises() -> None:
    assert mix(0, 1, 2) == mix(0, 1, 2)
    assert mix(0, 1, 2) != mix(0, 2, 1)
    assert permute(np.arange(8), 8, 5).tolist() == PINNED


PINNED = [1, 0, 3, 2, 6, 4, 7, 5]
