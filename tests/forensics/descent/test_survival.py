"""What lives on: made-up matrices with a start and something learned on top of it."""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import generator
from torch import Tensor

from pedigree.forensics.descent.survival import Survival, SurvivalMeter, bulk_spectrum, visible_learning

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
    there, _ = both([(p, p) for p in parents()])
    assert there.top == pytest.approx(1.0)
    assert there.middle == pytest.approx(1.0)
    assert there.alike == pytest.approx(1.0)
    assert there.matrices == len(SEEDS)


def test_in_a_twin_the_start_lives_on_and_what_was_learned_does_not() -> None:
    there, _ = both([(p, start(s) + learned(100 + s)) for s, p in enumerate(parents())])
    assert there.top < 0.4
    assert there.middle > 0.6
    assert there.own < -0.7


def test_in_a_child_that_went_on_learning_what_was_learned_lives_on() -> None:
    there, back = both([(p, p + learned(200 + s, 1.5)) for s, p in enumerate(parents())])
    assert there.ratio > 0.9
    assert there.own > -0.1
    assert back.own < -0.4


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_merge_with_a_stranger_lives_on_by_one_share(share: float) -> None:
    merged = [share * p + (1 - share) * (start(400 + s) + learned(400 + s)) for s, p in enumerate(parents())]
    there, _ = both(list(zip(parents(), merged, strict=True)))
    assert there.top == pytest.approx(share, abs=0.15)
    assert there.middle == pytest.approx(share, abs=0.15)


def test_matrices_too_small_or_silent_are_passed_over() -> None:
    meter = SurvivalMeter()
    meter.add(torch.randn(8, D), torch.randn(8, D))
    meter.add(start(0), torch.zeros(N, D))
    meter.add(torch.zeros(N, D), torch.zeros(N, D))
    assert meter.result() is None


@pytest.mark.parametrize("shape", [(24, 24), (32, 96), (64, 192)])
def test_the_spectrum_of_a_random_matrix_is_the_one_that_is_expected(shape: tuple[int, int]) -> None:
    drawn = torch.stack([torch.linalg.svdvals(torch.randn(*shape, generator=generator(k))) for k in range(20)]) ** 2
    expected = torch.tensor(bulk_spectrum(*shape))
    assert float((drawn.mean(0) / expected - 1.0)[: shape[0] * 2 // 3].abs().max()) < 0.1


def test_a_random_matrix_shows_no_learning_and_a_trained_one_does() -> None:
    for seed in range(10):
        assert visible_learning(torch.linalg.svdvals(start(seed)), N) < 0.01
    seen = [visible_learning(torch.linalg.svdvals(start(0) + learned(0, size)), N) for size in (0.1, 0.35, 2.0)]
    assert seen[0] < 0.05 < 0.3 < seen[1] < seen[2]


def test_a_direction_that_a_norm_took_away_does_not_hide_what_was_learned() -> None:
    """LayerNorm takes the mean out of every reader, which leaves a matrix one direction short."""
    whole = start(0)[:D] + learned(0)[:D]
    meter = SurvivalMeter()
    centered = whole - whole.mean(dim=1, keepdim=True)
    meter.add(centered, centered + 0.1 * start(1)[:D])
    found = meter.result()
    assert found is not None
    assert found.excess > 0.5


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


def test_independent_matrices_live_on_by_chance_and_a_tenth_of_a_parent_beyond_it() -> None:
    """Under the null a standard normal number, whatever both learned and however narrow they are."""
    drawn = []
    for k in range(150):
        g = generator(k)
        shapes = [(32, 32), (96, 32), (32, 48)] * 2
        pairs = [(torch.randn(n, d, generator=g), 2.0 * torch.randn(n, d, generator=g)) for n, d in shapes]
        if k % 2:
            pairs = [(a + a[:, :1] @ a[:1], b + 0.5 * b[:, :1] @ b[:1]) for a, b in pairs]
        drawn.append(both(pairs)[0].beyond_chance)
    told = torch.tensor(drawn)
    assert abs(float(told.mean())) < 0.3
    assert 0.8 < float(told.std()) < 1.25
    assert float(told.max()) < 4.5
    parents = [torch.randn(64, 64, generator=generator(k)) for k in range(7)]
    merged = [0.2 * p + 0.8 * torch.randn(64, 64, generator=generator(50 + k)) for k, p in enumerate(parents)]
    assert both(list(zip(parents, merged, strict=True)))[0].beyond_chance > 10.0
