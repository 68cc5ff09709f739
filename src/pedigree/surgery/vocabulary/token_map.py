"""Which old row each new token takes over: by what it stands for, never by its number or its spelling.

Text    tokens are the same when their surfaces are the same bytes; a byte-fallback piece and a byte-level letter are
        the same byte, and count only where no ordinary token has that surface.
Controls  by spelling; then by role (begin, end, pad, unknown, mask, start and end of a turn), so that `<s>` finds
        `<|begin_of_text|>`. What has no counterpart is new.
Law     the map of a tokenizer to itself copies every token of its own, each to itself, but for the later of two tokens
        of one surface, which takes the row of the first.

Shapes  W = new tokens
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pedigree.tokenizers.encoder import Encoder

NO_ROW = -1
Numbers = npt.NDArray[np.int64]

ROLES: dict[str, frozenset[str]] = {
    "begin": frozenset({"<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "[BOS]",
                        "[CLS]", "<|begin▁of▁sentence|>"}),
    "end": frozenset({"</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "[EOS]", "[SEP]",
                      "<|end▁of▁sentence|>"}),
    "pad": frozenset({"<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<｜▁pad▁｜>"}),
    "unknown": frozenset({"<unk>", "[UNK]", "<|unk|>"}),
    "mask": frozenset({"<mask>", "[MASK]"}),
    "turn begins": frozenset({"<|im_start|>", "<start_of_turn>", "<|start_header_id|>"}),
    "turn ends": frozenset({"<|im_end|>", "<end_of_turn>", "<|eot_id|>", "[unused10]"}),
}  # fmt: skip
"""Spellings of control tokens by what they do."""


@dataclass(frozen=True, eq=False)
class TokenMap:
    """New tokens and their old rows.

    Attributes:
        old_of_W: old row of each new number, `NO_ROW` where there is none.
        controls_by_role: (new spelling, old spelling) of controls that were matched by what they do.
        holes: new numbers that have no token.
        new_specials: control tokens that are new, by number.
    """

    old_of_W: Numbers
    controls_by_role: tuple[tuple[str, str], ...]
    holes: tuple[int, ...]
    new_specials: tuple[int, ...]

    @property
    def copied(self) -> Numbers:
        """Numbers of new tokens that take an old row."""
        return np.flatnonzero(self.old_of_W != NO_ROW)

    @property
    def guessed(self) -> Numbers:
        """Numbers of new tokens whose row has to be made up."""
        return np.flatnonzero(self.old_of_W == NO_ROW)


def map_tokens(old: Encoder, new: Encoder) -> TokenMap:
    """The old row of every new token."""
    by_surface = _rows_by_surface(old)
    old_controls = {str(old.spellings[number]): number for number in sorted(old.specials, reverse=True)}
    rows_W = np.full(new.size, NO_ROW, np.int64)
    for byte, number in new.byte_pieces.items():
        rows_W[number] = old.byte_pieces.get(byte, NO_ROW)
    by_role: list[tuple[str, str]] = []
    holes: list[int] = []
    new_specials: list[int] = []
    for number, (surface, spelling) in enumerate(zip(new.surfaces, new.spellings, strict=True)):
        if spelling is None:
            holes.append(number)
        elif rows_W[number] != NO_ROW:
            continue
        elif surface is not None:
            rows_W[number] = by_surface.get(surface, NO_ROW)
        elif spelling in old_controls:
            rows_W[number] = old_controls[spelling]
        else:
            twin = _twin(spelling, old_controls)
            if twin is None:
                new_specials.append(number)
            else:
                rows_W[number] = old_controls[twin]
                by_role.append((spelling, twin))
    return TokenMap(rows_W, tuple(by_role), tuple(holes), tuple(new_specials))


def _rows_by_surface(encoder: Encoder) -> dict[bytes, int]:
    """Old rows by surface; of a byte piece and an ordinary token of one byte the ordinary one."""
    found = {bytes([byte]): number for byte, number in encoder.byte_pieces.items()}
    return found | encoder.vocabulary()


def _twin(spelling: str, old_controls: dict[str, int]) -> str | None:
    for spellings in ROLES.values():
        if spelling in spellings:
            return next((old for old in old_controls if old in spellings), None)
    return None
