"""The journal of a run: which tensors are on disk, with their digests, so that an interrupted run goes on.

One JSON object a line in `journal.jsonl` beside the files in the making; the first line names the plan. A tensor is
entered after its bytes were forced to disk: what the journal says is there, is there.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pedigree.errors import MalformedFile, UsageError

NAME = "journal.jsonl"
_EVERY_BYTES = 256 << 20
_EVERY_SECONDS = 2.0


class Journal:
    """The journal of one folder, locked against a second run.

    Args:
        folder: where the files are made.
        plan: digest of the plan.
        sync: forces everything written so far to disk.

    Raises:
        UsageError: another run is at work there, or the folder belongs to another plan.
    """

    def __init__(self, folder: Path, plan: str, sync: Callable[[], None]) -> None:
        self._path = folder / NAME
        self._sync = sync
        self._lock = threading.Lock()
        self._entering = threading.Lock()
        self._waiting: list[tuple[str, str]] = []
        self._waiting_bytes = 0
        self._last = time.monotonic()
        self._stream = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._stream.close()
            raise UsageError(
                "another run is writing there", where=str(folder), fix="wait for it, or stop it"
            ) from error
        try:
            self.done = self._read(plan, folder)
        except BaseException:
            self._stream.close()
            raise

    def _read(self, plan: str, folder: Path) -> dict[str, str]:
        self._stream.seek(0)
        lines = [line for line in self._stream.read().split("\n")[:-1] if line]
        if not lines:
            self._stream.truncate(0)
            self._write({"plan": plan})
            return {}
        try:
            entries = [json.loads(line) for line in lines]
            begun = str(entries[0]["plan"])
            done = {str(entry["tensor"]): str(entry["blake3"]) for entry in entries[1:]}
        except (ValueError, KeyError, TypeError) as error:
            raise MalformedFile("the journal of an interrupted run cannot be read", where=str(self._path),
                                fix=f"remove {folder}, or run with --force") from error  # fmt: skip
        if begun != plan:
            raise UsageError(
                "an interrupted run of another recipe, or of changed sources, is there", where=str(folder),
                got=begun, expected=plan, fix=f"finish it with its own recipe, remove {folder}, or run with --force",
            )  # fmt: skip
        # A line that a crash cut in two is dropped before the next one is written behind it.
        self._stream.seek(0)
        whole = self._stream.read().rfind("\n") + 1
        self._stream.truncate(len(self._path.read_text("utf-8")[:whole].encode("utf-8")))
        return done

    def add(self, tensor: str, digest: str, size: int) -> None:
        """A tensor was written; it is entered together with others, after the bytes are on disk."""
        with self._lock:
            self._waiting.append((tensor, digest))
            self._waiting_bytes += size
            due = self._waiting_bytes >= _EVERY_BYTES or time.monotonic() - self._last >= _EVERY_SECONDS
        # One worker waits for the disk; the others go on and leave theirs for the next time.
        if due and self._entering.acquire(blocking=False):
            try:
                self._enter()
            finally:
                self._entering.release()

    def flush(self) -> None:
        """Enter everything that waits."""
        with self._entering:
            self._enter()

    def _enter(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._waiting_bytes, self._last = 0, time.monotonic()
        if waiting:
            self._sync()
            for tensor, digest in waiting:
                self.done[tensor] = digest
                self._stream.write(json.dumps({"tensor": tensor, "blake3": digest}, ensure_ascii=False) + "\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def _write(self, entry: dict[str, str]) -> None:
        self._stream.write(json.dumps(entry) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close and unlock; nothing that waits is entered."""
        self._stream.close()
