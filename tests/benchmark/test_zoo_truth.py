"""The truth about a pair follows from how the two were made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pedigree.benchmark.zoo.catalog import SETS, operator_of, recipes_of
from pedigree.benchmark.zoo.truth import Registry, write_truth
from pedigree.errors import UsageError


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(recipes_of("llama"))


@pytest.mark.parametrize(
    ("a", "b", "relation", "layer_map"),
    [
        ("base0", "base1", "unrelated", [None] * 6),
        ("base0", "twin", "shared-initialization", [None] * 6),
        ("base0", "renamed", "identical", [0, 1, 2, 3, 4, 5]),
        ("fused", "resharded", "identical", [0, 1, 2, 3, 4, 5]),
        ("base0", "continued", "related", [0, 1, 2, 3, 4, 5]),
        ("base0", "inserted+", "related", [0, 1, 1, 2, 3, 4, 4, 5]),
        ("base0", "stacked", "related", [0, 1, 2, 3, 2, 3, 4, 5]),
        ("base0", "dropped", "related", [0, 1, 3, 5]),
        ("dropped", "base0", "related", [0, 1, None, 2, None, 3]),
        ("inserted", "stacked", "related", [0, 1, 3, 4, 3, 4, 5, 7]),
        ("base0", "moe-granular+", "related", [0, 1, 2, 3, 4, 5]),
        ("base0", "rotated-reembedded+", "related", [0, 1, 2, 3, 4, 5]),
        ("base0", "merged-20", "related", [0, 1, 2, 3, 4, 5]),
        ("base1", "merged-20", "related", [0, 1, 2, 3, 4, 5]),
        ("base2", "merged-20", "unrelated", [None] * 6),
        ("base0", "spliced", "partly-related", [0, 1, 2, None, None, None]),
        ("base1", "spliced", "partly-related", [None, None, None, 3, 4, 5]),
        ("base0", "no-ffn+", "partly-related", [0, 1, 2, 3, 4, 5]),
        ("base0", "no-attention+", "partly-related", [0, 1, 2, 3, 4, 5]),
        ("base0", "no-body+", "partly-related", [None] * 6),
        ("base0", "distilled", "unrelated", [None] * 6),
        ("twin", "continued", "shared-initialization", [None] * 6),
        ("base1", "continued-stranger", "related", [0, 1, 2, 3, 4, 5]),
        ("base0", "continued-stranger", "unrelated", [None] * 6),
    ],
)
def test_the_relation_of_known_pairs(
    a: str, b: str, relation: str, layer_map: list[int | None], registry: Registry
) -> None:
    pair = registry.pair(a, b)
    assert pair.relation == relation
    assert list(pair.layer_map) == layer_map


@pytest.mark.parametrize(
    ("a", "b", "direction", "kind"),
    [
        ("base0", "continued", "a-to-b", "continue"),
        ("continued", "base0", "b-to-a", "continue"),
        ("base0-half", "base0", "a-to-b", "descendant"),
        ("base0", "grandchild", "a-to-b", "descendant"),
        ("renamed", "grandchild", "a-to-b", "descendant"),
        ("inserted+", "resharded", "b-to-a", "descendant"),
        ("fused", "resharded", "undetermined", "siblings"),
        ("continued", "continued-sibling", "undetermined", "siblings"),
        ("base0", "renamed", "undetermined", "rename"),
        ("base0", "twin", "undetermined", "twins"),
        ("base0", "base1", "undetermined", "strangers"),
        ("base0", "distilled", "undetermined", "distill"),
        ("base0", "merged-50", "a-to-b", "merge"),
    ],
)
def test_the_direction_and_kind_of_known_pairs(a: str, b: str, direction: str, kind: str, registry: Registry) -> None:
    pair = registry.pair(a, b)
    assert (pair.direction, pair.kind) == (direction, kind)


def test_turning_a_pair_round_keeps_its_relation(registry: Registry) -> None:
    names = list(recipes_of("llama"))
    for pair in registry.pairs(names):
        assert registry.pair(pair.b, pair.a).relation == pair.relation


def test_no_truth_is_told_about_broken_steps_on_the_way(registry: Registry) -> None:
    told = {name for pair in registry.pairs(list(recipes_of("llama"))) for name in (pair.a, pair.b)}
    assert "no-ffn" not in told
    assert "no-ffn+" in told


def test_models_of_different_groups_are_not_paired() -> None:
    recipes = recipes_of("bank")
    for pair in Registry(recipes).pairs(list(recipes)):
        assert recipes[pair.a].group == recipes[pair.b].group
        assert pair.relation == "unrelated"


@pytest.mark.parametrize("set_name", list(SETS))
def test_every_recipe_of_a_set_can_be_made(set_name: str) -> None:
    recipes = recipes_of(set_name)
    seen: set[str] = set()
    for name, recipe in recipes.items():
        assert seen.issuperset(recipe.parents), f"{name} comes before its parents"
        assert recipe.parents or (recipe.architecture and recipe.sizes and recipe.tokenizer)
        if recipe.operator is not None:
            operator_of(recipe)
        seen.add(name)


def test_an_unknown_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="mini"):
        recipes_of("menagerie")


def test_truth_lines_are_json_with_the_words_of_the_contract(tmp_path: Path, registry: Registry) -> None:
    n_lines = write_truth(tmp_path / "truth.jsonl", registry.pairs(["base0", "twin", "spliced", "fused"]))
    lines = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert len(lines) == n_lines == 6
    words = {"identical", "related", "partly-related", "shared-initialization", "unrelated"}
    assert {line["relation"] for line in lines} <= words
    assert set(lines[0]) == {"a", "b", "relation", "layer_map", "kind", "direction", "details"}
