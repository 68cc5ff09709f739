"""Rows that were handed down: who has an ancestor in common, who is none, and where nothing is said."""

from __future__ import annotations

import numpy as np
import pytest

from pedigree.forensics.trees.family_rows import CommonRows
from pedigree.forensics.trees.handed_rows import LEAST, Handed, handed_rows
from pedigree.forensics.trees.placement import MOST_ODDS, continues
from pedigree.forensics.trees.rooted_tree import rooted_tree
from pedigree.forensics.trees.ways import Ways

ROWS, WIDTH = 300, 24


def start() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, WIDTH))


def trained(
    on: np.ndarray, seed: int, tokens: slice | np.ndarray, decay: float = 0.97, size: float = 0.5
) -> np.ndarray:
    """A training on a text with some of the tokens; decay shortens all rows, in single precision."""
    out = (on.astype(np.float32) * np.float32(decay)).astype(np.float64)
    out[tokens] += 0.5 * np.random.default_rng(seed).standard_normal(out[tokens].shape)
    return out


def gram(*models: np.ndarray) -> np.ndarray:
    rows = np.stack(models)
    return np.einsum("nrk,mrk->rnm", rows, rows)


FIRST = start()
MISSING = trained(FIRST, 1, slice(0, 150))
ONE, TWO = trained(MISSING, 2, slice(120, 200)), trained(MISSING, 3, np.r_[0:60, 200:240])
OTHER = trained(FIRST, 4, slice(0, 100))


def test_a_child_has_what_its_parent_learned_and_the_parent_has_nothing_beyond_the_first() -> None:
    found = handed_rows(gram(FIRST, MISSING, ONE))
    assert found == Handed(kept=120, apart=0, beyond=50)
    assert found.follows
    assert handed_rows(gram(FIRST, ONE, MISSING)) == Handed(kept=120, apart=50, beyond=0)


def test_children_of_one_model_that_is_there_share_nothing_and_exclude_each_other() -> None:
    found = handed_rows(gram(FIRST, ONE, OTHER))
    assert found.kept == 0
    assert found.excludes
    assert not found.follows


def test_two_with_an_ancestor_that_is_not_there_share_rows_and_neither_is_the_ancestor() -> None:
    found = handed_rows(gram(FIRST, ONE, TWO))
    assert found.shares
    assert found.excludes
    assert handed_rows(gram(FIRST, TWO, ONE)) == Handed(found.kept, found.beyond, found.apart)


@pytest.mark.parametrize("tokens", [slice(0, 150), slice(0, 300)])
def test_a_training_on_all_the_tokens_of_the_one_before_says_nothing(tokens: slice) -> None:
    found = handed_rows(gram(FIRST, MISSING, trained(MISSING, 5, tokens)))
    assert (found.kept, found.apart) == (0, 0)


def test_rows_without_a_length_and_rows_stored_in_fewer_bits_are_no_states() -> None:
    coarse = FIRST * (1 + 3e-3 * np.random.default_rng(9).uniform(-1, 1, FIRST.shape))  # as bfloat16 rounds
    assert handed_rows(gram(FIRST, coarse, coarse)) == Handed()
    assert handed_rows(gram(FIRST, 0 * FIRST, 0 * FIRST)) == Handed()


def side_by_side(*models: np.ndarray, rounded: frozenset[int] = frozenset()) -> Ways:
    """Models whose matrices say nothing of each other's ways, with tables that do."""
    n, g = len(models), np.random.default_rng(7)
    parts = np.stack([g.standard_normal((128, WIDTH)) for _ in range(n)])
    there = np.ones((128, n), dtype=np.bool_)
    rows = CommonRows(
        np.einsum("nrk,mrk->rnm", parts, parts), there, 0, WIDTH, rounded=rounded, table_RNN=gram(*models),
        table_RN=np.ones((ROWS, n), dtype=np.bool_),
    )  # fmt: skip
    ways = Ways.of(np.array([[float(((x - y) ** 2).mean()) for y in parts] for x in parts]))
    ways.rows, ways.numbers = rows, tuple(range(n))
    return ways


def odds(n: int) -> np.ndarray:
    out = np.zeros((n, n))
    out[0], out[:, 0] = 4.0, -4.0
    out[0, 0] = 0.0
    return out


def test_rows_exclude_a_step_whatever_else_speaks_for_it() -> None:
    ways = side_by_side(FIRST, MISSING, ONE, OTHER)
    assert continues(0, 1, 2, ways, odds(4)) > continues(0, 1, 3, ways, odds(4)) == -MOST_ODDS
    assert continues(0, 2, 1, ways, odds(4)) == -MOST_ODDS


def test_a_hidden_ancestor_stands_where_rows_were_handed_down_by_a_model_that_is_not_there() -> None:
    tree = rooted_tree(side_by_side(FIRST, ONE, TWO, OTHER), odds(4))
    assert tree is not None
    assert tree.hidden == 1
    assert {(u, v) for u, v, _ in tree.edges} == {(0, 4), (4, 1), (4, 2), (0, 3)}


def test_where_all_others_part_at_another_point_the_first_model_has_no_arrow() -> None:
    tree = rooted_tree(side_by_side(FIRST, ONE, TWO), odds(3))
    assert tree is not None
    assert tree.hidden == 1
    assert not tree.is_first


def test_without_a_first_model_rows_show_where_ways_part_and_no_arrow_begins_at_the_one_they_are_seen_from() -> None:
    tree = rooted_tree(side_by_side(OTHER, ONE, TWO), np.zeros((3, 3)))
    assert tree is not None
    assert tree.hidden == 1
    assert not tree.is_first
    unmoved = side_by_side(FIRST, trained(FIRST, 5, slice(0, 300)), trained(FIRST, 6, slice(0, 300)))
    assert rooted_tree(unmoved, np.zeros((3, 3))) is None


def test_rows_of_two_models_on_grids_of_few_numbers_may_meet() -> None:
    ways = side_by_side(FIRST, ONE, TWO, rounded=frozenset({1, 2}))
    found = ways.handed(0, 1, 2)
    assert found.kept == 0
    assert found.apart >= LEAST


def test_rows_that_two_trainings_over_one_text_learned_alike_were_not_handed_down() -> None:
    """A few rows that single steps touched meet to the last digit, amid many that nearly do."""
    met, close = np.r_[0:5], np.r_[5:150]
    one = trained(FIRST, 1, slice(0, 150))
    other = one.copy()
    other[close] += 1e-3 * np.random.default_rng(2).standard_normal(other[close].shape)
    found = handed_rows(gram(FIRST, one, other))
    assert found == Handed(kept=len(met), apart=0, beyond=0, near=len(close))
    assert found.kept >= LEAST
    assert not found.shares
