"""Memory that a process has touched stays with it, so that neither a step nor a tile waits for fresh pages.

The C library returns large blocks to the system as soon as they are free. A step that frees and takes hundreds of
megabytes then pays for clearing the same pages again and again: up to a third of a step on a CPU (docs/LOG.md). It also
keeps what each thread frees for that thread alone, so that many threads of tiles hold several times what they need.
"""

from __future__ import annotations

import ctypes
import platform

# Numbers of glibc's <malloc.h>; other C libraries have no such settings.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def share_heap() -> bool:
    """Let what one thread frees be taken by the others, for threads that have not begun yet; whether it was understood.

    What threads keep for themselves alone was a fifth of the most that a comparison holds (docs/LOG.md).
    """
    return platform.libc_ver()[0] == "glibc" and bool(ctypes.CDLL(None).mallopt(_ARENA_MAX, 1))


def keep_pages(*, shared: bool = False) -> bool:
    """Tell the allocator of this process to keep what it frees; whether it understood.

    Freed memory is used again by this process and by nobody else until it ends: the most that is ever held stays held.

    Args:
        shared: what one thread frees may be taken by the others; for threads that have not begun yet.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    told = [mallopt(_TRIM_THRESHOLD, -1), mallopt(_MMAP_MAX, 0), *([mallopt(_ARENA_MAX, 1)] if shared else [])]
    return all(told)
