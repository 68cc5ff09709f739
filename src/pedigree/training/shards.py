"""Tokenized corpora on disk: one flat file of ids for training and one for evaluation, mapped into memory.

    <cache>/<digest>/train.bin            ids, little-endian uint16 or uint32
    <cache>/<digest>/train.starts.npy     where each document begins (int64), and the length at the end
    <cache>/<digest>/train.bytes.npy      bytes of UTF-8 text in each document
    <cache>/<digest>/held_out.*           the same for the documents kept back
    <cache>/<digest>/index.json           what it is made of, blake3 of each file

A document is its separator followed by its tokens; the stream ends with one more separator. So every token of a text
is predicted from the separator and what precedes it, and the end of a text is predicted too.

Laws
1. The same documents, tokenizer and separator give the same bytes; the name of the directory is their digest.
2. A directory appears whole or not at all. One whose files have another length than its index says is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from pedigree.errors import InputError, MalformedFile, MissingInput
from pedigree.records.canonical import canonical_digest
from pedigree.tokenizers.encoder import build_encoder
from pedigree.tokenizers.tokenizer_json import parse_json
from pedigree.training.config import SourceConfig
from pedigree.training.sources import documents, source_digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 1
TRAIN, HELD_OUT = "train", "held_out"
SEPARATORS = ("<|endoftext|>", "<|end|>", "</s>", "<eos>", "<|end_of_text|>", "<s>", "<bos>")
_AT_ONCE = 128  # documents handed to the tokenizer together


@dataclass(frozen=True)
class Shard:
    """One stream of ids with the places of its documents.

    Attributes:
        ids: flat ids, mapped from disk.
        starts: where each document begins, and the length of the documents at the end.
        bytes: bytes of text in each document.
    """

    ids: NDArray[np.unsignedinteger]
    starts: NDArray[np.int64]
    bytes: NDArray[np.int64]

    @property
    def n_documents(self) -> int:
        """Documents in the stream."""
        return len(self.starts) - 1


@dataclass(frozen=True)
class Corpus:
    """A source and its tokens."""

    source: SourceConfig
    digest: str
    train: Shard
    held_out: Shard

    def n_sequences(self, length: int) -> int:
        """Whole sequences of `length` predicted tokens in the training stream."""
        return (len(self.train.ids) - 1) // length


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with what a corpus needs to know about it."""

    tokenizer: Tokenizer
    size: int
    separator: int
    digest: str

    @classmethod
    def load(cls, path: Path, separator: str | None = None) -> Vocabulary:
        """Read a `tokenizer.json`. Text that spells a control token is text: no document can forge a separator.

        Raises:
            MissingInput: no such file, or no token that separates documents.
            MalformedFile: not a tokenizer.
        """
        if path.is_dir():
            path = path / "tokenizer.json"
        if not path.is_file():
            raise MissingInput(
                "the tokenizer is not there", where=str(path), got="no file", expected="a tokenizer.json",
                fix="put it there, or make one: pedigree tokenizer train",
            )  # fmt: skip
        definition = parse_json(path.read_bytes(), str(path))
        if not isinstance(definition.get("model"), dict):
            raise MalformedFile(
                "this is not a tokenizer", where=str(path), got="no `model` in it",
                expected="a tokenizer.json with a `model`", fix="pedigree tokenizer train makes one",
            )  # fmt: skip
        encoder = build_encoder(definition, name=path.stem, location=str(path), format="tokenizer.json")
        tokenizer = encoder.library
        names = (separator,) if separator else SEPARATORS
        ids = (tokenizer.token_to_id(name) for name in names)
        found = next((i for i in ids if i is not None), None)
        if found is None:
            near = "name one of its tokens with `separator`"
            own = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:8]
            raise MissingInput(
                "the tokenizer has no token that separates documents", where=str(path),
                got=f"control tokens {', '.join(own)}" if own else "no control token", expected=", ".join(names),
                fix=f"separator: {json.dumps(own[0])} in `training`" if own else near,
            )  # fmt: skip
        size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        return cls(tokenizer, size, found, encoder.digest)


def tokenize(source: SourceConfig, vocabulary: Vocabulary, cache: Path) -> Corpus:
    """The tokens of a source, from the cache where they are there already.

    Raises:
        InputError: the source holds no text, or the disk is too small.
        MissingInput, MalformedFile: as `documents`.
    """
    digest = _digest(source, vocabulary)
    directory = cache / digest[:32]
    index = _read_index(directory)
    if index is None:
        cache.mkdir(parents=True, exist_ok=True)
        _check_room(source, cache)
        _write(directory, source, vocabulary, digest)
    return Corpus(source, digest, _map(directory, TRAIN), _map(directory, HELD_OUT))


def _digest(source: SourceConfig, vocabulary: Vocabulary) -> str:
    made_of = {
        "format": FORMAT,
        "source": source_digest(source),
        "tokenizer": vocabulary.digest,
        "separator": vocabulary.separator,
    }
    return canonical_digest(made_of).removeprefix("sha256:")


def _check_room(source: SourceConfig, cache: Path) -> None:
    from pedigree.training.sources import files

    # A token takes at most four bytes and holds at least one byte of text, usually four.
    wanted = 2 * sum(path.stat().st_size for path in files(source))
    free = shutil.disk_usage(cache).free
    if wanted > free:
        raise InputError(
            "the disk is too small for the tokens of this corpus", where=str(cache), got=f"{free:,} bytes free",
            expected=f"{wanted:,} bytes", fix="free some space, another folder with --out, or max_documents",
        )  # fmt: skip


def _write(directory: Path, source: SourceConfig, vocabulary: Vocabulary, digest: str) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        counts = _encode(temporary, source, vocabulary)
        if not counts[TRAIN]["documents"]:
            where = source.path or source.kind
            raise InputError(
                "this corpus holds no text to train on", where=where,
                got=f"{counts[HELD_OUT]['documents']} documents, all held out", expected="at least one document",
                fix="more text, or a smaller held_out",
            )  # fmt: skip
        index = {
            "format": FORMAT,
            "digest": digest,
            "source": source.model_dump(mode="json"),
            "vocabulary": vocabulary.size,
            "counts": counts,
            "files": {
                path.name: {"bytes": path.stat().st_size, "blake3": blake3(path.read_bytes()).hexdigest()}
                for path in sorted(temporary.iterdir())
            },
        }
        (temporary / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
        if directory.exists():
            shutil.rmtree(directory)
        temporary.rename(directory)
    except OSError:
        if _read_index(directory) is None:  # otherwise another process was faster, with the same bytes
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _encode(directory: Path, source: SourceConfig, vocabulary: Vocabulary) -> dict[str, dict[str, int]]:
    kind = np.dtype("<u2" if vocabulary.size <= 2**16 else "<u4")
    starts: dict[str, list[int]] = {TRAIN: [0], HELD_OUT: [0]}
    sizes: dict[str, list[int]] = {TRAIN: [], HELD_OUT: []}
    with (directory / f"{TRAIN}.bin").open("wb") as train, (directory / f"{HELD_OUT}.bin").open("wb") as held_out:
        streams = {TRAIN: train, HELD_OUT: held_out}
        for side, n_bytes, ids in _encoded(source, vocabulary):
            row = np.empty(len(ids) + 1, dtype=kind)
            row[0], row[1:] = vocabulary.separator, ids
            streams[side].write(row.tobytes())
            starts[side].append(starts[side][-1] + len(row))
            sizes[side].append(n_bytes)
        for stream in streams.values():
            stream.write(np.array([vocabulary.separator], dtype=kind).tobytes())
            stream.flush()
            os.fsync(stream.fileno())
    for side in streams:
        np.save(directory / f"{side}.starts.npy", np.asarray(starts[side], dtype="<i8"))
        np.save(directory / f"{side}.bytes.npy", np.asarray(sizes[side], dtype="<i8"))
    return {side: {"documents": len(sizes[side]), "tokens": starts[side][-1]} for side in streams}


def _encoded(source: SourceConfig, vocabulary: Vocabulary) -> Iterator[tuple[str, int, list[int]]]:
    stream = iter(documents(source))
    while texts := list(islice(stream, _AT_ONCE)):
        encodings = vocabulary.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            content = text.encode("utf-8", "surrogatepass")
            yield (HELD_OUT if is_held_out(content, source.held_out) else TRAIN), len(content), encoding.ids


def is_held_out(content: bytes, share: float) -> bool:
    """Whether a document is kept back: by the digest of its text, so that equal documents share a side."""
    return share > 0 and int.from_bytes(hashlib.sha256(content).digest()[:4], "big") < share * 2**32


def _read_index(directory: Path) -> dict[str, Any] | None:
    """The index of a whole directory; None where it is absent or its files contradict it."""
    try:
        index: dict[str, Any] = json.loads((directory / "index.json").read_text(encoding="utf-8"))
        sound = index["format"] == FORMAT and all(
            (directory / name).stat().st_size == facts["bytes"] for name, facts in index["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return index if sound else None


def _map(directory: Path, side: str) -> Shard:
    index = _read_index(directory)
    if index is None:
        raise MalformedFile("the tokens of a corpus are damaged", where=str(directory), fix="remove this directory")
    kind = "<u2" if index["vocabulary"] <= 2**16 else "<u4"
    return Shard(
        ids=np.memmap(directory / f"{side}.bin", dtype=kind, mode="r"),
        starts=np.load(directory / f"{side}.starts.npy"),
        bytes=np.load(directory / f"{side}.bytes.npy"),
    )
