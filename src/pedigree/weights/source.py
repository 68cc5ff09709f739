"""Places where the files of a checkpoint lie, and the local one.

Rules of every source
1. A read is charged to the meter before it happens.
2. A read returns exactly the bytes that were asked for, or raises.
3. A name is relative, stays inside the place, and is checked before anything is opened.
4. Reads may come from many threads.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from pedigree.errors import InputError, MalformedFile, MissingInput, UnsafeFile
from pedigree.weights.meter import ByteMeter

T = TypeVar("T")
Range = tuple[int, int, memoryview]
"""First byte, one past the last byte, and the buffer of that length to fill."""


class Source(Protocol):
    """A place with files that can be read in slices."""

    location: str
    gap_bytes: int
    """Unwanted bytes between two ranges that are cheaper to fetch than to skip."""
    probe_bytes: int
    """Bytes to ask for when the length of a header is not known yet."""

    def names(self) -> tuple[str, ...] | None:
        """Names of the files at the top of the place, None where a place cannot be listed."""
        ...

    def place(self, name: str) -> str:
        """A file as messages call it: where it lies, in full."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is no such file."""
        ...

    def stamp(self, name: str) -> str:
        """What the place says of the state of a file, in its own form; empty where it says nothing."""
        ...

    def fill(self, name: str, ranges: Sequence[Range]) -> None:
        """Read ranges of a file into buffers."""
        ...

    def each(self, function: Callable[[str], T], names: Sequence[str]) -> list[T]:
        """A function of every file, at the same time where that helps; results in the order of the names."""
        ...

    def close(self) -> None:
        """Give back what is open."""
        ...


def read_range(source: Source, name: str, start: int, stop: int) -> bytearray:
    """One range of a file as a fresh buffer; the caller has checked it against the size of the file."""
    buffer = bytearray(stop - start)
    source.fill(name, [(start, stop, memoryview(buffer))])
    return buffer


def confined_name(name: str, where: str) -> str:
    """A file name as written in an index or asked for, refused where it would leave its directory.

    Raises:
        UnsafeFile: the name is empty, absolute, climbs with "..", or has a backslash, a colon or a control character.
    """
    path = PurePosixPath(name)
    bad = not name.isprintable() or not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name
    if bad:
        raise UnsafeFile(
            "a file name leaves its directory",
            where=where,
            got=repr(name),
            expected="a name inside the directory of the checkpoint",
            fix="correct the name, or get the checkpoint again from where it came",
        )
    return name


class LocalSource:
    """A directory of the local file system.

    Files are opened once and read with positioned reads: nothing is mapped, so that memory holds only the slices that
    were asked for. A symbolic link may point anywhere inside the directory; one that leaves it is refused, but for the
    layout of the Hugging Face cache, where `snapshots/REVISION/file` points to `blobs/`, and for a file that the user
    named directly.

    Args:
        root: the directory.
        meter: counts the reads.
        named_file: a file of the directory that the user named, which may be a link to anywhere.
    """

    gap_bytes = 0
    probe_bytes = 8

    def __init__(self, root: Path, meter: ByteMeter, named_file: str | None = None) -> None:
        self.location = str(root)
        self._root = root
        self._meter = meter
        self._named_file = named_file
        self._allowed = allowed_roots(root)
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def names(self) -> tuple[str, ...]:
        """Names of the regular files at the top of the directory, sorted."""
        try:
            with os.scandir(self._root) as entries:
                # A link counts as a file here: whether it may be followed is decided when it is opened.
                return tuple(sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)))
        except OSError as error:
            raise MissingInput("the directory cannot be read", where=str(self._root), got=error.strerror) from error

    def place(self, name: str) -> str:
        """Path of a file."""
        return str(self._root / name)

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is no such file."""
        descriptor = self._descriptor(name)
        return None if descriptor is None else os.fstat(descriptor).st_size

    def stamp(self, name: str) -> str:
        """Size and time of the last change of a file."""
        descriptor = self._descriptor(name)
        if descriptor is None:
            return ""
        state = os.fstat(descriptor)
        return f"{state.st_size} {state.st_mtime_ns}"

    def fill(self, name: str, ranges: Sequence[Range]) -> None:
        """Read ranges of a file into buffers with positioned reads."""
        descriptor = self._descriptor(name)
        if descriptor is None:
            raise MissingInput("no such file", where=self.place(name))
        self._meter.charge(sum(stop - start for start, stop, _ in ranges), self.place(name))
        try:
            for start, stop, view in ranges:
                if os.preadv(descriptor, [view], start) != stop - start:
                    self._fill_slowly(descriptor, name, start, view)
        except OSError as error:
            raise InputError("the file cannot be read", where=self.place(name), got=error.strerror) from error

    def _fill_slowly(self, descriptor: int, name: str, start: int, view: memoryview) -> None:
        """A range that one call did not bring: longer than the system reads at once, or past the end of the file."""
        done = 0
        while done < len(view):
            n_read = os.preadv(descriptor, [view[done:]], start + done)
            if n_read == 0:
                raise MalformedFile(
                    "the file ends before the bytes that were wanted",
                    where=self.place(name),
                    got=f"end at byte {start + done}",
                    expected=f"{start + len(view)} bytes or more",
                    fix="do not change the file while it is read; get it again if it is cut short",
                )
            done += n_read

    def each(self, function: Callable[[str], T], names: Sequence[str]) -> list[T]:
        """A function of every file, one after the other."""
        return [function(name) for name in names]

    def close(self) -> None:
        """Close the files that were opened."""
        with self._lock:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open.clear()

    def _descriptor(self, name: str) -> int | None:
        with self._lock:
            if name in self._open:
                return self._open[name]
            path = self._checked_path(name)
            if path is None:
                return None
            # O_NONBLOCK: opening a named pipe must not wait for a writer.
            try:
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
            except OSError as error:
                raise MissingInput("the file cannot be opened", where=str(path), got=error.strerror) from error
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise UnsafeFile("not a regular file", where=self.place(name), expected="a file with weights")
            self._open[name] = descriptor
            return descriptor

    def _checked_path(self, name: str) -> Path | None:
        """The file behind a name, links resolved, None where it is absent."""
        path = self._root / confined_name(name, self.location)
        try:
            real = path.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                raise MissingInput(
                    "a symbolic link points to nothing",
                    where=str(path),
                    got=os.readlink(path),
                    fix="get the file it pointed to, or remove the link",
                ) from None
            return None
        except (OSError, RuntimeError) as error:
            raise UnsafeFile("the file cannot be reached", where=str(path), got=str(error)) from error
        if name != self._named_file and not any(real.is_relative_to(root) for root in self._allowed):
            raise UnsafeFile(
                "a symbolic link leaves the directory of the checkpoint",
                where=str(path),
                got=str(real),
                expected=f"a file below {self._root}",
                fix="replace the link by a copy of the file, or name the file itself",
            )
        return real


def allowed_roots(root: Path) -> tuple[Path, ...]:
    """Where links below a directory may point: into it, and into the blobs of the Hugging Face cache it is part of."""
    real = root.resolve()
    blobs = real.parent.parent / "blobs"
    if real.parent.name == "snapshots" and blobs.is_dir():
        return (real, blobs)
    return (real,)
