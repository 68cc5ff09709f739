"""Reads and writes that go past the page cache (O_DIRECT), with buffers that allow it, and without where they cannot.

Rewriting a large checkpoint through the page cache costs half the speed of the disk: every byte is copied twice and
dirty pages come in storms. Direct reads and writes need offsets, lengths and addresses at multiples of a block.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
from pathlib import Path

BLOCK = 4096
DIRECT_FROM = 8 << 20
"""Files smaller than this are read and written through the page cache."""


def align_down(offset: int) -> int:
    """The block an offset lies in."""
    return offset // BLOCK * BLOCK


def align_up(offset: int) -> int:
    """The first block boundary at or after an offset."""
    return -(-offset // BLOCK) * BLOCK


class Arena(threading.local):
    """Buffers of one thread at block addresses. `reset` gives all of them back; until then they keep their content."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._used: list[mmap.mmap] = []

    def take(self, size: int) -> memoryview:
        """A buffer of `size` bytes, rounded up to whole blocks."""
        wanted = max(align_up(size), BLOCK)
        fitting = [buffer for buffer in self._free if len(buffer) >= wanted]
        if fitting:
            buffer = min(fitting, key=len)
            self._free.remove(buffer)
        else:
            self._free.clear()  # the ones that are too small would otherwise pile up
            buffer = mmap.mmap(-1, wanted, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._used.append(buffer)
        return memoryview(buffer)[:wanted]

    def reset(self) -> None:
        """Everything taken so far may be taken again."""
        self._free.extend(self._used)
        self._used.clear()


def open_direct(path: Path, flags: int) -> int | None:
    """A descriptor that goes past the page cache; None where the file system refuses."""
    if not hasattr(os, "O_DIRECT"):
        return None
    try:
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP):
            return None
        raise


def allocate(descriptor: int, size: int) -> None:
    """Give a file its full size, on disk where the file system can, so that a full disk shows before the work.

    Raises:
        OSError: there is no room.
    """
    if size == 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL):
            raise
        os.ftruncate(descriptor, size)


def clone_range(source: int, start: int, size: int, target: int, at: int) -> bool:
    """Let a file share the blocks of another one where the file system can; False where it cannot."""
    import fcntl
    import struct

    if start % BLOCK or at % BLOCK or size % BLOCK or size == 0:
        return False
    ficlonerange = 0x4020940D  # _IOW(0x94, 13, struct file_clone_range) of <linux/fs.h>
    try:
        fcntl.ioctl(target, ficlonerange, struct.pack("qQQQ", source, start, size, at))
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
