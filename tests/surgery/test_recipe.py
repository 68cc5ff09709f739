"""Recipes: strict keys, and everything that is wrong told at once with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pedigree.errors import MalformedFile, MissingInput, ProblemsFound
from pedigree.surgery.catalog import BY_NAME, OPERATORS
from pedigree.surgery.recipe import read_recipe

GOOD = """\
surgery: 1
source: {model: ./old}
target: {dir: new, shard: 500MB, seed: 7}
steps:
  - grow.depth: {op: identity, after: every 4}
  - grow.ffn: {to: 16384, op: copy, noise: {antisym: 0.3}}
  - launder.permute
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def test_places_are_relative_to_the_recipe_and_defaults_are_resolved(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, GOOD))
    assert recipe.source == str(tmp_path / "old")
    assert recipe.target == tmp_path / "new"
    assert recipe.shard_bytes == 500_000_000
    assert recipe.resolved()["steps"] == [
        {"grow.depth": {"op": "identity", "after": "every 4", "times": None, "cut": None, "order": None}},
        {"grow.ffn": {"to": 16384, "op": "copy", "noise": {"antisym": 0.3}}},
        {"launder.permute": {"spaces": ["inner", "heads", "residual"]}},
    ]
    assert read_recipe(written(tmp_path, GOOD.replace("seed: 7", "seed: 8"))).digest() != recipe.digest()


def test_an_address_stays_an_address(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, GOOD.replace("./old", "hf://a/b@main"))).source == "hf://a/b@main"


def test_all_problems_come_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """\
surgery: 1
source: {modle: ./old}
target: {dir: new}
alow: nfp
steps:
  - grow.dept: {op: identity}
  - grow.ffn: {to: many}
  - grow.depth: {op: solar, times: 2}
  - 7
"""
    with pytest.raises(ProblemsFound, match="problems to mend") as caught:
        read_recipe(written(tmp_path, text))
    told = caught.value.problems
    assert all(isinstance(problem, MalformedFile) for problem in told)
    lines = sorted({int((problem.where or "").split(":")[1]) for problem in told})
    assert lines == [2, 4, 6, 7, 8, 9]
    words = caught.value.sentence()
    for word in ("modle", "alow", "grow.dept", "'many'", "takes cut"):
        assert word in words
    assert any(problem.fix == "did you mean 'grow.depth'?" for problem in told)


@pytest.mark.parametrize("shard", ["5", "lots", "-1GB", "10kB"])
def test_a_size_is_a_size(tmp_path: Path, shard: str) -> None:
    with pytest.raises(ProblemsFound, match="this is no size"):
        read_recipe(written(tmp_path, GOOD.replace("500MB", f"'{shard}'")))


def test_no_recipe_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such recipe"):
        read_recipe(tmp_path / "none.yaml")


def test_every_operator_says_what_it_is() -> None:
    assert len(BY_NAME) == len(OPERATORS)
    for operator in OPERATORS:
        assert operator.summary
        assert operator.classes
        assert operator.verbs
        assert operator.parameters.model_config["extra"] == "forbid"
