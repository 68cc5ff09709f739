"""The workshop trains, resumes and repeats itself exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmark.zoo_specimens import SIZES

from pedigree.benchmark.zoo.corpus import Corpus
from pedigree.benchmark.zoo.recipe import Recipe, TokenizerRecipe
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.benchmark.zoo.train import Training
from pedigree.benchmark.zoo.workshop import Workshop
from pedigree.errors import MissingInput, UsageError

pytest.importorskip("transformers")

TRAINING = Training(steps=6, lr=3e-3, part=0, n_sequences=2, n_tokens=16, warmup=2)
TOKENIZER = TokenizerRecipe(vocab_size=300, part=0, max_chars=20_000)


def base(name: str = "base", seed: int = 1, training: Training | None = TRAINING) -> Recipe:
    return Recipe(name, "test", "llama", SIZES, seed, training=training, tokenizer=TOKENIZER)


def workshop(directory: Path, *recipes: Recipe) -> Workshop:
    return Workshop(directory, {recipe.name: recipe for recipe in recipes}, max_chars=20_000)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return dict(Snapshot.load(directory).tensors)


def same(one: Path, two: Path) -> bool:
    first, second = weights(one), weights(two)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_recipe_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("one", "two"):
        workshop(tmp_path / name, base()).make(["base"])
    assert same(tmp_path / "one" / "base", tmp_path / "two" / "base")


def test_what_is_made_is_left_alone_and_what_changed_is_made_again(tmp_path: Path) -> None:
    first = workshop(tmp_path, base())
    first.make(["base"])
    before = (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns
    first.make(["base"])
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns == before
    changed = workshop(tmp_path, base(training=replace(TRAINING, lr=1e-3)))
    assert not changed.is_made("base")
    changed.make(["base"])
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns > before


def test_ancestors_are_made_first_and_a_changed_parent_changes_the_child(tmp_path: Path) -> None:
    child = Recipe("child", "test", parents=("base",), operator="permute", seed=2)
    shop = workshop(tmp_path, base(), child)
    shop.make(["child"])
    assert shop.is_made("base")
    assert workshop(tmp_path, base(seed=8), child).key("child") != shop.key("child")


def test_an_intermediate_checkpoint_lies_on_the_way_of_the_whole_training(tmp_path: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    half = base("half", training=replace(TRAINING, stop=3))
    shop = workshop(tmp_path, base(), half)
    shop.progress = lambda name, step, total, loss: reports.append((name, step, total))
    shop.make(["half", "base"])
    assert reports[:3] == [("half", 1, 3), ("half", 2, 3), ("half", 3, 3)]
    assert reports[-1] == ("base", 6, 6)
    assert not same(tmp_path / "half", tmp_path / "base")


def test_frozen_tensors_stay_as_they_were(tmp_path: Path) -> None:
    frozen = replace(TRAINING, part=1, frozen=(r"embed_tokens", r"layers\.0\."))
    workshop(tmp_path, base(), Recipe("child", "test", parents=("base",), training=frozen)).make(["child"])
    old, new = weights(tmp_path / "base"), weights(tmp_path / "child")
    for name in old:
        still = torch.equal(old[name], new[name])
        assert still == ("embed_tokens" in name or ".layers.0." in name), name


def test_a_student_learns_from_its_teacher(tmp_path: Path) -> None:
    student = replace(base("student", seed=5, training=replace(TRAINING, steps=30)), teacher="base")
    shop = workshop(tmp_path, base(), student)
    shop.make(["student"])
    assert shop.is_made("base")
    note = shop.note("student")
    assert note is not None
    assert note["steps"] == 30


def test_masked_training_lowers_the_loss(tmp_path: Path) -> None:
    masked = replace(TRAINING, masked=True, steps=30, n_sequences=8, n_tokens=32)
    recipe = Recipe("bert", "test", "bert", SIZES, 1, training=masked, tokenizer=TOKENIZER)
    losses: list[float] = []
    shop = workshop(tmp_path, recipe)
    shop.progress = lambda name, step, total, loss: losses.append(loss)
    shop.make(["bert"])
    assert sum(losses[-5:]) < sum(losses[:5])


def test_an_unknown_model_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected base"):
        workshop(tmp_path, base()).make(["basf"])


def test_parts_of_the_corpus_share_no_file_and_are_stable() -> None:
    corpus = Corpus()
    texts = [corpus.text(part, 3_000) for part in range(4)]
    assert len(set(texts)) == 4
    assert texts == [Corpus().text(part, 3_000) for part in range(4)]


def test_a_corpus_of_ones_own_is_read(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"file{i}.py").write_text(f"# {i}\n" * 100)
    assert len(Corpus(root=tmp_path).text(0, 50)) == 50


def test_an_empty_corpus_says_how_to_mend_it(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no text to train on") as caught:
        Corpus(root=tmp_path).text(0, 100)
    assert "Corpus(root=" in str(caught.value.fix)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(UsageError, match="no such part"):
        Corpus().text("prose", 100)


def test_without_transformers_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingInput, match="not installed") as caught:
        workshop(tmp_path, base()).make(["base"])
    assert "llm-pedigree[hf]" in str(caught.value.fix)
