"""A vocabulary shrunk by its leaves cuts text as before, but for what was removed."""

from __future__ import annotations

import numpy as np
import pytest

from pedigree.errors import UsageError
from pedigree.surgery.vocabulary.shrinking import shrink
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions, train

LINES = (
    "The cat sat on the mat, and the dog ran after 12 cats in 1984.\n",
    "they're there with the other thing\n",
) * 40


@pytest.fixture(scope="module", params=["byte-level", "byte-fallback"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return train(
        [Text("eng/x", LINES, "line", "memory")],
        TrainingOptions(kind=request.param, size=345 if request.param == "byte-level" else 440),
    )


def test_what_stays_is_cut_as_before(encoder: Encoder) -> None:
    ids = np.array([n for line in encoder.encode_all(LINES) for n in line])
    uses = np.bincount(ids, minlength=encoder.size)
    smaller = shrink(encoder, encoder.size - 30, uses)
    assert smaller.encoder.size == encoder.size - 30
    assert len(smaller.kept) == smaller.encoder.size
    removed = set(smaller.removed)
    for line in LINES[:2]:
        old, new = encoder.encode(line), smaller.encoder.encode(line)
        assert smaller.encoder.decode(new) == encoder.decode(old)
        if not removed & set(old):
            assert [int(smaller.kept[n]) for n in new] == old
    for number, old in enumerate(smaller.kept):
        assert smaller.encoder.surfaces[number] == encoder.surfaces[old]
    assert {encoder.spellings[n] for n in encoder.specials} == {
        smaller.encoder.spellings[n] for n in smaller.encoder.specials
    }


def test_unused_tokens_go_first(encoder: Encoder) -> None:
    ids = np.array([n for line in encoder.encode_all(LINES) for n in line])
    uses = np.bincount(ids, minlength=encoder.size)
    one = shrink(encoder, encoder.size - 1, uses)
    leaves = [n for n in range(encoder.size) if encoder.spellings[n] is not None]
    assert uses[one.removed[0]] <= uses[leaves].max()
    # Nothing that a kept merge needs is gone: every kept token of several characters is still reachable by its merges.
    for left, right in one.encoder.merges:
        assert left in one.encoder.spellings
        assert right in one.encoder.spellings


def test_letters_and_controls_cannot_be_removed(encoder: Encoder) -> None:
    with pytest.raises(UsageError, match="cannot become that small"):
        shrink(encoder, 3, np.zeros(encoder.size, np.int64))
