"""Are the exact p-values what they claim to be? Simulated nulls, then networks that were really trained.

A p-value is valid when P(p <= alpha) <= alpha for every alpha. Here that is checked by counting, with four binomial
standard deviations of slack (`assert_super_uniform`). Counting all pairs of a set of models, not only disjoint
ones, keeps the binomial variance: given the magnitudes, the signs (or numberings) of the models are independent and
uniform, so of two pairs that share a model, one says nothing about the other, and indicators that are independent
two by two have the variance of independent ones.

The students are gated networks (24 inputs, 48 units, 24 outputs) that learn one teacher from the same batches in the
same order, with AdamW: only their seeds differ. They share everything that training can make them share.

Shapes    S = students trained side by side, N = units, D = inputs, O = outputs, T = batch
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, silu

from pedigree.forensics.exact.assignment import assign, best_match, mutual_nearest, permutation_z
from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.fixed_points import fixed_points
from pedigree.forensics.exact.increasing import increasing_subsequence
from pedigree.forensics.exact.sign_flip import block_products, sign_flip

ALPHAS = (0.01, 0.05, 0.1, 0.25, 0.5)
INPUTS, UNITS, OUTPUTS, BATCH = 24, 48, 24, 64


def assert_super_uniform(log10_ps: Sequence[float], *, sigmas: float = 4.0) -> None:
    """At each alpha at most a share alpha of the p-values, plus binomial slack."""
    n = len(log10_ps)
    for alpha in ALPHAS:
        hits = sum(value <= math.log10(alpha) for value in log10_ps)
        assert hits <= n * alpha + sigmas * math.sqrt(n * alpha * (1 - alpha)), f"{hits} of {n} at alpha {alpha}"


def assert_kolmogorov_smirnov_from_above(log10_ps: Sequence[float], *, level: float = 1e-4) -> None:
    """The empirical distribution of independent p-values rises above the diagonal by no more than chance
    (one-sided Dvoretzky-Kiefer-Wolfowitz-Massart)."""
    p = sorted(10.0**value for value in log10_ps)
    rise = max((rank / len(p)) - value for rank, value in enumerate(p, start=1))
    assert rise <= math.sqrt(math.log(1 / level) / (2 * len(p)))


def log10_p(outcome: TestOutcome) -> float:
    """The p-value of an outcome that must have one."""
    assert outcome.log10_p is not None
    return outcome.log10_p


# -- simulated nulls --------------------------------------------------------------------------------------------------


def kindred_matrices(generator: torch.Generator, *, copy: bool) -> tuple[Tensor, Tensor]:
    """Two 64 x 32 matrices with everything in common that strangers may have: a mean row, low-rank semantic factors,
    outlier columns, heavy tails. With `copy`, even all their entries: only signs and numbers are still A's own."""
    mean_C = 2.0 * torch.randn(32, generator=generator)
    factors_KC = torch.randn(4, 32, generator=generator)
    loads_RK = torch.randn(64, 4, generator=generator) ** 3
    outlier_C = torch.where(torch.rand(32, generator=generator) < 0.1, 12.0, 1.0)

    def one() -> Tensor:
        own_RC = torch.randn(64, 32, generator=generator) / torch.rand(64, 1, generator=generator).sqrt()
        return (mean_C + loads_RK @ factors_KC + own_RC) * outlier_C

    a_RC = one()
    return a_RC, a_RC.clone() if copy else one()


def random_signs(n: int, generator: torch.Generator) -> Tensor:
    """Fair signs, n of them."""
    return torch.randint(0, 2, (n,), generator=generator) * 2.0 - 1.0


@pytest.mark.parametrize("copy", [False, True])
def test_sign_flips_are_calibrated_whatever_the_matrices_share(copy: bool) -> None:
    generator = torch.Generator().manual_seed(100 + copy)
    combined, single = [], []
    for _ in range(400):
        a_RC, b_RC = kindred_matrices(generator, copy=copy)
        c_RC, d_RC = kindred_matrices(generator, copy=copy)
        rows = block_products(random_signs(64, generator)[:, None] * a_RC, b_RC, 0)
        columns = block_products(random_signs(32, generator) * c_RC, d_RC, 1)
        outcome = sign_flip({"ffn": rows, "residual": columns})
        combined.append(log10_p(outcome))
        single += [family["log10_p"] for family in outcome.extra["families"].values()]
    for values in (combined, single):
        assert_super_uniform(values)
        assert_kolmogorov_smirnov_from_above(values)
    assert min(single) < -1  # conservative, not mute


@pytest.mark.parametrize("copy", [False, True])
def test_fixed_points_and_order_are_calibrated_whatever_the_matrices_share(copy: bool) -> None:
    generator = torch.Generator().manual_seed(200 + copy)
    counts, fixed, order = [], [], []
    for _ in range(300):
        layers = []
        for _ in range(2):
            a_RC, b_RC = kindred_matrices(generator, copy=copy)
            a_RC = a_RC[torch.randperm(64, generator=generator)]
            layers.append(mutual_nearest(normalize(a_RC, dim=1) @ normalize(b_RC, dim=1).T))
        outcome = fixed_points(layers)
        counts.append(outcome.statistic)
        fixed.append(log10_p(outcome))
        order += [log10_p(increasing_subsequence(pairs_K2)) for pairs_K2 in layers]
    for values in (fixed, order):
        assert_super_uniform(values)
        assert_kolmogorov_smirnov_from_above(values)
    assert sum(counts) / len(counts) < 2.0 + 4 * math.sqrt(2.0 / len(counts))


def test_a_sign_pattern_tied_to_the_index_breaks_the_null_as_the_card_says() -> None:
    # The guard must be able to fail: with a deterministic start (positions, identity, ones) signs are no coins.
    position_N = torch.sin(torch.arange(64.0))[:, None] * torch.ones(64, 32)
    generator = torch.Generator().manual_seed(3)
    a_RC = position_N + 0.5 * torch.randn(64, 32, generator=generator)
    b_RC = position_N + 0.5 * torch.randn(64, 32, generator=generator)
    assert log10_p(sign_flip({"positions": block_products(a_RC, b_RC, 0)})) < -5


# -- students ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Students:
    """Gated networks trained side by side: gate_SND, up_SND, down_SON."""

    gate_SND: Tensor
    up_SND: Tensor
    down_SON: Tensor

    def __len__(self) -> int:
        return len(self.gate_SND)

    def first(self, n: int) -> Students:
        """The first n students."""
        return Students(self.gate_SND[:n], self.up_SND[:n], self.down_SON[:n])

    def units(self, index_SN: Tensor, sign_SN: Tensor | None = None) -> Students:
        """Each student with the units named by its row of the index, in that order, and their signs flipped."""
        pick_SN1 = index_SN[:, :, None]
        sign_SN1 = torch.ones_like(pick_SN1) if sign_SN is None else sign_SN[:, :, None]
        return Students(
            torch.take_along_dim(self.gate_SND, pick_SN1, 1),
            torch.take_along_dim(self.up_SND, pick_SN1, 1) * sign_SN1,
            torch.take_along_dim(self.down_SON, pick_SN1.mT, 2) * sign_SN1.mT,
        )


def newborn(n_students: int, seed: int, units: int = UNITS) -> Students:
    """Students with Gaussian weights."""
    generator = torch.Generator().manual_seed(seed)
    return Students(
        torch.randn(n_students, units, INPUTS, generator=generator) / INPUTS**0.5,
        torch.randn(n_students, units, INPUTS, generator=generator) / INPUTS**0.5,
        torch.randn(n_students, OUTPUTS, units, generator=generator) / units**0.5,
    )


def train(students: Students, *, teacher: int, steps: int) -> tuple[Students, list[float]]:
    """Regress a random teacher by AdamW; every student sees the same batches. Returns students and mean losses."""
    master = newborn(1, seed=teacher, units=32)
    generator = torch.Generator().manual_seed(teacher + 1)
    shift_D1 = torch.randn(INPUTS, 1, generator=generator) / 2
    weights = [w.clone().requires_grad_() for w in (students.gate_SND, students.up_SND, students.down_SON)]
    gate_SND, up_SND, down_SON = weights
    optimizer = torch.optim.AdamW(weights, lr=3e-3, weight_decay=0.01, fused=True)
    losses = []
    for _ in range(steps):
        x_DT = torch.randn(INPUTS, BATCH, generator=generator) + shift_D1
        target_OT = 2 * master.down_SON[0] @ (silu(1.5 * master.gate_SND[0] @ x_DT) * (1.5 * master.up_SND[0] @ x_DT))
        hidden_SNT = silu(gate_SND @ x_DT) * (up_SND @ x_DT)
        loss_S = (down_SON @ hidden_SNT - target_OT).square().mean((1, 2))
        optimizer.zero_grad()
        loss_S.sum().backward()  # gradients of different students do not mix, nor does AdamW
        optimizer.step()
        losses.append(float(loss_S.detach().mean()))
    return Students(*(w.detach() for w in weights)), losses


def gate_cosines(a: Students, i: int, b: Students, j: int) -> Tensor:
    """Cosines of the gate rows of student i of A with those of student j of B."""
    return normalize(a.gate_SND[i], dim=1) @ normalize(b.gate_SND[j], dim=1).T


def unit_products(a: Students, i: int, b: Students, j: int) -> Tensor:
    """Inner products of the sign-symmetric blocks (up row, down column) of two students."""
    return block_products(a.up_SND[i], b.up_SND[j], 0) + block_products(a.down_SON[i], b.down_SON[j], 1)


@pytest.fixture(scope="module")
def strangers() -> Students:
    """120 students of one teacher, differing in their seeds only."""
    students, losses = train(newborn(120, seed=1), teacher=50, steps=500)
    assert losses[-1] < 0.3 * losses[0]  # they did learn
    return students


@pytest.fixture(scope="module")
def children(strangers: Students) -> Students:
    """Each stranger continued on another teacher, nearly as long."""
    students, _ = train(strangers, teacher=70, steps=400)
    return students


def check_strangers(students: Students) -> None:
    """Every exact test on all pairs, each model made of three students as its layers."""
    models = [range(start, start + 3) for start in range(0, len(students), 3)]
    signs, fixed, order = [], [], []
    for left, right in combinations(models, 2):
        layers = list(zip(left, right, strict=True))
        families = {f"layer {i}": unit_products(students, i, students, j) for i, j in layers}
        pairs = [mutual_nearest(gate_cosines(students, i, students, j)) for i, j in layers]
        signs.append(log10_p(sign_flip(families)))
        fixed.append(log10_p(fixed_points(pairs)))
        order += [log10_p(increasing_subsequence(pairs_K2)) for pairs_K2 in pairs]
    for values in (signs, fixed, order):
        assert_super_uniform(values)


def test_independent_students_of_one_teacher_are_never_called_kin(strangers: Students) -> None:
    check_strangers(strangers)


def test_disjoint_pairs_of_students_pass_a_kolmogorov_smirnov_test(strangers: Students) -> None:
    pairs = [(i, i + 1) for i in range(0, len(strangers), 2)]
    assert_kolmogorov_smirnov_from_above(
        [log10_p(sign_flip({"ffn": unit_products(strangers, i, strangers, j)})) for i, j in pairs]
    )
    assert_kolmogorov_smirnov_from_above(
        [log10_p(fixed_points([mutual_nearest(gate_cosines(strangers, i, strangers, j))])) for i, j in pairs]
    )


def test_signs_of_trained_blocks_are_fair_coins(strangers: Students) -> None:
    # Sharper than the bound: S must rank uniformly among sums with freshly drawn signs, from both sides.
    pairs = list(combinations(range(0, len(strangers), 2), 2))
    products_PN = torch.stack([unit_products(strangers, i, strangers, j) for i, j in pairs])
    drawn_TN = random_signs(99 * UNITS, torch.Generator().manual_seed(5)).view(99, UNITS).double()
    rank_P = (products_PN.abs() @ drawn_TN.T < products_PN.sum(1, keepdim=True)).sum(1)  # 0..99, uniform
    counts = torch.bincount(rank_P // 10, minlength=10)
    expected = len(pairs) / 10
    assert float((counts - expected).abs().max()) <= 4 * math.sqrt(expected * 0.9)
    z_P = products_PN.sum(1) / products_PN.square().sum(1).sqrt()
    assert abs(float(z_P.mean())) <= 4 / math.sqrt(len(pairs))
    assert abs(float(z_P.square().mean()) - 1) <= 4 * math.sqrt(2 / len(pairs))


def test_fixed_points_of_complete_matchings_have_mean_and_variance_one(strangers: Students) -> None:
    pairs = list(combinations(range(0, len(strangers), 4), 2))
    counts = [fixed_points([assign(gate_cosines(strangers, i, strangers, j))]).statistic for i, j in pairs]
    mean = sum(counts) / len(counts)
    assert abs(mean - 1) <= 4 / math.sqrt(len(pairs))
    variance = sum((k - 1) ** 2 for k in counts) / len(counts)
    assert abs(variance - 1) <= 4 * math.sqrt(3 / len(pairs))  # the fourth central moment of Poisson(1) is 4


def test_views_of_independent_students_agree_far_beyond_chance_which_no_exact_test_may_count(
    strangers: Students,
) -> None:
    # Training to one end makes units universal: what matches by gate also matches by up-projection. Evidence from
    # agreeing views therefore needs a bank of strangers, and the cards here rely on indices and signs alone.
    agreeing, z_scores = [], []
    for i, j in combinations(range(12), 2):
        up = (normalize(strangers.up_SND[i], dim=1) @ normalize(strangers.up_SND[j], dim=1).T).abs()
        gate = gate_cosines(strangers, i, strangers, j)
        by_gate, by_up = assign(gate)[:, 1], assign(up)[:, 1]
        agreeing.append(int((by_gate == by_up).sum()))
        z_scores.append(permutation_z(up, best_match(gate))[0])
    assert sum(agreeing) / len(agreeing) > 5  # chance: 1
    assert sum(z_scores) / len(z_scores) > 4


# -- power ------------------------------------------------------------------------------------------------------------


def test_every_child_continued_on_another_teacher_is_found_by_each_test(
    strangers: Students, children: Students
) -> None:
    for i in range(len(strangers)):
        pairs_K2 = mutual_nearest(gate_cosines(strangers, i, children, i))
        assert log10_p(sign_flip({"ffn": unit_products(strangers, i, children, i)})) < -6
        assert log10_p(fixed_points([pairs_K2])) < -8
        assert log10_p(increasing_subsequence(pairs_K2)) < -8


def test_children_of_one_model_are_not_kin_to_another(strangers: Students, children: Students) -> None:
    signs, fixed = [], []
    for i in range(len(strangers)):
        j = (i + 1) % len(strangers)
        signs.append(log10_p(sign_flip({"ffn": unit_products(strangers, i, children, j)})))
        fixed.append(log10_p(fixed_points([mutual_nearest(gate_cosines(strangers, i, children, j))])))
    assert_super_uniform(signs)
    assert_super_uniform(fixed)


def test_siblings_and_twins_of_one_start_are_not_independent_either(strangers: Students, children: Students) -> None:
    # The tests reject "independently initialized"; they do not say who descends from whom.
    siblings, _ = train(strangers.first(10), teacher=90, steps=300)
    twins, _ = train(newborn(120, seed=1).first(10), teacher=90, steps=300)
    for i in range(10):
        assert log10_p(sign_flip({"ffn": unit_products(siblings, i, children, i)})) < -5
        assert log10_p(sign_flip({"ffn": unit_products(twins, i, strangers, i)})) < -5


def test_order_finds_the_pruned_child_where_numbers_have_shifted(strangers: Students) -> None:
    strength_SN = strangers.first(20).down_SON.norm(dim=1)
    kept_SN = strength_SN.topk(30, dim=1).indices.sort(dim=1).values
    pruned, _ = train(strangers.first(20).units(kept_SN), teacher=70, steps=200)
    for i in range(len(pruned)):
        pairs_K2 = mutual_nearest(gate_cosines(strangers, i, pruned, i))
        assert log10_p(increasing_subsequence(pairs_K2)) < -8
        assert log10_p(increasing_subsequence(pairs_K2)) < log10_p(fixed_points([pairs_K2]))


def test_a_disguised_child_leaves_these_tests_without_evidence_and_without_false_evidence(
    strangers: Students, children: Students
) -> None:
    generator = torch.Generator().manual_seed(8)
    order_SN = torch.rand(len(children), UNITS, generator=generator).argsort(dim=1)
    sign_SN = random_signs(len(children) * UNITS, generator).view(len(children), UNITS)
    disguised = children.units(order_SN, sign_SN)
    signs, fixed, order = [], [], []
    for i in range(len(strangers)):
        pairs_K2 = mutual_nearest(gate_cosines(strangers, i, disguised, i))
        signs.append(log10_p(sign_flip({"ffn": unit_products(strangers, i, disguised, i)})))
        fixed.append(log10_p(fixed_points([pairs_K2])))
        order.append(log10_p(increasing_subsequence(pairs_K2)))
    for values in (signs, fixed, order):
        assert_super_uniform(values)
        assert_kolmogorov_smirnov_from_above(values)


# -- the symmetry itself ----------------------------------------------------------------------------------------------


def test_flipping_signs_commutes_with_training_bit_for_bit() -> None:
    born = newborn(8, seed=2)
    same_SN = torch.arange(UNITS).repeat(8, 1)
    sign_SN = random_signs(8 * UNITS, torch.Generator().manual_seed(9)).view(8, UNITS)
    flipped_after = train(born, teacher=50, steps=120)[0].units(same_SN, sign_SN)
    flipped_before = train(born.units(same_SN, sign_SN), teacher=50, steps=120)[0]
    assert torch.equal(flipped_after.gate_SND, flipped_before.gate_SND)
    assert torch.equal(flipped_after.up_SND, flipped_before.up_SND)
    assert torch.equal(flipped_after.down_SON, flipped_before.down_SON)


def test_permuting_units_commutes_with_training_up_to_rounding() -> None:
    born = newborn(8, seed=2)
    order_SN = torch.rand(8, UNITS, generator=torch.Generator().manual_seed(10)).argsort(dim=1)
    permuted_after = train(born, teacher=50, steps=60)[0].units(order_SN)
    permuted_before = train(born.units(order_SN), teacher=50, steps=60)[0]
    torch.testing.assert_close(permuted_after.up_SND, permuted_before.up_SND, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_students_trained_long_are_still_strangers_and_their_late_children_still_kin() -> None:
    old, losses = train(newborn(60, seed=3), teacher=50, steps=5000)
    assert losses[-1] < 0.05 * losses[0]
    check_strangers(old)
    late, _ = train(old.first(20), teacher=70, steps=5000)
    for i in range(len(late)):
        assert log10_p(sign_flip({"ffn": unit_products(old, i, late, i)})) < -4
