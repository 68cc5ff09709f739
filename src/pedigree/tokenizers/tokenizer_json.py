"""The vocabulary of a `tokenizer.json`, the format of the `tokenizers` library.

The model (BPE, Unigram, WordPiece) gives the tokens; the decoder, pre-tokenizer and normalizer tell how they are
spelled; added tokens say which are controls. Nothing is built or run, so a damaged file costs no more than its parsing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pedigree.errors import MalformedFile
from pedigree.tokenizers.surface import SPACE_MARK, byte_level, guess_spelling, plain, sentencepiece, word_piece
from pedigree.tokenizers.token_table import Spell, TokenTable, Vocabulary


def from_tokenizer_json(data: bytes, where: str, file: str) -> Vocabulary | None:
    """The vocabulary of a tokenizer.json, None where it is empty.

    Args:
        data: the whole file.
        where: its place, for errors.
        file: its name.

    Raises:
        MalformedFile: not JSON, or without the fields a tokenizer has.
    """
    root = parse_json(data, where)
    model = root.get("model")
    if not isinstance(model, dict):
        raise MalformedFile("a tokenizer has no model", where=f"{where}: model", got=type(model).__name__)
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        pairs = list(vocab.items())
    elif isinstance(vocab, list):  # Unigram: [token, score] in order of the numbers
        pairs = [(entry[0] if isinstance(entry, list) and entry else entry, n) for n, entry in enumerate(vocab)]
    else:
        raise MalformedFile("a tokenizer has no vocabulary", where=f"{where}: model.vocab", got=type(vocab).__name__)
    kind, spell = spelling(root, model, [token for token, _ in pairs if isinstance(token, str)])
    added = root.get("added_tokens") or []
    table = TokenTable(f"{where}: model.vocab")
    special, extra = added_tokens(added, table)
    table.add_all(((token, n) for token, n in pairs if not (isinstance(n, int) and n in extra)), spell, special)
    table.add_all(((token, number) for number, token in extra.items()), added_spelling(kind), special)
    return table.finish(kind, file)


def spelling(root: Mapping[str, Any], model: Mapping[str, Any], tokens: list[str]) -> tuple[str, Spell]:
    """The spelling a tokenizer.json declares, by its model, decoder and normalizer."""
    if model.get("type") == "WordPiece":
        prefix = model.get("continuing_subword_prefix")
        mark = prefix if isinstance(prefix, str) else "##"
        return "wordpiece", lambda token: word_piece(token, mark)
    declared = _strings([root.get(key) for key in ("decoder", "pre_tokenizer", "normalizer")])
    if "ByteLevel" in declared:
        return "byte-level", byte_level
    if "Metaspace" in declared or any(SPACE_MARK in word for word in declared):
        return "sentencepiece", sentencepiece
    return guess_spelling(tokens)


def _strings(root: object) -> set[str]:
    """All string values inside some JSON, however deep."""
    found: set[str] = set()
    left = [root]
    while left:
        value = left.pop()
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return found


def added_spelling(kind: str) -> Spell:
    """Added tokens are text as it stands, but for sentencepiece's spaces."""
    return sentencepiece if kind == "sentencepiece" else plain


def added_tokens(added: object, table: TokenTable) -> tuple[frozenset[int], dict[int, str]]:
    """Numbers of control tokens, and number to text of all added tokens."""
    if not isinstance(added, list):
        raise MalformedFile("added tokens are not a list", where=table.where, got=type(added).__name__)
    special: set[int] = set()
    extra: dict[int, str] = {}
    for entry in added:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise MalformedFile("an added token has no text", where=table.where, got=f"{entry!r:.60}")
        number = table.number(entry.get("id"), entry["content"])
        extra[number] = entry["content"]
        if entry.get("special") is True:
            special.add(number)
    return frozenset(special), extra


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """An untrusted JSON object.

    Raises:
        MalformedFile: not UTF-8, not JSON, nested too deep, or not an object.
    """
    try:
        root = json.loads(text_of(data, where))
    except RecursionError as error:
        raise MalformedFile("the JSON is nested too deep", where=where) from error
    except ValueError as error:
        raise MalformedFile("the file is not JSON", where=where, got=str(error)) from error
    if not isinstance(root, dict):
        raise MalformedFile("the JSON is not an object", where=where, got=type(root).__name__)
    return root


def text_of(data: bytes, where: str) -> str:
    """An untrusted UTF-8 text, byte-order mark removed.

    Raises:
        MalformedFile: not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedFile("the file is not UTF-8", where=where, got=str(error)) from error
