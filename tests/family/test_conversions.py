"""Conversions in a family: a plan follows the path from one mechanism to the other, and refuses a jump."""

from __future__ import annotations

from pathlib import Path

from tests.family.recipe_examples import problems, read

PATH = """\
recipe: 1
family: modern
size: pico
corpora:
  sums: {kind: arithmetic, domain: sums, max_documents: 1000}
tokenizers:
  own: {kind: byte-level, corpus: sums, vocabulary: 300}
models:
  old:
    kind: train
    model: {member: pangu-alpha-13b}
    tokenizer: own
    corpus: sums
    training: {tokens: 4096, sequence_length: 64, batch_sequences: 8}
  way:
    kind: surgery
    from: old
    steps: [convert.untie, convert.positions]
  turned:
    kind: train
    from: way
    training:
      tokens: 8192
      sequence_length: 64
      batch_sequences: 8
      anneal:
        - {coefficient: queries, begin: 1, end: 0, stop: 4096}
        - {coefficient: angles, begin: 0, end: 1, stop: 4096, shape: geometric}
        - {coefficient: positions, begin: 1, end: 0, start: 4096, stop: 8192}
  modern:
    kind: surgery
    from: turned
    steps: [convert.query_layer, {convert.positions: {op: finish}}, convert.norm, {convert.biases: {fold: [v]}}]
"""


def test_a_path_is_planned_to_its_end(tmp_path: Path) -> None:
    members = read(PATH, tmp_path).family().members
    assert members["way"].model.homotopy is not None
    assert members["way"].model.homotopy.moved == {"angles": 0}
    turned = members["turned"].model.homotopy
    assert turned is not None
    assert turned.moved == {"queries": 0, "positions": 0}
    modern = members["modern"].model
    assert modern.homotopy is None
    assert (modern.query_layer, modern.learned_positions, modern.norm.kind) == ("none", False, "rms")
    assert modern.rope is not None
    assert members["modern"].whole == "FP1"  # type: ignore[attr-defined]


def test_a_coefficient_that_would_jump_is_refused(tmp_path: Path) -> None:
    found = problems(PATH.replace("coefficient: angles, begin: 0", "coefficient: angles, begin: 0.1"), tmp_path)
    assert "would jump" in found[0].what
    assert "begin: 0" in str(found[0].fix)


def test_a_coefficient_without_anything_to_move_is_refused(tmp_path: Path) -> None:
    found = problems(PATH.replace("coefficient: queries", "coefficient: post_norms"), tmp_path)
    assert any("fit together" in problem.what for problem in found)


def test_an_end_that_was_not_reached_is_refused_by_the_operator(tmp_path: Path) -> None:
    found = problems(
        PATH.replace("{coefficient: positions, begin: 1, end: 0", "{coefficient: positions, begin: 1, end: 0.5"),
        tmp_path,
    )
    assert any("still acts" in problem.what for problem in found)
