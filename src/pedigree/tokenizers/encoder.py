"""Encoder: a tokenizer that works, whatever file it came from, with what each of its tokens stands for.

Rules
- Text is data: the spelling of a control token inside a text is encoded as text, never as the control.
- Nothing is cut or padded, nothing is put in front or behind: truncation, padding and templates are switched off.
- `definition` is the tokenizer.json as it will be written; `library` is the same in the `tokenizers` library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tokenizers import Tokenizer

from pedigree.errors import MalformedFile, UsageError
from pedigree.tokenizers.definition import Definition
from pedigree.tokenizers.surface import is_byte_token
from pedigree.tokenizers.token_table import MOST_TOKENS
from pedigree.tokenizers.tokenizer_json import added_spelling, spelling


class LibraryErrors:
    """Turns what the `tokenizers` library raises, bare exceptions and panics, into a MalformedFile."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        """Nothing is prepared."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Only the library's own nameless errors are translated; all others pass."""
        if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
            raise MalformedFile("the tokenizer does not work", where=self.where, got=str(error)[:200]) from error


@dataclass(frozen=True, eq=False)
class Encoder:
    """A working tokenizer.

    Attributes:
        name: short name, for tables.
        location: the file it was read from.
        format: "tokenizer.json", "sentencepiece", "tiktoken", "gguf" or "vocab.json".
        definition: the content of its tokenizer.json.
        library: the same, ready to encode.
        digest: sha256 of the definition as canonical JSON: equal for equal tokenizers.
        surfaces: for each number the bytes it stands for; None for controls and for numbers without a token.
        spellings: for each number its spelling in the vocabulary; None for numbers without a token.
        specials: numbers of control tokens.
        byte_pieces: number of each byte-fallback piece, by byte.
        added: numbers of added tokens that are text.
        notes: what was changed on reading.
    """

    name: str
    location: str
    format: str
    definition: Definition
    library: Tokenizer
    digest: str
    surfaces: tuple[bytes | None, ...]
    spellings: tuple[str | None, ...]
    specials: frozenset[int]
    byte_pieces: dict[int, int]
    added: frozenset[int]
    notes: tuple[str, ...] = field(default=())

    @property
    def size(self) -> int:
        """Highest number plus one: the rows an embedding table needs."""
        return len(self.spellings)

    @property
    def kind(self) -> str:
        """ "byte-level BPE", "byte-fallback BPE", "BPE", "Unigram", "WordPiece" or "WordLevel"."""
        model = self.definition["model"]
        if model.get("type", "BPE") != "BPE":
            return str(model["type"])
        if self.is_byte_level:
            return "byte-level BPE"
        return "byte-fallback BPE" if model.get("byte_fallback") else "BPE"

    @property
    def is_byte_level(self) -> bool:
        """Whether every byte is spelled as one printable character."""
        return "ByteLevel" in json.dumps([self.definition["pre_tokenizer"], self.definition["decoder"]])

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Merges in order, as pairs of spellings, whichever of its two forms the file has."""
        return merge_pairs(self.definition)

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text.

        Raises:
            UsageError: the text holds half of a surrogate pair, which no UTF-8 text can.
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of many texts, in parallel where the machine allows; same results on any number of threads."""
        try:
            with LibraryErrors(self.location):
                return [found.ids for found in self.library.encode_batch_fast(list(texts), add_special_tokens=False)]
        except (UnicodeEncodeError, TypeError) as error:
            raise UsageError(
                "a text is not UTF-8", where=self.name, got=str(error)[:120], fix="errors='replace' when reading it"
            ) from error

    def decode(self, numbers: Sequence[int]) -> str:
        """The text of token numbers, controls included."""
        return self.decode_all([numbers])[0]

    def decode_all(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The texts of many sequences of token numbers, controls included."""
        with LibraryErrors(self.location):
            return list(self.library.decode_batch([list(s) for s in sequences], skip_special_tokens=False))

    def by_model(self, spelled: str) -> list[int]:
        """What the model alone, without normalizer and pre-tokenizer, makes of a spelling."""
        with LibraryErrors(self.location):
            return [token.id for token in self.library.model.tokenize(spelled)]

    def normalized(self, text: str) -> str:
        """The text as the normalizer leaves it."""
        with LibraryErrors(self.location):
            normalizer = self.library.normalizer
            return text if normalizer is None else str(normalizer.normalize_str(text))

    def words(self, text: str) -> list[str]:
        """The words that normalizer and pre-tokenizer make of a text, in the spelling of the vocabulary."""
        plain = self.normalized(text)
        with LibraryErrors(self.location):
            cutter = self.library.pre_tokenizer
            return [plain] if cutter is None else [word for word, _ in cutter.pre_tokenize_str(plain)]

    def vocabulary(self) -> dict[bytes, int]:
        """Surface to number, controls and byte pieces left out; of equal surfaces the lowest number."""
        pieces = set(self.byte_pieces.values())
        found: dict[bytes, int] = {}
        for number, surface in enumerate(self.surfaces):
            if surface is not None and number not in pieces:
                found.setdefault(surface, number)
        return found


def merge_pairs(definition: Definition) -> list[tuple[str, str]]:
    """The merges of a definition as pairs; none for models without merges."""
    pairs = []
    for merge in definition["model"].get("merges") or []:
        left, _, right = merge.partition(" ") if isinstance(merge, str) else (merge[0], "", merge[1])
        pairs.append((left, right))
    return pairs


def build_encoder(
    definition: Definition, *, name: str, location: str, format: str, notes: Sequence[str] = ()
) -> Encoder:
    """An encoder from a definition.

    Raises:
        MalformedFile: the definition is not a tokenizer.
    """
    said = list(notes)
    for part in ("truncation", "padding"):
        if definition.get(part) is not None:
            said.append(f"{part} in the file is switched off")
    definition = {**definition, "truncation": None, "padding": None}
    text = json.dumps(definition, ensure_ascii=False)
    with LibraryErrors(location):
        library = Tokenizer.from_str(text)
        library.encode_special_tokens = True
    surfaces, spellings, specials, byte_pieces, added = _tokens(definition, location)
    _check_numbers(library, spellings, location)
    canonical = json.dumps(definition, sort_keys=True, separators=(",", ":"))
    return Encoder(
        name, location, format, definition, library, "sha256:" + hashlib.sha256(canonical.encode()).hexdigest(),
        surfaces, spellings, specials, byte_pieces, added, tuple(said),
    )  # fmt: skip


def _check_numbers(library: Tokenizer, spellings: Sequence[str | None], where: str) -> None:
    """The library numbers added tokens by itself where they are not in the vocabulary; then nothing would fit."""
    for number, spelling_ in enumerate(spellings):
        if spelling_ is not None and library.id_to_token(number) != spelling_:
            raise MalformedFile(
                "a token does not have the number that the file gives it",
                where=where,
                got=f"{library.id_to_token(number)!r} at {number}",
                expected=repr(spelling_),
            )


def vocab_items(model: dict[str, Any]) -> list[tuple[str, int]]:
    """Spelling and number of every entry of a model's vocabulary."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        return list(vocab.items())
    return [(entry[0], number) for number, entry in enumerate(vocab)]


def _tokens(
    definition: Definition, where: str
) -> tuple[tuple[bytes | None, ...], tuple[str | None, ...], frozenset[int], dict[int, int], frozenset[int]]:
    items = vocab_items(definition["model"])
    kind, spell = spelling(definition, definition["model"], [token for token, _ in items])
    extra = {entry["id"]: entry for entry in definition.get("added_tokens") or []}
    size = max([number for _, number in items] + list(extra), default=-1) + 1
    if not 0 < size <= MOST_TOKENS:
        raise MalformedFile("a tokenizer without tokens, or with too many", where=where, got=size)
    surfaces: list[bytes | None] = [None] * size
    spellings: list[str | None] = [None] * size
    byte_pieces: dict[int, int] = {}
    fallback = bool(definition["model"].get("byte_fallback"))
    for token, number in items:
        if spellings[number] is not None:
            raise MalformedFile("two tokens have one number", where=where, got=f"{token!r:.40} at {number}")
        spellings[number] = token
        if fallback and is_byte_token(token):
            byte_pieces[int(token[3:5], 16)] = number
            surfaces[number] = bytes([int(token[3:5], 16)])
        else:
            surfaces[number] = spell(token)
    specials = frozenset(number for number, entry in extra.items() if entry.get("special") is True)
    for number, entry in extra.items():
        spellings[number] = entry["content"]
        surfaces[number] = None if number in specials else added_spelling(kind)(entry["content"])
    return tuple(surfaces), tuple(spellings), specials, byte_pieces, frozenset(extra) - specials
