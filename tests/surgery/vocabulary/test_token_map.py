"""Tokens are matched by what they stand for, and cut into old pieces by their bytes."""

from __future__ import annotations

import numpy as np
import pytest

from pedigree.surgery.vocabulary.pieces import cut, weights_of
from pedigree.surgery.vocabulary.token_map import NO_ROW, map_tokens
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions, train

ENGLISH = "The cat sat on the mat, and the dog ran after 12 cats in 1984.\n\tthey're there — naïve café\n"
RUSSIAN = "Кошка сидела на коврике и собака бежала за кошками в лесу.\n"


def trained(kind: str, text: str, size: int, specials: tuple[str, ...] = ("<|endoftext|>",)) -> Encoder:
    lines = tuple(text.splitlines(keepends=True)) * 40
    options = TrainingOptions(kind=kind, size=size, specials=specials)  # type: ignore[arg-type]
    return train([Text("x/y", lines, "line", "memory")], options)


@pytest.fixture(scope="module")
def byte_level() -> Encoder:
    return trained("byte-level", ENGLISH, 340)


@pytest.fixture(scope="module")
def sentencepiece() -> Encoder:
    return trained("byte-fallback", ENGLISH + RUSSIAN, 420)


@pytest.fixture(scope="module")
def russian() -> Encoder:
    return trained("byte-level", RUSSIAN, 340)


def test_a_tokenizer_maps_to_itself(byte_level: Encoder, sentencepiece: Encoder) -> None:
    for encoder in (byte_level, sentencepiece):
        found = map_tokens(encoder, encoder)
        assert not len(found.guessed)
        same = found.old_of_W == np.arange(encoder.size)
        assert all(encoder.surfaces[n] == encoder.surfaces[found.old_of_W[n]] for n in np.flatnonzero(~same))
        assert same.mean() > 0.9


def test_tokens_of_two_spellings_meet_in_their_bytes(byte_level: Encoder, sentencepiece: Encoder) -> None:
    found = map_tokens(sentencepiece, byte_level)
    surfaces = byte_level.surfaces
    number = surfaces.index(b" the")
    assert sentencepiece.surfaces[found.old_of_W[number]] == b" the"
    high = surfaces.index(b"\xd0")
    assert found.old_of_W[high] == sentencepiece.byte_pieces[0xD0]
    letter = surfaces.index(b"a")
    assert found.old_of_W[letter] == sentencepiece.vocabulary()[b"a"], "an ordinary token goes before a byte piece"
    assert (found.old_of_W[list(byte_level.specials)] != NO_ROW).any()


def test_controls_meet_by_spelling_then_by_role() -> None:
    old = trained("byte-fallback", ENGLISH, 440, ("<unk>", "<s>", "</s>", "<|im_start|>"))
    new = trained("byte-level", ENGLISH, 300, ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|tool|>"))
    found = map_tokens(old, new)
    assert found.controls_by_role == (("<|begin_of_text|>", "<s>"), ("<|end_of_text|>", "</s>"))
    assert found.old_of_W[:4].tolist() == [1, 2, 3, NO_ROW]
    assert found.new_specials == (3,)


@pytest.mark.parametrize("pair", ["byte to piece", "piece to byte", "byte to byte"])
def test_pieces_spell_the_bytes_of_the_token(
    pair: str, byte_level: Encoder, sentencepiece: Encoder, russian: Encoder
) -> None:
    old, new = {
        "byte to piece": (sentencepiece, byte_level),
        "piece to byte": (byte_level, sentencepiece),
        "byte to byte": (byte_level, russian),
    }[pair]
    pieces = cut(old, new.surfaces)
    stops = np.append(pieces.starts_N[1:], len(pieces.pieces_P))
    for surface, start, stop in zip(new.surfaces, pieces.starts_N, stops, strict=True):
        if surface is not None:
            joined = b"".join(old.surfaces[n] or b"" for n in pieces.pieces_P[start:stop])
            assert joined == surface
        else:
            assert start == stop


def test_weights_of_pieces_sum_to_one(byte_level: Encoder, russian: Encoder) -> None:
    pieces = cut(byte_level, russian.surfaces)
    for share in (None, 0.5):
        sums = np.add.reduceat(weights_of(pieces, share), pieces.starts_N[pieces.counts_N > 0])
        assert np.allclose(sums, 1)
    several = np.flatnonzero(pieces.counts_N > 1)
    assert np.allclose(weights_of(pieces, 0.5)[pieces.starts_N[several]], 0.5), "the first piece, not the last"
