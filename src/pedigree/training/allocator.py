"""Memory that a training process has touched stays with it, so that a step never waits for fresh pages.

The C library returns large blocks to the system as soon as they are free. A step that frees and takes hundreds of
megabytes then pays for clearing the same pages again and again: up to a third of a step on a CPU (docs/LOG.md).
"""

from __future__ import annotations

import ctypes
import platform

# Numbers of glibc's <malloc.h>; other C libraries have no such settings.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_pages() -> bool:
    """Tell the allocator of this process to keep what it frees; whether it understood.

    Freed memory is used again by this process and by nobody else until it ends: the most that is ever held stays held.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_MAX, 0))
