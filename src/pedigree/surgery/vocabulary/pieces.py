"""New tokens cut into old ones: what the old tokenizer makes of the bytes a new token stands for.

The bytes are respelled in the old alphabet first. A byte-level token is not text: read as text, every letter beyond
ASCII, every newline and tab would be cut as the mojibake that its spelling looks like.

Law     the surfaces of a token's pieces, put together, are its bytes (where the old vocabulary has every byte).
Source  sub-token means: FVT (arXiv 2402.09977).

Shapes  N = tokens asked for, P = pieces of all of them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pedigree.tokenizers.definition import spell_bytes
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.surface import SPACE_MARK

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pieces:
    """Old pieces of several tokens, one after the other.

    Attributes:
        pieces_P: old numbers.
        starts_N: where the pieces of each token begin; a token without any has the start of the next.
    """

    pieces_P: Numbers
    starts_N: Numbers

    @property
    def counts_N(self) -> Numbers:
        """Pieces of each token."""
        return np.diff(self.starts_N, append=len(self.pieces_P))


def cut(old: Encoder, surfaces: Sequence[bytes | None]) -> Pieces:
    """The old pieces of new tokens, by their bytes; none for controls and for what the old vocabulary cannot spell."""
    flat: list[int] = []
    starts: list[int] = []
    unknown = old.definition["model"].get("unk_token")
    unknown_number = next((n for n, s in enumerate(old.spellings) if s == unknown), -1) if unknown else -1
    for surface in surfaces:
        starts.append(len(flat))
        if surface:
            flat += [number for number in _cut_one(old, surface) if number != unknown_number]
    return Pieces(np.array(flat, np.int64), np.array(starts, np.int64))


def _cut_one(old: Encoder, surface: bytes) -> list[int]:
    if old.is_byte_level:
        return old.by_model(spell_bytes(surface))
    try:
        text = surface.decode("utf-8")
    except UnicodeDecodeError:
        return _cut_broken(old, surface)
    return _with_spaces(old, old.by_model(text.replace(" ", SPACE_MARK)))


def _with_spaces(old: Encoder, pieces: list[int]) -> list[int]:
    """Where no token is the mark of a space, the model spells the mark by its bytes: one byte, a space, is meant."""
    mark = [old.byte_pieces.get(byte, -1) for byte in SPACE_MARK.encode()]
    if 0x20 not in old.byte_pieces or mark[0] not in pieces:
        return pieces
    found: list[int] = []
    for piece in pieces:
        found.append(piece)
        if found[-len(mark) :] == mark:
            found[-len(mark) :] = [old.byte_pieces[0x20]]
    return found


def _cut_broken(old: Encoder, surface: bytes) -> list[int]:
    """Bytes that are no text: whole characters as text, the rest as byte pieces."""
    pieces: list[int] = []
    for part in surface.decode("utf-8", "surrogateescape"):
        byte = ord(part) - 0xDC00
        if 0x80 <= byte <= 0xFF:
            pieces += [old.byte_pieces[byte]] if byte in old.byte_pieces else []
        else:
            pieces += _with_spaces(old, old.by_model(part.replace(" ", SPACE_MARK)))
    return pieces


def weights_of(pieces: Pieces, first_share: float | None = None) -> npt.NDArray[np.float32]:
    """A weight for every piece that sums to one over each token.

    Args:
        first_share: weight of the first piece of a token; the others share the rest. None shares evenly.
    """
    counts_N = pieces.counts_N
    weights_P = np.repeat(1.0 / np.maximum(counts_N, 1), counts_N)
    if first_share is not None:
        several_N = counts_N > 1
        rest_N = np.where(several_N, (1 - first_share) / np.maximum(counts_N - 1, 1), 1.0)
        weights_P = np.repeat(rest_N, counts_N)
        weights_P[pieces.starts_N[several_N]] = first_share
    return weights_P.astype(np.float32)
