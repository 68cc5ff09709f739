"""Whether a first model is one: its own way, missing in all others, gives a false one away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pedigree.forensics.trees.family_bulk import thinned
from pedigree.forensics.trees.family_rows import CommonRows
from pedigree.forensics.trees.first_model import FirstModel, first_model_of
from pedigree.forensics.trees.rooted_tree import rooted_tree
from pedigree.forensics.trees.ways import Ways

MATRICES, UNITS, WIDTH = 8, 64, 48
ROWS = MATRICES * UNITS


def noise(seed: int, size: float = 1.0) -> np.ndarray:
    return size * np.random.default_rng(seed).standard_normal((ROWS, WIDTH))


def learned(seed: int, size: float, text: float = 0.3) -> np.ndarray:
    """A training: directions that every text teaches, directions of its own, and noise."""

    def directions(g: np.random.Generator) -> np.ndarray:
        return np.concatenate(
            [g.standard_normal((UNITS, 3)) @ g.standard_normal((3, WIDTH)) for _ in range(MATRICES)]
        ) / np.sqrt(3)

    own = directions(np.random.default_rng(seed))
    return size * (text * directions(np.random.default_rng(77)) + own + noise(seed + 500, 0.5))


def laid(models: list[np.ndarray], rounded: frozenset[int] = frozenset()) -> Ways:
    rows = np.stack(models)
    there = np.ones((len(models), ROWS), dtype=np.bool_)
    parts = [rows[:, at : at + UNITS] for at in range(0, ROWS, UNITS)]
    bulk = thinned(parts, [there[:, :UNITS]] * MATRICES)
    common = CommonRows(np.einsum("nrk,mrk->rnm", rows, rows), there.T, 0, WIDTH, bulk, rounded)
    ways = Ways.of(np.array([[float(((x - y) ** 2).mean()) for y in models] for x in models]))
    return replace(ways, rows=common, numbers=tuple(range(len(models))))


def odds(n: int, first: int = 0, value: float = 4.0) -> np.ndarray:
    out = np.zeros((n, n))
    out[first], out[:, first] = value, -value
    out[first, first] = 0.0
    return out


START = noise(0)
NEAR, LONG, OTHER = START + learned(1, 0.2), START + learned(2, 0.35), START + learned(3, 0.4)


def test_a_true_first_model_has_nothing_of_its_own() -> None:
    found = first_model_of(0, [[1], [2], [3]], laid([START, NEAR, LONG, OTHER]), odds(4))
    assert found.share < 0.1
    assert found.holds
    assert found.siblings == []


def test_the_least_trained_child_of_a_missing_first_model_is_none() -> None:
    """By every pair it came first; what it learned itself is in its numbers and missing in both others."""
    found = first_model_of(0, [[1], [2]], laid([NEAR, LONG, OTHER]), odds(3))
    assert found.share > 0.3
    assert not found.holds
    assert found.siblings == []  # no pair says that it was not before a child: arrows are withheld, nothing is drawn


def test_where_a_pair_says_so_too_a_hidden_ancestor_stands_above_both() -> None:
    child = NEAR + learned(9, 0.3)
    table = odds(4)
    table[0, 1] = table[1, 0] = 0.0
    ways = laid([NEAR, LONG, OTHER, child])
    assert first_model_of(0, [[1], [2], [3]], ways, table).siblings == [1, 2]
    table[0, 1], table[1, 0] = -0.5, 0.5
    tree = rooted_tree(ways, table)
    assert tree is not None
    assert tree.root == 4
    assert {(u, v) for u, v, _ in tree.edges} == {(4, 0), (4, 1), (4, 2), (0, 3)}


def test_a_child_with_nothing_but_noise_tells_nothing_of_a_first_model() -> None:
    ways = laid([NEAR, NEAR + noise(20, 0.1), LONG, OTHER])
    assert not first_model_of(0, [[1], [2], [3]], ways, odds(4)).holds


def test_a_model_on_a_grid_whose_children_are_on_none_was_not_first() -> None:
    models = [START, NEAR, LONG]
    assert not first_model_of(0, [[1], [2]], laid(models, frozenset({0})), odds(3)).holds
    assert first_model_of(0, [[1], [2]], laid(models, frozenset({0, 1, 2})), odds(3)).holds


@pytest.mark.parametrize(("least", "holds"), [(3.0, True), (0.0, False)])
def test_doubt_grows_where_a_child_may_have_come_before(least: float, *, holds: bool) -> None:
    assert FirstModel(share=0.0, error=0.3, cosine=0.1, least_odds=least).holds is holds
