"""Trees that are scored and families that are drawn: what counts as right, and that nothing gives a place away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pedigree.benchmark.families.sizes import scale_of
from pedigree.benchmark.tree_score import TreeTally, score_tree
from pedigree.benchmark.zoo.random_family import Family, parents_of, random_family
from pedigree.errors import UsageError

# a -> b -> d; a -> c; s a stranger; m merged from d and s.
PARENTS: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",), "c": ("a",), "d": ("b",), "s": (), "m": ("d", "s")}
TRUE = [("a", "b", True), ("a", "c", True), ("b", "d", True), ("d", "m", True), ("s", "m", True)]


def score(found: list[tuple[str, str, bool]], shown: str = "abcdsm") -> TreeTally:
    return score_tree(found, PARENTS, list(shown), {})


def test_the_truth_scores_full_marks_and_open_lines_are_no_fault() -> None:
    tally = score(TRUE)
    assert (tally.right, tally.lines, tally.arrows_right, tally.merges_found, tally.perfect) == (5, 5, 5, 1, 1)
    assert (tally.ancestors_right, tally.ancestors, tally.ancestors_wrong) == (8, 8, 0)
    turned = score([(v, u, False) for u, v, _ in TRUE])
    assert (turned.right, turned.open, turned.arrows_wrong, turned.perfect) == (5, 5, 0, 1)


def test_each_kind_of_wrong_line_is_counted_as_what_it_is() -> None:
    assert score([("b", "a", True)]).arrows_wrong == 1
    skipping = score([("a", "d", True)])
    assert (skipping.skipping, skipping.right, skipping.arrows_wrong) == (1, 0, 0)
    siblings = score([("b", "c", True)])
    assert (siblings.relatives, siblings.arrows_false, siblings.perfect) == (1, 1, 0)
    assert score([("s", "c", False)]).strangers == 1
    assert score([*TRUE[:3], ("d", "m", True), ("a", "m", True)]).merges_found == 0


def test_an_ancestor_that_was_drawn_stands_for_the_true_one_or_is_invented() -> None:
    star = {"h": (), "x": ("h",), "y": ("h",), "z": ("h",)}
    drawn = [("?7", name, False) for name in "xyz"]
    found = score_tree(drawn, star, list("xyz"), {})
    assert (found.right, found.hidden_found, found.hidden_invented, found.perfect) == (3, 1, 0, 1)
    missed = score_tree([("x", "y", False), ("x", "z", False)], star, list("xyz"), {})
    assert (missed.right, missed.relatives, missed.hidden_found) == (0, 2, 0)
    invented = score([*TRUE, ("a", "?1", True), ("?1", "c", True)])
    assert (invented.hidden_invented, invented.invented, invented.perfect) == (1, 2, 0)


def test_models_of_equal_weights_share_a_place() -> None:
    parents = {"a": (), "copy": ("a",), "b": ("copy",)}
    tally = score_tree([("a", "copy", False), ("a", "b", True)], parents, ["a", "copy", "b"], {"copy": "a"})
    assert (tally.right, tally.lines, tally.arrows_right, tally.open) == (2, 2, 1, 1)


@pytest.fixture(scope="module")
def families() -> list[Family]:
    return [random_family(scale_of(size), seed) for size in ("pico", "nano") for seed in range(8)]


def test_families_are_drawn_from_their_seed_alone(families: list[Family]) -> None:
    assert random_family(scale_of("nano"), 3) == families[8 + 3]
    assert len({tuple(family.kinds.values()) for family in families}) == len(families)
    starts = [recipe.seed for family in families for recipe in family.recipes.values() if not recipe.parents]
    assert len(set(starts)) >= len(starts) / 2  # the two sizes may share seeds, two families of one size never
    for size in range(2):
        mine = [r.seed for f in families[8 * size : 8 * size + 8] for r in f.recipes.values() if not r.parents]
        assert len(set(mine)) == len(mine)
    with pytest.raises(UsageError, match="wants eight models or more"):
        random_family(scale_of("nano"), 0, 5)


def test_a_family_has_starts_parents_before_children_and_names_that_tell_nothing(families: list[Family]) -> None:
    for family in families:
        assert len(family.recipes) == len(family.order) == 20
        assert 2 <= sum(kind == "start" for kind in family.kinds.values()) <= 4
        seen: set[str] = set()
        for name, recipe in family.recipes.items():
            assert set(recipe.parents) <= seen, (family.name, name)
            seen.add(name)
        assert list(family.order) == sorted(family.order)
    assert any(next(iter(family.recipes)) != family.order[0] for family in families)


def test_what_is_left_out_stays_a_branch_point(families: list[Family]) -> None:
    for family in families:
        shown = [name for name in family.order if name not in family.left_out]
        parents = parents_of(family, shown)
        assert set(parents) == set(shown) | set(family.left_out), family.name
        for name in family.left_out:
            ends = len(parents[name]) + sum(name in above for above in parents.values())
            assert ends >= 3, (family.name, name)
    assert sum(bool(family.left_out) for family in families) >= len(families) / 2


def test_a_model_that_is_no_branch_point_is_passed_over(families: list[Family]) -> None:
    family = families[0]
    chain = next(
        name for name, recipe in family.recipes.items()
        if len(recipe.parents) == 1 and sum(name in other.parents for other in family.recipes.values()) == 1
    )  # fmt: skip
    child = next(name for name, recipe in family.recipes.items() if chain in recipe.parents)
    parents = parents_of(family, [name for name in family.order if name != chain])
    assert chain not in parents
    assert family.recipes[chain].parents[0] in parents[child]


def test_tallies_add_up() -> None:
    one = score(TRUE)
    assert (one + one).right == 10
    assert one + TreeTally() == one
    assert replace(one, trees=0) != one
