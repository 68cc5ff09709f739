"""The id of an artifact and the digests of its tensors, computed from what lies on disk.

Every file is read once, a block at a time, several files at once; memory is one block for each thread, whatever the
sizes. No tensor library is loaded, but for PyTorch archives whose tensors are views.

Law  a file that changes while it is read gives an error, never a digest.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pedigree.errors import InputError, MissingInput, UnsafeFile
from pedigree.records.artifact import (
    SIDECAR,
    Artifact,
    FileDigest,
    Manifest,
    TensorDigest,
    TensorManifest,
    tensor_roots,
)
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint
from pedigree.weights.known_files import clock, known_files
from pedigree.weights.source import allowed_roots

BLOCK = 4 << 20  # bytes; both digests are faster than a disk well below this size
THREADS = min(8, os.cpu_count() or 1)
Progress = Callable[[int, int], None]
"""Called with the bytes that were read so far and the bytes there are; from any thread, one call at a time."""


def read_artifact(
    location: str | os.PathLike[str], *, threads: int = THREADS, progress: Progress | None = None
) -> Artifact:
    """The artifact in a directory, or made of one file.

    Args:
        location: a directory, all of whose files count but `pedigree.json` at its top; or one file, which counts under
            its own name.
        threads: files that are read at once.
        progress: told how far it is.

    Raises:
        MissingInput: nothing is there, or no file is in it.
        UnsafeFile: a link leaves the directory, something is no file, or names collide.
        InputError: a file cannot be read, or changes meanwhile.
    """
    root = Path(location)
    paths = _files(root)
    if not paths:
        raise MissingInput("the directory holds no file", where=str(root), expected="weights, a config, a tokenizer")
    told = _Told(sum(path.stat().st_size for path in paths.values()), progress)
    # The largest first, so that no thread is left alone with it at the end.
    order = sorted(paths, key=lambda name: -paths[name].stat().st_size)
    with ThreadPoolExecutor(max(1, min(threads, len(order)))) as pool:
        files = list(pool.map(lambda name: file_digest(paths[name], name, told.add), order))
    manifest = Manifest.of(files, str(root))
    if {*_files(root)} != {*paths}:
        raise _changed(root, "files that came or went")
    size = sum(file.size for file in files)
    return Artifact(id=manifest.artifact_id, location=str(root), bytes=size, manifest=manifest)


def artifact_id(location: str | os.PathLike[str]) -> str:
    """The id alone; see `read_artifact`."""
    return read_artifact(location).id


def file_digest(path: Path, name: str, told: Callable[[int], None] | None = None) -> FileDigest:
    """Both digests of a file, read once; inside `hashed_once` not even that where they are known.

    Args:
        path: where it lies.
        name: what it is called in the manifest.
        told: called with the bytes of each block.

    Raises:
        UnsafeFile: it is no regular file.
        InputError: it cannot be read, or changes meanwhile.
    """
    from blake3 import blake3

    sha, tree, size = hashlib.sha256(), blake3(), 0
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with open(descriptor, "rb", buffering=0) as file:
            before, begun, memory = os.fstat(descriptor), clock(), known_files()
            if not stat.S_ISREG(before.st_mode):
                raise UnsafeFile("not a regular file", where=str(path), expected="a file, or a link to one")
            known = memory.get(before) if memory is not None else None
            if known is not None:
                if told is not None:
                    told(before.st_size)
                return FileDigest(path=name, size=before.st_size, sha256=known[0], blake3=known[1])
            while n_read := file.readinto(buffer):
                sha.update(view[:n_read])
                tree.update(view[:n_read])
                size += n_read
                if told is not None:
                    told(n_read)
            after = os.fstat(descriptor)
    except OSError as error:
        raise InputError("the file cannot be read", where=str(path), got=error.strerror) from error
    if size != after.st_size or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _changed(path, f"{before.st_size:,} bytes before, {after.st_size:,} after, {size:,} read")
    digests = sha.hexdigest(), tree.hexdigest()
    if memory is not None and before.st_ctime_ns == after.st_ctime_ns:
        memory.put(after, digests, begun)
    return FileDigest(path=name, size=size, sha256=digests[0], blake3=digests[1])


def read_tensors(
    location: str | os.PathLike[str],
    *,
    allow_pickle: bool = False,
    threads: int = THREADS,
    progress: Progress | None = None,
) -> TensorManifest:
    """The digest of every tensor of a checkpoint, wherever `open_checkpoint` reads it.

    Raises:
        PedigreeError: as `open_checkpoint` does.
    """
    with open_checkpoint(location, allow_pickle=allow_pickle) as checkpoint:
        told = _Told(sum(info.nbytes for info in checkpoint.tensors.values()), progress)
        order = sorted(checkpoint.tensors, key=lambda name: -checkpoint.tensors[name].nbytes)
        with ThreadPoolExecutor(max(1, threads)) as pool:
            found = list(pool.map(lambda name: _tensor_digest(checkpoint, name, told), order))
        tensors = sorted(found, key=lambda tensor: tensor.name.encode("utf-8", "surrogatepass"))
        root, contents_root = tensor_roots(tensors)
        return TensorManifest(
            location=os.fspath(location), format=checkpoint.format, bytes=told.total, root=root,
            contents_root=contents_root, tensors=tensors, warnings=list(checkpoint.notes),
        )  # fmt: skip


def _tensor_digest(checkpoint: Checkpoint, name: str, told: _Told) -> TensorDigest:
    from blake3 import blake3

    info, tree = checkpoint.tensors[name], blake3()
    for block in checkpoint.stored_blocks(name, BLOCK):
        tree.update(block)
        told.add(len(block))
    return TensorDigest(name=name, dtype=info.dtype, shape=list(info.shape), blake3=tree.hexdigest())


class _Told:
    """Counts bytes from many threads and tells how far it is."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total = total
        self._done, self._progress, self._lock = 0, progress, threading.Lock()

    def add(self, n_bytes: int) -> None:
        """Some more bytes were read."""
        with self._lock:
            self._done += n_bytes
            if self._progress is not None:
                self._progress(self._done, self.total)


def _files(root: Path) -> dict[str, Path]:
    """The files of an artifact by their path in it.

    Raises:
        MissingInput: nothing is there, or a link points to nothing.
        UnsafeFile: a link to a directory or out of the artifact, or something that is neither file nor directory.
    """
    if root.is_file():
        return {root.name: root}
    if not root.is_dir():
        raise MissingInput("no such file or directory", where=str(root))
    allowed = allowed_roots(root)
    found = {path.relative_to(root).as_posix(): path for path in _below(root)}
    found.pop(SIDECAR, None)
    for path in found.values():
        real = path.resolve()
        if path.is_symlink() and not path.exists():
            raise MissingInput("a symbolic link points to nothing", where=str(path), got=os.readlink(path))
        if not path.is_file() or not any(real.is_relative_to(place) for place in allowed):
            raise UnsafeFile(
                "an artifact holds files, and links to files that are its own", where=str(path), got=str(real),
                fix="replace it by a copy of the file, or remove it",
            )  # fmt: skip
    return found


def _below(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder; links are not followed."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _below(Path(entry.path))
                else:
                    yield Path(entry.path)
    except OSError as error:
        raise MissingInput("the directory cannot be read", where=str(folder), got=error.strerror) from error


def _changed(path: Path, got: str) -> InputError:
    return InputError(
        "it changed while it was read", where=str(path), got=got, fix="wait until nothing writes there, and try again"
    )
