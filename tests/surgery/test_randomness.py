"""Random numbers that depend on their place alone."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.surgery.randomness import Stream, choices, permutation

GOLDEN_NORMAL = [[0.06090950965881348, 0.4712013602256775, 2.325124502182007, 1.6914860010147095]]
GOLDEN_UNIFORM = [[0.6812518835067749, 0.9546354413032532, 0.6681093573570251, 0.24283695220947266]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 23), st.integers(1, 9), st.data())
def test_any_window_holds_the_same_numbers(columns: int, rows: int, data: st.DataObject) -> None:
    stream = Stream(3, "x", columns)
    for draw in (stream.normal, stream.uniform):
        whole = draw(slice(0, rows), slice(0, columns))
        some = np.asarray(data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=5)))
        cols = np.asarray(data.draw(st.lists(st.integers(0, columns - 1), min_size=1, max_size=5)))
        assert torch.equal(draw(some, cols), whole[some][:, cols])
        low = data.draw(st.integers(0, columns - 1))
        assert torch.equal(draw(slice(0, rows), slice(low, columns)), whole[:, low:])
        assert torch.equal(draw(slice(rows - 1, rows), slice(0, columns)), whole[rows - 1 :])


def test_the_numbers_are_these_on_every_machine() -> None:
    """A change here changes every replay, and needs a decision on record."""
    assert Stream(0, "a", 4).normal(slice(0, 1), slice(0, 4)).tolist() == GOLDEN_NORMAL
    assert Stream(0, "a", 4).uniform(slice(0, 1), slice(0, 4)).tolist() == GOLDEN_UNIFORM


def test_moments_are_those_of_the_distribution() -> None:
    """Bounds of five standard errors, for 10^6 numbers."""
    numbers = Stream(1, "moments", 1000).normal(slice(0, 1000), slice(0, 1000)).double()
    assert abs(float(numbers.mean())) < 5e-3
    assert abs(float(numbers.var()) - 1) < 5 * (2 / 1e6) ** 0.5 + 1e-4
    uniform = Stream(1, "moments", 1000).uniform(slice(0, 1000), slice(0, 1000)).double()
    assert abs(float(uniform.mean()) - 0.5) < 5 * (1 / 12 / 1e6) ** 0.5
    other = Stream(1, "other", 1000).normal(slice(0, 1000), slice(0, 1000)).double()
    assert abs(float((numbers * other).mean())) < 5e-3


def test_orders_and_choices() -> None:
    assert sorted(permutation(0, "p", 100).tolist()) == list(range(100))
    assert permutation(0, "p", 100).tolist() != permutation(1, "p", 100).tolist()
    drawn = choices(0, "c", 10, 27)
    assert np.bincount(drawn, minlength=10).min() == 2
    assert np.bincount(drawn, minlength=10).max() == 3
