"""Rows that no step touched: who came later, who has whose marks, and where nothing is said."""

from __future__ import annotations

import numpy as np
import pytest

from pedigree.forensics.trees.family_bulk import Bulk
from pedigree.forensics.trees.family_rows import CommonRows
from pedigree.forensics.trees.placement import MARKS_LACKING, continues
from pedigree.forensics.trees.rooted_tree import rooted_tree
from pedigree.forensics.trees.tree_odds import WORN_ODDS, worn_odds
from pedigree.forensics.trees.ways import Ways
from pedigree.forensics.trees.worn_rows import Marks, came_later, marks

ROWS, WIDTH = 300, 32
START = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)


def trained(
    on: np.ndarray, seed: int, steps: int, tokens: slice = slice(0, 150), rate: float = 1e-3, decay: float = 0.1
) -> np.ndarray:
    """A training in single precision, step by step, on a text with some of the tokens; the rate falls by a cosine."""
    g, out = np.random.default_rng(seed), on.copy()
    for step in range(steps):
        out *= np.float32(1.0 - rate * decay * (0.1 + 0.45 * (1 + np.cos(np.pi * step / steps))))
        out[tokens] += (0.01 * g.standard_normal(out[tokens].shape)).astype(np.float32)
    return out


def gram(*models: np.ndarray) -> np.ndarray:
    rows = np.stack(models).astype(np.float64)
    return np.einsum("nrk,mrk->rnm", rows, rows)


def seen(*models: np.ndarray) -> Marks:
    found = marks(np.stack(models).astype(np.float64))
    assert found is not None
    return found


def said(found: Marks) -> list[str]:
    return [word for word in ("lacking", "apart") if getattr(found, word)]


def test_the_longer_training_has_the_shorter_rows() -> None:
    child = trained(START, 1, 40)
    grandchild = trained(child, 2, 300, slice(0, 250))
    assert came_later(gram(START, child)) == 1
    assert came_later(gram(child, START)) == -1
    assert came_later(gram(child, grandchild)) == 1
    assert came_later(gram(START, grandchild)) == 1


@pytest.mark.parametrize("decay", [0.0, 1e-6])
def test_without_decay_nothing_is_said(decay: float) -> None:
    child = trained(START, 1, 40, decay=decay)
    assert came_later(gram(START, child)) == 0
    assert marks(np.stack([START, child, child]).astype(np.float64)) is None


def test_two_rows_are_too_few() -> None:
    for count, told in ((2, 0), (3, 1)):
        assert came_later(gram(START, trained(START, 1, 40, slice(0, ROWS - count)))) == told
    two = trained(START, 1, 40, slice(0, ROWS - 2))
    assert marks(np.stack([START, two, two]).astype(np.float64)) is None


def test_rows_that_were_scaled_one_by_one_have_no_factor_in_common() -> None:
    scaled = START * np.random.default_rng(3).uniform(0.8, 0.9, (ROWS, 1))
    assert came_later(gram(START, scaled)) == 0


def test_rows_stored_in_fewer_bits_and_rows_without_a_length_say_nothing() -> None:
    coarse = 0.99 * START * (1 + 3e-3 * np.random.default_rng(9).uniform(-1, 1, START.shape))  # as bfloat16 rounds
    for other in (coarse, 0 * START):
        assert came_later(gram(START, other)) == 0
        assert marks(np.stack([START, other, other])) is None


@pytest.mark.parametrize(
    ("first", "then"), [((60, 1e-3), (90, 1e-3)), ((18, 2e-3), (60, 2e-3)), ((200, 1e-3), (100, 5e-4))]
)
def test_a_continuation_has_all_marks_of_what_it_continues(first: tuple[int, float], then: tuple[int, float]) -> None:
    child = trained(START, 1, first[0], rate=first[1])
    found = seen(START, child, trained(child, 2, then[0], rate=then[1]))
    assert 0.9 < found.share < 1.2  # errors at small rates repeat
    assert said(found) == []


@pytest.mark.parametrize("steps", [20, 90])
def test_another_child_has_marks_of_its_own_though_it_read_the_same_text(steps: int) -> None:
    found = seen(START, trained(START, 1, 60), trained(START, 1, steps))
    assert said(found) == ["lacking", "apart"]


def test_trainings_by_one_and_the_same_rates_leave_the_same_marks_and_nothing_is_said() -> None:
    found = seen(START, trained(START, 1, 60), trained(START, 2, 60))
    assert found.share == pytest.approx(1.0, abs=1e-3)
    assert said(found) == []
    longer = seen(START, trained(START, 1, 60), trained(trained(START, 2, 60), 3, 90))
    assert said(longer) == []


def test_two_children_of_a_model_that_is_not_there_have_a_part_of_their_marks_in_common() -> None:
    missing = trained(START, 1, 60)
    found = seen(START, trained(missing, 2, 50), trained(missing, 3, 90))
    assert said(found) == ["lacking"]
    assert found.share == pytest.approx(60 / 110, abs=0.1)


def test_few_numbers_say_nothing() -> None:
    """What chance alone may leave is no sign."""
    few = np.stack([START, trained(START, 1, 60), trained(START, 1, 90)])[:, -3:]
    found = seen(*few)
    assert said(found) == []


def side_by_side(*models: np.ndarray) -> Ways:
    """Models whose matrices go one and the same way, with tables that wear."""
    n, g = len(models), np.random.default_rng(7)
    way = g.standard_normal((128, WIDTH))
    parts = np.stack([k * way + 0.3 * k * g.standard_normal(way.shape) for k in range(n)])
    rows = CommonRows(
        np.einsum("nrk,mrk->rnm", parts, parts), np.ones((128, n), dtype=np.bool_), 0, WIDTH, table_RNN=gram(*models),
        table_RN=np.ones((ROWS, n), dtype=np.bool_), worn_NRK=np.stack(models).astype(np.float64),
        worn_NR=np.ones((n, ROWS), dtype=np.bool_),
    )  # fmt: skip
    ways = Ways.of(np.array([[float(((x - y) ** 2).mean()) for y in parts] for x in parts]))
    ways.rows, ways.numbers = rows, tuple(range(n))
    return ways


def test_a_model_without_the_marks_of_another_is_hardly_placed_below_it() -> None:
    child = trained(START, 1, 60)
    below, beside = (side_by_side(START, child, x) for x in (trained(child, 2, 90), trained(START, 2, 90)))
    odds = np.zeros((3, 3))
    for ways in (below, beside):
        assert ways.rows is not None
        ways.rows.table_RNN = None  # rows that were handed down say the same
    there, not_there = (continues(0, 1, 2, ways, odds) for ways in (below, beside))
    assert there - not_there == pytest.approx(MARKS_LACKING, abs=0.01)


def test_the_order_of_two_is_told_by_their_tables_unless_the_pair_clearly_says_the_contrary() -> None:
    ways = side_by_side(START, trained(START, 1, 40), trained(START, 2, 90))
    assert ways.came_later().tolist() == [[0, 1, 1], [-1, 0, 1], [-1, -1, 0]]
    drift = np.zeros((3, 3))
    drift[0, 1], drift[1, 0], drift[0, 2], drift[2, 0] = -3.5, 3.5, -1.0, 1.0
    told = worn_odds(ways, drift)
    assert told.tolist() == [[0, 3.5, WORN_ODDS], [-3.5, 0, WORN_ODDS], [-WORN_ODDS, -WORN_ODDS, 0]]
    assert (told + drift)[0, 1] == 0
    ways.rows = None
    assert not ways.came_later().any()
    assert ways.marks(0, 1, 2) is None


def way_pair(shape: tuple[int, int], cosine: float, seed: int) -> list[np.ndarray]:
    """A model, and two whose ways from it have a cosine."""
    g = np.random.default_rng(seed)
    start, common, *own = (g.standard_normal(shape) for _ in range(4))
    return [start, *(start + 0.3 * (cosine**0.5 * common + (1 - cosine) ** 0.5 * x) for x in own)]


def two_children(bulk: float, table: float, worn: list[np.ndarray] | None = None) -> Ways:
    """Two children of a model, with the cosines of their ways in matrices and in the input table."""
    parts, rows = np.stack(way_pair((96, 64), bulk, 1)), np.stack(way_pair((ROWS, WIDTH), table, 2))
    there = np.ones((96, 3), dtype=np.bool_)
    told = CommonRows(
        np.einsum("nrk,mrk->rnm", parts, parts), there, 0, 64, Bulk([parts.astype(np.float32)], [there.T]),
        table_RNN=np.einsum("nrk,mrk->rnm", rows, rows), table_RN=np.ones((ROWS, 3), dtype=np.bool_),
    )  # fmt: skip
    if worn is not None:
        told.worn_NRK, told.worn_NR = np.stack(worn).astype(np.float64), np.ones((3, len(worn[0])), dtype=np.bool_)
    ways = Ways.of(np.array([[float(((x - y) ** 2).mean()) for y in parts] for x in parts]))
    ways.rows, ways.numbers = told, (0, 1, 2)
    return ways


ODDS = np.array([[0.0, 4.0, 4.0], [-4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]])


@pytest.mark.parametrize(("bulk", "table", "hidden"), [(0.6, 0.45, 1), (0.6, 0.8, 0), (0.25, 0.1, 0)])
def test_two_that_share_as_much_beside_the_table_as_in_it_have_an_ancestor_between(
    bulk: float, table: float, hidden: int
) -> None:
    tree = rooted_tree(two_children(bulk, table), ODDS)
    assert tree is not None
    assert tree.hidden == hidden


def test_two_whose_untouched_rows_have_no_marks_in_common_have_no_ancestor_between() -> None:
    missing = trained(START, 1, 60)
    below = [START, trained(missing, 2, 20), trained(missing, 3, 90)]
    beside = [START, trained(START, 2, 20), trained(START, 3, 90)]
    for worn, hidden in ((below, 1), (beside, 0)):
        tree = rooted_tree(two_children(0.8, 0.8, worn), ODDS)
        assert tree is not None
        assert tree.hidden == hidden
