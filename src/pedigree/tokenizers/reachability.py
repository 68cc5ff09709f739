"""Which tokens a tokenizer can produce at all: every token's own surface is encoded again.

Classes
made          some text contains it: the encoder was seen to produce it
part          stands for a part of a character; its bytes alone are no text, and merging its own bytes makes it
never-utf8    holds bytes that no UTF-8 text holds
shadowed      a byte piece whose character is a token, so that the fallback never needs it
unreachable   merging (or the best path) over its own spelling ends in other tokens: no text can contain it; or the
              normalizer changes its text, or the pre-tokenizer cuts it in each of the surroundings tried, or another
              token of the same surface, or an added token within it, takes its place

Source: Land and Bartolo, "Fishing for Magikarp" (arXiv 2405.05417), for the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pedigree.tokenizers.encoder import Encoder, build_encoder
from pedigree.tokenizers.surface import SPACE_MARK

# The token alone, then with neighbors that change where words begin and end.
SURROUNDINGS = (
    ("", ""), ("a", ""), ("", "a"), (" ", ""), ("\n", ""), (".", ""), ("1", ""), ("", " "),
    ("\u4e00", ""), ("a", "\u9fa5"),
)  # fmt: skip


@dataclass(frozen=True)
class Unreachable:
    """A token that was not produced: its number, why, and what its text becomes."""

    number: int
    why: str
    becomes: tuple[int, ...]


@dataclass(frozen=True)
class Reachability:
    """All tokens that stand for text, in classes; lists hold token numbers.

    `whole_words_only`: made as a whole word and never by merging (only where the tokenizer ignores merges for words
    that are tokens).
    """

    made: int
    part: list[int] = field(default_factory=list)
    never_utf8: list[int] = field(default_factory=list)
    shadowed: list[int] = field(default_factory=list)
    unreachable: list[Unreachable] = field(default_factory=list)
    whole_words_only: list[int] = field(default_factory=list)


def reachability(encoder: Encoder, numbers: Sequence[int] | None = None) -> Reachability:
    """Put every token that stands for text into its class.

    Args:
        numbers: tokens to look at; all without it.
    """
    pieces = set(encoder.byte_pieces.values())
    asked = range(encoder.size) if numbers is None else numbers
    whole: dict[int, str] = {}
    part: list[int] = []
    never: list[int] = []
    for number in asked:
        surface = encoder.surfaces[number]
        if surface is None or number in pieces:
            continue
        try:
            whole[number] = surface.decode("utf-8")
        except UnicodeDecodeError:
            (part if _inside_utf8(surface) else never).append(number)
    left = _not_seen(encoder, whole)
    unreachable = [_reason(encoder, number, whole[number]) for number in sorted(left)]
    for number in part:
        made = tuple(encoder.by_model(str(encoder.spellings[number])))
        if made != (number,):
            unreachable.append(Unreachable(number, "merges", made))
    bad = {entry.number for entry in unreachable}
    shadowed, never_bytes = _byte_pieces(encoder, set(asked))
    return Reachability(
        made=len(whole) - len(left),
        part=[number for number in part if number not in bad],
        never_utf8=sorted(never + never_bytes),
        shadowed=shadowed,
        unreachable=sorted(unreachable, key=lambda entry: entry.number),
        whole_words_only=_whole_words_only(encoder, whole, left),
    )


def _not_seen(encoder: Encoder, texts: dict[int, str]) -> set[int]:
    """Tokens that no surroundings brought out."""
    left = list(texts)
    around = list(SURROUNDINGS)
    if encoder.kind == "WordPiece":
        around += [(letter, "") for letter in "bcdefghijklmnopqrstuvwxyz023456789"]
    for before, after in around:
        if not left:
            break
        encoded = encoder.encode_all([before + texts[number] + after for number in left])
        left = [number for number, found in zip(left, encoded, strict=True) if number not in found]
    return set(left)


def _reason(encoder: Encoder, number: int, text: str) -> Unreachable:
    becomes = tuple(encoder.encode(text))
    if number in encoder.added:
        return Unreachable(number, "added token that is never matched", becomes)
    if len(becomes) == 1 and encoder.surfaces[becomes[0]] == encoder.surfaces[number]:
        return Unreachable(number, "duplicate", becomes)
    if encoder.added & set(becomes):
        return Unreachable(number, "added token", becomes)
    made = tuple(encoder.by_model(str(encoder.spellings[number])))
    if made != (number,) and encoder.kind != "WordPiece":
        return Unreachable(number, "merges" if encoder.definition["model"].get("merges") else "path", made)
    if text not in encoder.normalized(text).replace(SPACE_MARK, " "):
        return Unreachable(number, "normalizer", becomes)
    return Unreachable(number, "pre-tokenizer", becomes)


def _inside_utf8(surface: bytes) -> bool:
    """Whether bytes can stand inside a UTF-8 text: rests of characters at both ends, whole ones between."""
    start = 0
    while start < min(3, len(surface)) and surface[start] & 0xC0 == 0x80:
        start += 1
    body = surface[start:]
    for cut in range(min(4, len(body) + 1)):
        head, tail = body[: len(body) - cut], body[len(body) - cut :]
        try:
            head.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if not tail:
            return True
        # A head of a character: some continuation completes it.
        return any(_completes(tail + bytes(rest)) for rest in _CONTINUATIONS)
    return False


_CONTINUATIONS = [[b] * n for n in (1, 2, 3) for b in (0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF)] + [
    [b, *[0x80] * n] for n in (1, 2) for b in (0x90, 0xA0)
]


def _completes(data: bytes) -> bool:
    try:
        return len(data.decode("utf-8")) == 1
    except UnicodeDecodeError:
        return False


def _byte_pieces(encoder: Encoder, asked: set[int]) -> tuple[list[int], list[int]]:
    """Byte pieces that are never needed, and those of bytes that no UTF-8 text holds."""
    shadowed, never = [], []
    known = encoder.vocabulary()
    for byte, number in encoder.byte_pieces.items():
        if number not in asked:
            continue
        if byte in (0xC0, 0xC1) or byte >= 0xF5:
            never.append(number)
        elif byte < 0x80 and bytes([byte]) in known:
            shadowed.append(number)
    return sorted(shadowed), never


def _whole_words_only(encoder: Encoder, texts: dict[int, str], left: set[int]) -> list[int]:
    model = encoder.definition["model"]
    if not model.get("ignore_merges"):
        return []
    strict = build_encoder(
        {**encoder.definition, "model": {**model, "ignore_merges": False}},
        name=encoder.name, location=encoder.location, format=encoder.format,
    )  # fmt: skip
    return sorted(_not_seen(strict, {n: text for n, text in texts.items() if n not in encoder.added}) - left)
