"""Heads are compared as subspaces: what may be mixed inside a head says nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from forensics.tiny_models import generator, random_rotation, unit_set
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pedigree.forensics.sides.gauge import Gauge, identity_gauge
from pedigree.forensics.sides.views import UnitSet
from pedigree.forensics.units.heads import match_heads, moved_heads, overlap, pooled_score

HEADS, C, D = 6, 4, 48
PLAIN = identity_gauge(D, D)


def heads(seed: int, n: int = HEADS) -> UnitSet:
    g = generator(seed)
    views = {name: torch.randn(n * C, D, generator=g) for name in ("v", "o")}
    return unit_set(views, "vo", heads=n)


def mixed(units: UnitSet, seed: int, order: Tensor | None = None) -> UnitSet:
    """Values multiplied by an invertible matrix per head, outputs by its inverse, heads in another order."""
    g = generator(seed)
    n = units.count // C
    basis = torch.randn(n, C, C, generator=g) + 2 * torch.eye(C)
    v = basis @ units.views_UD["v"].reshape(n, C, D)
    o = torch.linalg.inv(basis).mT @ units.views_UD["o"].reshape(n, C, D)
    order = torch.arange(n) if order is None else order
    return unit_set({"v": v[order].reshape(-1, D), "o": o[order].reshape(-1, D)}, "vo", heads=n)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_any_basis_inside_the_heads_gives_the_same_overlaps(seed: int) -> None:
    a, b = heads(seed), heads(seed + 1)
    _, seen, held = match_heads(a, b, PLAIN)
    _, seen_mixed, held_mixed = match_heads(mixed(a, seed), mixed(b, seed + 1), PLAIN)
    torch.testing.assert_close(seen_mixed, seen, rtol=0, atol=1e-3)
    torch.testing.assert_close(held_mixed, held, rtol=0, atol=1e-3)


def test_a_head_overlaps_itself_wholly_and_a_stranger_by_its_share_of_the_width() -> None:
    a = heads(0, 30)
    _, seen, held = match_heads(a, a, PLAIN)
    for table in (seen, held):
        torch.testing.assert_close(table.diagonal(), torch.ones(30), rtol=0, atol=1e-4)
        off = table[~torch.eye(30, dtype=torch.bool)]
        assert float(off.mean()) == pytest.approx(C / D, rel=0.1)


def test_heads_in_another_order_are_found() -> None:
    order = torch.randperm(HEADS, generator=generator(4))
    match, _, held = match_heads(heads(0), mixed(heads(0), 1, order), PLAIN)
    assert torch.equal(order[match], torch.arange(HEADS))
    torch.testing.assert_close(held[torch.arange(HEADS), match], torch.ones(HEADS), rtol=0, atol=1e-3)
    moved = int((order != torch.arange(HEADS)).sum())
    assert moved_heads(heads(0), mixed(heads(0), 1, order), PLAIN) == moved > 1


def test_heads_that_stand_still_and_heads_of_a_stranger_were_not_moved() -> None:
    assert moved_heads(heads(0), mixed(heads(0), 1), PLAIN) == 0
    assert moved_heads(heads(0), heads(1), PLAIN) == 0
    assert moved_heads(heads(0), heads(0, HEADS + 2), PLAIN) == 0


def pairs(n_layers: int, related: bool, order: Tensor | None = None) -> list[tuple[UnitSet, UnitSet]]:
    return [(heads(i), mixed(heads(i if related else 100 + i), 200 + i, order)) for i in range(n_layers)]


def test_pooled_over_layers_mixed_and_reordered_heads_stand_out() -> None:
    z, effect, n = pooled_score(pairs(4, related=True, order=torch.tensor([3, 1, 2, 0, 5, 4])), PLAIN)
    assert n == 4 * HEADS
    assert z > 8
    assert effect > 0.8


def test_pooled_over_layers_strangers_do_not() -> None:
    z, effect, n = pooled_score(pairs(4, related=False), PLAIN)
    assert n == 4 * HEADS
    assert abs(z) < 4.1
    assert abs(effect) < 0.05


def test_turned_heads_stand_out_under_their_frame_only() -> None:
    turn = random_rotation(D, 0)
    moved = [
        (a, unit_set({name: v @ turn for name, v in b.views_UD.items()}, "vo", heads=HEADS))
        for a, b in pairs(3, related=True)
    ]
    assert pooled_score(moved, Gauge("orthogonal", turn, "planted"))[0] > 8
    assert abs(pooled_score(moved, PLAIN)[0]) < 4.1


def test_too_few_heads_give_no_score() -> None:
    assert pooled_score([], PLAIN) == (0.0, 0.0, 0)
    few = [(heads(0, 2), heads(0, 2))]
    assert pooled_score(few, PLAIN) == (0.0, 0.0, 0)


def test_heads_of_several_widths_are_not_pooled() -> None:
    narrow = unit_set({name: torch.randn(12, D, generator=generator(1)) for name in ("v", "o")}, "vo", heads=HEADS)
    assert pooled_score([(heads(0), heads(0)), (narrow, narrow)], PLAIN) == (0.0, 0.0, 0)


def test_overlap_counts_against_the_smaller_subspace() -> None:
    basis = torch.eye(8)[None]
    assert float(overlap(basis[:, :2], basis[:, :4])) == pytest.approx(1.0)
    assert float(overlap(basis[:, :4], basis[:, :2])) == pytest.approx(1.0)
    assert float(overlap(basis[:, :2], basis[:, 2:4])) == pytest.approx(0.0)


@pytest.mark.parametrize("seed", range(8))
def test_wide_heads_in_a_narrow_stream_are_not_moved_because_they_overlap_by_chance(seed: int) -> None:
    """Heads of a third of the stream overlap by a third; seen through a lens of two thirds of it, by a half."""
    g, width = generator(seed), 48
    lens_DK = torch.linalg.qr(torch.randn(width, 32, generator=g))[0]
    one, other = (
        unit_set({name: torch.randn(4 * 16, width, generator=g) for name in ("v", "o")}, "vo", heads=4) for _ in "ab"
    )
    seen = replace(PLAIN, lens_BK=lens_DK)
    assert moved_heads(one, other, seen) == 0
    order = torch.tensor([2, 3, 1, 0]).repeat_interleave(16) * 16 + torch.arange(16).repeat(4)
    moved = unit_set(
        {name: rows[order] + 0.3 * torch.randn(64, width, generator=g) for name, rows in one.views_UD.items()},
        "vo",
        heads=4,
    )
    assert moved_heads(one, moved, seen) == 4
