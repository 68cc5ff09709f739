"""A recipe that is right, and a way to read changed ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pedigree.errors import PedigreeError, ProblemsFound
from pedigree.family.recipe import Recipe, read_recipe

GOOD = """\
recipe: 1
family: example
about: Two steps of one model.
seed: 5

corpora:
  code: {kind: python-stdlib, domain: code}
  sums: {kind: arithmetic, domain: sums, max_documents: 1000, weight: 2}
  both: {mixture: {code: 3, sums: 0.5}}

tokenizers:
  own:
    kind: byte-level
    corpus: both
    vocabulary: 153376
    at: {pico: {vocabulary: 1024}}

models:
  base:
    kind: train
    model: {member: pangu-pro-moe-72b}
    tokenizer: own
    corpus: both
    training:
      tokens: 13e12
      sequence_length: 4096
      batch_sequences: 1024
      optimizer: {lr: 3e-4}
    at:
      pico:
        model: {width: 96}
        training: {tokens: 1e6, sequence_length: 256, batch_sequences: 16, optimizer: {lr: 3e-3}}
  long:
    kind: train
    from: base
    model: {rope: {theta: 3.2e7}}
    training:
      tokens: 1e9
      sequence_length: 32768
      batch_sequences: 128
    at: {pico: {training: {tokens: 1e5, sequence_length: 128, batch_sequences: 16}}}
"""


def written(text: str, folder: Path) -> Path:
    """A file with this recipe."""
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def read(text: str, folder: Path) -> Recipe:
    """This recipe, read."""
    return read_recipe(written(text, folder))


def problems(text: str, folder: Path) -> list[PedigreeError]:
    """What is wrong with this recipe."""
    with pytest.raises(ProblemsFound, match="to mend") as caught:
        read(text, folder)
    return list(caught.value.problems)
