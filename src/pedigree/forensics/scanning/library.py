"""A library: fingerprints of many models in one directory, with a table of what they are.

Layout: `library.db` (SQLite) holds one row for each model; `fingerprints/` holds the files, named by their digest;
`library.index`, in large libraries only, serves the search and can be made again from the rows. A row is written after
its file is on disk, so a stop at any moment leaves a library that can be gone on with: what is there is not made again.
What is there is known by its headers and by the stamps of its files (size and time of a local file, the server's tag of
a remote one); what is there in an older version of the format is made again where the model can still be read. A model
that cannot be read is a row with an error, and never stops the rest.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pedigree.errors import MalformedFile, MissingInput, UsageError
from pedigree.forensics.fingerprints.fingerprint import FORMAT_VERSION, Fingerprint, read_fingerprint
from pedigree.forensics.fingerprints.positions import salt_check
from pedigree.forensics.scanning.fleet import Outcome, Task, carry_out_all
from pedigree.forensics.scanning.neighbors import (
    EXACT_UP_TO,
    TRAINED_ON,
    Ids,
    Index,
    build_index,
    has_index,
    most_similar,
)
from pedigree.forensics.scanning.sketch import LENGTH, Floats

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
CREATE TABLE IF NOT EXISTS stamps (location TEXT PRIMARY KEY, stamp TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS versions (location TEXT PRIMARY KEY, version INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS models_failed ON models (id) WHERE error IS NOT NULL;
CREATE TABLE IF NOT EXISTS unindexed (id INTEGER PRIMARY KEY);
"""
_COLUMNS = "id, location, header_digest, digest, architecture, parameters, layers, width, added, error"
_BY_LOCATION = f"SELECT {_COLUMNS} FROM models WHERE location = ?"
_INDEX = "library.index"
_PART = 8192

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
        self._made_index: Index | None = None

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
        return replace(found, location=entry.location)

    def counts(self) -> tuple[int, int]:
        """Models with a fingerprint, and models that could not be read."""
        # Both are answered by an index: going through the rows would read every vector.
        total = self._connection.execute("SELECT COUNT(*) FROM models").fetchone()[0]
        failed = self._connection.execute("SELECT COUNT(*) FROM models WHERE error IS NOT NULL").fetchone()[0]
        return int(total - failed), int(failed)

    def outdated(self, locations: Sequence[str], version: int = FORMAT_VERSION) -> int:
        """How many of these models have a fingerprint older than a version of the format."""
        marks = ",".join("?" * len(locations))
        told = self._connection.execute(
            "SELECT COUNT(*) FROM models LEFT JOIN versions USING (location) WHERE digest IS NOT NULL "
            f"AND COALESCE(version, 1) < ? AND location IN ({marks})",
            (version, *locations),
        )
        return int(told.fetchone()[0])

    def nearest(self, query_E: Floats, wanted: int) -> list[tuple[Entry, float]]:
        """The models most similar to a search vector and their similarities, best first.

        Up to `EXACT_UP_TO` models are searched exactly. Beyond that the index names what is looked at, together with
        everything that was added since it was made; without an index all are looked at, a part at a time.
        """
        index = self._index() if has_index() else None
        if index is None:
            chosen = self._best(self._batches(""), query_E, wanted)
        else:
            looked_at = sorted({*index.search(query_E, wanted), *self._unindexed()})
            parts = (looked_at[i : i + _PART] for i in range(0, len(looked_at), _PART))
            where = (f"AND id IN ({','.join(map(str, part))})" for part in parts)
            chosen = self._best((batch for words in where for batch in self._batches(words)), query_E, wanted)
        return [(self._entry(number), similarity) for number, similarity in chosen]

    def make_index(self, tell: Tell | None = None) -> bool:
        """Make the index anew where the library is large and much was added since the last; whether it was made."""
        count, new = self.counts()[0], len(self._unindexed())
        file = self.folder / _INDEX
        if count <= EXACT_UP_TO or not has_index() or (file.is_file() and new <= max(EXACT_UP_TO, count // 10)):
            return False
        if tell is not None:
            tell("indexing", 0.0, f"{count} models")
        step = max(1, count // TRAINED_ON)
        sample = [vectors_NE for _, vectors_NE in self._batches(f"AND id % {step} = 0")]
        index = build_index(np.concatenate(sample)[:TRAINED_ON], self._batches(""))
        write_whole(file, index.to_bytes())
        self._made_index = index
        with self._connection:
            self._connection.execute("DELETE FROM unindexed")
        return True

    def _index(self) -> Index | None:
        if self._made_index is None and (self.folder / _INDEX).is_file():
            self._made_index = Index.from_bytes((self.folder / _INDEX).read_bytes(), str(self.folder / _INDEX))
        return self._made_index

    def _unindexed(self) -> list[int]:
        return [row[0] for row in self._connection.execute("SELECT id FROM unindexed")]

    def _entry(self, number: int) -> Entry:
        return Entry(*self._connection.execute(f"SELECT {_COLUMNS} FROM models WHERE id = ?", (number,)).fetchone())

    def _batches(self, where: str) -> Iterator[tuple[Ids, Floats]]:
        """Ids and search vectors of the models that have a fingerprint, in parts that fit in memory."""
        cursor = self._connection.execute(f"SELECT id, vector FROM models WHERE error IS NULL {where} ORDER BY id")
        while rows := cursor.fetchmany(_PART):
            if any(blob is None or len(blob) != 4 * LENGTH for _, blob in rows):
                raise MalformedFile("a search vector has the wrong length", where=str(self.folder / "library.db"))
            data = np.frombuffer(b"".join(blob for _, blob in rows), np.float32).reshape(-1, LENGTH)
            data = np.where(np.isfinite(data).all(axis=1, keepdims=True), data, np.float32(0.0))  # else no order
            yield np.array([number for number, _ in rows], np.int64), data

    def _best(self, batches: Iterable[tuple[Ids, Floats]], query_E: Floats, wanted: int) -> list[tuple[int, float]]:
        """Ids and similarities of the best over all parts; ties in the order of ids."""
        best: list[tuple[float, int]] = []
        for ids_N, vectors_NE in batches:
            similarity_N = vectors_NE @ query_E
            rows = most_similar(vectors_NE, query_E, wanted)
            best += [(-float(similarity_N[row]), int(ids_N[row])) for row in rows]
            best = sorted(best)[:wanted]
        return [(number, -negative) for negative, number in best]

    def add(
        self,
        locations: Sequence[str],
        *,
        allow_pickle: bool = False,
        retry: bool = False,
        tell: Tell | None = None,
        workers: int = 1,
        fleet: str | None = None,
    ) -> list[Entry]:
        """Add models (or fingerprint files); what is there and has not changed is not read again.

        Args:
            locations: as `pedigree compare` takes them.
            allow_pickle: read torch files (weights only).
            retry: try models again that could not be read before.
            tell: called with (stage, fraction, message).
            workers: processes that read models at the same time.
            fleet: address of a Ray cluster that reads them, as `forensics.scanning.fleet.carry_out_all` takes it.

        Returns:
            The entries of these locations, in their order; `error` is set where one could not be read.

        Raises:
            UsageError: the cluster cannot be used.
        """
        wanted = list(dict.fromkeys(locations))
        tasks = [task for task in (self._task(place, allow_pickle, retry) for place in wanted) if task is not None]
        done = len(wanted) - len(tasks)
        if tell is not None:
            tell("adding", done / max(1, len(wanted)), f"{done} of {len(wanted)} models are there")
        for outcome in carry_out_all(tasks, workers=workers, address=fleet):
            self._keep(outcome)
            done += 1
            if tell is not None:
                tell("adding", done / len(wanted), f"{done} of {len(wanted)} models; {outcome.location}")
        self.make_index(tell)
        return [Entry(*row) for location in wanted for row in self._connection.execute(_BY_LOCATION, (location,))]

    def _task(self, location: str, allow_pickle: bool, retry: bool) -> Task | None:
        """What is to be done for a location; None where that is nothing."""
        row = self._connection.execute(
            "SELECT header_digest, digest, error, stamp, version FROM models LEFT JOIN stamps USING (location) "
            "LEFT JOIN versions USING (location) WHERE location = ?",
            (location,),
        ).fetchone()
        fresh = Task(location, self.salt, allow_pickle)
        if row is None or (row[2] is not None and retry):
            return fresh
        if row[2] is not None:
            return None
        if not self._file(row[1]).is_file():
            return fresh
        if (row[4] or 1) < FORMAT_VERSION:  # libraries did not keep versions while there was but one
            return replace(fresh, renews=True)
        return Task(location, self.salt, allow_pickle, row[0] or "", row[3] or "")

    def _keep(self, outcome: Outcome) -> None:
        """Write what became of a task: the file first, then its row."""
        made = outcome.made
        if made is None and outcome.error is None:
            return
        if made is not None:
            _store(self._file(made.digest), made.data)
        facts = made.facts if made is not None else {}
        added = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
        values = (
            outcome.location, facts.get("header_digest"), made.digest if made is not None else None,
            facts.get("architecture"), facts.get("parameters"), facts.get("layers"), facts.get("width"),
            made.vector if made is not None else None, added, outcome.error,
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
            self._connection.execute(
                "INSERT OR IGNORE INTO unindexed SELECT id FROM models WHERE location = ? AND error IS NULL",
                (outcome.location,),
            )
            self._connection.execute("DELETE FROM stamps WHERE location = ?", (outcome.location,))
            if made is not None and made.stamp:
                self._connection.execute("INSERT INTO stamps VALUES (?, ?)", (outcome.location, made.stamp))
            version = facts.get("version", 0)
            self._connection.execute("INSERT OR REPLACE INTO versions VALUES (?, ?)", (outcome.location, version))

    def _file(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        if not name.isalnum() or len(name) != 64:
            raise MalformedFile("a digest in the library is not one", where=str(self.folder), got=f"{digest!r:.80}")
        return self.folder / "fingerprints" / f"{name}.safetensors"


def _store(path: Path, data: bytes) -> None:
    """Write a file named by its content; equal content is written once."""
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    write_whole(path, data)


def write_whole(path: Path, data: bytes) -> None:
    """Write under a temporary name, flush, rename."""
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
