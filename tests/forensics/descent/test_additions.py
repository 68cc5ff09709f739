"""What lies between two models that share numbers: noise, another frame, and what was learned apart.

Shapes: N = units, D = residual width, R = rank.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from forensics.tiny_models import Sizes, Tensors, generator, llama, random_rotation, side, turned, words
from torch import Tensor

from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.verdict import judge
from pedigree.forensics.descent.additions import STILL, TRACE, WHITE, Additions, AdditionsMeter, is_untrained, uneven
from pedigree.forensics.descent.gains import LearnedGains
from pedigree.forensics.descent.origin import weigh_origin
from pedigree.forensics.descent.share import Share
from pedigree.forensics.descent.survival import Survival

KEPT_GAINS, OTHER_GAINS = LearnedGains(0.99, 1.0, 0.98, 7), LearnedGains(0.4, 0.4, 0.4, 7)
SIZES = Sizes(d=64, kv_heads=4, head_dim=16, inner=160)
BARE = side(llama(1, SIZES), SIZES.config())


def drawn(seed: int) -> Tensor:
    return torch.randn(160, 64, generator=generator(seed))


def learned(seed: int, rank: int = 3) -> Tensor:
    g = generator(seed)
    return torch.randn(160, rank, generator=g) @ torch.randn(rank, 64, generator=g)


def added(difference_ND: Tensor, start_ND: Tensor | None = None) -> Additions:
    meter = AdditionsMeter()
    start_ND = drawn(1) if start_ND is None else start_ND
    meter.add(start_ND, start_ND + difference_ND)
    found = meter.result(BARE, BARE)
    if found is None:
        raise AssertionError("nothing was laid side by side")
    return found


@pytest.mark.parametrize("size", [0.0005, 0.005, 0.1, 1.0])
def test_noise_has_no_structure(size: float) -> None:
    found = added(size * drawn(2))
    assert found.is_white
    assert found.is_noise(KEPT_GAINS)
    assert found.is_noise(None) == (size < STILL)
    assert found.is_noise(OTHER_GAINS) == (size < STILL)
    assert found.is_noise(None, own=-0.2) == (size < TRACE)
    assert found.structure < WHITE
    assert found.moved == pytest.approx(size, rel=0.1)


def test_steps_of_equal_directions_leave_them_more_even_than_chance_does() -> None:
    """Noise, rounding and masks leave what chance would; sums of orthogonal steps (Muon) do not."""
    start, steps = drawn(1), [torch.linalg.qr(drawn(seed))[0] for seed in range(2, 8)]
    walk = sum((0.7**k * step for k, step in enumerate(steps)), torch.zeros(160, 64))
    mask = (torch.rand(160, 64, generator=generator(3)) < 0.5) * -start
    assert added(walk, start).unevenness < 0.9
    for difference in (0.1 * drawn(2), (start * 4).round() / 4 - start, mask):
        assert added(difference, start).unevenness > 0.95
    assert uneven(torch.ones(64), 160, 64) == pytest.approx(0.0)


def test_what_two_trainings_learned_has() -> None:
    found = added(0.1 * (learned(3) - learned(4)) + 0.05 * drawn(5))
    assert not found.is_noise(KEPT_GAINS)
    assert found.structure > 0.5


def test_a_difference_of_few_directions_is_all_structure() -> None:
    assert added(0.1 * learned(3)).structure == 1.0


def test_another_frame_moves_nothing() -> None:
    found = added(1e-4 * learned(3))
    assert found.moved < TRACE
    assert found.is_noise(None)


def test_a_few_steps_at_a_low_rate_are_no_cast() -> None:
    """Two trainings that hardly moved lie as near as a cast or an 8-bit copy does; what moved them has directions."""
    found = added(0.005 * (learned(3) - learned(4)) / 3**0.5)
    assert TRACE < found.moved < STILL
    assert not found.is_noise(None)
    assert not found.is_noise(KEPT_GAINS)


def test_a_model_one_step_from_its_start_may_be_what_the_other_began_with() -> None:
    """Where one side learned nothing that can be seen and all of the difference is the other's, a recorded edge from
    the one to the other is not contradicted."""
    start = Survival(0.88, 0.88, 0.09, 21, residual=0.92, own=-0.12, alike=0.55, excess=0.0003)
    child = Survival(0.14, 0.61, 0.76, 21, residual=15.4, own=-0.93, alike=0.55, excess=0.37)
    stepped = Additions(1.4, 0.6, True, 21)
    of_child, of_both = Share(0.12, 0.04, 1.15, 21), Share(0.48, 0.04, 1.15, 21)
    assert weigh_origin(start, child, of_child, None, stepped, gainless=True).origin == "unknown"
    assert weigh_origin(start, child, of_both, None, stepped, gainless=True).origin == "start"
    assert (
        weigh_origin(start, child, of_child, None, replace(stepped, untrained=False), gainless=True).origin == "start"
    )


def test_gains_of_one_value_were_never_trained() -> None:
    plain = {k: torch.ones_like(t) if "norm" in k else t for k, t in llama(1, SIZES).items()}
    moved = {k: t + 0.01 * torch.randn(t.shape, generator=generator(7)) if "norm" in k else t for k, t in plain.items()}
    stepped = {
        k: t + 1e-5 * torch.randn(t.shape, generator=generator(7)).sign() if "norm" in k else t
        for k, t in plain.items()
    }
    assert is_untrained(side(plain, SIZES.config()))
    assert is_untrained(side(stepped, SIZES.config()))  # one step of an optimizer
    assert not is_untrained(side(moved, SIZES.config()))


@pytest.mark.parametrize(
    ("additions", "share", "origin"),
    [
        (Additions(0.2, 0.0, True, 9, both_untrained=True), Share(0.02, 0.01, 0.2, 9), "descent"),
        (Additions(0.2, 0.0, True, 9, both_untrained=True), None, "unknown"),
        (Additions(0.2, 0.0, True, 9, both_untrained=True, unevenness=0.8), None, "unknown"),
        (Additions(0.2, 0.0, False, 9), None, "unknown"),
        (Additions(0.000002, 0.9, False, 9), None, "descent"),
        (Additions(0.0002, 0.9, False, 9), None, "unknown"),
        (Additions(0.005, 0.9, False, 9), None, "unknown"),
        (Additions(0.2, 0.6, False, 9), None, "unknown"),
        (Additions(0.2, 0.6, True, 9, bare="a"), Share(0.02, 0.01, 0.2, 9), "unknown"),
        (Additions(0.2, 0.6, True, 9, bare="b"), Share(0.02, 0.01, 0.2, 9), "unknown"),
        (Additions(0.2, 0.6, True, 9), Share(0.02, 0.01, 0.2, 9), "unknown"),
        (Additions(0.2, 0.6, True, 9, bare="a"), Share(0.45, 0.01, 0.2, 9), "unknown"),
    ],
    ids=[
        "noise",
        "noise in both",
        "more even than noise, gains folded away",
        "no strong directions, by Muon perhaps",
        "another frame",
        "a step",
        "a few steps at a low rate",
        "learned",
        "learned on what may be a bare start",
        "the bare one has all of the difference",
        "gains that were frozen in both",
        "both learned",
    ],
)
def test_where_nothing_can_be_seen_of_learning_the_difference_speaks(
    additions: Additions, share: Share | None, origin: str
) -> None:
    kept = Survival(1.0, 1.0, 0.1, 9, residual=1.5, own=-0.3, alike=0.97, excess=0.001)
    whole = replace(kept, own=-0.02)
    if share is None:
        share = Share(0.4, 0.01, 0.2, 9)
    assert weigh_origin(whole, kept, share, None, additions).origin == origin
    if additions.is_white:  # taken away from both
        assert weigh_origin(kept, kept, share, None, additions).origin == "unknown"


def test_what_was_learned_and_is_seen_speaks_for_itself() -> None:
    """Noise on top of a twin: the difference is noise for the most part, and what one learned is gone all the same."""
    gone = Survival(0.1, 0.8, 0.9, 9, own=-0.6, alike=0.7, excess=0.2)
    assert weigh_origin(gone, gone, Share(0.5, 0.1, 0.5, 9), None, Additions(0.5, 0.01, False, 9)).origin == "start"


def started_alike(seed: int, size: float) -> Tensors:
    """A training of the start that seed 1 draws."""
    start = llama(1, SIZES)
    out: Tensors = {}
    for number, (name, tensor) in enumerate(start.items()):
        if tensor.ndim == 2:
            g = generator(1000 * seed + number)
            change = torch.randn(tensor.shape[0], 3, generator=g) @ torch.randn(3, tensor.shape[1], generator=g)
            out[name] = tensor + change * (size * float(tensor.norm()) / float(change.norm()))
        else:
            out[name] = 1.0 + 0.02 * torch.randn(tensor.shape, generator=generator(1000 * seed + number))
    return out


def word(a: Tensors, b: Tensors) -> str:
    left, right = (side(model, SIZES.config(), tokens=words(SIZES.vocab)) for model in (a, b))
    return judge(left, right, measure(left, right, whole_bits=True)).verdict


@pytest.mark.parametrize("size", [0.1, 0.3, 1.0])
def test_trainings_of_one_start_are_never_called_related(size: float) -> None:
    assert word(started_alike(2, size), started_alike(3, size)) in ("shared-initialization", "inconclusive")


def test_noise_on_a_model_that_learned_nothing_visible_is_a_relation() -> None:
    start = llama(1, SIZES)
    noisy = {k: t + 0.3 * float(t.std()) * torch.randn(t.shape, generator=generator(9)) for k, t in start.items()}
    assert word(start, noisy) == "related"


def test_matrices_that_were_put_into_a_stranger_are_no_common_start() -> None:
    """Some are the same, the others share nothing: seen together they would look like twins that learned much."""
    gone = Survival(0.1, 0.5, 0.9, 9, own=-0.6, alike=0.5, excess=0.2)
    share = Share(0.5, 0.1, 0.5, 9)
    assert weigh_origin(gone, gone, share, None, Additions(0.5, 0.5, False, 9)).origin == "start"
    assert weigh_origin(gone, gone, share, None, Additions(0.5, 0.5, False, 9, 0.04, 1.4)).origin == "unknown"


def whitened_training(seed: int, size: float) -> Tensors:
    """A training of the start that seed 1 draws whose steps have no strong directions; gains go their own way."""
    return {
        name: tensor + size * float(tensor.std()) * torch.randn(tensor.shape, generator=generator(1000 * seed + number))
        if tensor.ndim == 2
        else 1.0 + 0.02 * torch.randn(tensor.shape, generator=generator(1000 * seed + number))
        for number, (name, tensor) in enumerate(llama(1, SIZES).items())
    }


@pytest.mark.parametrize("size", [0.1, 0.3])
def test_trainings_of_one_start_whose_steps_have_no_strong_directions_are_not_called_related(size: float) -> None:
    """Muon makes all directions of a step equally long: what two such trainings leave looks like noise."""
    assert word(whitened_training(2, size), whitened_training(3, size)) in ("shared-initialization", "inconclusive")


def test_noise_is_never_more_even_than_noise() -> None:
    """Simulated under the null: matrices of three shapes drawn at random, 200 differences of six matrices each."""
    shapes, g = ((160, 64), (64, 96), (24, 200)), generator(7)
    found = []
    for _ in range(200):
        meter = AdditionsMeter()
        for shape in shapes * 2:
            start_ND = torch.randn(shape, generator=g)
            meter.add(start_ND, start_ND + 0.2 * torch.randn(shape, generator=g))
        found.append(meter.result(BARE, BARE))
    standard = torch.tensor([(one.unevenness - 1.0) / one.unevenness_error for one in found if one is not None])
    assert len(standard) == 200
    assert abs(float(standard.mean())) < 0.3
    assert 0.7 < float(standard.std()) < 1.3
    assert not any(one.is_too_even for one in found if one is not None)


def even_steps(start: Tensors, seed: int, size: float = 0.15, steps: int = 4) -> Tensors:
    """Muon's: the polar factors of a few drawn matrices."""
    out = dict(start)
    for number, (name, tensor) in enumerate(start.items()):
        if tensor.ndim == 2 and "layers" in name:
            g, few = generator(1000 * seed + number), min(tensor.shape)
            for _ in range(steps):
                u, _, vt = torch.linalg.svd(torch.randn(tensor.shape, generator=g), full_matrices=False)
                out[name] = out[name] + (u @ vt) * (size * float(tensor.norm()) / math.sqrt(few * steps))
    return out


@pytest.mark.parametrize("turn", [False, True])
def test_trainings_with_even_steps_whose_gains_were_folded_are_not_called_related(turn: bool) -> None:
    """Nothing is left that says it but the evenness of the steps: neither has gains, or strong directions."""
    ones = {name: torch.ones_like(t) if t.ndim == 1 else t for name, t in llama(1, SIZES).items()}
    one, other = even_steps(ones, 2), even_steps(ones, 3)
    if turn:
        other = turned(other, random_rotation(SIZES.d, 5))
    assert word(one, other) in ("shared-initialization", "inconclusive")


def noisy(tensors: Tensors, seed: int, size: float = 0.1) -> Tensors:
    return {
        name: t + size * float(t.std()) * torch.randn(t.shape, generator=generator(1000 * seed + number))
        if t.ndim == 2
        else t
        for number, (name, t) in enumerate(tensors.items())
    }


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_gains_are_read_where_a_noisy_copy_had_them_folded(turn: bool, swap: bool) -> None:
    parent = llama(1, SIZES)
    turn_DD = random_rotation(SIZES.d, 5) if turn else torch.eye(SIZES.d)
    copy = turned(noisy(parent, 2), turn_DD)
    other_gains = {n: t if t.ndim == 2 else llama(9, SIZES)[n] for n, t in parent.items()}
    apart = turned(noisy(other_gains, 2), turn_DD)
    for child, right in ((copy, ("related",)), (apart, ("shared-initialization", "inconclusive"))):
        assert word(*((child, parent) if swap else (parent, child))) in right


def test_twins_without_gains_that_lack_what_the_other_learned_are_left_open() -> None:
    """A pair of Lion's: it learned the same in its first steps, and no gains say that it went apart."""
    one = Survival(0.959, 0.977, 0.021, 18, residual=1.32, own=-0.226, alike=0.964, excess=0.085)
    other = Survival(0.941, 0.971, 0.036, 18, residual=1.25, own=-0.288, alike=0.964, excess=0.09)
    share, white = Share(0.445, 0.024, 0.23, 18), Additions(0.25, 0.32, False, 18)
    assert weigh_origin(one, other, share, None, white).origin == "unknown"
    assert weigh_origin(one, other, share, None, white, gainless=True).origin == "unknown"
    one, other = replace(one, excess=0.2), replace(other, excess=0.2)  # the more was learned, the likelier descent
    assert weigh_origin(one, other, share, None, white).origin == "descent"  # in another frame this limit stays
    assert weigh_origin(one, other, share, None, white, gainless=True).origin == "unknown"
    parent = Share(0.05, 0.024, 0.23, 18)
    assert weigh_origin(one, other, parent, None, white, gainless=True).origin == "descent"
