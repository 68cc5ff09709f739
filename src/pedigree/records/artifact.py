"""The record of an artifact: what a directory holds, file by file, and the one digest that names it.

    files --sorted, canonical JSON--> manifest --sha256--> artifact id
    tensors --name, dtype, shape, blake3--> root, and a second root without the names

Laws
1. The artifact id is the plain sha256 of `Manifest.to_bytes`: any tool can check it, and it binds names and sizes.
2. The same files under the same relative paths give the same id, wherever the directory lies and whoever asks.
3. The tensor root survives another sharding and another container; the root of the contents survives renaming as well.
4. What is hashed holds no number: sizes and shapes are written as text.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import rfc8785
from pydantic import Field, ValidationError

from pedigree.errors import MalformedFile, UnsafeFile
from pedigree.records.comparison import Producer, Record

SIDECAR = "pedigree.json"
"""The one name, at the top of an artifact, that its manifest leaves out: it says where the record of the id lies."""


class FileDigest(Record):
    """One file: its path inside the artifact with forward slashes, its bytes, and two digests in hexadecimal."""

    path: str
    size: int
    sha256: str
    blake3: str


class TensorDigest(Record):
    """One tensor: its name, number type and shape as the file declares them, and the digest of its bytes."""

    name: str
    dtype: str
    shape: list[int]
    blake3: str


class Manifest(Record):
    """The files of an artifact, sorted by the bytes of their paths."""

    schema_name: Literal["pedigree/manifest"] = Field(default="pedigree/manifest", alias="schema")
    version: Literal[1] = 1
    files: list[FileDigest]

    @classmethod
    def of(cls, files: Iterable[FileDigest], where: str = "the artifact") -> Self:
        """A manifest of files in any order.

        Raises:
            UnsafeFile: a path is not UTF-8, is absolute or climbs, or two of them are one on some file systems.
        """
        ordered = sorted(files, key=lambda file: _path_bytes(file.path, where))
        _check_paths([file.path for file in ordered], where)
        return cls(files=ordered)

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "a manifest") -> Self:
        """Read what `to_bytes` wrote, byte for byte.

        Raises:
            MalformedFile: it is no manifest, or not in its one canonical form.
            UnsafeFile: a path that no manifest may hold.
        """
        try:
            # Sizes are text in the canonical form: pydantic makes numbers of them, the comparison below the text again.
            manifest = cls.of([FileDigest.model_validate(file) for file in json.loads(data)["files"]], where)
        except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
            got = (str(error).splitlines() or [type(error).__name__])[0]
            raise MalformedFile("this is no manifest", where=where, got=got) from error
        if manifest.to_bytes() != data:
            raise MalformedFile(
                "a manifest is not in its canonical form", where=where,
                got=f"{len(data)} bytes", expected=f"the {len(manifest.to_bytes())} bytes of RFC 8785, sizes as text",
            )  # fmt: skip
        return manifest

    def to_bytes(self) -> bytes:
        """The canonical bytes: RFC 8785, sizes as text."""
        files = [
            {"blake3": file.blake3, "path": file.path, "sha256": file.sha256, "size": str(file.size)}
            for file in self.files
        ]
        return rfc8785.dumps({"files": files, "schema": self.schema_name, "version": str(self.version)})

    @property
    def artifact_id(self) -> str:
        """`sha256:` and the hexadecimal sha256 of `to_bytes`."""
        return "sha256:" + hashlib.sha256(self.to_bytes()).hexdigest()


class Artifact(Record):
    """An artifact as it was found: its id, where it lay, and the manifest that the id is the digest of."""

    schema_name: Literal["pedigree/artifact"] = Field(default="pedigree/artifact", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    id: str
    location: str
    bytes: int
    manifest: Manifest
    warnings: list[str] = Field(default_factory=list)


class TensorManifest(Record):
    """The tensors of a checkpoint, sorted by name, and their two roots.

    `root` is the digest over (name, dtype, shape, blake3); `contents_root` over the sorted (dtype, shape, blake3)
    with repetitions, so that renamed tensors have the same one.
    """

    schema_name: Literal["pedigree/tensors"] = Field(default="pedigree/tensors", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    location: str
    format: str
    bytes: int
    root: str
    contents_root: str
    tensors: list[TensorDigest]
    warnings: list[str] = Field(default_factory=list)


def tensor_roots(tensors: Iterable[TensorDigest]) -> tuple[str, str]:
    """`root` and `contents_root` of some tensors, in any order."""
    rows = [[t.name, t.dtype, [str(size) for size in t.shape], t.blake3] for t in tensors]
    named = sorted(rows, key=lambda row: str(row[0]).encode("utf-8", "surrogatepass"))
    nameless = sorted((row[1:] for row in rows), key=rfc8785.dumps)
    return _digest(named), _digest(nameless)


def _digest(value: Any) -> str:
    return "sha256:" + hashlib.sha256(rfc8785.dumps(value)).hexdigest()


def _path_bytes(path: str, where: str) -> bytes:
    try:
        return path.encode("utf-8")
    except UnicodeEncodeError:
        raise UnsafeFile(
            "the name of a file is not UTF-8", where=where, got=ascii(path), expected="a name in UTF-8",
            fix="rename the file",
        ) from None  # fmt: skip


def _check_paths(paths: Sequence[str], where: str) -> None:
    """Refuse paths that leave the artifact, and paths that some file systems take for the same.

    Raises:
        UnsafeFile: there is one.
    """
    seen: dict[str, str] = {}
    for path in paths:
        if not path or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
            raise UnsafeFile(
                "a path leaves the artifact", where=where, got=repr(path), expected="a relative path without . and .."
            )
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        if folded in seen:
            raise UnsafeFile(
                "two files have names that are one on some file systems", where=where,
                got=f"{seen[folded]!r} and {path!r}", expected="names that differ in more than case and accents' form",
                fix="rename one of them",
            )  # fmt: skip
        seen[folded] = path


def name_of_folder(folder: Path) -> str:
    """What a model is called by where it lies; `model` says nothing, so the folder above does."""
    absolute = folder.absolute()
    return absolute.parent.name if absolute.name == "model" and absolute.parent.name else absolute.name
