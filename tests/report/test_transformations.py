"""One sentence for each kind of transformation, with its numbers and without."""

from __future__ import annotations

from typing import Any

import pytest

from pedigree.records.comparison import Transformation
from pedigree.report.transformations import SENTENCES, transformation_sentence

KINDS = (
    "layers-inserted",
    "layers-duplicated",
    "layers-dropped",
    "layers-reordered",
    "ffn-widened",
    "ffn-pruned",
    "hidden-widened",
    "hidden-pruned",
    "heads-added",
    "heads-pruned",
    "upcycled",
    "experts-permuted",
    "densified",
    "vocabulary-swapped",
    "vocabulary-extended",
    "vocabulary-trimmed",
    "vocabulary-reordered",
    "embeddings-reinitialized",
    "tensors-frozen",
    "gauge-disguise",
    "units-permuted",
    "units-kept",
    "units-rescaled",
    "quantized",
    "cast",
    "renamed",
    "resharded",
    "weights-pruned",
    "heads-permuted",
    "low-rank-update",
    "continued-training",
    "noise-added",
    "component-reinitialized",
    "mixed-with-other-weights",
    "biases-added",
    "biases-removed",
    "untied",
    "tied",
    "norm-converted",
    "norms-moved",
    "gains-folded",
    "positions-converted",
    "blocks-rearranged",
    "gate-added",
    "gate-removed",
    "attention-converted",
    "kv-heads-changed",
    "heads-split",
    "heads-joined",
    "head-dim-widened",
    "head-dim-pruned",
    "query-key-norms-added",
    "query-key-norms-removed",
    "attention-sinks-added",
    "attention-sinks-removed",
    "embedding-projection-added",
    "embedding-projection-removed",
    "layers-averaged",
    "rank-reduced",
)


def sentence(kind: str, **detail: Any) -> str:
    return transformation_sentence(Transformation.model_validate({"kind": kind, **detail}))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_sentence_even_without_numbers(kind: str) -> None:
    assert kind in SENTENCES
    assert len(sentence(kind)) > 3
    assert "None" not in sentence(kind)


@pytest.mark.parametrize(
    ("kind", "detail", "expected"),
    [
        ("layers-inserted", {"at": [3], "copied_from": [2]}, "1 layer inserted at 3, copied from 2 of A"),
        ("layers-inserted", {"at": [3, 7]}, "2 layers inserted at 3, 7, not found in A"),
        (
            "layers-inserted",
            {"at": [3, 8], "copied_from": [2, None]},
            "2 layers inserted at 3, 8: 3 copied from 2 of A, 8 not found in A",
        ),
        (
            "layers-averaged",
            {"at": [0, 1], "sources": [[0, 1], [2, 3]]},
            "2 layers made of several of A: 0 from 0 and 1, 1 from 2 and 3",
        ),
        ("layers-duplicated", {"at": [8, 9], "source": [4, 5]}, "layers repeated at 8-9, from 4-5 of A"),
        ("layers-dropped", {"dropped": [4, 5]}, "2 layers of A dropped: 4-5"),
        ("ffn-widened", {"from": 384, "to": 512, "how": "copies"}, "feed-forward widened from 384 to 512 (copies)"),
        ("hidden-pruned", {"from": 128, "to": 96}, "hidden size pruned from 128 to 96"),
        (
            "upcycled",
            {"experts": 8, "layers": [0, 1], "origins": {"0": [1, 2]}},
            "dense feed-forward turned into 8 experts in 2 layers (0-1); the origin of each expert is in the record",
        ),
        (
            "vocabulary-swapped",
            {"shared": 12000, "tokens_a": 32000, "tokens_b": 50000},
            "vocabulary swapped: 12,000 token strings shared of 32,000 in A and 50,000 in B",
        ),
        ("vocabulary-extended", {"added": 1}, "vocabulary extended by 1 token"),
        (
            "tensors-frozen",
            {"tensors": ["a", "b", "c", "d"], "count": 4, "of": 90},
            "4 of 90 tensors frozen (equal to the last bit): a, b, c and 1 more",
        ),
        (
            "gauge-disguise",
            {"gauge": "orthogonal", "what": "random rotation"},
            "hidden space rotated, with the same function (random rotation)",
        ),
        ("quantized", {"grid": "Q4_K"}, "quantized to the grid of Q4_K"),
        ("cast", {"from": "F32", "to": "BF16"}, "number format changed from F32 to BF16"),
        ("weights-pruned", {"share": 0.7}, "weights pruned (70 % set to zero)"),
        ("heads-permuted", {"layers": [1]}, "attention heads put in another order in 1 layer (1)"),
        ("low-rank-update", {"rank": 16}, "the difference is of low rank (rank 16), as when an adapter is merged in"),
        ("continued-training", {"drift": 0.3125}, "trained further (relative drift 0.312)"),
        ("component-reinitialized", {"component": "attn", "layers": [2]}, "attn started afresh in 1 layer (2)"),
        (
            "mixed-with-other-weights",
            {"share": 0.571},
            "mixed with weights from elsewhere (share of A about 57.1 %)",
        ),
        ("noise-added", {"sigma": 0.01, "note": "every matrix"}, "noise added (sigma 0.01); every matrix"),
    ],
)
def test_the_numbers_stand_in_the_sentence(kind: str, detail: dict[str, Any], expected: str) -> None:
    assert sentence(kind, **detail) == expected


def test_an_unknown_kind_is_told_with_all_it_carries() -> None:
    told = sentence("folded-in-half", layers=[1, 2, 3], ratio=0.5, how=None, sure=True)
    assert told == "folded in half (layers 1-3, ratio 0.5, how unknown, sure yes)"
