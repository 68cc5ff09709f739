"""What joins two models in a tree."""

from __future__ import annotations

from pathlib import Path

from forensics.merge_shop import write_model
from forensics.tiny_models import Sizes, llama

from pedigree.forensics.compare import compare
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


def test_rows_that_one_seed_gave_to_both_make_no_family(tmp_path: Path) -> None:
    """Two models that were widened by one program get the same new rows; which are not told from handed-down ones."""
    sizes, drawn = Sizes(layers=2, inner=160), llama(3, Sizes(layers=2, inner=160))
    one, other = llama(1, sizes), llama(2, sizes)
    for model in (one, other):
        for name in [n for n in model if ".mlp." in n]:
            part = (slice(None), slice(64, None)) if "down" in name else (slice(64, None),)
            model[name][part] = drawn[name][part]
    a, b = (str(write_model(tmp_path / name, x, sizes)) for name, x in (("a", one), ("b", other)))
    assert compare(a, b).result.verdict in ("inconclusive", "shared-initialization")
    assert not compare_pair(PairTask(0, 1, a, b)).related
