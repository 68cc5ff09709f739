"""Each unit's origin: order, copies, subsets, experts."""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import gaussian_units, generator, random_rotation
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pedigree.forensics.sides.gauge import Gauge, identity_gauge
from pedigree.forensics.sides.views import UnitSet
from pedigree.forensics.units.unit_map import UnitMap, map_units

N, D = 96, 48
PLAIN = identity_gauge(D, D)
PARENT = gaussian_units(0, N, D)


def child(rows: Tensor, noise: float = 0.3, label: Tensor | None = None, seed: int = 1) -> UnitSet:
    """Units taken from the parent by number, -1 for a fresh one, with noise."""
    g = generator(seed)
    views = {}
    for name, view in PARENT.views_UD.items():
        fresh = torch.randn(len(rows), D, generator=g)
        taken = torch.where(rows[:, None] >= 0, view[rows.clamp_min(0)], fresh)
        views[name] = taken + noise * torch.randn(len(rows), D, generator=g)
    index = torch.arange(len(rows))
    return UnitSet("ffn", views, index, torch.zeros_like(index) if label is None else label, len(rows))


def mapped(units: UnitSet, gauge: Gauge = PLAIN) -> UnitMap:
    found = map_units(PARENT, units, gauge, 0, 0)
    assert found is not None
    return found


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_a_permutation_is_read_back(seed: int) -> None:
    order = torch.randperm(N, generator=generator(seed))
    found = mapped(child(order))
    assert torch.equal(found.origin_N, order)
    assert found.matched_share == found.kept_share == 1.0
    assert found.copies == 0
    assert found.in_place_share == pytest.approx(float((order == torch.arange(N)).float().mean()))
    assert torch.equal(found.pairs(), torch.stack([order, torch.arange(N)], dim=1))


def test_units_that_stand_still_are_in_place() -> None:
    found = mapped(child(torch.arange(N)))
    assert found.in_place_share == 1.0
    assert not bool(found.silent_N.any())


def test_copies_are_counted_and_fresh_units_have_no_origin() -> None:
    rows = torch.cat([torch.arange(N), torch.arange(20), torch.full((12,), -1)])
    found = mapped(child(rows))
    assert torch.equal(found.origin_N, rows)
    assert found.copies == 20
    assert found.matched_share == pytest.approx((N + 20) / (N + 32))
    assert found.kept_share == 1.0
    assert (found.total_a, found.total_b) == (N, N + 32)


def test_a_subset_keeps_its_share_of_the_parent() -> None:
    kept = torch.randperm(N, generator=generator(3))[:60].sort().values
    found = mapped(child(kept))
    assert torch.equal(found.origin_N, kept)
    assert found.kept_share == pytest.approx(60 / N)
    assert found.matched_share == 1.0


def test_strangers_have_almost_no_origin() -> None:
    assert mapped(gaussian_units(77, N, D)).matched_share < 0.05


def test_units_that_write_nothing_are_silent() -> None:
    units = child(torch.cat([torch.arange(N), torch.full((10,), -1)]), noise=0.0)
    views = {**units.views_UD, "down": units.views_UD["down"].clone()}
    views["down"][N:] = 0.0
    found = mapped(UnitSet("ffn", views, units.index_U, units.label_U, units.total))
    assert found.silent_N.tolist() == [False] * N + [True] * 10


def test_a_rescaled_and_negated_unit_keeps_its_origin_and_tells_its_scale() -> None:
    g = generator(5)
    size = torch.exp2(torch.rand(N, 1, generator=g) * 4 - 2)
    sign = torch.randint(0, 2, (N, 1), generator=g) * 2.0 - 1.0
    v = PARENT.views_UD
    views = {"gate": v["gate"], "up": v["up"] * size * sign, "down": v["down"] / size * sign}
    found = mapped(UnitSet("ffn", views, torch.arange(N), torch.zeros(N, dtype=torch.long), N))
    assert torch.equal(found.origin_N, torch.arange(N))
    assert float((found.sign_N == sign.flatten()).float().mean()) > 0.95
    torch.testing.assert_close(found.log_scale_N, size.log().flatten(), rtol=0, atol=1e-3)


def test_experts_keep_the_label_of_what_they_came_from() -> None:
    rows = torch.cat([torch.arange(48, 96), torch.arange(48)])
    label = torch.arange(2).repeat_interleave(48)
    found = mapped(child(rows, label=label))
    assert torch.equal(found.origin_N, rows)
    assert torch.equal(found.label_b_N, label)


def test_under_its_frame_a_turned_child_is_mapped() -> None:
    turn = random_rotation(D, 2)
    plain = child(torch.arange(N).flip(0))
    units = UnitSet("ffn", {n: v @ turn for n, v in plain.views_UD.items()}, plain.index_U, plain.label_U, plain.total)
    assert torch.equal(mapped(units, Gauge("orthogonal", turn, "planted")).origin_N, torch.arange(N).flip(0))
    assert mapped(units).matched_share < 0.05


def test_layers_with_no_two_projections_in_common_are_not_mapped() -> None:
    only_gate = gaussian_units(0, N, D, names=("gate",))
    assert map_units(PARENT, only_gate, PLAIN, 0, 0) is None
    assert map_units(PARENT, gaussian_units(0, N, D, names=("up", "down")), PLAIN, 0, 0) is None


def test_units_that_lost_their_counterpart_are_no_copies_of_the_next_best() -> None:
    """Some units of A are gone from B; theirs resemble others of A a little, which are still there."""
    g = generator(5)
    views = {name: view.clone() for name, view in PARENT.views_UD.items()}
    for view in views.values():
        view[10:20] = 0.55 * view[:10] + 0.8 * torch.randn(10, D, generator=g)
    parent = UnitSet("ffn", views, torch.arange(N), torch.zeros(N, dtype=torch.long), N)
    kept = {name: torch.cat([view[:10], torch.randn(10, D, generator=g), view[20:]]) for name, view in views.items()}
    child_units = UnitSet("ffn", kept, torch.arange(N), torch.zeros(N, dtype=torch.long), N)
    back = map_units(child_units, parent, PLAIN, 0, 0)
    assert back is not None
    doubled = int(back.matched_N.sum()) - len(torch.unique(back.origin_N[back.matched_N]))
    assert doubled >= 8
    assert back.copies == 0
