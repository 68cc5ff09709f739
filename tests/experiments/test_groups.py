"""Imbalance and information on choices whose answer is known, and on the two routers themselves."""

from __future__ import annotations

import math

import pytest
import torch
from tests.experiments.scripts import script

from pedigree.model.router import LearnedRouter

groups = script("groups")


def test_imbalance_of_known_choices() -> None:
    even = torch.tensor([[0, 4, 8, 12]] * 8)
    assert groups.imbalance(even, 16, 4, 4) == 0.0
    crowded = torch.tensor([[0, 1, 2, 3]] * 8)
    assert groups.imbalance(crowded, 16, 4, 4) == 4.0
    # First batch: device 0 has 8 choices, the others none; second batch: two each for four tokens.
    assert groups.imbalance(torch.tensor([[0, 1]] * 4 + [[0, 4], [8, 12]] * 2), 16, 4, 4) == pytest.approx(1.0)
    assert math.isnan(groups.imbalance(even, 16, 4, 9))


def test_grouped_experts_are_balanced_by_construction_and_top_k_is_not() -> None:
    torch.manual_seed(0)
    x_Nd = torch.randn(64, 80)
    found = {}
    for arm in groups.ARMS:
        router = LearnedRouter(80, groups.model(arm).experts)
        torch.nn.init.normal_(router.weight)
        chosen = router(x_Nd).experts_NK
        assert chosen.shape == (64, 4)
        found[arm] = groups.imbalance(chosen, 16, 4, 16)
    assert found["grouped"] == 0.0
    assert found["top-k"] > 0.1


def test_the_arms_differ_in_the_router_alone() -> None:
    one, other = (groups.model(arm).to_dict() for arm in groups.ARMS)
    assert {key for key in one if one[key] != other[key]} == {"experts"}
    differing = {key for key in one["experts"] if one["experts"][key] != other["experts"][key]}
    assert differing == {"router", "n_groups"}


def test_information_of_known_tables() -> None:
    assert groups.information(torch.tensor([[500, 0], [0, 500]])) == pytest.approx(1.0, abs=0.01)
    assert groups.information(torch.tensor([[250, 250], [250, 250]])) == 0.0
    assert groups.information(torch.tensor([[10, 0, 0], [0, 0, 0]])) == 0.0


def test_information_of_independent_draws_is_near_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(50):
        rows, columns = (torch.randint(size, (4000,), generator=generator) for size in (64, 16))
        found.append(groups.information((rows * 16 + columns).bincount(minlength=1024).reshape(64, 16)))
    # Without the correction it would be about 0.17 bits.
    assert sum(found) / len(found) < 0.01
