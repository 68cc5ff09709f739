"""The fixed-point bound against exhaustive enumeration, and the count against plain cases."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from pedigree.errors import UsageError
from pedigree.forensics.exact.fixed_points import fixed_points, fixed_points_log10_p


def identity_pairs(n: int) -> Tensor:
    """Every unit matched with its namesake, pairs_K2."""
    return torch.arange(n)[:, None].repeat(1, 2)


def tails(counts: Counter[int]) -> dict[int, float]:
    """P(K >= k) for every k that occurs."""
    total = sum(counts.values())
    return {k: sum(c for value, c in counts.items() if value >= k) / total for k in counts}


def injection_counts(m: int, n: int) -> Counter[int]:
    """Fixed points of all injections of m units into n."""
    return Counter(sum(i == j for i, j in enumerate(image)) for image in itertools.permutations(range(n), m))


@pytest.mark.parametrize(("m", "n"), [(6, 6), (4, 6), (2, 7), (6, 7), (1, 1)])
def test_the_bound_holds_for_every_injection_between_sizes(m: int, n: int) -> None:
    for k, tail in tails(injection_counts(m, n)).items():
        assert tail <= 10 ** fixed_points_log10_p(k) * (1 + 1e-12)


@pytest.mark.parametrize("layers", [2, 3])
def test_the_bound_holds_for_sums_over_independent_layers(layers: int) -> None:
    total: Counter[int] = Counter({0: 1})
    for _ in range(layers):
        step: Counter[int] = Counter()
        for (a, ways_a), (b, ways_b) in itertools.product(total.items(), injection_counts(5, 5).items()):
            step[a + b] += ways_a * ways_b
        total = step
    for k, tail in tails(total).items():
        assert tail <= 10 ** fixed_points_log10_p(k, layers=layers) * (1 + 1e-12)


def test_the_bound_holds_when_several_units_choose_the_same_partner() -> None:
    # Six units of B choose among four of A, with collisions; the numbering of A is what is random.
    choice = (0, 0, 1, 2, 2, 3)
    counts = Counter(sum(s[f] == j for j, f in enumerate(choice)) for s in itertools.permutations(range(4)))
    for k, tail in tails(counts).items():
        assert tail <= 10 ** fixed_points_log10_p(k) * (1 + 1e-12)


@pytest.mark.parametrize("layers", [1, 2, 24, 96])
def test_the_bound_is_monotone_and_never_weaker_than_the_plain_one(layers: int) -> None:
    values = [fixed_points_log10_p(k, layers=layers) for k in range(3000)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))
    for k in (1, 10, 100, 1000):
        plain = k * math.log10(layers) - math.lgamma(k + 1) / math.log(10)
        assert values[k] <= min(0.0, plain) + 1e-9


def test_one_layer_gives_one_over_k_factorial() -> None:
    assert fixed_points_log10_p(20) == pytest.approx(math.log10(Fraction(1, math.factorial(20))), rel=1e-12)


def test_counts_add_up_over_layers_and_empty_layers_cost_nothing() -> None:
    none = torch.empty((0, 2), dtype=torch.int64)
    shifted = torch.stack((torch.arange(8), (torch.arange(8) + 1) % 8), dim=1)
    outcome = fixed_points([identity_pairs(20), none, shifted])
    assert (outcome.statistic, outcome.n) == (20.0, 28)
    assert outcome.extra == {"layers": 2, "per_layer": [20, 0, 0]}
    assert outcome.log10_p == pytest.approx(fixed_points_log10_p(20, layers=2))


def test_a_layer_count_of_strangers_is_no_evidence() -> None:
    one_each = [torch.tensor([[0, 0], [1, 2], [2, 1]])] * 24
    assert fixed_points(one_each).log10_p == 0.0


def test_without_any_pair_the_test_does_not_apply() -> None:
    outcome = fixed_points([torch.empty((0, 2), dtype=torch.int64)])
    assert not outcome.applicable
    assert outcome.why_not is not None
    assert "no unit" in outcome.why_not
    assert not fixed_points([]).applicable


def test_a_matching_that_repeats_units_on_both_sides_does_not_apply() -> None:
    outcome = fixed_points([torch.tensor([[0, 0], [0, 1], [1, 1]])])
    assert not outcome.applicable
    assert fixed_points([torch.tensor([[0, 0], [0, 1], [1, 2]])]).applicable


@pytest.mark.parametrize(
    "bad", [torch.zeros(3, 2), torch.zeros(3, 3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)]
)
def test_anything_but_index_pairs_is_refused(bad: Tensor) -> None:
    with pytest.raises(UsageError, match=r"index pairs.*layer 0"):
        fixed_points([bad])
