"""Tokenizers of a recipe: grown and put together from each other, made once, refused when larger than announced."""

from __future__ import annotations

from pathlib import Path

import pytest

from pedigree.errors import ProblemsFound, UsageError
from pedigree.family.recipe import Family, read_recipe
from pedigree.family.tokenizer_files import separator_of, tokenizer_file
from pedigree.tokenizers.reading import open_encoder

RECIPE = """
recipe: 1
family: words
corpora:
  code: {kind: python-stdlib, max_documents: 4}
  sums: {kind: arithmetic, max_documents: 200}
tokenizers:
  joined: {kind: concatenate, parts: [code, sums], vocabulary: 700}
  grown: {kind: extend, base: code, corpus: sums, vocabulary: 360}
  code: {kind: byte-level, corpus: code, vocabulary: 320, specials: [<doc>]}
  sums: {kind: byte-level, corpus: sums, vocabulary: 300}
models:
  base:
    kind: train
    model: {member: llama-3-8b}
    tokenizer: joined
    corpus: code
    training: {tokens: 1000}
    at: {real: {model: {vocab_size: 700}}}
"""


def family_of(text: str, folder: Path) -> Family:
    path = folder / "words.yaml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path).family("pico")


def test_tokenizers_are_made_from_each_other_and_once(tmp_path: Path) -> None:
    family = family_of(RECIPE, tmp_path)
    assert [*family.tokenizers] == ["code", "sums", "joined", "grown"]
    joined = tokenizer_file(family, "joined", tmp_path, tmp_path / "out")
    code = open_encoder(tokenizer_file(family, "code", tmp_path, tmp_path / "out"))
    encoder = open_encoder(joined)
    assert 320 < encoder.size <= 320 + 300
    assert encoder.surfaces[: code.size] == code.surfaces, "the first part keeps its numbers"
    before = joined.stat().st_mtime_ns
    assert tokenizer_file(family, "joined", tmp_path, tmp_path / "out").stat().st_mtime_ns == before
    grown = open_encoder(tokenizer_file(family, "grown", tmp_path, tmp_path / "out"))
    assert grown.size == 360
    assert grown.surfaces[: code.size] == code.surfaces
    assert separator_of(family, "grown") == separator_of(family, "joined") == "<doc>"


def test_a_vocabulary_larger_than_announced_is_refused(tmp_path: Path) -> None:
    family = family_of(RECIPE.replace("vocabulary: 700}", "vocabulary: 330}", 1), tmp_path)
    with pytest.raises(UsageError, match="larger than the recipe says"):
        tokenizer_file(family, "joined", tmp_path, tmp_path / "out")
    assert not [*(tmp_path / "out" / "tokenizers").glob("joined-*")]


def test_parts_count_and_their_order_counts(tmp_path: Path) -> None:
    first = family_of(RECIPE, tmp_path).tokenizers["joined"].digest
    turned = RECIPE.replace("parts: [code, sums]", "parts: [sums, code]")
    assert family_of(turned, tmp_path).tokenizers["joined"].digest != first
    other = RECIPE.replace("vocabulary: 300}", "vocabulary: 301}")
    assert family_of(other, tmp_path).tokenizers["joined"].digest != first


def test_an_extension_that_adds_nothing_is_refused_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ProblemsFound, match="larger than its base"):
        family_of(RECIPE.replace("vocabulary: 360", "vocabulary: 320"), tmp_path)
