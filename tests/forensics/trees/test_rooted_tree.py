"""Trees whose first model is known: chains, children that learned alike, ancestors that are not there."""

from __future__ import annotations

import numpy as np
import pytest

from pedigree.forensics.descent.share import Share
from pedigree.forensics.trees.family_bulk import Shared
from pedigree.forensics.trees.rooted_tree import Rooted, _have_common, rooted_tree
from pedigree.forensics.trees.ways import Ways
from pedigree.forensics.trees.worn_rows import Marks

DIMENSIONS = 20_000


def distances(points: list[np.ndarray]) -> np.ndarray:
    return np.array([[float(((p - q) ** 2).mean()) for q in points] for p in points])


def odds(parents: list[int | None]) -> np.ndarray:
    """Ancestors are known by four, all else is open."""
    out = np.zeros((len(parents), len(parents)))
    for k, parent in enumerate(parents):
        while parent is not None:
            out[parent, k], out[k, parent] = 4.0, -4.0
            parent = parents[parent]
    return out


def change(seed: int, size: float) -> np.ndarray:
    return size * np.random.default_rng(seed).standard_normal(DIMENSIONS)


def parents_of(tree: Rooted | None) -> dict[int, int]:
    assert tree is not None
    return {child: parent for parent, child, _ in tree.edges}


def test_a_step_on_the_way_is_an_ancestor_and_a_sibling_is_not() -> None:
    root = change(0, 1.0)
    step = root + change(1, 0.3)
    points = [root, step, step + change(2, 0.2), root + change(3, 0.25)]
    assert parents_of(rooted_tree(Ways.of(distances(points)), odds([None, 0, 1, 0]))) == {1: 0, 2: 1, 3: 0}


@pytest.mark.parametrize("far", [0.4, 1.5])
def test_children_of_one_model_that_learned_alike_hang_from_it(far: float) -> None:
    """The nearer one would pass for an ancestor by distance, and pairs cannot exclude it."""
    root, common = change(0, 1.0), change(1, 1.0)
    near, away = root + 0.1 * common + change(2, 0.17), root + far * (0.5 * common + change(3, 0.87))
    table = odds([None, 0, 0])
    table[1, 2], table[2, 1] = 4.0, -4.0
    assert parents_of(rooted_tree(Ways.of(distances([root, near, away])), table)) == {1: 0, 2: 0}


def test_what_continues_a_long_training_shows_that_it_did_not_continue_a_short_one_on_its_text() -> None:
    """Alone, the long one passes the short one; its children, which left the text, did not come by the short one."""
    root, text = change(0, 1.0), change(1, 1.0)
    short, long = root + 0.3 * (0.6 * text + change(2, 0.8)), root + 0.6 * text + change(3, 0.8)
    children = [long - 0.25 * text + change(5 + k, 0.5) for k in range(3)]
    known = odds([None, 0, 1, 2, 2, 2])
    alone = rooted_tree(Ways.of(distances([root, short, long])), known[:3, :3])
    assert parents_of(alone) == {1: 0, 2: 1}
    assert parents_of(rooted_tree(Ways.of(distances([root, short, long, *children])), known)) == {
        1: 0, 2: 0, 3: 2, 4: 2, 5: 2,
    }  # fmt: skip


def three_below_one_way() -> Ways:
    unseen = change(0, 1.0) + change(1, 0.4)
    sizes = enumerate((0.32, 0.35, 0.45))
    return Ways.of(distances([change(0, 1.0), *(unseen + change(2 + k, size) for k, size in sizes)]))


def test_children_that_share_one_way_have_an_ancestor_that_is_not_among_them() -> None:
    tree = rooted_tree(three_below_one_way(), odds([None, 0, 0, 0]))
    assert tree is not None
    assert tree.hidden == 1
    assert parents_of(tree) == {4: 0, 1: 4, 2: 4, 3: 4}
    assert {child: length for _, child, length in tree.edges}[4] == pytest.approx(0.16, rel=0.05)


def test_neither_text_nor_trainings_that_never_met_make_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three long trainings on like texts share as much of all numbers as three below a missing model."""
    apart, text = Marks(1.0, 1.0, 0.01, 10_000), Shared(1.0, 1.0, 0.4, 0.1)
    for asked in ({"marks": apart}, {"in_the_bulk": text, "in_the_table": 0.6}):
        with monkeypatch.context() as patch:
            for name, value in asked.items():
                patch.setattr(Ways, name, lambda *_, value=value: value)
            tree = rooted_tree(three_below_one_way(), odds([None, 0, 0, 0]))
        assert tree is not None
        assert tree.hidden == 0


def test_more_than_the_shorter_way_in_common_is_text_where_the_table_has_yet_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A short and a long training on one text, in one order."""
    monkeypatch.setattr(Ways, "in_the_bulk", lambda *_: Shared(1.0, 3.0, 1.2, 0.7))
    for table, hidden in ((0.9, False), (0.7, True)):
        monkeypatch.setattr(Ways, "in_the_table", lambda *_, table=table: table)
        assert _have_common(0, 1, 2, three_below_one_way()) == hidden


def test_without_a_model_that_came_first_there_is_no_such_tree() -> None:
    root = change(0, 1.0)
    points = [root + change(1 + k, 0.3) for k in range(3)]
    assert rooted_tree(Ways.of(distances(points)), np.zeros((3, 3))) is None


@pytest.mark.parametrize(("cosine", "hangs"), [(0.04, True), (0.3, False)])
def test_half_a_decision_over_most_is_enough_for_lines_where_children_have_nothing_in_common(
    monkeypatch: pytest.MonkeyPatch, cosine: float, hangs: bool
) -> None:
    """Below a child of a model that is missing, all ways begin with the one back to where they part."""
    root = change(0, 1.0)
    ways = Ways.of(distances([root, *(root + change(1 + k, 0.3) for k in range(4))]))
    half = odds([None, 0, 0, 0, 0]) / 2
    assert rooted_tree(ways, half) is None  # nothing could be laid side by side
    monkeypatch.setattr(Ways, "own_share", lambda *_: Share(of_a=0.22, error=0.08, moved=0.3, matrices=12))
    monkeypatch.setattr(Ways, "in_the_bulk", lambda *_: Shared(1.0, 1.0, cosine, 0.5))
    tree = rooted_tree(ways, half)
    assert (tree is not None) == hangs
    if tree is not None:
        assert parents_of(tree) == {1: 0, 2: 0, 3: 0, 4: 0}
        assert not tree.is_first
