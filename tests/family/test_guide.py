"""The guide to recipes describes every key, and what it shows is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from tests.family.recipe_examples import problems, read

from pedigree.family.mesh import Mesh
from pedigree.family.sections import MixtureKeys, PlanKeys, RecipeKeys, TokenizerKeys, TrainKeys
from pedigree.model.config import ModelConfig
from pedigree.training.config import SourceConfig, TrainingConfig

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "recipes.md"


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation such as `A | B | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def keys_of(model: type[BaseModel]) -> Iterator[str]:
    """Every key of a model and of the parts below it."""
    for name, spec in model.model_fields.items():
        yield spec.alias or name
        for inner in models_in(spec.annotation):
            yield from keys_of(inner)


@pytest.mark.parametrize(
    "model",
    [RecipeKeys, MixtureKeys, TokenizerKeys, TrainKeys, PlanKeys, Mesh, SourceConfig, ModelConfig, TrainingConfig],
)
def test_every_key_is_described(model: type[BaseModel]) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    described = set(re.findall(r"`([a-z_A-Z]+)`", text))
    missing = sorted(set(keys_of(model)) - described)
    assert not missing, f"docs/guide/recipes.md says nothing about {missing} of {model.__name__}"


def example() -> str:
    """The recipe that the guide shows."""
    return re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)[0]


def test_the_recipe_of_the_guide_is_one(tmp_path: Path) -> None:
    recipe = read(example(), tmp_path)
    assert list(recipe.family("pico").steps) == list(recipe.family("real").steps) == ["base", "longer"]
    assert recipe.family("real").steps["base"].training.tokens == 15 * 10**12


def test_the_problem_of_the_guide_is_told_as_it_says(tmp_path: Path) -> None:
    text = example().replace("      tokens: 400_000\n", "      tokens: 400_000\n      sequence_lenght: 4\n", 1)
    first = problems(text, tmp_path)[0]
    assert first.where == "recipe.yaml:21:7 (models.base.training.sequence_lenght)"
    assert first.fix == "did you mean 'sequence_length'?"
    told = GUIDE.read_text(encoding="utf-8")
    assert first.where.replace("recipe.yaml", "example.yaml") in told
    assert first.fix in told


def test_every_field_of_the_record_is_described() -> None:
    from pedigree.records.plan import Plan

    text = (GUIDE.parents[1] / "spec" / "plan.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`(?:inputs\.)?([a-z_A-Z]+)`", text))
    missing = sorted(set(keys_of(Plan)) - described - {"inputs"})
    assert not missing, f"docs/spec/plan.md says nothing about {missing}"
