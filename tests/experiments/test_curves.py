"""Spikes, flatness and intervals: what a curve says in one number, on curves whose answer is known."""

from __future__ import annotations

import math
import random

import pytest
from tests.experiments.scripts import script

curves = script("curves")


def noisy(n: int, seed: int = 0) -> list[float]:
    drawn = random.Random(seed)
    return [2.0 + 2.0 * math.exp(-i / 100) + drawn.gauss(0, 0.1) for i in range(n)]


def test_a_falling_noisy_curve_has_no_spike() -> None:
    assert sum(len(curves.spikes(noisy(500, seed))) for seed in range(20)) <= 2


def test_a_jump_is_one_spike_however_long_it_lasts() -> None:
    values = noisy(400)
    for step in (100, 103, 110, 300):
        values[step] += 3.0
    assert curves.spikes(values) == [100, 300]


def test_a_value_that_is_not_finite_is_a_spike() -> None:
    values = noisy(100)
    values[50] = math.inf
    values[90] = math.nan
    assert curves.spikes(values) == [50, 90]


def test_a_surge_is_three_times_what_was_usual() -> None:
    norms = [1.0, 2.0] * 100
    norms[60] = norms[62] = 5.0
    norms[120] = 4.0
    norms[150] = math.inf
    assert curves.surges(norms) == [60, 150]


def test_a_curve_that_stands_still_may_tremble() -> None:
    assert curves.spikes([1.0, 1.001] * 50) == []
    assert curves.spikes([1.0] * 50 + [1.2]) == [50]


def test_the_first_steps_have_no_past_to_be_held_against() -> None:
    assert curves.spikes([100.0] + [1.0] * 10) == []


def test_unevenness_counts_factors_not_differences() -> None:
    assert curves.unevenness([3.0] * 10) == 0.0
    assert curves.unevenness([1.0, 10.0] * 50) == pytest.approx(0.5, rel=0.02)
    assert curves.unevenness([100.0, 1000.0] * 50) == pytest.approx(curves.unevenness([1.0, 10.0] * 50))


def test_smoothing_takes_medians_of_the_past() -> None:
    assert curves.smoothed([1.0, 9.0, 1.0, 1.0], 3) == [1.0, 5.0, 1.0, 1.0]


def test_entropy_of_known_counts() -> None:
    assert curves.entropy([5, 5, 5, 5, 0]) == pytest.approx(math.log(4))
    assert curves.entropy([7, 0]) == 0.0


def test_the_cost_under_the_right_probabilities_is_the_entropy() -> None:
    counts = [400_000, 200_000, 100_000]
    assert curves.cost(counts, counts) == pytest.approx(curves.entropy(counts), abs=1e-4)
    assert curves.cost(counts, counts[::-1]) > curves.entropy(counts) + 0.1
    assert curves.cost([0, 0, 1], [9, 9, 0]) == pytest.approx(math.log(21))


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    drawn = random.Random(1)
    held = 0
    for _ in range(300):
        mean = curves.mean_of([drawn.gauss(3.0, 0.5) for _ in range(3)])
        held += abs(mean.mean - 3.0) <= mean.half
    assert 270 <= held <= 297


def test_one_seed_has_no_interval() -> None:
    assert str(curves.mean_of([1.5])) == "1.500"
    assert str(curves.mean_of([1.0, 1.0])) == "1.000 ± 0.000"
    assert str(curves.mean_of([1.0, 2.0])) == "1.50 ± 6.35"
