"""A sentencepiece model file, read without running or importing anything.

The file is a protocol buffer message `ModelProto`: pieces (1), settings of trainer (2) and normalizer (3). A piece
has a string (1), a score (2) and a type (3). Every length is checked against the bytes that are left.

Source: sentencepiece `sentencepiece_model.proto`; Protocol Buffers encoding specification.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pedigree.errors import MalformedFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE, UNUSED = 1, 2, 3, 4, 6, 5
MOST_PIECES = 1 << 23


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece: its spelling, its type number and its score (log probability, or minus the rank of its merge)."""

    text: str
    type: int
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What is needed to encode: the pieces in order of their numbers, and how text is prepared.

    Attributes:
        pieces: all pieces.
        algorithm: "unigram", "bpe", "word" or "char".
        byte_fallback: characters outside the vocabulary become byte pieces.
        charsmap: compiled normalization rules, empty for none.
        add_dummy_prefix: a space is put in front of the text.
        remove_extra_whitespaces: runs of spaces become one, outer ones go.
        whitespace_as_suffix: the space mark ends words instead of beginning them.
    """

    pieces: tuple[Piece, ...]
    algorithm: str
    byte_fallback: bool = False
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    whitespace_as_suffix: bool = False


ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


def read_model(data: bytes, where: str) -> SentencePieceModel:
    """A model file with its settings.

    Raises:
        MalformedFile: not a protocol buffer, cut short, without pieces, or of an unknown algorithm.
    """
    trainer: dict[int, int] = {}
    normalizer: dict[int, int] = {}
    charsmap = b""
    for number, value in _fields(data, where):
        if number == 2 and isinstance(value, bytes):
            trainer = {n: v for n, v in _fields(value, where) if isinstance(v, int)}
        elif number == 3 and isinstance(value, bytes):
            for n, v in _fields(value, where):
                if isinstance(v, int):
                    normalizer[n] = v
                elif n == 2:
                    charsmap = v
    algorithm = ALGORITHMS.get(trainer.get(3, 1))
    if algorithm is None:
        raise MalformedFile(
            "a sentencepiece model has an unknown algorithm",
            where=f"{where}: trainer_spec.model_type",
            got=trainer[3],
            expected=f"one of {ALGORITHMS}",
        )
    return SentencePieceModel(
        tuple(read_pieces(data, where)),
        algorithm,
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=charsmap,
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        whitespace_as_suffix=bool(trainer.get(24, 0)),
    )


def read_pieces(data: bytes, where: str) -> list[Piece]:
    """All pieces of a model file, in order of their numbers.

    Args:
        data: the whole file.
        where: its name, for errors.

    Raises:
        MalformedFile: not a protocol buffer, cut short, or without pieces.
    """
    pieces: list[Piece] = []
    for number, value in _fields(data, where):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value, where))
            if len(pieces) > MOST_PIECES:
                raise MalformedFile("too many pieces", where=where, expected=f"up to {MOST_PIECES}")
    if not pieces:
        raise MalformedFile("no pieces in a sentencepiece model", where=where, expected="field 1 of ModelProto")
    return pieces


def _piece(data: bytes, where: str) -> Piece:
    text, kind, score = "", NORMAL, 0.0
    for number, value in _fields(data, where):
        if number == 1 and isinstance(value, bytes):
            try:
                text = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise MalformedFile("a piece is not UTF-8", where=where, got=value[:40]) from error
        elif number == 3 and isinstance(value, int):
            kind = value
        elif number == 2 and isinstance(value, bytes) and len(value) == 4:
            score = float(struct.unpack("<f", value)[0])
    return Piece(text, kind, score if math.isfinite(score) else 0.0)


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a message: integers for varints, bytes for everything else."""
    place, size = 0, len(data)
    while place < size:
        key, place = _varint(data, place, where)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(data, place, where)
            yield number, value
            continue
        if wire == 2:
            length, place = _varint(data, place, where)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise MalformedFile("unknown wire type in a sentencepiece model", where=where, got=f"{wire} at {place}")
        if number == 0 or length > size - place:
            raise MalformedFile(
                "a field reaches past the end of a sentencepiece model",
                where=where,
                got=f"field {number} of {length} bytes at byte {place}",
                expected=f"up to {size - place} bytes",
            )
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
    raise MalformedFile("an integer of a sentencepiece model does not end", where=where, got=f"byte {place}")
