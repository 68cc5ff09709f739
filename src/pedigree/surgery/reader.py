"""The engine's reader: slices of local safetensors past the page cache, everything else through the checkpoint.

Shapes  R = rows, C = columns.
"""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.errors import InputError, MalformedFile
from pedigree.surgery.direct import BLOCK, DIRECT_FROM, Arena, align_down, align_up, open_direct
from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.number_types import BITS, torch_type
from pedigree.weights.part import Part

if TYPE_CHECKING:
    import torch


class SliceReader:
    """Reads into buffers of an arena: what it returns is valid until the arena is reset by the same thread.

    Args:
        arena: buffers, one set for each thread.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._lock = threading.Lock()
        self._open: dict[Path, tuple[int, bool]] = {}
        self.bytes_read = 0

    def rows(self, part: Part, start: int, stop: int) -> torch.Tensor | None:
        """Canonical rows of a part as stored, [R, C] or [R]; None where their bytes do not follow each other."""
        piece = part.pieces[0]
        straight = piece.order is None and piece.lead is None and not piece.transposed and not piece.swapped
        checkpoint = part.checkpoint
        if len(part.pieces) != 1 or not straight or not isinstance(checkpoint, Checkpoint):
            return None
        bits = BITS.get(part.dtype, 0)
        if checkpoint.format != "safetensors" or bits % 8 or bits == 0 or part.dtype == "BOOL":
            return None
        row_bytes = bits // 8 * math.prod(part.shape[1:])
        first = (piece.start + start) * row_bytes
        raw = self.raw(checkpoint, piece.source, first, first + (stop - start) * row_bytes)
        return view_as(raw, part.dtype, (stop - start, *part.shape[1:]))

    def raw(self, checkpoint: Checkpoint, name: str, start: int, stop: int) -> memoryview:
        """Bytes of a stored tensor."""
        extent = checkpoint.extent(name)
        path = checkpoint.local_file(extent.info.file)
        with self._lock:
            self.bytes_read += stop - start
        if path is None or extent.stride is not None:
            return checkpoint.read_bytes(name, start, stop).data
        checkpoint.meter.charge(stop - start, str(path))
        return self._read(path, extent.offset + start, stop - start)

    def descriptor(self, path: Path) -> int:
        """An open descriptor of a local file."""
        return self._descriptor(path)[0]

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            for descriptor, _ in self._open.values():
                os.close(descriptor)
            self._open.clear()

    def _descriptor(self, path: Path) -> tuple[int, bool]:
        with self._lock:
            if path not in self._open:
                direct = open_direct(path, os.O_RDONLY) if path.stat().st_size >= DIRECT_FROM else None
                found = direct if direct is not None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._open[path] = (found, direct is not None)
            return self._open[path]

    def _read(self, path: Path, offset: int, size: int) -> memoryview:
        descriptor, direct = self._descriptor(path)
        begin = align_down(offset) if direct else offset
        span = align_up(offset + size) - begin if direct else size
        buffer = self._arena.take(span + (0 if direct else BLOCK))
        done, wanted = 0, offset + size - begin
        while done < wanted:
            try:
                count = os.preadv(descriptor, [buffer[done:span]], begin + done)
            except OSError as error:
                raise InputError("the file cannot be read", where=str(path), got=error.strerror) from error
            if count == 0:
                raise MalformedFile(
                    "the file ends before the bytes that were wanted", where=str(path), got=f"{begin + done} bytes",
                    expected=f"{offset + size} or more", fix="do not change the file while it is read",
                )  # fmt: skip
            done += count
            if direct and done % BLOCK and done < wanted:  # a signal cut the read short; go on at a block
                done = align_down(done)
        return buffer[offset - begin : offset - begin + size]


def view_as(raw: memoryview, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Bytes as a tensor without a copy, where their address allows it."""
    import numpy as np
    import torch

    kind = torch_type(dtype, "a tile")
    if len(raw) == 0:
        return torch.empty(shape, dtype=kind)
    flat = torch.from_numpy(np.frombuffer(raw, dtype=np.uint8))
    if flat.data_ptr() % max(1, BITS[dtype] // 8):
        flat = flat.clone()
    return flat.view(kind).reshape(shape)
