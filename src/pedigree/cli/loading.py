"""Loading the libraries that a command needs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Import under this: the garbage collector rests meanwhile, and does not look at what was loaded again.

    Torch brings a million objects that live until the end. Collections while they come take an eighth of the time of
    importing them, and find nothing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
