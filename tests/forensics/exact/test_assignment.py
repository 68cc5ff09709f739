"""Matchings see no index: relabeling units relabels pairs, and ambiguous units never line up by accident."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pedigree.errors import UsageError
from pedigree.forensics.exact.assignment import ambiguous_rows, assign, best_match, mutual_nearest, permutation_z
from pedigree.forensics.exact.fixed_points import fixed_points

Matcher = Callable[[Tensor], Tensor]
MATCHERS = [mutual_nearest, assign]
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000))


def random_units(n: int, d: int, seed: int) -> Tensor:
    """n unit rows of d Gaussian numbers."""
    rows_ND = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows_ND, dim=1)


def with_dead_units(seed: int) -> tuple[Tensor, Tensor]:
    """Two unrelated layers of 40 units; fifteen of each are dead, at the same places."""
    a_ND, b_ND = random_units(40, 12, seed), random_units(40, 12, seed + 1)
    a_ND[10:25] = 0.0
    b_ND[10:25] = 0.0
    return a_ND, b_ND


@pytest.mark.parametrize("match", MATCHERS)
@settings(max_examples=40, deadline=None)
@given(shape=SHAPES)
def test_relabeling_units_relabels_the_pairs(match: Matcher, shape: tuple[int, int, int]) -> None:
    n_a, n_b, seed = shape
    generator = torch.Generator().manual_seed(seed)
    sim_AB = torch.randn(n_a, n_b, generator=generator)
    p_A, q_B = torch.randperm(n_a, generator=generator), torch.randperm(n_b, generator=generator)
    plain = {(int(i), int(j)) for i, j in match(sim_AB)}
    moved = {(int(p_A[i]), int(q_B[j])) for i, j in match(sim_AB[p_A][:, q_B])}
    assert moved == plain


@settings(max_examples=40, deadline=None)
@given(SHAPES)
def test_mutual_nearest_units_are_best_in_row_and_column(shape: tuple[int, int, int]) -> None:
    n_a, n_b, seed = shape
    sim_AB = torch.randn(n_a, n_b, generator=torch.Generator().manual_seed(seed))
    expected = [
        [i, j]
        for i, j in itertools.product(range(n_a), range(n_b))
        if sim_AB[i, j] == sim_AB[i].max() and sim_AB[i, j] == sim_AB[:, j].max()
    ]
    assert mutual_nearest(sim_AB).tolist() == expected


@pytest.mark.parametrize("n_b", [4, 6])
def test_the_assignment_has_the_largest_total(n_b: int) -> None:
    sim_AB = torch.randn(4, n_b, generator=torch.Generator().manual_seed(n_b))
    best = max(sum(float(sim_AB[i, j]) for i, j in enumerate(image)) for image in itertools.permutations(range(n_b), 4))
    pairs_K2 = assign(sim_AB)
    assert len(pairs_K2) == 4
    assert float(sim_AB[pairs_K2[:, 0], pairs_K2[:, 1]].sum()) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("match", MATCHERS)
@pytest.mark.parametrize("blank", [0.0, float("nan")])
def test_dead_units_never_line_up(match: Matcher, blank: float) -> None:
    a_ND, b_ND = with_dead_units(5)
    sim_AB = a_ND @ b_ND.T
    sim_AB[10:25] = blank
    sim_AB[:, 10:25] = blank
    dead = set(range(10, 25))
    pairs_K2 = match(sim_AB)
    assert len(pairs_K2) > 5
    assert not dead & {int(i) for i in pairs_K2.flatten()}
    assert fixed_points([pairs_K2]).statistic <= 3


def test_an_argmax_that_settles_ties_by_index_would_line_dead_units_up() -> None:
    # The trap that the rule above avoids: a solver that keeps dead units pairs them in order.
    from scipy.optimize import linear_sum_assignment

    a_ND, b_ND = torch.zeros(30, 4), torch.zeros(30, 4)
    rows, columns = linear_sum_assignment((a_ND @ b_ND.T).numpy(), maximize=True)
    assert (rows == columns).mean() > 0.9
    assert len(assign(a_ND @ b_ND.T)) == 0
    assert len(mutual_nearest(a_ND @ b_ND.T)) == 0


@pytest.mark.parametrize("match", MATCHERS)
@pytest.mark.parametrize("side", [0, 1])
def test_duplicated_units_are_left_out_although_products_round_differently(match: Matcher, side: int) -> None:
    a_ND, b_ND = random_units(60, 33, 1), random_units(60, 33, 2)
    (a_ND, b_ND)[side][40:50] = (a_ND, b_ND)[side][20:30]
    noise = 1e-7 * torch.randn(60, 60, generator=torch.Generator().manual_seed(3))
    pairs_K2 = match(a_ND @ b_ND.T + noise)
    touched = {int(i) for i in pairs_K2[:, side]}
    assert not touched & ({*range(20, 30)} | {*range(40, 50)})


def test_ambiguous_units_are_exactly_the_dead_and_the_duplicated() -> None:
    sim_AB = random_units(30, 16, 4) @ random_units(50, 16, 5).T
    sim_AB[3] = 0.0
    sim_AB[7] = float("nan")
    sim_AB[20] = sim_AB[11]
    assert torch.nonzero(ambiguous_rows(sim_AB)).flatten().tolist() == [3, 7, 11, 20]


def test_best_match_finds_each_copied_unit_in_a_widened_child() -> None:
    parent_ND = random_units(20, 16, 6)
    origin = torch.cat((torch.arange(20), torch.arange(8)))
    child_ND = parent_ND[origin] + 1e-3 * random_units(28, 16, 7)
    assert torch.equal(best_match(child_ND @ parent_ND.T), origin)


def test_best_match_settles_ties_without_a_taste_for_low_indices() -> None:
    unit_ND = random_units(1, 16, 8)
    doubled = torch.cat((unit_ND, random_units(98, 16, 9), unit_ND))
    picks = [int(best_match(unit_ND @ doubled.T, seed=seed)) for seed in range(200)]
    assert set(picks) == {0, 99}
    assert 70 <= picks.count(0) <= 130
    assert best_match(unit_ND @ doubled.T).tolist() == best_match(unit_ND @ doubled.T).tolist()


def test_best_match_of_a_dead_unit_is_nothing() -> None:
    sim_AB = random_units(5, 8, 10) @ random_units(6, 8, 11).T
    sim_AB[1] = 0.0
    sim_AB[4] = float("nan")
    assert (best_match(sim_AB) < 0).tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("match", [mutual_nearest, assign, best_match, ambiguous_rows])
@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_empty_layers_match_nothing(match: Matcher, shape: tuple[int, int]) -> None:
    answer = match(torch.empty(shape))
    assert len(answer) == (shape[0] if match in (best_match, ambiguous_rows) else 0)


@pytest.mark.parametrize("match", [mutual_nearest, assign, best_match, ambiguous_rows])
def test_similarities_must_form_a_matrix(match: Matcher) -> None:
    with pytest.raises(UsageError, match="matrix"):
        match(torch.zeros(3))


@pytest.mark.parametrize("match_A", [[0, 1, 2, 3, 4], [4, 2, 2, 0, 6], [5, 5, 5, 1, 1]])
def test_held_out_mean_and_variance_are_those_of_all_shuffles_of_units(match_A: list[int]) -> None:
    score_AB = torch.randn(5, 7, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    units = sorted(set(match_A))
    place = [units.index(column) for column in match_A]
    all_T = torch.stack([score_AB[torch.arange(5), list(map(p.__getitem__, place))].mean()
                         for p in itertools.permutations(units)])  # fmt: skip
    z, effect = permutation_z(score_AB, torch.tensor(match_A))
    observed = score_AB[torch.arange(5), match_A].mean()
    assert effect == pytest.approx(float(observed - all_T.mean()), abs=1e-12)
    assert z == pytest.approx(float((observed - all_T.mean()) / all_T.std(correction=0)), rel=1e-9)


def test_held_out_z_agrees_with_sampled_shuffles_of_a_large_match() -> None:
    generator = torch.Generator().manual_seed(13)
    score_AB = torch.rand(120, 300, generator=generator).square()
    match_A = torch.randint(0, 80, (120,), generator=generator)  # with many repetitions
    score_AB[torch.arange(40), match_A[:40]] += 0.3
    rows = torch.arange(120)
    units_C, place_A = torch.unique(match_A, return_inverse=True)
    shuffles = [units_C[torch.randperm(len(units_C), generator=generator)] for _ in range(4000)]
    shuffled_T = torch.stack([score_AB[rows, shuffle_C[place_A]].mean() for shuffle_C in shuffles])
    z, effect = permutation_z(score_AB, match_A)
    observed = score_AB[rows, match_A].mean()
    assert effect == pytest.approx(float(observed - shuffled_T.mean()), abs=4 * float(shuffled_T.std()) / 4000**0.5)
    assert z == pytest.approx(float((observed - shuffled_T.mean()) / shuffled_T.std()), rel=0.06)


def test_many_units_that_meet_few_are_no_more_evidence_than_the_few() -> None:
    """160 units over a latent of rank 4, as latent attention has them, against 12: those that choose the same unit are
    alike in what is held out too, and the scores of strangers still keep a spread of one."""
    generator = torch.Generator().manual_seed(21)

    def directions(n: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(n, 32, generator=generator), dim=1)

    by_unit, by_row = [], []
    for _ in range(200):
        latent_AR = torch.randn(160, 4, generator=generator)
        match_A = (latent_AR @ directions(4) @ directions(12).T).argmax(dim=1)
        score_AB = (latent_AR @ directions(4) @ directions(12).T).abs()
        by_unit.append(permutation_z(score_AB, match_A)[0])
        by_row.append(permutation_z(score_AB[:, match_A], torch.arange(160))[0])
    assert 0.85 < float(torch.tensor(by_unit).std()) < 1.15
    assert max(by_unit) < 4.5
    assert float(torch.tensor(by_row).std()) > 2.0  # what counting rows would make of the same strangers


def test_copies_of_a_unit_count_once() -> None:
    """Eight copies of each unit on both sides say no more than one."""
    generator = torch.Generator().manual_seed(22)
    score_AB = torch.rand(16, 16, generator=generator)
    match_A = torch.randperm(16, generator=generator)
    once = permutation_z(score_AB, match_A)
    copied_AB = score_AB.repeat_interleave(8, dim=0).repeat_interleave(8, dim=1)
    copied_A = match_A.repeat_interleave(8) * 8 + torch.randint(0, 8, (128,), generator=generator)
    labels_B = torch.arange(16).repeat_interleave(8)
    assert permutation_z(copied_AB, copied_A, labels_B) == pytest.approx(once, rel=1e-9)
    assert permutation_z(copied_AB, copied_A)[0] > 2 * once[0] or once[0] < 0


def test_held_out_score_leaves_unmatched_and_dead_units_out() -> None:
    generator = torch.Generator().manual_seed(14)
    score_AB = torch.randn(30, 20, generator=generator)
    match_A = torch.randint(0, 19, (30,), generator=generator)
    expected = permutation_z(score_AB[:25], match_A[:25])
    match_A[25] = -1
    score_AB[26] = float("nan")
    match_A[27:30] = 19
    score_AB[:, 19] = float("nan")
    assert permutation_z(score_AB, match_A) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("score_AB", "match_A"),
    [
        (torch.ones(6, 6), torch.arange(6)),
        (torch.eye(6), torch.zeros(6, dtype=torch.int64)),
        (torch.ones(1, 6), torch.tensor([2])),
        (torch.empty(0, 6), torch.empty(0, dtype=torch.int64)),
        (torch.ones(3, 6), torch.full((3,), -1)),
        (torch.full((3, 3), float("nan")), torch.arange(3)),
    ],
)
def test_a_match_that_shuffling_cannot_change_scores_zero(score_AB: Tensor, match_A: Tensor) -> None:
    assert permutation_z(score_AB, match_A) == (0.0, 0.0)


def test_a_match_that_does_not_fit_its_scores_is_refused() -> None:
    with pytest.raises(UsageError, match="one column index per row"):
        permutation_z(torch.zeros(3, 4), torch.arange(4))
    with pytest.raises(UsageError, match="outside the scores"):
        permutation_z(torch.zeros(3, 4), torch.tensor([0, 1, 4]))


@pytest.mark.parametrize("blank", [0.0, float("nan")])
def test_a_single_dead_unit_is_ambiguous_too(blank: float) -> None:
    sim_AB = random_units(12, 16, 15) @ random_units(12, 16, 16).T
    sim_AB[5] = blank
    assert torch.nonzero(ambiguous_rows(sim_AB)).flatten().tolist() == [5]
    assert 5 not in assign(sim_AB)[:, 0]
    assert len(assign(sim_AB)) == 11
