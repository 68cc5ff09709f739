"""Vocabulary: the tokens of a model as text, so that models with different tokenizers can be compared row by row.

Read from whatever lies beside the weights: tokenizer.json, a sentencepiece model, vocab.json, vocab.txt, a tiktoken
file, or the metadata of a GGUF. Two models share a token when its surface form is the same bytes.

Rules
- Surface forms are UTF-8 bytes with a word start as a leading b" " (`surface`).
- Control tokens and byte-fallback pieces are set apart (`token_table`).
- Files are untrusted: sizes are capped before reading, and what contradicts its format is a MalformedFile.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from pedigree.errors import MalformedFile
from pedigree.tokenizers.sentencepiece_model import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED, read_pieces
from pedigree.tokenizers.surface import (
    SPACE_MARK,
    byte_level,
    guess_spelling,
    looks_special,
    plain,
    sentencepiece,
    word_piece,
)
from pedigree.tokenizers.token_table import MOST_TOKENS, TokenTable, Vocabulary
from pedigree.tokenizers.tokenizer_json import added_spelling, added_tokens, from_tokenizer_json, parse_json, text_of

__all__ = ["MOST_TOKENS", "Vocabulary", "VocabularySource", "read_vocabulary"]

MAX_JSON_BYTES = 64_000_000
MAX_BINARY_BYTES = 32_000_000


class VocabularySource(Protocol):
    """What a vocabulary needs from a checkpoint; `pedigree.weights.checkpoint.Checkpoint` is one."""

    @property
    def location(self) -> str:
        """Where the checkpoint lies."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Key-values inside the weight files."""

    def sibling_bytes(self, filename: str, max_bytes: int) -> bytes | None:
        """A file beside the weights, None where absent."""


def read_vocabulary(checkpoint: VocabularySource, beside: Vocabulary | None = None) -> Vocabulary | None:
    """The vocabulary beside (or inside) a checkpoint; None where there is none.

    Args:
        checkpoint: where it lies.
        beside: a vocabulary that was read before; where the file is the same, byte for byte, it is returned.

    Raises:
        MalformedFile: a tokenizer file contradicts its format, or is larger than any tokenizer.
    """
    if isinstance(checkpoint.metadata.get("tokenizer.ggml.tokens"), list):
        return from_gguf(checkpoint.metadata, checkpoint.location)
    for name, limit, reader in _FILES:
        data = checkpoint.sibling_bytes(name, limit)
        if data is not None:
            digest = hashlib.sha256(data).hexdigest() if reader is _from_tokenizer_json else ""
            if beside is not None and digest and beside.digest == digest and beside.file == name:
                return beside
            found = reader(data, f"{checkpoint.location}: {name}", name, checkpoint)
            if found is not None:
                return replace(found, digest=digest)
    return None


def from_gguf(metadata: Mapping[str, Any], where: str) -> Vocabulary | None:
    """The vocabulary in the metadata of a GGUF (`tokenizer.ggml.tokens` with their types)."""
    tokens, model = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.model")
    raw_types = metadata.get("tokenizer.ggml.token_type")
    try:
        types = [] if raw_types is None else [int(kind) for kind in raw_types]
    except (TypeError, ValueError) as error:
        raise MalformedFile(
            "the types of tokens are not integers",
            where=f"{where}: tokenizer.ggml.token_type",
            got=f"{raw_types!r:.60}",
        ) from error
    special = {number for number, kind in enumerate(types) if kind in (UNKNOWN, CONTROL, UNUSED)}
    texts = [token for token in tokens if isinstance(token, str)]
    kind, spell = {
        "gpt2": ("byte-level", byte_level),
        "llama": ("sentencepiece", sentencepiece),
        "t5": ("sentencepiece", sentencepiece),
        "bert": ("wordpiece", sentencepiece),
    }.get(str(model), guess_spelling(texts))
    if kind == "wordpiece" and not any(token.startswith(SPACE_MARK) for token in texts):
        spell = word_piece
    table = TokenTable(f"{where}: tokenizer.ggml.tokens")
    user = {number for number, kind in enumerate(types[: len(tokens)]) if kind == USER_DEFINED}
    table.add_all(((t, n) for n, t in enumerate(tokens) if n not in user), spell, frozenset(special))
    table.add_all(((tokens[n], n) for n in sorted(user)), added_spelling(kind), frozenset(special))
    return table.finish(kind, "metadata")


def _from_tokenizer_json(data: bytes, where: str, file: str, source: VocabularySource) -> Vocabulary | None:
    return from_tokenizer_json(data, where, file)


def _from_vocab_json(data: bytes, where: str, file: str, source: VocabularySource) -> Vocabulary | None:
    """A bare map of tokens to numbers, with the controls of tokenizer_config.json; other JSON is not a vocabulary."""
    root = parse_json(data, where)
    if not root or not all(isinstance(number, int) for number in root.values()):
        return None
    table = TokenTable(where)
    extra: dict[int, str] = {}
    special: frozenset[int] = frozenset()
    config = source.sibling_bytes("tokenizer_config.json", MAX_JSON_BYTES)
    if config is not None:
        declared = parse_json(config, f"{source.location}: tokenizer_config.json").get("added_tokens_decoder")
        if isinstance(declared, dict):
            entries = [
                {**entry, "id": int(number)}
                for number, entry in declared.items()
                if isinstance(entry, dict) and number.isascii() and number.isdigit() and len(number) <= 9
            ]
            special, extra = added_tokens(entries, table)
    kind, spell = guess_spelling(root)
    table.add_all(((token, number) for token, number in root.items() if number not in extra), spell, special)
    table.add_all(((token, number) for number, token in extra.items()), added_spelling(kind), special)
    return table.finish(kind, file)


def _from_vocab_txt(data: bytes, where: str, file: str, source: VocabularySource) -> Vocabulary | None:
    """One token per line (WordPiece), numbered from 0."""
    tokens = text_of(data, where).split("\n")
    if tokens and tokens[-1] == "":
        tokens.pop()
    tokens = [token.rstrip("\r") for token in tokens]
    kind, spell = guess_spelling(tokens)
    table = TokenTable(where)
    table.add_all(((token, number) for number, token in enumerate(tokens)), spell, frozenset())
    return table.finish(kind, file)


def _from_model(data: bytes, where: str, file: str, source: VocabularySource) -> Vocabulary | None:
    """`tokenizer.model` is a sentencepiece model or a tiktoken file; its first line tells."""
    if is_tiktoken(data):
        return _from_tiktoken(data, where, file, source)
    pieces = read_pieces(data, where)
    table = TokenTable(where)
    spell = _jieba if {piece.text for piece in pieces[:16]} >= set(_JIEBA) else sentencepiece
    for number, piece in enumerate(pieces):
        table.number(number, piece.text)
        if piece.type in (UNKNOWN, CONTROL, UNUSED) or looks_special(piece.text):
            table.add_special(piece.text, number)
        elif piece.type != BYTE:
            table.add(spell(piece.text), number)
    return table.finish("sentencepiece", file)


_JIEBA = {"\u2582": " ", "\u2583": "\n"}


def _jieba(token: str) -> bytes:
    """PanGu-alpha cuts words before sentencepiece does: its own marks are space and newline, U+2581 parts words."""
    for mark, text in _JIEBA.items():
        token = token.replace(mark, text)
    return plain(token.replace(SPACE_MARK, ""))


def is_tiktoken(data: bytes) -> bool:
    """Whether a file begins as tiktoken files do: base64, a space, an integer."""
    words = data[:512].split(b"\n", 1)[0].split()
    if len(words) != 2 or not words[1].isdigit():
        return False
    try:
        base64.b64decode(words[0], validate=True)
    except binascii.Error:
        return False
    return True


def _from_tiktoken(data: bytes, where: str, file: str, source: VocabularySource) -> Vocabulary | None:
    """Lines of a base64 token and its number."""
    table = TokenTable(where)
    for token, number in tiktoken_ranks(data, where).items():
        table.add(token, table.number(number, token))
    return table.finish("tiktoken", file)


def tiktoken_ranks(data: bytes, where: str) -> dict[bytes, int]:
    """Tokens and their numbers in a tiktoken file; of equal tokens the lowest number.

    Raises:
        MalformedFile: a line is not base64, a space and an integer, or a number is impossible.
    """
    table = TokenTable(where)
    ranks: dict[bytes, int] = {}
    for line_number, line in enumerate(data.split(b"\n"), start=1):
        words = line.split()
        if not words:
            continue
        try:
            if len(words) != 2 or len(words[1]) > 9:
                raise ValueError("two words are wanted")
            token, number = base64.b64decode(words[0], validate=True), int(words[1])
        except ValueError as error:
            raise MalformedFile(
                "a line is not a token and its number",
                where=f"{where}, line {line_number}",
                got=f"{line[:40]!r}",
                expected="base64, a space, an integer",
            ) from error
        ranks[token] = min(table.number(number, token), ranks.get(token, number))
    return ranks


_Reader = Callable[[bytes, str, str, VocabularySource], Vocabulary | None]

# Order of preference; each absent file costs a remote checkpoint one request.
_FILES: tuple[tuple[str, int, _Reader], ...] = (
    ("tokenizer.json", MAX_JSON_BYTES, _from_tokenizer_json),
    ("tokenizer.model", MAX_BINARY_BYTES, _from_model),
    ("vocab.json", MAX_JSON_BYTES, _from_vocab_json),
    ("vocab.txt", MAX_BINARY_BYTES, _from_vocab_txt),
    ("sentencepiece.bpe.model", MAX_BINARY_BYTES, _from_model),
    ("spiece.model", MAX_BINARY_BYTES, _from_model),
    ("sentencepiece.model", MAX_BINARY_BYTES, _from_model),
    ("vocab.model", MAX_BINARY_BYTES, _from_model),
    ("qwen.tiktoken", MAX_BINARY_BYTES, _from_tiktoken),
    ("tiktoken.model", MAX_BINARY_BYTES, _from_tiktoken),
)
