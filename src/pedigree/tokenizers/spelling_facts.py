"""How a vocabulary writes digits, spaces and Chinese: facts about its tokens, whatever text it will meet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pedigree.tokenizers.encoder import Encoder

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
UNIFIED = [chr(code) for code in range(0x4E00, 0x9FA6)]  # the 20,902 ideographs of Unicode 1.1
NUMBERS = [str(n) for n in range(1000)]


@dataclass(frozen=True)
class SpellingFacts:
    """Digits, spaces and Chinese.

    Attributes:
        longest_digits: most ASCII digits in one token.
        short_numbers_whole: share of 0..999 that are one token.
        number_split: how 1234567 is cut.
        longest_spaces: most spaces in one token.
        spaces_before_words: share of word tokens that carry the space before the word.
        han_whole: share of 20,902 Chinese characters that are one token each.
        han_words: tokens that hold two or more Chinese characters.
        letters_cost: tokens for each of the Chinese characters that is not one token, on average.
        one_character: every digit, every space and every Chinese character is a token of its own.
    """

    longest_digits: int
    short_numbers_whole: float
    number_split: list[str] = field(default_factory=list)
    longest_spaces: int = 0
    spaces_before_words: float = 0.0
    han_whole: float = 0.0
    han_words: int = 0
    letters_cost: float | None = None
    one_character: bool = False


def spelling_facts(encoder: Encoder) -> SpellingFacts:
    """Look at all tokens and encode a few built-in texts."""
    texts = [_text(surface) for surface in encoder.surfaces]
    digits = [len(t.strip()) for t in texts if t.strip().isascii() and t.strip().isdigit()]
    spaces = [len(t) for t in texts if t and not t.strip(" ")]
    words = [t for t in texts if t.strip() and t.strip()[0].isalpha()]
    han_words = sum(len(HAN.findall(t)) > 1 for t in texts)
    han = _costs(encoder, UNIFIED)
    split = encoder.encode("1234567")
    return SpellingFacts(
        longest_digits=max(digits, default=0),
        short_numbers_whole=sum(n == 1 for n in _costs(encoder, NUMBERS)) / len(NUMBERS),
        number_split=[part for n in split if (part := _text(encoder.surfaces[n])) != " "],  # without the mark in front
        longest_spaces=max(spaces, default=0),
        spaces_before_words=sum(t.startswith(" ") for t in words) / max(1, len(words)),
        han_whole=sum(n == 1 for n in han) / len(han),
        han_words=han_words,
        letters_cost=_mean([n for n in han if n > 1]),
        one_character=_one_character(encoder, max(digits, default=0), max(spaces, default=0), han_words, words),
    )


def _one_character(encoder: Encoder, digits: int, spaces: int, han_words: int, words: Sequence[str]) -> bool:
    if digits != 1 or spaces != 1 or han_words or any(" " in word for word in words):
        return False
    known = encoder.vocabulary()
    return all(str(n).encode() in known for n in range(10)) and b" " in known


def _text(surface: bytes | None) -> str:
    return "" if surface is None else surface.decode("utf-8", "replace")


def _costs(encoder: Encoder, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, without the mark that some tokenizers put in front of everything."""
    empty_mark = encoder.encode("\u9fa5x")
    first = encoder.surfaces[empty_mark[0]] if empty_mark else b""
    extra = 1 if first == b" " else 0
    unknown = encoder.definition["model"].get("unk_id")
    return [
        max(1, len(found) - (extra if found and encoder.surfaces[found[0]] == b" " else 0))
        if unknown is None or unknown not in found
        else 2
        for found in encoder.encode_all(list(texts))
    ]


def _mean(numbers: Sequence[int]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None
