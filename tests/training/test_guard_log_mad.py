"""The robust rule on gradient norms: planted anomalies fire, healthy runs do not, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pedigree.training.config import GuardConfig
from pedigree.training.guard import Guard, Signals
from pedigree.training.guard_rules import make_guard


def guard(*rules: str) -> Guard:
    return make_guard(GuardConfig(rules=rules or ("log-mad",)))


def actions(watch: Guard, norms: np.ndarray, first: int = 0) -> list[str]:
    return [
        watch.judge(Signals(step=i, window=i, loss=2.0, cross_entropy=2.0, grad_norm=float(norm))).action
        for i, norm in enumerate(norms, first)
    ]


def healthy(seed: int, n: int, spread: float, memory: float = 0.7) -> np.ndarray:
    """Log-normal norms that remember the step before, on a level that falls as in a real run."""
    noise = np.random.default_rng(seed).normal(0, spread, n)
    log = np.zeros(n)
    for i in range(1, n):
        log[i] = memory * log[i - 1] + math.sqrt(1 - memory**2) * noise[i]
    return np.exp(log + 2 * np.exp(-np.arange(n) / 500))


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.5])
def test_healthy_runs_are_left_alone(spread: float) -> None:
    taken = [action for seed in range(10) for action in actions(guard(), healthy(seed, 1500, spread))]
    assert taken.count("skip-step") == 0
    # Normal log g passes four deviations once in 31,574 steps; estimating both from 256 steps that remember each other
    # costs a factor. 15,000 steps: expected 0.5, allowed 8 (0.05 %).
    assert taken.count("clip") <= 8


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.5])
def test_a_planted_spike_is_skipped_and_a_smaller_one_clipped_whatever_the_scale(spread: float) -> None:
    for scale in (1e-4, 1.0, 1e4):
        watch = guard()
        norms = scale * healthy(7, 2000, spread)
        actions(watch, norms)
        level = float(np.median(norms[-256:]))
        assert actions(watch, np.array([level * math.exp(12 * spread)]), 2000) == ["skip-step"]
        verdict = watch.judge(Signals(2001, 2001, 2.0, 2.0, level * math.exp(6 * spread)))
        assert verdict.action == "clip"
        assert verdict.clip_to == pytest.approx(level * math.exp(4 * spread), rel=1.2 * spread)


def test_spikes_already_in_the_window_do_not_hide_the_next_as_they_do_from_the_mean() -> None:
    norms = healthy(3, 128, 0.1, memory=0.0)
    norms[::10] *= 20  # the past is dirty before the rules begin to speak
    robust, plain = guard("log-mad"), guard("skip-step")
    for watch in (robust, plain):
        for rule in watch.rules:
            for i, norm in enumerate(norms):
                rule.took(Signals(i, i, 2.0, 2.0, float(norm)), "apply", None)
    spike = np.array([20.0 * float(np.median(norms))])
    assert actions(robust, spike, 128) == ["skip-step"]
    assert actions(plain, spike, 128) == ["apply"]


def test_clustered_spikes_roll_the_run_back_to_before_the_first() -> None:
    watch = guard("non-finite", "log-mad", "rewind")
    actions(watch, healthy(1, 300, 0.2))
    assert actions(watch, np.full(3, 100.0), 300) == ["skip-step", "skip-step", "roll-back"]


def test_a_constant_past_makes_no_anomaly_of_a_small_change() -> None:
    watch = guard()
    assert set(actions(watch, np.ones(100))) == {"apply"}
    assert actions(watch, np.array([1.03, 0.0, math.exp(0.2)]), 100) == ["apply", "apply", "skip-step"]
