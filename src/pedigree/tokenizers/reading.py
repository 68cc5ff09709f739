"""Every format of tokenizer as one working encoder.

A location is a file or a directory on this machine. In a directory the first of these counts: tokenizer.json,
vocab.json with merges.txt, a sentencepiece or tiktoken file, one GGUF.

Files are untrusted: sizes are capped before reading, and what contradicts its format is a MalformedFile. Nothing in
them is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pedigree.errors import InputError, MalformedFile, MissingInput, UsageError
from pedigree.tokenizers.definition import (
    Definition,
    added_token,
    byte_level_definition,
    from_ranks,
    from_sentencepiece,
)
from pedigree.tokenizers.encoder import Encoder, build_encoder
from pedigree.tokenizers.sentencepiece_model import (
    BYTE,
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    Piece,
    SentencePieceModel,
    read_model,
)
from pedigree.tokenizers.tokenizer_json import from_tokenizer_json, parse_json, text_of
from pedigree.tokenizers.vocabulary import MAX_BINARY_BYTES, MAX_JSON_BYTES, is_tiktoken, tiktoken_ranks
from pedigree.tokenizers.word_patterns import BY_CLASS, BY_SIZE, find_pattern, known_specials

PATTERN_FIX = "--pattern NAME, such as llama3, qwen2 or gpt2"


def open_encoder(location: str | Path, *, pattern: str | None = None, name: str | None = None) -> Encoder:
    """The tokenizer at a place.

    Args:
        location: a file or directory.
        pattern: how words are cut, for formats that do not say.
        name: short name; by default that of the directory or file.

    Raises:
        MissingInput: nothing is there, or no tokenizer in it.
        MalformedFile: a file contradicts its format.
        UsageError: the format has no exact conversion, or does not say how words are cut.
    """
    path = Path(location)
    if "://" in str(location):
        raise UsageError("tokenizers are read from this machine only", got=str(location), fix="download the file first")
    if not path.exists():
        raise MissingInput("no such file or directory", where=str(location))
    file = _file_in(path) if path.is_dir() else path
    definition, format, notes = _reader(file)(file, pattern)
    return build_encoder(definition, name=name or short_name(path), location=str(file), format=format, notes=notes)


def short_name(path: Path) -> str:
    """What a tokenizer is called in tables: its directory, or its file where that has a name of its own."""
    whole = path.resolve()
    if path.is_dir() or path.stem not in ("tokenizer", "vocab"):
        return whole.name if path.is_dir() else path.stem
    return whole.parent.name or path.stem


_Read = tuple[Definition, str, list[str]]


def _file_in(folder: Path) -> Path:
    """The tokenizer file of a directory."""
    for name in ("tokenizer.json", "vocab.json", "tokenizer.model"):
        if (folder / name).is_file() and (name != "vocab.json" or (folder / "merges.txt").is_file()):
            return folder / name
    for pattern in ("*.tiktoken", "*tokenizer*.json", "*.model", "*.gguf"):
        found = sorted(path for path in folder.glob(pattern) if path.name != "tokenizer_config.json")
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:4])
            raise InputError("more than one tokenizer in this directory", where=str(folder), got=names, fix="name one")
        if found:
            return found[0]
    raise MissingInput(
        "no tokenizer in this directory",
        where=str(folder),
        expected="tokenizer.json, vocab.json with merges.txt, *.model, *.tiktoken or *.gguf",
    )


def _reader(file: Path) -> Callable[[Path, str | None], _Read]:
    suffix = file.suffix.lower()
    if suffix == ".gguf":
        return _read_gguf
    if suffix == ".json":
        return _read_vocab_json if file.name == "vocab.json" else _read_tokenizer_json
    return _read_model


def read_capped(file: Path, limit: int) -> bytes:
    """The bytes of a file that is no larger than any tokenizer.

    Raises:
        MissingInput: not a regular file.
        MalformedFile: too large.
    """
    if not file.is_file():
        raise MissingInput("no such file", where=str(file))
    size = file.stat().st_size
    if size > limit:
        raise MalformedFile(
            "larger than any tokenizer", where=str(file), got=f"{size} bytes", expected=f"up to {limit}"
        )
    with file.open("rb") as stream:
        return stream.read(limit + 1)


def _read_tokenizer_json(file: Path, pattern: str | None) -> _Read:
    data = read_capped(file, MAX_JSON_BYTES)
    from_tokenizer_json(data, str(file), file.name)  # checks every token and number
    root = parse_json(data, str(file))
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        root.setdefault(part, None)
    root["added_tokens"] = root.get("added_tokens") or []
    return root, "tokenizer.json", []


def _read_vocab_json(file: Path, pattern: str | None) -> _Read:
    """vocab.json and merges.txt, with the controls of tokenizer_config.json: GPT-2 and Qwen 2."""
    where = str(file)
    vocab = parse_json(read_capped(file, MAX_JSON_BYTES), where)
    config_file = file.with_name("tokenizer_config.json")
    config = parse_json(read_capped(config_file, MAX_JSON_BYTES), str(config_file)) if config_file.exists() else {}
    declared = config.get("added_tokens_decoder")
    added = [
        added_token(int(number), entry["content"], special=entry.get("special") is True)
        for number, entry in (declared.items() if isinstance(declared, dict) else ())
        if number.isascii() and number.isdigit() and len(number) < 9
        and isinstance(entry, dict) and isinstance(entry.get("content"), str)
    ]  # fmt: skip
    merges_file = file.with_name("merges.txt")
    lines = text_of(read_capped(merges_file, MAX_JSON_BYTES), str(merges_file)).split("\n")
    merges = [
        _pair(line, f"{merges_file}, line {n}")
        for n, line in enumerate(lines, start=1)
        if line.strip("\r") and not (n == 1 and line.startswith("#version"))
    ]
    named = pattern or BY_CLASS.get(str(config.get("tokenizer_class"))) or BY_SIZE.get(len(vocab))
    if named is None:
        raise UsageError("vocab.json does not say how words are cut", where=where, fix=PATTERN_FIX)
    made = byte_level_definition(vocab, merges, find_pattern(named, where), added)
    from_tokenizer_json(json.dumps(made).encode(), where, file.name)
    return made, "vocab.json", [f"words are cut as by {named}"]


def _pair(line: str, where: str) -> tuple[str, str]:
    left, gap, right = line.rstrip("\r").partition(" ")
    if not (left and gap and right) or " " in right:
        raise MalformedFile("a line is not a merge", where=where, got=f"{line[:40]!r}", expected="two tokens")
    return left, right


def _read_model(file: Path, pattern: str | None) -> _Read:
    """A sentencepiece model or a tiktoken file; the first line tells."""
    data, where = read_capped(file, MAX_BINARY_BYTES), str(file)
    if not is_tiktoken(data):
        return from_sentencepiece(read_model(data, where), where), "sentencepiece", []
    ranks = tiktoken_ranks(data, where)
    named = pattern or BY_SIZE.get(len(ranks))
    if named is None:
        raise UsageError("a tiktoken file does not say how words are cut", where=where, fix=PATTERN_FIX)
    made = from_ranks(ranks, find_pattern(named, where), known_specials(named))
    notes = [f"words are cut as by {named}, known by its {len(ranks):,} tokens" if pattern is None else ""]
    if made["added_tokens"]:
        notes.append(f"{len(made['added_tokens'])} control tokens of the published tokenizer are added")
    return made, "tiktoken", [note for note in notes if note]


def _read_gguf(file: Path, pattern: str | None) -> _Read:
    from pedigree.weights.gguf_header import read_gguf_header
    from pedigree.weights.meter import ByteMeter
    from pedigree.weights.source import LocalSource

    source = LocalSource(file.parent, ByteMeter(), file.name)
    try:
        metadata = read_gguf_header(source, file.name, file.stat().st_size).metadata
    finally:
        source.close()
    return gguf_definition(metadata, str(file), pattern), "gguf", []


def gguf_definition(metadata: Mapping[str, Any], where: str, pattern: str | None = None) -> Definition:
    """The tokenizer in the metadata of a GGUF.

    Raises:
        MissingInput: there is none.
        MalformedFile: its arrays do not fit together.
        UsageError: a model without exact conversion.
    """
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise MissingInput("no vocabulary in this GGUF", where=f"{where}: tokenizer.ggml.tokens")
    types = _numbers(metadata, "tokenizer.ggml.token_type", len(tokens), where, default=1)
    model = metadata.get("tokenizer.ggml.model")
    if model == "llama":
        scores = _numbers(metadata, "tokenizer.ggml.scores", len(tokens), where, default=0)
        pieces = tuple(
            Piece(token, int(kind), float(score)) for token, kind, score in zip(tokens, types, scores, strict=True)
        )
        prefix = metadata.get("tokenizer.ggml.add_space_prefix", True) is not False
        has_bytes = any(piece.type == BYTE for piece in pieces)
        made = SentencePieceModel(pieces, "bpe", has_bytes, b"", prefix, remove_extra_whitespaces=False)
        return from_sentencepiece(made, where)
    merges = metadata.get("tokenizer.ggml.merges")
    if model != "gpt2" or not isinstance(merges, list):
        raise UsageError(
            "this kind of GGUF vocabulary has no exact conversion",
            where=f"{where}: tokenizer.ggml.model",
            got=model,
            expected="gpt2 with merges, or llama",
        )
    named = pattern or str(metadata.get("tokenizer.ggml.pre", "default"))
    added = [
        added_token(n, token, special=int(types[n]) != USER_DEFINED)
        for n, token in enumerate(tokens)
        if int(types[n]) in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    pairs = [_pair(str(merge), f"{where}: tokenizer.ggml.merges[{n}]") for n, merge in enumerate(merges)]
    outside = {entry["content"] for entry in added}
    vocab = {token: n for n, token in enumerate(tokens) if token not in outside}
    if len(vocab) + len(added) != len(tokens):
        raise MalformedFile("two tokens have one spelling", where=f"{where}: tokenizer.ggml.tokens")
    return byte_level_definition(vocab, pairs, find_pattern(named, f"{where}: tokenizer.ggml.pre"), added)


def _numbers(metadata: Mapping[str, Any], key: str, length: int, where: str, *, default: int) -> list[float]:
    found = metadata.get(key)
    if found is None:
        return [default] * length
    try:
        numbers = [float(value) for value in found]
    except (TypeError, ValueError) as error:
        raise MalformedFile("not a list of numbers", where=f"{where}: {key}", got=f"{found!r:.60}") from error
    if len(numbers) != length:
        raise MalformedFile(
            "a list does not fit the tokens", where=f"{where}: {key}", got=len(numbers), expected=length
        )
    return numbers
