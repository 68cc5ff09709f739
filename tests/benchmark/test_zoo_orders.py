"""An order to the zoo gives models, losses and the truth about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark.zoo_specimens import SIZES

from pedigree.benchmark import zoo
from pedigree.benchmark.zoo import catalog
from pedigree.benchmark.zoo.recipe import Recipe, TokenizerRecipe
from pedigree.benchmark.zoo.train import Training
from pedigree.errors import UsageError

pytest.importorskip("transformers")

TRAINING = Training(steps=40, lr=3e-3, n_sequences=4, n_tokens=32, warmup=2)
TOKENIZER = TokenizerRecipe(vocab_size=300, max_chars=20_000)


def tiny_set() -> list[Recipe]:
    bases = [
        Recipe(name, "test", "llama", SIZES, seed, training=TRAINING, tokenizer=TOKENIZER)
        for name, seed in (("original", 1), ("stranger", 2))
    ]
    return [*bases, Recipe("disguised", "test", seed=3, parents=("original",), operator="disguise")]


@pytest.fixture
def tiny_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> zoo.Zoo:
    monkeypatch.setattr(catalog, "SETS", {"tiny": tiny_set})
    return zoo.make(tmp_path, set_name="tiny", max_chars=20_000)


def test_an_order_gives_models_that_learned_something_and_the_truth(tiny_zoo: zoo.Zoo) -> None:
    assert list(tiny_zoo.models) == ["original", "stranger", "disguised"]
    assert all((directory / "model.safetensors").is_file() for directory in tiny_zoo.models.values())
    assert set(tiny_zoo.losses) == {"original", "stranger"}
    assert all(last < first - 0.2 for first, last in tiny_zoo.losses.values())
    assert tiny_zoo.pair("original", "disguised").direction == "a-to-b"
    assert tiny_zoo.pair("disguised", "original").direction == "b-to-a"
    assert tiny_zoo.pair("stranger", "disguised").relation == "unrelated"
    lines = (tiny_zoo.directory / "truth.jsonl").read_text().splitlines()
    assert [json.loads(line)["relation"] for line in lines] == [pair.relation for pair in tiny_zoo.pairs]


def test_a_second_order_makes_nothing_again(tiny_zoo: zoo.Zoo) -> None:
    steps: list[str] = []
    again = zoo.make(
        tiny_zoo.directory,
        ["disguised"],
        set_name="tiny",
        max_chars=20_000,
        progress=lambda name, step, total, loss: steps.append(name),
    )
    assert steps == []
    assert again.losses == tiny_zoo.losses


def test_a_model_which_was_not_made_has_no_truth(tiny_zoo: zoo.Zoo) -> None:
    with pytest.raises(UsageError, match="no such model in this zoo"):
        tiny_zoo.pair("original", "grandchild")


@pytest.mark.parametrize(("set_name", "trained"), [("demo", 2), ("mini", 8)])
def test_the_small_sets_train_few_models(set_name: str, trained: int) -> None:
    recipes = catalog.recipes_of(set_name)
    assert sum(recipe.training is not None for recipe in recipes.values()) == trained
