"""Where a ledger is stored: SQLite in a file, or PostgreSQL; one schema, one dialect of SQL for both.

Laws
1. A write happens whole or not at all: it holds the one write lock from its first read to its end, and when `write`
   has returned, it is on disk (SQLite: WAL with synchronous=FULL; PostgreSQL: its own durability).
2. What the database refuses (full disk, closed folder, damaged file) is told as an error of ours; nothing is half done.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pedigree.errors import InputError, MissingInput, UsageError

BUSY_SECONDS = 120.0  # how long a writer waits for the others
WAL_PAGES = 4000
"""Pages (of 4 kB) that wait beside the file before an append moves them into it: it takes as long as many appends do,
so that it must befall far less than one in a hundred of them (an append writes five pages or more)."""
_LOCK = 0x70656469  # the advisory lock of PostgreSQL that writers hold, one at a time
# `ledger_` keeps the tables apart in a database that holds others; text is kept as UTF-8 bytes, whatever its encoding.
_TABLES = (
    "ledger_entry (idx BIGINT PRIMARY KEY, leaf BLOB NOT NULL, hash BLOB NOT NULL)",
    "ledger_node (level INTEGER NOT NULL, idx BIGINT NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, idx))",
    "ledger_body (digest BLOB PRIMARY KEY, content BLOB NOT NULL)",
    "ledger_head (one INTEGER PRIMARY KEY, size BIGINT NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL)",
    "ledger_seen (size BIGINT NOT NULL, note BLOB NOT NULL, place BLOB NOT NULL, PRIMARY KEY (size, place))",
    "ledger_person (id BLOB PRIMARY KEY, salt BLOB NOT NULL, name BLOB NOT NULL, contact BLOB NOT NULL)",
)


class Database:
    """A connection that many threads may use, one at a time.

    Args:
        place: path of a SQLite file, or `postgresql://...`.
        create: make the tables where they are not there.
        read_only: never write, not even beside the file.

    Raises:
        MissingInput: there is no ledger, or the server does not answer.
    """

    def __init__(self, place: str, *, create: bool = False, read_only: bool = False) -> None:
        self.place = place
        self.is_postgres = place.startswith(("postgresql://", "postgres://"))
        self._lock = threading.RLock()
        self._errors: tuple[type[Exception], ...] = (sqlite3.Error,)
        self._connection: Any = self._open_postgres() if self.is_postgres else self._open_sqlite(create, read_only)
        if create:
            self._make_tables()

    def _open_sqlite(self, create: bool, read_only: bool) -> sqlite3.Connection:
        path = Path(self.place)
        if not create and not path.is_file():
            raise MissingInput(
                "there is no ledger here", where=str(path),
                fix="it is made by the first pedigree train, tokenizer, surgery or import; or name one: --ledger PLACE",
            )  # fmt: skip
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        modes = ("ro", "ro&immutable=1") if read_only else ("rwc" if create else "rw",)
        for mode in modes:
            try:
                connection = sqlite3.connect(
                    f"file:{quote(str(path.absolute()))}?mode={mode}", uri=True, isolation_level=None,
                    check_same_thread=False, timeout=BUSY_SECONDS,
                )  # fmt: skip
                if not read_only:
                    _patiently(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchall())  # noqa: B023 - called here
                    connection.execute("PRAGMA synchronous=FULL")
                    connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
                connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            except sqlite3.Error as error:
                refused = error
                continue
            return connection
        raise self._told(refused) from refused

    def _open_postgres(self) -> Any:
        try:
            import psycopg
        except ImportError as error:
            raise UsageError(
                "a ledger on PostgreSQL needs the package psycopg", where=self.safe_place,
                fix="pip install 'llm-pedigree[team]'",
            ) from error  # fmt: skip
        self._errors = (psycopg.Error,)
        try:
            return psycopg.connect(self.place, autocommit=True, connect_timeout=10)
        except psycopg.Error as error:
            raise MissingInput(
                "the database server does not answer", where=self.safe_place, got=str(error).splitlines()[0]
            ) from error

    @property
    def safe_place(self) -> str:
        """The place without a password."""
        if not self.is_postgres:
            return self.place
        scheme, _, rest = self.place.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"

    def _make_tables(self) -> None:
        with self.write():
            for table in _TABLES:
                if self.is_postgres:
                    self.run("CREATE TABLE IF NOT EXISTS " + table.replace("BLOB", "BYTEA"))
                else:
                    typed = table.replace("BIGINT", "INTEGER")
                    self.run(f"CREATE TABLE IF NOT EXISTS {typed} STRICT")
            if not self.is_postgres:
                # Against accidents only: who wants to can drop a trigger, and the tree shows what was changed.
                for verb in ("UPDATE", "DELETE"):
                    self.run(
                        f"CREATE TRIGGER IF NOT EXISTS keep_{verb.lower()} BEFORE {verb} ON ledger_entry "
                        "BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END"
                    )

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of one statement; `?` stands for a value."""
        with self._lock:
            try:
                if self.is_postgres:
                    cursor = self._connection.execute(sql.replace("?", "%s"), values or None)
                    rows = cursor.fetchall() if cursor.description else []
                else:
                    rows = self._connection.execute(sql, values).fetchall()
            except self._errors as error:
                raise self._told(error) from error
            return rows

    def run_many(self, sql: str, values: Sequence[Sequence[Any]]) -> None:
        """One statement for many rows."""
        with self._lock:
            try:
                if self.is_postgres:
                    with self._connection.cursor() as cursor:
                        cursor.executemany(sql.replace("?", "%s"), values)
                else:
                    self._connection.executemany(sql, values)
            except self._errors as error:
                raise self._told(error) from error

    @contextlib.contextmanager
    def write(self) -> Iterator[None]:
        """A transaction that no other writer overlaps; on disk when it ends, undone when anything is raised in it."""
        with self._lock:
            if self.is_postgres:
                self.run("BEGIN")
                self.run(f"SELECT pg_advisory_xact_lock({_LOCK})")
            else:
                self.run("BEGIN IMMEDIATE")
            try:
                yield
                self.run("COMMIT")
            except BaseException:
                with contextlib.suppress(
                    *self._errors, InputError
                ):  # SQLite has undone it itself where the disk is full
                    self.run("ROLLBACK")
                raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside see one state, whatever others write meanwhile."""
        with self._lock:
            self.run("BEGIN ISOLATION LEVEL REPEATABLE READ" if self.is_postgres else "BEGIN")
            try:
                yield
            finally:
                with contextlib.suppress(InputError):
                    self.run("ROLLBACK")

    def close(self) -> None:
        """Let go of the file or server."""
        with self._lock:
            self._connection.close()

    def _told(self, error: Exception) -> InputError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if "no such table" in reason or "does not exist" in reason:
            return MissingInput("this database holds no ledger", where=self.safe_place, got=reason)
        fix = "free some space, then do the same again: nothing of it was kept" if "full" in reason else None
        return InputError("the ledger cannot be read or written", where=self.safe_place, got=reason, fix=fix)


def _patiently(action: Any) -> None:
    """Repeat what SQLite refuses at once, without its own waiting, while another process opens the same file."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)
