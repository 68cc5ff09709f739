"""What was read of one tensor, held until it is written, so that looking at it first does not read it twice.

Only tensors whose inputs fit into a share of the memory are held; of larger ones every look reads anew.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pedigree.surgery.nodes import Reader
from pedigree.weights.part import Part

if TYPE_CHECKING:
    import torch


class Room:
    """A number of bytes that workers share out among themselves.

    Args:
        size: that number.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int, check: Callable[[], None]) -> Iterator[bool]:
        """Wait until there is room; False, without waiting, where there never is.

        Args:
            size: bytes.
            check: called while waiting; what it raises ends the wait.
        """
        if size > self.size:
            yield False
            return
        with self._changed:
            while self._free < size:
                check()
                self._changed.wait(0.1)
            self._free -= size
        try:
            yield True
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


class HoldingReader:
    """Reads as another reader does, and holds what it has read.

    Args:
        reader: who reads.
        size: bytes after which nothing more is held.
    """

    def __init__(self, reader: Reader, size: int) -> None:
        self._reader, self._left = reader, size
        self._held: dict[tuple[int, int, int], torch.Tensor] = {}

    def rows(self, part: Part, start: int, stop: int) -> torch.Tensor | None:
        """Canonical rows of a part, as `Reader.rows` gives them; not to be changed in place."""
        key = (id(part), start, stop)
        if key in self._held:
            return self._held[key]
        found = self._reader.rows(part, start, stop)
        size = 0 if found is None else found.numel() * found.element_size()
        if found is None or size > self._left:
            return found
        self._left -= size
        self._held[key] = found.clone()  # what the reader gave lies in a buffer that is used again
        return self._held[key]
