"""The rules of the guard, each on signals made for it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from pedigree.errors import UsageError
from pedigree.training.config import GuardConfig
from pedigree.training.guard import Guard, Signals, Verdict
from pedigree.training.guard_rules import RULES, make_guard


def signals(step: int, loss: float, norm: float = 1.0, **changes: Any) -> Signals:
    return Signals(step=step, window=step, loss=loss, cross_entropy=loss, grad_norm=norm, **changes)


def guard(*rules: str, **changes: Any) -> Guard:
    return make_guard(GuardConfig(rules=rules, **changes))


def feed(watch: Guard, n: int, first: int = 0, loss: Callable[[int], float] = lambda step: 2.0) -> list[Verdict]:
    noise = random.Random(first)
    return [
        watch.judge(signals(i, loss(i) + noise.gauss(0, 0.02), 1.0 + noise.gauss(0, 0.05)))
        for i in range(first, first + n)
    ]


def test_a_quiet_run_is_left_alone() -> None:
    watch = guard("non-finite", "skip-step", "spiky-loss", "rewind", "update-size")
    assert {verdict.action for verdict in feed(watch, 1000, loss=lambda i: 2.0 + 2.0 * math.exp(-i / 50))} == {"apply"}


def test_a_gradient_that_is_not_finite_is_skipped_and_names_the_block() -> None:
    watch = guard("non-finite", nonfinite_limit=3)
    bad = signals(0, 2.0, math.inf, overflow=True, block_norms=(1.0, math.nan, 2.0))
    verdict = watch.judge(bad)
    assert verdict.action == "skip-step"
    assert verdict.decisions[0].numbers["blocks"] == "1"
    assert watch.judge(bad).action == "skip-step"
    assert watch.judge(bad).action == "stop"
    assert guard("non-finite").judge(signals(0, math.nan)).action == "skip-step"


def test_one_finite_step_ends_the_count() -> None:
    watch = guard("non-finite", nonfinite_limit=2)
    assert watch.judge(signals(0, math.nan)).action == "skip-step"
    assert watch.judge(signals(1, 2.0)).action == "apply"
    assert watch.judge(signals(2, math.nan)).action == "skip-step"


@pytest.mark.parametrize(("loss", "norm", "what"), [(3.0, 1.0, "the loss lies"), (2.0, 9.0, "the gradient norm lies")])
def test_a_value_far_outside_its_window_is_skipped(loss: float, norm: float, what: str) -> None:
    watch = guard("skip-step")
    feed(watch, 100)
    verdict = watch.judge(signals(100, loss, norm))
    assert verdict.action == "skip-step"
    assert what in verdict.decisions[0].why
    assert verdict.decisions[0].numbers["n"] == 100


def test_the_window_is_silent_before_it_has_seen_enough() -> None:
    watch = guard("skip-step", least=64)
    feed(watch, 63)
    assert watch.judge(signals(63, 50.0)).action == "apply"


def test_a_cluster_of_spikes_does_not_become_the_normal() -> None:
    watch = guard("skip-step")
    feed(watch, 100)
    assert {watch.judge(signals(100 + i, 3.0)).action for i in range(60)} == {"skip-step"}
    assert watch.judge(signals(160, 2.0)).action == "apply"


def test_zclip_clips_the_harder_the_further_out() -> None:
    watch = guard("zclip")
    feed(watch, 60)
    near, far = guard("zclip"), guard("zclip")
    near.load(watch.state())
    far.load(watch.state())
    one, other = near.judge(signals(60, 2.0, 1.5)), far.judge(signals(60, 2.0, 5.0))
    assert (one.action, other.action) == ("clip", "clip")
    assert one.clip_to is not None
    assert other.clip_to is not None
    assert 0.9 < other.clip_to < one.clip_to < 1.2


def test_log_mad_clips_far_out_and_skips_further_out() -> None:
    watch = guard("log-mad")
    noise = random.Random(0)
    for i in range(200):  # scatters by a factor of about 1.35
        assert watch.judge(signals(i, 2.0, math.exp(noise.gauss(0, 0.3)))).action in ("apply", "clip")
    clipped = watch.judge(signals(200, 2.0, math.exp(0.3 * 6)))
    assert clipped.action == "clip"
    assert clipped.clip_to == pytest.approx(math.exp(0.3 * 4), rel=0.2)
    skipped = watch.judge(signals(201, 2.0, math.exp(0.3 * 12)))
    assert skipped.action == "skip-step"
    assert skipped.clip_to is None
    assert skipped.decisions[0].numbers["z"] == pytest.approx(12, rel=0.15)
    assert watch.judge(signals(202, 2.0, 1e-4)).action == "apply", "a small norm is no danger"


def test_log_mad_is_not_moved_by_the_outliers_it_is_asked_about() -> None:
    watch = guard("log-mad", mad_window=64, least=32)
    feed(watch, 64)
    answers = [watch.judge(signals(64 + i, 2.0, 50.0)).action for i in range(200)]
    assert set(answers) == {"skip-step"}


def test_log_mad_answers_alike_at_every_scale_and_under_rewind() -> None:
    answers = []
    for scale in (1e-3, 1.0, 1e3):
        watch = guard("log-mad", "rewind", rewind_skips=2)
        noise = random.Random(3)
        norms = [scale * math.exp(noise.gauss(0, 0.1)) for _ in range(100)] + [scale * 20, scale, scale * 20]
        answers.append([watch.judge(signals(i, 2.0, norm)).action for i, norm in enumerate(norms)])
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][-3:] == ["skip-step", "apply", "roll-back"]


def test_a_loss_ten_times_the_first_is_skipped() -> None:
    watch = guard("spiky-loss")
    feed(watch, 100)
    assert watch.judge(signals(100, 15.0)).action == "apply"
    assert watch.judge(signals(101, 25.0)).action == "skip-step"


def test_clustered_skips_roll_back_to_before_the_first() -> None:
    watch = guard("skip-step", "rewind", rewind_skips=3, rewind_within=20)
    feed(watch, 100)
    assert watch.judge(signals(100, 4.0)).action == "skip-step"
    feed(watch, 5, first=101)
    assert watch.judge(signals(106, 4.0)).action == "skip-step"
    verdict = watch.judge(signals(107, 4.0))
    assert verdict.action == "roll-back"
    assert verdict.deciding is not None
    assert verdict.deciding.first == (100, 100)


def test_skips_far_apart_do_not_roll_back() -> None:
    watch = guard("skip-step", "rewind", rewind_skips=3, rewind_within=20)
    feed(watch, 100)
    for first in range(100, 400, 30):
        assert watch.judge(signals(first, 4.0)).action == "skip-step"
        feed(watch, 29, first=first + 1)


def test_a_loss_that_rises_and_stays_rolls_back() -> None:
    watch = guard("rewind", smooth_loss=0.5, patience=20)
    feed(watch, 100)
    verdicts = feed(watch, 60, first=100, loss=lambda _: 3.0)
    first = next(i for i, verdict in enumerate(verdicts) if verdict.action == "roll-back")
    deciding = verdicts[first].deciding
    assert deciding is not None
    assert deciding.first is not None
    assert 100 < deciding.first[0] < 115
    assert first >= 20


def test_large_updates_lower_the_rate_for_a_while() -> None:
    watch = guard("update-size", lower_by=0.5, lower_for=10)
    assert watch.judge(signals(5, 2.0, update_ratio=0.05)).action == "apply"
    verdict = watch.judge(signals(6, 2.0, update_ratio=0.3))
    assert verdict.action == "lower-rate"
    assert [watch.rate_factor(step) for step in (5, 6, 16, 17)] == [1.0, 0.5, 0.5, 1.0]


def test_too_many_rollbacks_stop_the_run_and_the_second_lowers_the_rate() -> None:
    watch = guard("skip-step", "rewind", rewind_skips=1, rollbacks=2)
    feed(watch, 100)
    assert watch.judge(signals(100, 5.0)).action == "roll-back"
    assert watch.rate_factor(100) == 1.0
    assert watch.judge(signals(101, 5.0)).action == "roll-back"
    assert watch.rate_factor(101) == 0.5
    assert watch.judge(signals(102, 5.0)).action == "stop"


@pytest.mark.parametrize("rule", RULES)
def test_a_remembered_guard_decides_the_same(rule: str) -> None:
    watch, again = guard(rule), guard(rule)
    feed(watch, 110)
    again.load(json.loads(json.dumps(watch.state())))
    for i, (loss, norm) in enumerate([(2.0, 1.0), (4.0, 1.6), (30.0, 9.0), (2.0, 1.0)]):
        one, other = (g.judge(signals(110 + i, loss, norm, update_ratio=0.2)) for g in (watch, again))
        assert one == other
    assert watch.state() == again.state()


def test_a_rule_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"no such rule, in guard\.rules, got vibes"):
        guard("vibes")
