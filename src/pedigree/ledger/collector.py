"""The cycle collector of Python, held still for a while.

With a tensor library loaded it walks some hundred thousand objects each time, and importing, or reading many entries,
sets it off again and again.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the collector inside: what is made there lives to the end, and nothing of it is garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
