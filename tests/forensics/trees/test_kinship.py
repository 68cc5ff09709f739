"""What joins two models in a tree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from forensics.merge_shop import write_model
from forensics.tiny_models import Sizes, llama

from pedigree.forensics.compare import compare, measure_pair
from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.comparison.verdict import Judgment
from pedigree.forensics.sides.side import Side
from pedigree.forensics.trees import kinship
from pedigree.forensics.trees.kinship import PairTask, compare_pair


def test_the_same_word_vectors_make_no_family(tmp_path: Path) -> None:
    sizes = Sizes(layers=2)
    one, other = llama(1, sizes), llama(2, sizes)
    other |= {name: one[name] for name in one if "embed_tokens" in name}
    a, b = (str(write_model(tmp_path / name, x, sizes)) for name, x in (("a", one), ("b", other)))
    assert compare(a, b).result.verdict == "partly-related"
    pair = compare_pair(PairTask(0, 1, a, b))
    assert pair.verdict == "inconclusive"
    assert not pair.related


def test_rows_that_one_seed_gave_to_both_make_no_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models that were widened by one program get the same new rows; which are not told from handed-down ones."""
    sizes, drawn = Sizes(layers=2, inner=160), llama(3, Sizes(layers=2, inner=160))
    one, other = llama(1, sizes), llama(2, sizes)
    for model in (one, other):
        for name in [n for n in model if ".mlp." in n]:
            part = (slice(None), slice(140, None)) if "down" in name else (slice(140, None),)
            model[name][part] = drawn[name][part]
    a, b = (str(write_model(tmp_path / name, x, sizes)) for name, x in (("a", one), ("b", other)))
    assert compare(a, b).result.verdict == "inconclusive"
    assert not compare_pair(PairTask(0, 1, a, b)).related

    def trained_a_little(*places: str, **options: bool) -> tuple[Side, Side, Findings, Judgment]:
        left, right, found, judgment = measure_pair(*places, **options)
        assert found.keeps_units
        return left, right, found, replace(judgment, verdict="inconclusive", open_origin=True)

    monkeypatch.setattr(kinship, "measure_pair", trained_a_little)
    assert not compare_pair(PairTask(0, 1, a, b)).related
