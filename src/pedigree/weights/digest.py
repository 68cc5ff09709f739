"""Digests that name what was opened and what was read.

Law: both depend only on content. Neither the order of reads, nor the thread that made them, nor the place a file lies
in, nor a repeated read changes a digest.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from pedigree.weights.extent import TensorInfo


def header_digest(tensors: Iterable[TensorInfo], file_bytes: Mapping[str, int]) -> str:
    """Digest of what the headers declare; no weight is read for it.

    Args:
        tensors: declared tensors, any order.
        file_bytes: size of each weight file.

    Returns:
        "sha256:" and the hexadecimal SHA-256 of the canonical JSON of the sorted (name, dtype, shape) and the sorted
        file sizes, numbers written as strings.
    """
    content = {
        "files": [str(size) for size in sorted(file_bytes.values())],
        "tensors": sorted([info.name, info.dtype, [str(size) for size in info.shape]] for info in tensors),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()


def span_text(indices: npt.NDArray[np.int64]) -> str:
    """Sorted distinct row numbers as ranges, "0:3,7:8": the same text however the rows were asked for."""
    if indices.size == 0:
        return ""
    breaks = np.flatnonzero(np.diff(indices) > 1)
    starts = indices[np.concatenate(([0], breaks + 1))]
    stops = indices[np.concatenate((breaks, [indices.size - 1]))] + 1
    return ",".join(f"{start}:{stop}" for start, stop in zip(starts.tolist(), stops.tolist(), strict=True))


class ReadLog:
    """Thread-safe set of (tensor, rows, BLAKE3 of the bytes) of all reads."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._lock = threading.Lock()

    def add(self, name: str, span: str, data: memoryview) -> None:
        """Remember one read.

        Args:
            name: tensor name.
            span: rows, as `span_text` writes them.
            data: the bytes of these rows.
        """
        from blake3 import blake3

        key = json.dumps([name, span, blake3(data).hexdigest()], ensure_ascii=False, separators=(",", ":"))
        fingerprint = hashlib.sha256(key.encode("utf-8")).digest()
        with self._lock:
            self._seen.add(fingerprint)

    def digest(self) -> str:
        """ "sha256:" and the hexadecimal SHA-256 over the sorted digests of all reads so far."""
        with self._lock:
            seen = sorted(self._seen)
        return "sha256:" + hashlib.sha256(b"".join(seen)).hexdigest()
