"""Same random start, or descent: made-up matrices with a start and something learned on top of it."""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import generator
from torch import Tensor

from pedigree.forensics.survival import Survival, SurvivalMeter, origin_of

N, D, RANK = 320, 192, 8


def start(seed: int) -> Tensor:
    return torch.randn(N, D, generator=generator(seed))


def learned(seed: int, size: float = 2.0) -> Tensor:
    """A few strong directions, as training leaves them."""
    g = generator(10_000 + seed)
    return size * torch.randn(N, RANK, generator=g) @ torch.randn(RANK, D, generator=g)


def both(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Survival, Survival]:
    forward, backward = SurvivalMeter(), SurvivalMeter()
    for a, b in pairs:
        forward.add(a, b)
        backward.add(b, a)
    there, back = forward.result(), backward.result()
    assert there is not None
    assert back is not None
    return there, back


SEEDS = range(6)


def parents() -> list[Tensor]:
    return [start(s) + learned(s) for s in SEEDS]


def test_in_a_copy_everything_lives_on() -> None:
    there, back = both([(p, p) for p in parents()])
    assert there.top == pytest.approx(1.0)
    assert there.middle == pytest.approx(1.0)
    assert there.matrices == len(SEEDS)
    assert origin_of(there, back) == "descent"


def test_in_a_twin_the_start_lives_on_and_what_was_learned_does_not() -> None:
    there, back = both([(p, start(s) + learned(100 + s)) for s, p in enumerate(parents())])
    assert there.top < 0.4
    assert there.middle > 0.6
    assert origin_of(there, back) == "start"
    assert origin_of(back, there) == "start"


def test_in_a_child_that_went_on_learning_what_was_learned_lives_on() -> None:
    there, back = both([(p, p + learned(200 + s, 1.5)) for s, p in enumerate(parents())])
    assert there.ratio > 0.9
    assert origin_of(there, back) == "descent"
    assert origin_of(back, there) == "descent"


def test_a_child_under_noise_is_a_child() -> None:
    there, back = both([(p, p + start(300 + s)) for s, p in enumerate(parents())])
    assert origin_of(there, back) == "descent"


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_merge_with_a_stranger_is_not_a_twin(share: float) -> None:
    merged = [share * p + (1 - share) * (start(400 + s) + learned(400 + s)) for s, p in enumerate(parents())]
    there, back = both(list(zip(parents(), merged, strict=True)))
    assert there.top == pytest.approx(share, abs=0.15)
    assert origin_of(there, back) == "descent"


def test_matrices_too_small_or_silent_are_passed_over() -> None:
    meter = SurvivalMeter()
    meter.add(torch.randn(8, D), torch.randn(8, D))
    meter.add(start(0), torch.zeros(N, D))
    meter.add(torch.zeros(N, D), torch.zeros(N, D))
    assert meter.result() is None
    assert origin_of(None, None) == "unknown"


def test_one_side_is_enough_to_tell() -> None:
    there, _ = both([(p, start(s) + learned(100 + s)) for s, p in enumerate(parents())])
    assert origin_of(there, None) == "start"
    assert origin_of(None, there) == "start"


def test_a_shared_scale_changes_nothing_about_the_answer() -> None:
    there, back = both([(p, 3.0 * p) for p in parents()])
    assert there.ratio == pytest.approx(1.0)
    assert origin_of(there, back) == "descent"


def test_twins_that_learned_little_are_told_by_what_their_difference_takes_away() -> None:
    """The start makes most of every direction, so the ratio alone would call them parent and child."""
    pairs = [(start(s) + learned(s, 0.35), start(s) + learned(100 + s, 0.35)) for s in SEEDS]
    there, back = both(pairs)
    assert max(there.own, back.own) < -0.5
    assert origin_of(there, back) != "descent"
    child = [(a, a + learned(200 + s, 0.2)) for s, (a, _) in enumerate(pairs)]
    there, back = both(child)
    assert max(there.own, back.own) > -0.2
    assert origin_of(there, back) == "descent"


def test_between_the_clear_answers_nothing_is_said() -> None:
    faint = Survival(0.78, 0.92, 0.2, 12, 4.0, -0.3)
    assert origin_of(faint, faint) == "unknown"
    assert origin_of(Survival(0.78, 0.92, 0.2, 12, 4.0, -0.6), Survival(0.78, 0.9, 0.2, 12, 4.0, -0.6)) == "start"
    assert origin_of(Survival(0.85, 0.92, 0.2, 12, 4.0, -0.1), faint) == "descent"


def test_directions_that_a_matrix_of_low_rank_does_not_have_are_not_followed() -> None:
    g = generator(5)
    low = torch.randn(N, 20, generator=g) @ torch.randn(20, D, generator=g)
    meter = SurvivalMeter()
    meter.add(low, low + 1e-4 * torch.randn(N, D, generator=g))
    found = meter.result()
    assert found is not None
    assert found.middle == pytest.approx(1.0, abs=1e-2)
    rank_eight = torch.randn(N, 8, generator=g) @ torch.randn(8, D, generator=g)
    other = SurvivalMeter()
    other.add(rank_eight, rank_eight)
    assert other.result() is None


def test_a_small_share_that_scatters_is_even_on_the_average_where_little_is_left() -> None:
    """Followed from the minor parent of a merge in a narrow model; a twin of which as little is left stays one."""
    merged = Survival(0.19, 0.2, 0.45, 12), Survival(0.09, 0.5, 0.8, 12)
    assert origin_of(*merged) == "start"
    assert origin_of(*merged, faint=True) == "descent"
    assert origin_of(*reversed(merged), faint=True) == "descent"
    twin = Survival(0.05, 0.22, 0.8, 12), Survival(0.04, 0.2, 0.8, 12)
    assert origin_of(*twin, faint=True) == "start"
    long_trained = Survival(0.13, 0.84, 0.8, 12), Survival(0.22, 0.2, 0.8, 12)
    assert origin_of(*long_trained, faint=True) == "start"
