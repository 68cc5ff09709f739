"""Surface forms: what a token stands for in text, as UTF-8 bytes, whatever the tokenizer's own spelling.

A word start is a leading b" ". Four spellings are undone:

- byte-level (GPT-2): every byte is a printable character, a space is U+0120;
- sentencepiece: a space is U+2581, bytes outside the vocabulary are `<0x41>`;
- WordPiece (BERT): continuations carry `##`, so a word start is what carries nothing;
- plain: the token is the text.

Laws: `byte_level(text)` undoes the GPT-2 map exactly; functions of the token alone.

Source: GPT-2 `encoder.py` (the byte map); sentencepiece README (U+2581); BERT (arXiv 1810.04805) for `##`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

SPACE_MARK = "\u2581"
_BYTE_TOKEN = re.compile(r"^<0x[0-9A-Fa-f]{2}>$")
_CONTROL = re.compile(
    r"^(<\|.*\|>|<｜.*｜>|\[(PAD|UNK|CLS|SEP|MASK|BOS|EOS|EOD|gMASK|sMASK|sop|eop|unused_?\d+)\]"
    r"|</?(unused_?\d+|extra_id_\d+)>)$"
)
_MARKUP = re.compile(r"^</?(s|pad|unk|mask|bos|eos|eod|eot|sep|cls|bod)>$")


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """The GPT-2 map from printable characters to bytes: 188 stand for themselves, the others follow from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def plain(token: str) -> bytes:
    """The token as it is."""
    return token.encode("utf-8", "surrogatepass")


@lru_cache(maxsize=1)
def _to_latin() -> dict[int, str]:
    """The same map into Latin-1, what is outside the alphabet being sent out of Latin-1, too."""
    alphabet = {ord(letter): chr(byte) for letter, byte in byte_alphabet().items()}
    return {code: "\uffff" for code in range(256) if code not in alphabet} | alphabet


def byte_level(token: str) -> bytes:
    """A byte-level token as bytes; characters outside the alphabet (added tokens) are taken as they are."""
    # A vocabulary has a hundred thousand of them: whole strings at a time, not letters.
    try:
        return token.translate(_to_latin()).encode("latin-1")
    except UnicodeEncodeError:
        return plain(token)


def sentencepiece(token: str) -> bytes:
    """A sentencepiece token with its spaces restored."""
    return plain(token.replace(SPACE_MARK, " "))


def word_piece(token: str, prefix: str = "##") -> bytes:
    """A WordPiece token: a leading space unless it continues a word."""
    if prefix and token.startswith(prefix) and len(token) > len(prefix):
        return plain(token[len(prefix) :])
    return plain(" " + token)


def is_byte_token(token: str) -> bool:
    """Whether a token is a byte-fallback piece such as `<0x41>`."""
    return token[:1] == "<" and _BYTE_TOKEN.match(token) is not None


def looks_special(token: str, *, declared: bool = False) -> bool:
    """Whether a token is spelled like a control token: `<|...|>`, `[CLS]`, and where none are `declared` also `</s>`.

    A tokenizer that declares its controls may hold `<s>` as ordinary text (Qwen does).
    """
    if token[:1] not in ("<", "["):
        return False
    return _CONTROL.match(token) is not None or (not declared and _MARKUP.match(token) is not None)


def guess_spelling(tokens: Iterable[str]) -> tuple[str, Callable[[str], bytes]]:
    """The spelling of a bare list of tokens, by which mark of a word start is commonest.

    Returns:
        Kind ("byte-level", "sentencepiece", "wordpiece" or "plain") and the function that undoes it.
    """
    counts = {"byte-level": 0, "sentencepiece": 0, "wordpiece": 0}
    literal = False
    for token in tokens:
        counts["byte-level"] += token.startswith("\u0120") and len(token) > 1
        counts["sentencepiece"] += token.startswith(SPACE_MARK) and len(token) > 1
        counts["wordpiece"] += token.startswith("##") and len(token) > 2
        literal = literal or (" " in token and not looks_special(token))
    kind = max(counts, key=lambda name: counts[name])
    if counts[kind] < 2 or (kind == "byte-level" and literal):
        return "plain", plain
    return kind, {"byte-level": byte_level, "sentencepiece": sentencepiece, "wordpiece": word_piece}[kind]
