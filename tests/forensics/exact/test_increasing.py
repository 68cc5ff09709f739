"""Patience sorting against brute force, and the bound against exhaustive enumeration."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.errors import UsageError
from pedigree.forensics.exact.increasing import increasing_log10_p, increasing_subsequence, longest_increasing


def brute_force(values: list[int]) -> int:
    """Longest strictly increasing subsequence, by trying them all."""
    for length in range(len(values), 0, -1):
        for chosen in itertools.combinations(values, length):
            if all(a < b for a, b in itertools.pairwise(chosen)):
                return length
    return 0


@settings(deadline=None)
@given(st.lists(st.integers(min_value=-5, max_value=8), max_size=9))
def test_patience_sorting_agrees_with_brute_force(values: list[int]) -> None:
    assert longest_increasing(values) == brute_force(values)


@settings(deadline=None)
@given(st.permutations(list(range(40))))
def test_the_length_does_not_depend_on_the_order_in_which_pairs_are_listed(image: list[int]) -> None:
    pairs_K2 = torch.tensor(list(enumerate(image)))
    shuffled_K2 = pairs_K2[torch.randperm(40, generator=torch.Generator().manual_seed(image[0]))]
    assert increasing_subsequence(shuffled_K2).statistic == longest_increasing(image)


@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_the_bound_holds_for_all_permutations(m: int) -> None:
    counts = Counter(longest_increasing(image) for image in itertools.permutations(range(m)))
    for length in counts:
        tail = sum(c for value, c in counts.items() if value >= length) / math.factorial(m)
        assert tail <= 10 ** increasing_log10_p(m, length) * (1 + 1e-12)


@pytest.mark.parametrize("m", [3, 50, 1024])
def test_the_bound_is_monotone_and_never_weaker_than_the_plain_one(m: int) -> None:
    values = [increasing_log10_p(m, length) for length in range(1, min(m, 300) + 1)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))
    for length, value in enumerate(values, start=1):
        plain = math.log10(math.comb(m, length)) - math.lgamma(length + 1) / math.log(10)
        assert value <= min(0.0, plain) + 1e-9


def test_the_order_kept_through_pruning_is_overwhelming_evidence() -> None:
    kept = torch.randperm(1024, generator=torch.Generator().manual_seed(0))[:700].sort().values
    outcome = increasing_subsequence(torch.stack((kept, torch.arange(700)), dim=1))
    assert (outcome.statistic, outcome.n) == (700.0, 700)
    assert outcome.log10_p is not None
    assert outcome.log10_p < -1600


def test_strangers_in_random_order_give_no_evidence() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        pairs_K2 = torch.stack((torch.arange(400), torch.randperm(400, generator=generator)), dim=1)
        assert increasing_subsequence(pairs_K2).log10_p == 0.0


def test_many_units_of_the_child_on_one_parental_unit_make_no_chain() -> None:
    one_parent = torch.stack((torch.zeros(9, dtype=torch.int64), torch.arange(9)), dim=1)
    assert increasing_subsequence(one_parent).statistic == 1.0
    assert increasing_subsequence(one_parent.flip(1)).statistic == 1.0


def test_without_any_pair_the_test_does_not_apply() -> None:
    assert not increasing_subsequence(torch.empty((0, 2), dtype=torch.int64)).applicable


def test_anything_but_index_pairs_is_refused() -> None:
    with pytest.raises(UsageError, match="index pairs"):
        increasing_subsequence(torch.zeros(5, 2))
