"""Layers that change nothing have no influence, and go first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.surgery.surgery_models import operate, quick_folder, tensors, write_model

from pedigree.errors import PedigreeError

TEXT = "the quick brown fox jumps over the lazy dog " * 20


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as made:
        yield made


def _grown(folder: Path) -> Path:
    """A model of 3 layers with copies that add nothing behind layers 0 and 2, and a tokenizer of letters."""
    source = write_model(folder / "source", "llama", num_hidden_layers=3)
    vocabulary = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz Ġ")}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    (source / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    (folder / "probe.txt").write_text(TEXT)
    operate(source, folder / "grown", [{"grow.depth": {"op": "identity", "after": [0, 2]}}])
    return folder / "grown"


def test_layers_that_add_nothing_go_first_and_the_old_model_is_back(folder: Path) -> None:
    grown = _grown(folder)
    outcome, _ = operate(grown, folder / "back", [{"prune.depth": {"count": 2, "text": "probe.txt"}}], allow="nfp")
    assert any("layers left out, by influence" in note and "1 (" in note and "4 (" in note for note in outcome.notes)
    old, new = tensors(folder / "source"), tensors(folder / "back")
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_neighbors_go_together(folder: Path) -> None:
    grown = _grown(folder)
    steps = [{"prune.depth": {"count": 2, "text": "probe.txt", "by": "block"}}]
    outcome, _ = operate(grown, folder / "back", steps, allow="nfp")
    (note,) = [note for note in outcome.notes if "layers left out" in note]
    first, second = (int(word.split(" (")[0]) for word in note.split(": ")[1].split(", "))
    assert second == first + 1


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"prune.depth": {"count": 5, "text": "probe.txt"}}], "cannot be left out"),
        ([{"grow.ffn": {"to": 40}}, {"prune.depth": {"count": 1, "text": "probe.txt"}}], "measured on the source"),
        ([{"prune.depth": {"count": 1}}], "give drop, or count with text"),
        ([{"prune.depth": {"count": 1, "text": "nothing.txt"}}], "no such file|not there|cannot"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    folder: Path, steps: list[dict[str, dict[str, object]]], words: str
) -> None:
    with pytest.raises(PedigreeError, match=words):
        operate(_grown(folder), folder / "back", steps, allow="nfp")
