"""Digests of files that were hashed a moment ago, inside one piece of work.

A step of a family is hashed when it is recorded, when its result is kept, and when the next step starts from it. Inside
`hashed_once` the second and third time cost a look at the file.

Laws
1. A file is taken for the one that was hashed only while device, inode, size and both times are the same: the time of
   change cannot be set back by who writes a file.
2. A file that changed within `GRAIN` before it was hashed is not remembered: another change within one tick of the
   clock of the file system would not show.
3. Outside such a block nothing is remembered: who verifies reads every byte.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

GRAIN = 50_000_000  # nanoseconds; clocks of file systems tick every 1 to 10 ms

State = tuple[int, int, int, int, int]
Digests = tuple[str, str]
"""SHA-256 and BLAKE3."""


class KnownFiles:
    """What was hashed; `found` counts how often that saved reading a file."""

    def __init__(self) -> None:
        self._digests: dict[State, Digests] = {}
        self.found = 0

    def get(self, status: os.stat_result) -> Digests | None:
        """The digests of a file in this state, where it was hashed in it."""
        known = self._digests.get(_state(status))
        self.found += known is not None
        return known

    def put(self, status: os.stat_result, digests: Digests, begun: int) -> None:
        """Remember a file that was in this state from before it was hashed until after.

        Args:
            status: of the file.
            digests: of its bytes.
            begun: when reading began, in nanoseconds of `time.time_ns`.
        """
        if max(status.st_mtime_ns, status.st_ctime_ns) < begun - GRAIN:
            self._digests[_state(status)] = digests


def _state(status: os.stat_result) -> State:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


_OPEN: list[KnownFiles] = []


def known_files() -> KnownFiles | None:
    """Those of the innermost block that is open, in whatever thread; None outside of any."""
    return _OPEN[-1] if _OPEN else None


def clock() -> int:
    """Now, as `KnownFiles.put` takes it."""
    return time.time_ns()


@contextlib.contextmanager
def hashed_once() -> Iterator[KnownFiles]:
    """Inside, a file is hashed once for each state that it is in; an inner block shares what the outer one knows."""
    known = _OPEN[-1] if _OPEN else KnownFiles()
    _OPEN.append(known)
    try:
        yield known
    finally:
        _OPEN.remove(known)
