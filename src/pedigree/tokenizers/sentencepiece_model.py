"""The pieces of a sentencepiece model file, read without running or importing anything.

The file is a protocol buffer message `ModelProto`; only field 1 (pieces) is looked at. A piece has a string (1), a
score (2) and a type (3). Every length is checked against the bytes that are left.

Source: sentencepiece `sentencepiece_model.proto`; Protocol Buffers encoding specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pedigree.errors import MalformedFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE, UNUSED = 1, 2, 3, 4, 6, 5
MOST_PIECES = 1 << 23


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece: its spelling and its type number."""

    text: str
    type: int


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
    text, kind = "", NORMAL
    for number, value in _fields(data, where):
        if number == 1 and isinstance(value, bytes):
            try:
                text = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise MalformedFile("a piece is not UTF-8", where=where, got=value[:40]) from error
        elif number == 3 and isinstance(value, int):
            kind = value
    return Piece(text, kind)


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
