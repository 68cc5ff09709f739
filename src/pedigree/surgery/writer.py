"""The engine's writer: one file of safetensors with its header written first and its full size given at once.

A tensor is written front to back by one worker; its bytes gather in an aligned buffer and go out in whole blocks past
the page cache. What does not fill a block at the end of a tensor goes out through the page cache, on its own pages.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.surgery.direct import BLOCK, DIRECT_FROM, align_down, allocate, open_direct

if TYPE_CHECKING:
    import torch
    from blake3 import blake3


class ShardFile:
    """One file of the result, open for writing at any place.

    Args:
        path: the file; it is made where it is not there, and kept where an earlier run was interrupted.
        header: its first bytes.
        size: its size in the end.
    """

    def __init__(self, path: Path, header: bytes, size: int) -> None:
        self.path = path
        self._buffered = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            allocate(self._buffered, size)
            os.pwrite(self._buffered, header, 0)
            self._direct = open_direct(path, os.O_WRONLY) if size >= DIRECT_FROM else None
        except BaseException:
            os.close(self._buffered)
            raise

    @property
    def descriptor(self) -> int:
        """The descriptor that writes through the page cache."""
        return self._buffered

    def write(self, data: memoryview, offset: int) -> None:
        """Write bytes at a place; past the page cache where place, length and address are whole blocks."""
        direct = self._direct is not None and offset % BLOCK == 0 and len(data) % BLOCK == 0
        descriptor = self._direct if direct and self._direct is not None else self._buffered
        done = 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], offset + done)
            if direct and done % BLOCK:
                done = align_down(done)

    def sync(self) -> None:
        """Force everything to disk."""
        os.fdatasync(self._buffered)

    def close(self) -> None:
        """Force everything to disk and close."""
        os.fsync(self._buffered)
        os.close(self._buffered)
        if self._direct is not None:
            os.close(self._direct)


class TensorOut:
    """The bytes of one tensor on their way into a file, and their digest.

    Args:
        shard: the file.
        offset: where the tensor begins in it.
        buffer: aligned memory; what is appended at once must fit beside one block.
        digest: takes every byte; None where another one has taken the same bytes.
    """

    def __init__(self, shard: ShardFile, offset: int, buffer: memoryview, digest: blake3 | None) -> None:
        self._shard, self._at, self._buffer = shard, offset, buffer
        self._held = 0
        self._digest = digest

    def append_tensor(self, tile: torch.Tensor, dtype: torch.dtype) -> None:
        """Round a tile to the type of the file, straight into the buffer."""
        import numpy as np
        import torch

        size = tile.numel() * dtype.itemsize
        room = self._buffer[self._held : self._held + size]
        target = torch.from_numpy(np.frombuffer(room, dtype=np.uint8)) if size else None
        if target is not None:
            if target.data_ptr() % dtype.itemsize:
                self.append_bytes(tile.to(dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data)
                return
            target.view(dtype).reshape(tile.shape).copy_(tile)
        self._grown(size)

    def append_bytes(self, data: memoryview, *, write: bool = True) -> None:
        """Copy bytes behind those that wait; with `write` off they are hashed only (they are in the file already)."""
        if not write:
            if self._digest is not None:
                self._digest.update(data)
            return
        self._buffer[self._held : self._held + len(data)] = data
        self._grown(len(data))

    def _grown(self, size: int) -> None:
        if self._digest is not None:
            self._digest.update(self._buffer[self._held : self._held + size])
        self._held += size
        whole = align_down(self._held) if self._at % BLOCK == 0 else self._held
        if whole:
            self._shard.write(self._buffer[:whole], self._at)
            self._at += whole
            rest = self._held - whole
            self._buffer[:rest] = bytes(self._buffer[whole : self._held])
            self._held = rest

    def finish(self) -> str:
        """Write what waits; the BLAKE3 of everything, hexadecimal; "" without a digest."""
        if self._held:
            self._shard.write(self._buffer[: self._held], self._at)
            self._held = 0
        return "" if self._digest is None else self._digest.hexdigest()
