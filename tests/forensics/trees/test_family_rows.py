"""Models side by side: what chance alone leaves, and what two ways share beside what every training learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pedigree.forensics.comparison.laid_beside import of_one_expert
from pedigree.forensics.trees.family_bulk import Bulk, Shared, thinned
from pedigree.forensics.trees.family_rows import CommonRows
from pedigree.forensics.trees.handed_rows import Handed
from pedigree.forensics.trees.placement import WHOLE_PART
from pedigree.forensics.units.unit_map import UnitMap

ROWS, WIDTH = 768, 64


def side_by_side(models: list[np.ndarray]) -> CommonRows:
    rows = np.stack(models)
    there = np.ones((len(models), len(rows[0])), dtype=np.bool_)
    bulk = thinned([rows[:, at : at + 128] for at in range(0, ROWS, 128)], [there[:, :128]] * (ROWS // 128))
    return CommonRows(np.einsum("nrk,mrk->rnm", rows, rows), there.T, 0, WIDTH, bulk)


def noise(seed: int, size: float = 1.0) -> np.ndarray:
    return size * np.random.default_rng(seed).standard_normal((ROWS, WIDTH))


def learned(seed: int, size: float) -> np.ndarray:
    """A change that is mostly the one direction per matrix that every training learns, and a bulk of its own."""
    g = np.random.default_rng(1000)
    strong = np.concatenate([np.outer(g.standard_normal(128), g.standard_normal(WIDTH)) for _ in range(ROWS // 128)])
    return size * (strong + noise(seed, 0.7))


BASE = noise(0)


@pytest.mark.parametrize("size", [0.05, 0.3])
def test_what_was_added_by_chance_names_the_first_and_neither_of_two_siblings(size: float) -> None:
    one, two = BASE + noise(1, size), BASE + noise(2, size)
    rows = side_by_side([BASE, one, one + noise(3, size), two])
    assert [rows.first_by_chance(0, k) for k in (1, 2, 3)] == [1, 1, 1]
    assert [rows.first_by_chance(k, 0) for k in (1, 2, 3)] == [-1, -1, -1]
    assert rows.first_by_chance(1, 2) == 1
    assert rows.first_by_chance(1, 3) == rows.first_by_chance(2, 3) == 0


def test_two_trainings_are_not_told_by_chance() -> None:
    """What both learned of one text is no chance: neither history fits, and nothing is said."""
    rows = side_by_side([BASE, BASE + learned(1, 0.3), BASE + learned(2, 0.3)])
    fits = rows.by_chance(0, 1, 2)
    assert fits is not None
    assert not any(fit.is_chance for fit in fits)
    assert rows.first_by_chance(1, 2) == 0


def test_chance_tells_a_continuation_from_a_sibling() -> None:
    one = BASE + noise(1, 0.1)
    rows = side_by_side([BASE, one, one + noise(2, 0.3), BASE + noise(3, 0.3)])
    below, beside = rows.by_chance(0, 1, 2) or (None, None)
    assert below is not None
    assert beside is not None
    assert below.is_chance
    assert beside.sum > 50
    below, beside = rows.by_chance(0, 1, 3) or (None, None)
    assert below is not None
    assert beside is not None
    assert beside.is_chance
    assert below.sum < -50


def test_the_bulk_has_the_way_of_an_ancestor_and_not_what_everybody_learns() -> None:
    """Siblings look like a continuation by all numbers; in the bulk they have next to nothing in common."""
    one, unseen = BASE + learned(1, 0.1), BASE + learned(2, 0.1)
    models = [BASE, one, one + noise(3, 0.1), BASE + learned(4, 0.3), unseen + noise(5, 0.05), unseen + noise(6, 0.05)]
    rows = side_by_side(models)
    d = rows.distances([0, 1, 3])
    assert d is not None
    assert (d[0, 2] - d[1, 2]) / d[0, 1] > 0.9

    def shared(i: int, j: int) -> Shared:
        found = rows.bulk.shared(0, i, j)
        assert found is not None
        return found

    assert WHOLE_PART < shared(1, 2).both / shared(1, 2).one < 1.1
    assert shared(1, 3).both / shared(1, 3).one < 0.3
    assert shared(4, 5).cosine > 0.5


def test_without_rows_in_common_nothing_is_shared() -> None:
    there = np.zeros((3, 128), dtype=np.bool_)
    assert Bulk([np.zeros((3, 128, WIDTH), dtype=np.float32)], [there]).shared(0, 1, 2) is None
    rows = CommonRows(np.zeros((ROWS, 3, 3)), np.zeros((ROWS, 3), dtype=np.bool_), 0, WIDTH)
    assert rows.by_chance(0, 1, 2) is None
    assert rows.first_by_chance(0, 1) == 0


def test_rows_that_two_models_were_handed_down_are_equal_and_not_their_parents() -> None:
    unseen = BASE + learned(1, 0.2)
    one, two = unseen.copy(), unseen.copy()
    one[:400] += noise(2, 0.1)[:400]
    two[300:500] += noise(3, 0.1)[300:500]
    shorter, longer = 0.9 * BASE, 0.9 * BASE
    rows = side_by_side([BASE, one, two, shorter, longer, np.zeros_like(BASE), np.zeros_like(BASE)])
    assert rows.handed(0, 1, 2).kept == ROWS - 500
    assert rows.handed(0, 3, 4) == Handed()  # decay leaves two models so without an ancestor between
    assert rows.handed(0, 5, 6) == Handed()  # so does a mask


def test_of_a_mixture_beside_a_dense_model_rows_are_those_of_one_expert() -> None:
    """The best copy of each unit would be one of another expert in every model."""
    units, experts = 8, 3
    label_N = torch.arange(experts).repeat_interleave(units)
    origin_N = torch.arange(units).repeat(experts)
    origin_N[0:3] = -1  # drawn anew in the first expert
    score_N = torch.rand(units * experts, generator=torch.Generator().manual_seed(0))
    every = torch.arange(units)
    plain = torch.zeros(units * experts)
    found = UnitMap(
        0, 0, origin_N, score_N, every, torch.zeros(units, dtype=torch.long), every.repeat(experts), label_N,
        plain.bool(), plain, plain, units, units * experts,
    )  # fmt: skip
    mine_N = of_one_expert(found)
    assert torch.unique(label_N[mine_N]).tolist() == [1]
    assert torch.equal(of_one_expert(replace(found, label_b_N=torch.zeros_like(label_N))), torch.ones_like(mine_N))
