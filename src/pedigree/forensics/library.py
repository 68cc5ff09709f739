"""A library: fingerprints of many models in one directory, with a table of what they are.

Layout: `library.db` (SQLite) holds one row for each model; `fingerprints/` holds the files, named by their digest. A
row is written after its file is on disk, so a stop at any moment leaves a library that can be gone on with: what is
there is not made again. A model that cannot be read is a row with an error, and never stops the rest.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pedigree.errors import MalformedFile, MissingInput, PedigreeError, UsageError
from pedigree.forensics.fingerprint import Fingerprint, read_fingerprint
from pedigree.forensics.fingerprint_compare import load
from pedigree.forensics.positions import salt_check
from pedigree.forensics.sketch import LENGTH, Floats, sketch
from pedigree.weights.checkpoint import open_checkpoint

VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS library (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS models (
    id INTEGER PRIMARY KEY,
    location TEXT NOT NULL UNIQUE,
    header_digest TEXT,
    digest TEXT,
    architecture TEXT,
    parameters INTEGER,
    layers INTEGER,
    width INTEGER,
    vector BLOB,
    added TEXT NOT NULL,
    error TEXT
);
"""
_COLUMNS = "id, location, header_digest, digest, architecture, parameters, layers, width, added, error"

Tell = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Entry:
    """One model of a library; `error` says why there is no fingerprint, None where there is one."""

    id: int
    location: str
    header_digest: str | None
    digest: str | None
    architecture: str | None
    parameters: int | None
    layers: int | None
    width: int | None
    added: str
    error: str | None


class Library:
    """An open library; make one with `open_library`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, salt: str) -> None:
        self.folder = folder
        self.salt = salt
        self._connection = connection

    def entries(self) -> list[Entry]:
        """All models, in the order they were added."""
        return [Entry(*row) for row in self._connection.execute(f"SELECT {_COLUMNS} FROM models ORDER BY id")]

    def fingerprint(self, entry: Entry) -> Fingerprint:
        """The fingerprint of a model, under the location of the model.

        Raises:
            MalformedFile, MissingInput: its file was damaged or removed.
        """
        if entry.digest is None:
            raise MissingInput("the library has no fingerprint of this model", where=entry.location, got=entry.error)
        found = read_fingerprint(self._file(entry.digest), salt=self.salt)
        if found.digest() != entry.digest:
            raise MalformedFile(
                "the fingerprint was changed", where=str(self._file(entry.digest)), expected=entry.digest
            )
        return Fingerprint(found.model, found.facts, entry.location, found.bytes_read)

    def vectors(self) -> tuple[list[int], Floats]:
        """Ids and search vectors of the models that have a fingerprint, [N, E]."""
        rows = self._connection.execute("SELECT id, vector FROM models WHERE error IS NULL ORDER BY id").fetchall()
        found = [np.frombuffer(blob, dtype=np.float32) for _, blob in rows]
        if any(vector.shape != (LENGTH,) for vector in found):
            raise MalformedFile("a search vector has the wrong length", where=str(self.folder / "library.db"))
        return [number for number, _ in rows], np.stack(found) if found else np.zeros((0, LENGTH), np.float32)

    def add(
        self, locations: Sequence[str], *, allow_pickle: bool = False, retry: bool = False, tell: Tell | None = None
    ) -> list[Entry]:
        """Add models (or fingerprint files); what is there with the same headers is not read again.

        Args:
            locations: as `pedigree compare` takes them.
            allow_pickle: read torch files (weights only).
            retry: try models again that could not be read before.
            tell: called with (stage, fraction, message).

        Returns:
            The entries of these locations, in their order; `error` is set where one could not be read.
        """
        for number, location in enumerate(locations):
            if tell is not None:
                tell("adding", number / max(1, len(locations)), location)
            if not self._is_there(location, retry=retry, allow_pickle=allow_pickle):
                self._add(location, allow_pickle=allow_pickle)
        by_location = {entry.location: entry for entry in self.entries()}
        return [by_location[location] for location in dict.fromkeys(locations)]

    def _is_there(self, location: str, *, retry: bool, allow_pickle: bool) -> bool:
        row = self._connection.execute(
            "SELECT header_digest, digest, error FROM models WHERE location = ?", (location,)
        ).fetchone()
        if row is None or (row[2] is not None and retry):
            return False
        if row[2] is not None:
            return True
        if not self._file(row[1]).is_file():
            return False
        try:
            with open_checkpoint(location, allow_pickle=allow_pickle) as checkpoint:
                return bool(checkpoint.header_digest() == row[0])
        except PedigreeError:
            return True  # the model is gone, or the entry is a fingerprint file: what was taken of it stays

    def _add(self, location: str, *, allow_pickle: bool) -> None:
        try:
            made = load(location, salt=self.salt, allow_pickle=allow_pickle)
        except PedigreeError as error:
            self._write(location, error=error.sentence())
            return
        data, digest = made.to_bytes(), made.digest()
        _store(self._file(digest), data)
        self._write(location, made, digest)

    def _write(
        self, location: str, made: Fingerprint | None = None, digest: str | None = None, error: str | None = None
    ) -> None:
        facts = made.facts if made is not None else {}
        vector = sketch(made).tobytes() if made is not None else None
        added = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
        values = (
            location, facts.get("header_digest"), digest, facts.get("architecture"), facts.get("parameters"),
            facts.get("layers"), facts.get("width"), vector, added, error,
        )  # fmt: skip
        with self._connection:
            self._connection.execute(
                "INSERT INTO models (location, header_digest, digest, architecture, parameters, layers, width, vector, "
                "added, error) VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (location) DO UPDATE SET "
                "header_digest=excluded.header_digest, digest=excluded.digest, architecture=excluded.architecture, "
                "parameters=excluded.parameters, layers=excluded.layers, width=excluded.width, vector=excluded.vector, "
                "added=excluded.added, error=excluded.error",
                values,
            )

    def _file(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        if not name.isalnum() or len(name) != 64:
            raise MalformedFile("a digest in the library is not one", where=str(self.folder), got=f"{digest!r:.80}")
        return self.folder / "fingerprints" / f"{name}.safetensors"


def _store(path: Path, data: bytes) -> None:
    """Write under a temporary name, flush, rename; equal content is written once."""
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def open_library(folder: str | Path, *, salt: str = "", create: bool = False) -> Iterator[Library]:
    """Open a library.

    Args:
        folder: its directory.
        salt: of its fingerprints.
        create: make it where there is none.

    Raises:
        MissingInput: no library there.
        UsageError: it was made with another salt, or the folder holds something else.
        MalformedFile: the database is damaged or of a later version.
    """
    path = Path(folder) / "library.db"
    if not path.is_file():
        if not create:
            raise MissingInput(
                "there is no library here", where=str(folder), fix=f"pedigree library add {folder} MODEL..."
            )
        if Path(folder).exists() and not Path(folder).is_dir():
            raise UsageError("a library is a directory", where=str(folder))
        Path(folder).mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=60)
    try:
        try:
            connection.executescript(_TABLE)
            stored = dict(connection.execute("SELECT key, value FROM library").fetchall())
            if not stored:
                stored = {"version": str(VERSION), "salt": salt_check(salt)}
                with connection:
                    connection.executemany("INSERT INTO library VALUES (?, ?)", stored.items())
        except sqlite3.DatabaseError as error:
            raise MalformedFile("the library cannot be read", where=str(path), got=str(error)) from error
        if stored.get("version") != str(VERSION):
            raise MalformedFile("the library is of another version", where=str(path), got=stored.get("version"))
        if stored.get("salt") != salt_check(salt):
            raise UsageError("the library was made with another salt", where=str(folder), fix="--salt")
        yield Library(Path(folder), connection, salt)
    finally:
        connection.close()
