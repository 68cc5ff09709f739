"""Files that are in memory already, behind the interface of a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from pedigree.errors import MalformedFile, MissingInput
from pedigree.weights.meter import ByteMeter
from pedigree.weights.source import Range

T = TypeVar("T")


class MemorySource:
    """Named byte strings as a place with files.

    Args:
        location: how messages call the place.
        files: content by name.
        meter: counts the reads.
    """

    gap_bytes = 0
    probe_bytes = 8

    def __init__(self, location: str, files: Mapping[str, bytes], meter: ByteMeter) -> None:
        self.location = location
        self._files = dict(files)
        self._meter = meter

    def names(self) -> tuple[str, ...]:
        """Names of the files, sorted."""
        return tuple(sorted(self._files))

    def place(self, name: str) -> str:
        """The place itself: its files have no paths of their own."""
        return self.location

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none of that name."""
        return len(self._files[name]) if name in self._files else None

    def stamp(self, name: str) -> str:
        """Nothing: what is in memory does not change."""
        return ""

    def fill(self, name: str, ranges: Sequence[Range]) -> None:
        """Copy ranges of a file into buffers."""
        if name not in self._files:
            raise MissingInput("no such file", where=self.place(name), got=name)
        data = memoryview(self._files[name])
        self._meter.charge(sum(stop - start for start, stop, _ in ranges), self.location)
        for start, stop, view in ranges:
            if stop > len(data):
                raise MalformedFile("the file ends before the bytes that were wanted", where=self.location)
            view[:] = data[start:stop]

    def each(self, function: Callable[[str], T], names: Sequence[str]) -> list[T]:
        """A function of every file, one after the other."""
        return [function(name) for name in names]

    def close(self) -> None:
        """Nothing is open."""
