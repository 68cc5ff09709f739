"""The token table that every reader fills: surface forms, their numbers, and the controls set apart.

Rules
- Control tokens and byte-fallback pieces stand for no text: they are counted in `size` and are not in `tokens`.
- Where two numbers have one surface form the lower number counts.
- A number outside 0 .. 2^23 - 1 is a MalformedFile: no tokenizer is that large, and nothing is sized by a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pedigree.errors import MalformedFile
from pedigree.tokenizers.surface import is_byte_token, looks_special

MOST_TOKENS = 1 << 23

Spell = Callable[[str], bytes]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model.

    Attributes:
        tokens: surface form to token number; control tokens and byte-fallback pieces left out.
        size: highest token number plus one.
        kind: "byte-level", "sentencepiece", "wordpiece", "tiktoken" or "plain".
        specials: spelling of control tokens to token number.
        file: the file it was read from, or "metadata" of a GGUF.
        digest: SHA-256 of that file where it alone says everything, else empty.
    """

    tokens: Mapping[bytes, int]
    size: int
    kind: str
    specials: Mapping[str, int]
    file: str
    digest: str = ""


class TokenTable:
    """Collects tokens and checks their numbers; `where` names the file and field in errors."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.tokens: dict[bytes, int] = {}
        self.specials: dict[str, int] = {}
        self.size = 0

    def number(self, number: object, token: object) -> int:
        """A checked token number; counts towards the size."""
        if type(number) is not int or not 0 <= number < MOST_TOKENS:
            raise MalformedFile(
                "a token has an impossible number",
                where=self.where,
                got=f"{number!r:.40} for {token!r:.40}",
                expected=f"an integer from 0 to {MOST_TOKENS - 1}",
            )
        if number >= self.size:
            self.size = number + 1
        return number

    def add(self, surface: bytes, number: int) -> None:
        """A token that stands for text."""
        if surface and self.tokens.get(surface, number) >= number:
            self.tokens[surface] = number

    def add_special(self, spelling: str, number: int) -> None:
        """A control token."""
        self.specials.setdefault(spelling, number)

    def add_all(self, pairs: Iterable[tuple[object, object]], spell: Spell, special: frozenset[int]) -> None:
        """Tokens with their numbers in one spelling; those in `special` or spelled like controls stand for no text."""
        declared = bool(special)
        for token, raw in pairs:  # a hundred thousand times: what is ordinary is settled here
            if not isinstance(token, str):
                raise MalformedFile("a token is not a string", where=self.where, got=f"{token!r:.40}")
            number = self.number(raw, token)
            marked = token.startswith(("<", "["))
            if number in special or (marked and looks_special(token, declared=declared)):
                self.add_special(token, number)
            elif not (marked and is_byte_token(token)):
                self.add(spell(token), number)

    def finish(self, kind: str, file: str) -> Vocabulary | None:
        """The vocabulary, None where there is no token at all."""
        if not self.tokens:
            return None
        return Vocabulary(MappingProxyType(self.tokens), self.size, kind, MappingProxyType(self.specials), file)
