"""Matches made on one projection are believed only as far as the others confirm them."""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import gaussian_units, generator, random_rotation, signed_permutation, unit_set
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pedigree.forensics.exact.assignment import permutation_z
from pedigree.forensics.sides.gauge import Gauge, identity_gauge, unit_rows
from pedigree.forensics.sides.views import UnitSet
from pedigree.forensics.units.matching import MatchScore as Score
from pedigree.forensics.units.matching import centered, make_table, score_layers

N, D = 192, 32
PLAIN = identity_gauge(D, D)


def score(a: UnitSet, b: UnitSet, gauge: Gauge = PLAIN, max_units: int | None = None) -> Score:
    return score_layers(make_table(a, gauge, "a"), make_table(b, gauge, "b"), max_units)


def noisy(units: UnitSet, seed: int, size: float) -> UnitSet:
    g = generator(seed)
    return unit_set({name: v + size * torch.randn(v.shape, generator=g) for name, v in units.views_UD.items()})


def turned(units: UnitSet, turn_DD: Tensor) -> UnitSet:
    return unit_set({name: view @ turn_DD for name, view in units.views_UD.items()})


def test_a_copy_scores_one() -> None:
    units = gaussian_units(0, N, D)
    found = score(units, units)
    assert found.effect == pytest.approx(1.0, abs=0.15)
    assert found.z > 30
    assert found.n == N


def test_strangers_score_nothing_although_each_match_was_the_best_of_many() -> None:
    scores = [score(gaussian_units(seed, N, D), gaussian_units(100 + seed, N, D)).z for seed in range(40)]
    assert max(abs(z) for z in scores) < 4.1
    assert abs(sum(scores) / len(scores)) < 0.6


def correlated_units(seed: int, share: float = 0.8) -> UnitSet:
    """Units whose up row resembles their own gate row, as training makes them."""
    units = gaussian_units(seed, N, D)
    gate, up, down = (units.views_UD[name] for name in ("gate", "up", "down"))
    mixed = {"gate": gate, "up": share * gate + (1 - share**2) ** 0.5 * up, "down": share * gate + down}
    return unit_set(mixed)


def test_projections_that_resemble_each_other_do_not_make_strangers_agree() -> None:
    with_care, without = [], []
    for seed in range(12):
        a, b = correlated_units(seed), correlated_units(50 + seed)
        with_care.append(score(a, b).z)
        gate_a, gate_b = (unit_rows(centered(u.views_UD["gate"])) for u in (a, b))
        up_a, up_b = (unit_rows(centered(u.views_UD["up"])) for u in (a, b))
        match = (gate_a @ gate_b.T).argmax(dim=1)
        without.append(permutation_z((up_a @ up_b.T)[:, match].abs(), torch.arange(N))[0])
    assert min(without) > 8  # the trap is real
    assert max(abs(z) for z in with_care) < 4.1


def copied_units(seed: int, copies: int = 8, noise: float = 0.2) -> UnitSet:
    """A mixture whose experts were made from one block and have hardly gone apart."""
    few, g = gaussian_units(seed, 24, D), generator(900 + seed)
    repeated = {name: rows.repeat(copies, 1) for name, rows in few.views_UD.items()}
    return unit_set({name: rows + noise * torch.randn(rows.shape, generator=g) for name, rows in repeated.items()})


def test_copies_on_both_sides_do_not_make_strangers_loud() -> None:
    """Each agreement of two units of strangers comes eight times; it counts once."""
    by_unit, by_row = [], []
    for seed in range(40):
        a, b = (make_table(copied_units(s), PLAIN, side) for s, side in ((seed, "a"), (200 + seed, "b")))
        by_unit.append(score_layers(a, b).z)
        match = (a.match_UD @ b.match_UD.T).argmax(dim=1)
        up = a.confirm_UD["up"] @ b.confirm_UD["up"].T
        by_row.append(permutation_z(up[:, match], torch.arange(len(match)))[0])
    assert 0.7 < float(torch.tensor(by_unit).std()) < 1.4
    assert float(torch.tensor(by_row).std()) > 2.0  # the trap is real
    related = make_table(copied_units(0), PLAIN, "a"), make_table(copied_units(0), PLAIN, "b")
    assert score_layers(*related).z > 8


def test_units_that_share_only_their_gate_do_not_agree() -> None:
    a, b = gaussian_units(0, N, D), gaussian_units(1, N, D)
    gate_only = unit_set({**b.views_UD, "gate": a.views_UD["gate"]})
    assert score(a, gate_only).z < 4.1


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_order_scale_and_sign_of_units_change_no_score(seed: int) -> None:
    g = generator(seed)
    a = gaussian_units(seed, N, D)
    b = noisy(a, seed + 1, 0.7)
    order = torch.randperm(N, generator=g)
    size = torch.exp(torch.randn(N, 1, generator=g))
    sign = torch.randint(0, 2, (N, 1), generator=g) * 2.0 - 1.0
    views = b.views_UD
    moved = unit_set(
        {
            "gate": views["gate"][order],
            "up": (views["up"] * size * sign)[order],
            "down": (views["down"] / size * sign)[order],
        }
    )
    plain, found = score(a, b), score(a, moved)
    # A tie or the mean of rows may move a little when rows are rescaled, the answer may not.
    assert found.z == pytest.approx(plain.z, rel=0.2)
    assert found.effect == pytest.approx(plain.effect, abs=0.12)


def test_an_up_row_and_a_down_column_of_opposite_sign_do_not_confirm_each_other() -> None:
    a = gaussian_units(0, N, D)
    sign = torch.randint(0, 2, (N, 1), generator=generator(1)) * 2.0 - 1.0
    b = unit_set({**a.views_UD, "up": a.views_UD["up"] * sign})
    assert score(a, b).effect < 0.75 * score(a, a).effect


@pytest.mark.parametrize("make_turn", [random_rotation, signed_permutation])
def test_under_the_right_frame_a_turned_copy_scores_as_the_copy_does_and_under_the_wrong_one_as_a_stranger(
    make_turn: object,
) -> None:
    turn = make_turn(D, 3)  # type: ignore[operator]
    a = gaussian_units(0, N, D)
    b = turned(noisy(a, 1, 0.5), turn)
    right = score(a, b, Gauge("orthogonal", turn, "planted"))
    assert right.z == pytest.approx(score(a, noisy(a, 1, 0.5)).z, rel=1e-3)
    assert score(a, b).z < 4.1


def test_the_score_sinks_as_noise_rises() -> None:
    a = gaussian_units(0, N, D)
    zs = [score(a, noisy(a, 1, size)).z for size in (0.1, 1.0, 2.0, 50.0)]
    assert zs == sorted(zs, reverse=True)
    assert zs[0] > 30
    assert zs[-1] < 4.1


def test_a_part_of_the_units_is_enough() -> None:
    a = gaussian_units(0, N, D)
    b = noisy(a, 1, 0.5)
    whole, some = score(a, b), score(a, b, max_units=48)
    assert some.n == 48
    assert 8 < some.z < whole.z
    assert some.effect == pytest.approx(whole.effect, abs=0.1)


def test_a_wider_layer_that_holds_the_units_agrees_and_so_does_a_pruned_one() -> None:
    a = gaussian_units(0, N, D)
    extra = gaussian_units(7, 64, D)
    wide = unit_set({name: torch.cat([v, extra.views_UD[name]]) for name, v in a.views_UD.items()})
    kept = torch.randperm(N, generator=generator(0))[:96]
    pruned = unit_set({name: v[kept] for name, v in a.views_UD.items()})
    assert score(a, wide).z > 20
    assert score(wide, a).z > 20
    assert score(a, pruned).z > 8
    assert score(pruned, a).z > 20


def test_units_with_nothing_to_confirm_them_are_left_out() -> None:
    a = gaussian_units(0, N, D)
    silent = unit_set({"gate": a.views_UD["gate"], "up": torch.zeros(N, D), "down": torch.zeros(N, D)})
    assert score(a, silent) == Score(0.0, 0.0, N)
    half = {name: v.clone() for name, v in a.views_UD.items()}
    half["down"][:100] = 0
    assert score(a, unit_set(half)).z > 20


def test_dead_layers_score_nothing_and_nothing_breaks() -> None:
    a = gaussian_units(0, N, D)
    dead = unit_set({name: torch.zeros(N, D) for name in a.names})
    for found in (score(a, dead), score(dead, a), score(dead, dead)):
        assert (found.z, found.effect) == (0.0, 0.0)


def test_layers_whose_units_are_read_by_different_projections_are_not_compared() -> None:
    gated = gaussian_units(0, N, D)
    plain = gaussian_units(0, N, D, names=("up", "down"))
    assert score(gated, plain) == Score(0.0, 0.0, 0)


def test_what_all_units_share_carries_no_identity() -> None:
    common = 5 * torch.randn(1, D, generator=generator(9))
    a, b = (gaussian_units(seed, N, D) for seed in (0, 1))
    shifted = [unit_set({name: v + common for name, v in u.views_UD.items()}) for u in (a, b)]
    assert score(*shifted).z < 4.1
    rows = torch.randn(6, 4, generator=generator(0))
    rows[2] = 0
    assert float(centered(rows)[2].abs().sum()) == 0.0


def test_rows_seen_in_blocks_are_the_rows_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    units = gaussian_units(3, n=96, d=32)
    units.views_UD["up"][5] = 0.0
    at_once = make_table(units, PLAIN, "a")
    monkeypatch.setattr("pedigree.forensics.units.matching.MANY_NUMBERS", 1)
    monkeypatch.setattr("pedigree.forensics.units.matching.ROWS_AT_ONCE", 7)
    in_blocks = make_table(units, PLAIN, "a")
    torch.testing.assert_close(in_blocks.match_UD, at_once.match_UD, rtol=0, atol=1e-6)
    for name, rows_UD in at_once.confirm_UD.items():
        torch.testing.assert_close(in_blocks.confirm_UD[name], rows_UD, rtol=0, atol=1e-6)
