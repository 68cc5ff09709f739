"""Family trees: edges, directions, siblings, hidden ancestors; on points of known descent and on trained families."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pedigree.benchmark.zoo import Zoo
from pedigree.benchmark.zoo.catalog import recipes_of
from pedigree.benchmark.zoo.catalog_tree import MAX_CHARS
from pedigree.benchmark.zoo.workshop import Workshop
from pedigree.forensics.trees.family_rows import CommonRows
from pedigree.forensics.trees.family_tree import LayOut, _head, build_tree, grow_tree
from pedigree.forensics.trees.joining import neighbor_joining
from pedigree.forensics.trees.kinship import Kinship
from pedigree.forensics.trees.placement import MOST_ODDS, continues
from pedigree.forensics.trees.tree_merges import Mixed
from pedigree.forensics.trees.tree_odds import drift_odds
from pedigree.forensics.trees.ways import Ways
from pedigree.records.family_tree import FamilyTree, TreeResult

DIMENSIONS, ROW = 100_000, 100


def points(parents: list[int | None], seed: int, steps: list[float] | None = None) -> list[np.ndarray]:
    """Models as points: each its parent plus an independent change."""
    g = np.random.default_rng(seed)
    out: list[np.ndarray] = []
    for k, parent in enumerate(parents):
        step = steps[k] if steps else g.uniform(0.1, 0.4)
        start = np.zeros(DIMENSIONS) if parent is None else out[parent]
        # A training moves some rows more than others, each training other ones.
        uneven = np.ones(DIMENSIONS // ROW) if parent is None else np.exp(g.standard_normal(DIMENSIONS // ROW))
        uneven /= np.sqrt((uneven**2).mean())
        change = uneven.repeat(ROW) * g.standard_normal(DIMENSIONS)
        out.append(start + (1.0 if parent is None else step) * change)
    return out


def test_of_equal_weights_the_member_stands_for_all_whose_order_is_told_most_surely() -> None:
    """A disguise that was undone takes from what pairs tell, in whatever order the models are given."""
    plain, disguised = Kinship("related", 3.3, matched=100), Kinship("related", 2.0, matched=100)
    equal = Kinship("related", 0.0, distance2=0.0, matched=100)
    assert _head([0, 1], 3, {(0, 1): equal, (0, 2): plain, (1, 2): disguised}) == 0
    assert _head([0, 1], 3, {(0, 1): equal, (0, 2): disguised, (1, 2): plain}) == 1


def line_of(parents: list[int | None], k: int) -> list[int]:
    """Ancestors of a model, itself first."""
    out = [k]
    while (parent := parents[out[-1]]) is not None:
        out.append(parent)
    return out


def pairs_of(
    parents: list[int | None], seed: int, shown: list[int], steps: list[float] | None = None
) -> dict[tuple[int, int], Kinship]:
    """Pairs as comparisons find them: an ancestor is named at 4, of siblings the one that drifted less at 2."""
    at = points(parents, seed, steps)
    out = {}
    for x, i in enumerate(shown):
        for y, j in enumerate(shown):
            if x < y:
                up, down = line_of(parents, i), line_of(parents, j)
                if up[-1] != down[-1]:
                    out[x, y] = Kinship("unrelated")
                    continue
                length2 = float(np.sqrt((at[i] ** 2).sum() * (at[j] ** 2).sum()))
                d2 = float(((at[i] - at[j]) ** 2).sum()) / length2
                root = at[up[-1]]
                less = np.linalg.norm(at[j] - root) - np.linalg.norm(at[i] - root)
                odds = 4.0 if i in down else -4.0 if j in up else 2.0 * float(np.sign(less))
                out[x, y] = Kinship("related", odds, 0.0, d2, length2 / DIMENSIONS)
    return out


def arrows(result: TreeResult) -> set[tuple[str, str]]:
    names = {node.id: node.locations[0] if node.locations else "?" for node in result.nodes}
    return {(names[e.source], names[e.target]) for e in result.edges if e.directed}


def laid_out(at: list[np.ndarray]) -> LayOut:
    """Points side by side, in rows."""

    def lay_out(hub: int, members: Sequence[int]) -> CommonRows:
        rows = np.stack([at[k].reshape(-1, ROW) for k in members])
        gram = np.einsum("nrk,mrk->rnm", rows, rows)
        return CommonRows(gram, np.ones(gram.shape[:2], dtype=np.bool_), members.index(hub), ROW)

    return lay_out


def tree_of(
    parents: list[int | None], seed: int = 0, shown: list[int] | None = None, steps: list[float] | None = None
) -> TreeResult:
    chosen = shown if shown is not None else list(range(len(parents)))
    at = points(parents, seed, steps)
    pairs = pairs_of(parents, seed, chosen, steps)
    return build_tree([str(k) for k in chosen], pairs, laid_out([at[k] for k in chosen]))


def lines(result: TreeResult) -> set[frozenset[str]]:
    names = {node.id: node.locations[0] if node.locations else "?" for node in result.nodes}
    return {frozenset((names[e.source], names[e.target])) for e in result.edges}


def test_neighbor_joining_gives_back_additive_distances() -> None:
    # Leaves 0, 1 below one point, 2, 3 below another; the points are 3 apart.
    d = np.array([[0, 3, 6, 8], [3, 0, 7, 9], [6, 7, 0, 6], [8, 9, 6, 0]], float)
    graph = neighbor_joining(d)
    lengths = {leaf: next(iter(graph.edges[leaf].values())) for leaf in range(4)}
    assert lengths == pytest.approx({0: 1, 1: 2, 2: 2, 3: 4})


def test_every_edge_of_twenty_models_is_right_and_no_arrow_is_wrong() -> None:
    for seed in range(6):
        g = np.random.default_rng(seed)
        parents: list[int | None] = [None, *(int(g.integers(0, k)) for k in range(1, 20))]
        result = tree_of(parents, seed)
        truth = {(str(p), str(k)) for k, p in enumerate(parents) if p is not None}
        assert lines(result) == {frozenset(line) for line in truth}, seed
        assert arrows(result) <= truth, seed
        assert len(arrows(result)) >= len(truth) / 2, seed
        assert not [node for node in result.nodes if node.kind == "hidden"]


def test_siblings_without_their_parent_have_a_hidden_one_and_no_arrows() -> None:
    result = tree_of([None, 0, 0, 0], shown=[1, 2, 3])
    assert [node.kind for node in result.nodes] == ["model", "model", "model", "hidden"]
    assert arrows(result) == set()
    assert result.siblings == [["1", "2", "3"]]


def test_a_third_model_tells_siblings_from_ancestors() -> None:
    """1 and 2 are siblings, 1 drifted less: the pair alone would call it the ancestor."""
    parents: list[int | None] = [None, 0, 0, 2]
    at = pairs_of(parents, 0, [1, 2, 3])
    assert abs(at[0, 1].log_odds) == 2.0
    result = build_tree(["1", "2", "3"], at)
    assert arrows(result) == {("2", "3")}
    assert ("1", "2") not in arrows(result)


def test_a_hidden_ancestor_between_known_ones() -> None:
    # 0 -> 1(hidden) -> 2, 3, 4; all others shown.
    result = tree_of([None, 0, 1, 1, 1], shown=[0, 2, 3, 4], steps=[1.0, 0.32, 0.25, 0.3, 0.38])
    hidden = [node.id for node in result.nodes if node.kind == "hidden"]
    assert len(hidden) == 1
    assert {e.target if e.source == hidden[0] else e.source for e in result.edges} == {"m0", "m1", "m2", "m3"}


def test_strangers_stay_apart_and_a_merge_hangs_from_both() -> None:
    parents: list[int | None] = [None, 0, None, 2]
    pairs = pairs_of(parents, 0, [0, 1, 2, 3])
    pairs |= {(k, 4): Kinship("related", 3.5, 0.0, 0.6 + 0.05 * k) for k in range(4)}
    result = build_tree(["0", "1", "2", "3", "merged"], pairs)
    assert result.families == [["0", "1"], ["2", "3"]]
    assert {(e.source, e.target) for e in result.edges if e.kind == "merge"} == {("m0", "m4"), ("m2", "m4")}


def test_a_merge_inside_a_family_is_not_an_ancestor_of_what_it_was_merged_from() -> None:
    parents: list[int | None] = [None, 0, 0]
    at = points(parents, 0, [0.0, 0.3, 0.3])
    at.append(0.6 * at[1] + 0.4 * at[2])
    pairs = {}
    for i in range(4):
        for j in range(i + 1, 4):
            d2 = float(((at[i] - at[j]) ** 2).mean())
            pairs[i, j] = Kinship("related", -3.5 if j == 3 else 4.0 if i == 0 else 0.0, 0.0, d2)
    result = build_tree(["0", "1", "2", "merged"], pairs)
    assert arrows(result) == {("0", "1"), ("0", "2"), ("1", "merged"), ("2", "merged")}
    assert {e.source for e in result.edges if e.kind == "merge"} == {"m1", "m2"}


def between_strangers() -> tuple[list[str], dict[tuple[int, int], Kinship]]:
    """Two lines of two, and a merge that is nearest to one of each."""
    pairs = pairs_of([None, 0, None, 2], 0, [0, 1, 2, 3])
    pairs |= {(k, 4): Kinship("related", 3.5, 0.0, 0.6 + 0.05 * k) for k in range(4)}
    return ["0", "1", "2", "3", "merged"], pairs


def test_the_parents_of_a_merge_are_those_that_explain_it_to_the_last_digit() -> None:
    names, pairs = between_strangers()

    def weigh(child: int, sources: Sequence[int]) -> Mixed | None:
        assert child == 4
        told = {1: 0.4, 2: 0.6}
        return Mixed(tuple(told.get(s, 0.0) for s in sources), exact=True)

    merges = [e for e in build_tree(names, pairs, None, weigh).edges if e.kind == "merge"]
    assert {(e.source, e.weight, e.directed) for e in merges} == {("m1", 0.4, True), ("m2", 0.6, True)}


def test_a_merge_that_none_of_the_models_explains_has_no_arrows() -> None:
    """Its parent may be a relative that is not among them."""
    names, pairs = between_strangers()
    result = build_tree(names, pairs, None, lambda child, sources: None)
    merges = [e for e in result.edges if e.kind == "merge"]
    assert [(e.source, e.weight, e.directed) for e in merges] == [("m0", None, False), ("m2", None, False)]
    assert any("weights" in words for words in result.not_checked)


def test_a_child_of_a_merge_inside_a_family_hangs_from_it() -> None:
    """No way over a source leads there: a merge has a part only of what either learned."""
    parents: list[int | None] = [None, 0, 0, 0]
    at = points(parents, 0, [0.0, 0.3, 0.3, 0.25])
    at.append(0.5 * at[1] + 0.5 * at[2])
    at.append(at[4] + 0.2 * np.random.default_rng(9).standard_normal(DIMENSIONS))
    at.append(at[1] + 0.2 * np.random.default_rng(10).standard_normal(DIMENSIONS))
    lines_up = {1: [0], 2: [0], 3: [0], 4: [0, 1, 2], 5: [0, 4], 6: [0, 1]}
    pairs = {}
    for i in range(7):
        for j in range(i + 1, 7):
            value = 4.0 if i in lines_up[j] else 0.0
            pairs[i, j] = Kinship("related", value, 0.0, float(((at[i] - at[j]) ** 2).mean()))
    result = build_tree([str(k) for k in range(7)], pairs, laid_out(at))
    truth = {("0", "1"), ("0", "2"), ("0", "3"), ("1", "4"), ("2", "4"), ("4", "5"), ("1", "6")}
    assert lines(result) == {frozenset(line) for line in truth}
    assert {e.weight is None for e in result.edges if e.kind == "merge"} == {False}


def test_a_sum_of_changes_is_a_merge_where_every_number_says_so_and_a_parent_of_two_is_none() -> None:
    """5 has the larger half of the changes of 1 and of 2, as merges by their signs have; 3 is near to a mixture of its
    children 4 and 6, too."""
    parents: list[int | None] = [None, 0, 0, 0, 3]
    at = points(parents, 0, [0.0, 0.3, 0.3, 0.4, 0.1])
    ways = [at[k] - at[0] for k in (1, 2)]
    at.append(at[0] + sum(np.where(np.abs(way) > np.median(np.abs(way)), way, 0.0) for way in ways))
    at.append(at[3] + 0.1 * np.random.default_rng(8).standard_normal(DIMENSIONS))
    lines_up = {1: [0], 2: [0], 3: [0], 4: [0, 3], 5: [0, 1, 2], 6: [0, 3]}
    pairs = {
        (i, j): Kinship("related", 4.0 if i in lines_up[j] else 0.0, 0.0, float(((at[i] - at[j]) ** 2).mean()))
        for j in range(7) for i in range(j)
    }  # fmt: skip
    asked = []

    def weigh(child: int, sources: Sequence[int], base: int | None = None) -> Mixed | None:
        asked.append(child)
        is_sum = (child, set(sources), base) == (5, {1, 2}, 0)
        return Mixed((1.0,) * len(sources), is_sum)

    result = build_tree([str(k) for k in range(7)], pairs, laid_out(at), weigh)
    truth = {("0", "1"), ("0", "2"), ("0", "3"), ("1", "5"), ("2", "5"), ("3", "4"), ("3", "6")}
    assert lines(result) == {frozenset(line) for line in truth}
    assert arrows(result) == truth
    assert {(e.source, e.weight) for e in result.edges if e.kind == "merge"} == {("m1", 1.0), ("m2", 1.0)}
    assert {3, 5} <= set(asked)


def test_a_child_that_came_back_toward_the_first_model_stays_below_its_parent() -> None:
    """2 lies nearer to 0 than 1 does and has nine tenths of its way; either continues the other: the pair decides."""
    at = points([None, 0, 0], 0, [1.0, 0.4, 0.15])
    way, own = (at[k] - at[0] for k in (1, 2))
    at[2] = at[0] + 0.9 * way + own
    assert np.linalg.norm(at[2] - at[0]) < np.linalg.norm(way)
    for first, odds in ((1, 2.0), (2, -2.0)):
        value = {(0, 1): 4.0, (0, 2): 4.0, (1, 2): odds}
        pairs = {(i, j): Kinship("related", value[i, j], 0.0, float(((at[i] - at[j]) ** 2).mean())) for i, j in value}
        result = build_tree(["0", "1", "2"], pairs, laid_out(at))
        assert lines(result) == {frozenset(("0", str(first))), frozenset(("1", "2"))}


def test_what_lacks_the_layers_of_a_grown_model_stands_beside_it() -> None:
    """2 has most of the way to 1; where 1 was given a layer on it and 2 has none, it cannot have come from there."""
    ways = Ways.of(np.array([[0.0, 0.1, 0.15], [0.1, 0.0, 0.06], [0.15, 0.06, 0.0]]))
    odds = np.zeros((3, 3))
    for layers, beside in ((4, False), (5, True)):
        shapes = tuple((deep, 128, 64, 32, 0) for deep in (4, layers, 4))
        assert (continues(0, 1, 2, replace(ways, shapes=shapes), odds) == -MOST_ODDS) == beside


def test_what_a_cut_model_lost_does_not_come_back_in_its_sibling() -> None:
    """2 was trained for longer on the text that 1, which lost a third of its rows, was trained on."""
    base = points([None], 0)[0]
    step, own = 0.1 * points([None], 1)[0], 0.25 * points([None], 2)[0]
    at = {"base": base, "cut": base + step, "whole": base + 0.95 * step + own}
    names, count = list(at), DIMENSIONS // ROW

    def lay_out(hub: int, members: Sequence[int]) -> CommonRows:
        rows = laid_out([at[names[k]] for k in range(3)])(hub, members)
        assert rows is not None
        rows.there_RN[: count // 3, members.index(names.index("cut"))] = False
        return rows

    for cut in (96, 128):
        shapes = {"base": (4, 128, 64, 32, 0), "cut": (4, cut, 64, 32, 0), "whole": (4, 128, 64, 32, 0)}
        pairs = {
            (i, j): Kinship(
                "related", 2.0 if i else 4.0, 0.0, float(((at[names[i]] - at[names[j]]) ** 2).mean()),
                shapes=(shapes[names[i]], shapes[names[j]]),
            )
            for j in range(3) for i in range(j)
        }  # fmt: skip
        drawn = lines(build_tree(names, pairs, lay_out))
        assert (frozenset(("base", "whole")) in drawn) == (cut < 128)
        assert (frozenset(("cut", "whole")) in drawn) == (cut == 128)


def test_a_cast_shares_the_place_of_its_original_which_stands_for_both() -> None:
    rounded = Kinship("related", -12.0, -6.0, 4.5e-6, matched=1000)
    pairs = {(0, 1): rounded, (0, 2): Kinship("related", 4.0, 0.0, 0.1, matched=1000),
             (1, 2): Kinship("related", 4.0, 0.0, 0.1, matched=999)}  # fmt: skip
    result = build_tree(["cast", "model", "child"], pairs)
    assert [(e.source, e.target, e.kind, e.directed) for e in result.edges] == [
        ("m1", "m0", "same-weights", True), ("m1", "m2", "descent", True),
    ]  # fmt: skip
    # Training moves more than rounding: either may have been continued, and the line says so.
    assert [e.or_from for e in result.edges] == [[], ["m0"]]


def test_who_has_copies_is_no_ancestor_of_a_smaller_model_whosever_the_difference_is() -> None:
    for layers, expected in ((4, (-5.0, -6.0)), (6, (1.0, -6.0))):
        shapes = ((6, 128, 64, 32, 0), (layers, 128, 64, 32, 0))
        drift = drift_odds([0, 1], {(0, 1): Kinship("related", 1.0, -5.0, 0.1, shapes=shapes)})
        assert (drift[0, 1], drift[1, 0]) == expected


def test_a_model_that_cannot_be_read_is_told_once_and_the_others_are_drawn() -> None:
    pairs = pairs_of([None, 0, 0], 0, [0, 1, 2])
    pairs |= {(k, 3): Kinship("inconclusive", error="no header, in x/bad: got nothing") for k in range(3)}
    result = build_tree(["0", "1", "2", "x/bad"], pairs)
    assert arrows(result) == {("0", "1"), ("0", "2")}
    assert result.unread == ["x/bad"]
    assert result.not_compared == ["x/bad: no header, in x/bad: got nothing"]


def test_a_descendant_of_a_merge_of_strangers_hangs_from_the_merge() -> None:
    """Both are related to two models that are strangers; nearest to the one that came first is where it hangs."""
    parents: list[int | None] = [None, None]
    at = points(parents, 0)
    at.append(0.5 * at[0] + 0.5 * at[1])
    at.append(at[2] + 0.2 * np.random.default_rng(5).standard_normal(DIMENSIONS))
    pairs = {(0, 1): Kinship("unrelated")}
    for i in range(4):
        for j in range(max(2, i + 1), 4):
            squares = [float((x**2).mean()) for x in (at[i], at[j])]
            length2 = float(np.sqrt(squares[0] * squares[1]))
            d2 = float(((at[i] - at[j]) ** 2).mean()) / length2
            lengths = (squares[0], squares[1])
            pairs[i, j] = Kinship("related", 4.0, 0.0, d2, length2, None, DIMENSIONS, lengths)
    result = build_tree(["0", "1", "merge", "tuned"], pairs)
    assert {(e.source, e.target, e.kind) for e in result.edges} == {
        ("m0", "m2", "merge"), ("m1", "m2", "merge"), ("m2", "m3", "descent"),
    }  # fmt: skip


def test_a_relation_that_a_verdict_missed_makes_no_merge_of_a_third_model() -> None:
    """1 and 2 are siblings whose pair came out unrelated; at right angles they cannot be, 0 being near to both."""
    pairs = pairs_of([None, 0, 0], 0, [0, 1, 2])
    pairs[1, 2] = Kinship("unrelated")
    result = build_tree(["0", "1", "2"], pairs)
    assert arrows(result) == {("0", "1"), ("0", "2")}
    assert not [edge for edge in result.edges if edge.kind == "merge"]


def test_trainings_of_one_start_are_families_of_their_own_and_named_beside_the_tree() -> None:
    """Two lines of one random start: no line of descent, no arrow and no hidden ancestor joins them."""
    parents: list[int | None] = [None, 0, None, 2]
    pairs = pairs_of(parents, 0, [0, 1, 2, 3])
    pairs |= {(i, j): Kinship("shared-initialization", 0.0, 0.0, 0.9 + 0.1 * j) for i in (0, 1) for j in (2, 3)}
    result = build_tree(["one", "one's", "two", "two's"], pairs)
    assert result.families == [["one", "one's"], ["two", "two's"]]
    assert arrows(result) == {("one", "one's"), ("two", "two's")}
    assert not [node for node in result.nodes if node.kind == "hidden"]
    assert result.shared_starts == [["one", "two"]]
    assert result.open_pairs == []


def test_a_pair_of_which_start_or_descent_is_open_is_joined_without_an_arrow_and_named() -> None:
    open_pair = Kinship("inconclusive", 3.5, 0.0, 0.1, open_origin=True)
    result = build_tree(["a", "b"], {(0, 1): open_pair})
    assert [(e.source, e.target, e.directed) for e in result.edges] == [("m0", "m1", False)]
    assert result.open_pairs == [["a", "b"]]


def test_equal_weights_share_a_place() -> None:
    pairs = {(0, 1): Kinship("identical", 0.0, 0.0, 0.0), (0, 2): Kinship("related", 4.0, 0.0, 0.1),
             (1, 2): Kinship("related", 4.0, 0.0, 0.1)}  # fmt: skip
    result = build_tree(["a", "copy", "child"], pairs)
    assert [(e.source, e.target, e.kind, e.directed) for e in result.edges] == [
        ("m0", "m1", "same-weights", False),
        ("m0", "m2", "descent", True),
    ]


def grown(shapes: dict[str, tuple[int, ...]], at: dict[str, np.ndarray], copies: dict[str, float]) -> TreeResult:
    """A tree of models of several shapes; `copies` are log-odds of what was grown by copies that it came later."""
    names, pairs = list(shapes), {}
    for x, one in enumerate(names):
        for y, two in enumerate(names[:x]):
            d2 = float(((at[one] - at[two]) ** 2).sum()) / float((at["base"] ** 2).sum())
            later = copies.get(one, 0.0) - copies.get(two, 0.0)
            layers = min(shapes[one][0], shapes[two][0])
            pairs[y, x] = Kinship(
                "related", later, later, d2, 1.0, None, 1000 * layers, shapes=(shapes[two], shapes[one])
            )  # fmt: skip
    return build_tree(names, pairs, laid_out([at[name] for name in names]))


def test_a_model_that_was_only_grown_or_cut_is_another_model_with_children_of_its_own() -> None:
    """All its numbers are those of the base: distances cannot tell whose child continues it, its shape can."""
    base = points([None], 0)[0]
    at = dict.fromkeys(("base", "deep", "cut"), base)
    at |= {name: base + 0.1 * points([None], k)[0] for k, name in enumerate(("tuned", "deep's", "cut's"), start=1)}
    normal, deep, cut = (4, 128, 64, 32, 0), (5, 128, 64, 32, 0), (4, 96, 64, 32, 0)
    shapes = {"base": normal, "deep": deep, "cut": cut, "tuned": normal, "deep's": deep, "cut's": cut}
    result = grown(shapes, at, {"deep": 7.0, "deep's": 7.0})
    truth = {("base", "deep"), ("base", "cut"), ("base", "tuned"), ("deep", "deep's"), ("cut", "cut's")}
    assert lines(result) == {frozenset(line) for line in truth}
    assert arrows(result) == truth
    assert {edge.kind for edge in result.edges} == {"descent"}


def test_a_start_among_the_models_settles_what_a_pair_leaves_open() -> None:
    """Two short trainings of a random start, one after the other: alone the pair may be two trainings of one start."""
    parents: list[int | None] = [None, 0, 1]
    pairs = pairs_of(parents, 0, [0, 1, 2])
    pairs[1, 2] = replace(pairs[1, 2], verdict="inconclusive", open_origin=True)
    at = points(parents, 0)
    result = build_tree(["start", "tuned", "again"], pairs, laid_out(at))
    assert arrows(result) == {("start", "tuned"), ("tuned", "again")}
    assert result.open_pairs == []


def test_a_pair_that_cannot_be_compared_is_said() -> None:
    result = build_tree(["a", "b"], {(0, 1): Kinship("inconclusive", error="no such file")})
    assert result.not_compared == ["a and b: no such file"]
    assert result.pairs_compared == 0


TRAINED = ("base0", "base1", "continued", "disguised+", "inserted+", "noisy", "stacked", "retokenized+", "merged-20")


@pytest.fixture(scope="module")
def trained(zoo: Zoo) -> FamilyTree:
    return grow_tree([zoo.models[name] for name in TRAINED])


@pytest.mark.slow
def test_trained_families_have_no_wrong_arrow(trained: FamilyTree) -> None:
    """What these small models show: families, the repeated layers of one, and no arrow against the truth."""
    result = trained.result
    names = {node.id: Path(node.locations[0]).name if node.locations else "hidden" for node in result.nodes}
    families = [{Path(place).name for place in family} for family in result.families]
    assert {"base0", "continued", "disguised+", "inserted+", "noisy", "stacked", "retokenized+"} in families
    assert not any({"base0", "base1"} <= family for family in families)
    arrows_found = {(names[e.source], names[e.target]) for e in result.edges if e.directed}
    assert ("base0", "stacked") in arrows_found
    for ancestor, descendant in arrows_found:
        assert ancestor in ("base0", "base1", "hidden"), (ancestor, descendant)
        assert descendant not in ("base0", "base1"), (ancestor, descendant)


LINES = {
    ("base", "longer"), ("longer", "tuned-a"), ("longer", "tuned-b"), ("base", "tuned-c"), ("tuned-a", "chat"),
    ("longer", "frozen"), ("base", "deeper"), ("deeper", "deeper-tuned"), ("base", "wider"), ("longer", "upcycled"),
    ("tuned-a", "merged"), ("tuned-b", "merged"), ("base", "retokenized"), ("tuned-b", "quantized"),
    ("longer", "permuted"), ("base", "permuted-tuned"), ("base", "pruned"), ("stranger", "stranger-tuned"),
    ("tuned-c", "mixed"), ("stranger", "mixed"),
}  # fmt: skip


def descendants(of: str) -> set[str]:
    found = {child for parent, child in LINES if parent == of}
    return found.union(*(descendants(child) for child in found)) if found else found


@pytest.mark.slow
def test_twenty_models_of_every_kind(tmp_path: Path) -> None:
    """Trained, grown, cut, upcycled, merged, re-tokenized, quantized and permuted; two were tuned on one text apart."""
    recipes = recipes_of("tree")
    places = Workshop(tmp_path, recipes, max_chars=MAX_CHARS).make(list(recipes))
    result = grow_tree(places).result
    names = {node.id: Path(node.locations[0]).name for node in result.nodes if node.kind == "model"}
    assert len(names) == len(result.nodes) == 20
    told = [(names[edge.source], names[edge.target], edge) for edge in result.edges]
    right = {(a, b) for a, b, _ in told} | {(b, a) for a, b, edge in told if not edge.directed}
    assert len(LINES & right) >= 19
    against = [(a, b) for a, b, edge in told if edge.directed and a in descendants(b)]
    assert against == []
    beside = [(a, b) for a, b, edge in told if edge.directed and edge.kind == "descent" and b not in descendants(a)]
    assert len(beside) <= 1
