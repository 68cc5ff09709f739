"""A checkpoint of any size that lies nowhere: every byte is a function of its place, worked out when it is asked for.

    served = DrawnCheckpoint(SHAPES["14b"], "child")
    served.files["config.json"], served.read("model-00001-of-00008.safetensors", 10_000_000, 10_004_096)

Names, shapes, files and tokenizer are those of `checkpoints.py`; numbers are Gaussian, drawn by a counter-based
generator (splitmix64 of the number's index; Steele, Lea and Flood 2014), so that any range gives the same bytes
whichever ranges were asked for before. A child is its parent plus noise of a tenth of its spread. Thirty gigabytes take
no disk.
"""

from __future__ import annotations

import bisect
import json
import struct
import zlib

import numpy as np
import numpy.typing as npt
from checkpoints import (
    _QUANTILES,
    CHILD_SEED,
    NOISE,
    PARENT_SEED,
    SHAPES,
    STRANGER_SEED,
    Plan,
    Shape,
    _config,
    _plans,
    _scale,
    _shards,
    _tokenizer,
)

__all__ = ["KINDS", "SHAPES", "DrawnCheckpoint"]

KINDS = ("parent", "child", "stranger")
PIECE = 1 << 20  # numbers that are drawn at once

Bits = npt.NDArray[np.uint64]


def _mixed(index_N: Bits, key: int) -> Bits:
    """64 random bits for each index."""
    with np.errstate(over="ignore"):
        z_N = index_N * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        z_N = (z_N ^ (z_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z_N = (z_N ^ (z_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z_N ^ (z_N >> np.uint64(31))


def _normal(seed: int, name: str, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Standard normal numbers `start` to `stop` of a tensor; 64 bits make four of them."""
    key = int(_mixed(np.array([seed << 32 | zlib.crc32(name.encode())], np.uint64), 0)[0])
    first, last = start // 4, (stop + 3) // 4
    bits = _mixed(np.arange(first, last, dtype=np.uint64), key).view(np.uint16)
    return np.asarray(_QUANTILES.take(bits[start - 4 * first : stop - 4 * first]))


def _rounded(x_N: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper half of float32, to nearest: bfloat16."""
    bits_N = x_N.view(np.uint32)
    return ((bits_N + 0x7FFF + ((bits_N >> 16) & 1)) >> 16).astype(np.uint16)


class DrawnCheckpoint:
    """The files of one checkpoint.

    Attributes:
        files: size of every file, by name.
        weight_bytes: of the weight files.
    """

    def __init__(self, shape: Shape, kind: str) -> None:
        self.shape, self.kind = shape, kind
        plans = _plans(shape, shape.layers, not shape.tied)
        shards = _shards(plans, shape.shard_bytes)
        self._small: dict[str, bytes] = {
            "config.json": json.dumps(_config(shape, shape.layers, shape.tied), indent=2).encode(),
            "tokenizer.json": json.dumps(_tokenizer(shape), ensure_ascii=False).encode(),
        }
        self._places: dict[str, tuple[bytes, list[int], list[Plan]]] = {}
        self.files: dict[str, int] = {}
        weight_map = {}
        for number, shard in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            entries, offset, starts = {}, 0, []
            for plan in shard:
                span = [offset, offset + plan.nbytes]
                entries[plan.name] = {"dtype": "BF16", "shape": list(plan.size), "data_offsets": span}
                starts.append(offset)
                offset += plan.nbytes
                weight_map[plan.name] = file
            text = json.dumps(entries, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)
            head = struct.pack("<Q", len(text)) + text
            self._places[file] = (head, starts, shard)
            self.files[file] = len(head) + offset
        self.weight_bytes = sum(self.files.values())
        index = {"metadata": {"total_size": sum(plan.nbytes for plan in plans)}, "weight_map": weight_map}
        self._small["model.safetensors.index.json"] = json.dumps(index).encode()
        self.files |= {name: len(data) for name, data in self._small.items()}

    def read(self, file: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a file."""
        if file in self._small:
            return self._small[file][start:stop]
        head, starts, plans = self._places[file]
        out = bytearray(head[start : min(stop, len(head))])
        at, end = max(0, start - len(head)), stop - len(head)
        while at < end:
            k = bisect.bisect_right(starts, at) - 1
            upto = min(end, starts[k] + plans[k].nbytes)
            out += self._tensor_bytes(plans[k], at - starts[k], upto - starts[k])
            at = upto
        return bytes(out)

    def _tensor_bytes(self, plan: Plan, start: int, stop: int) -> bytes:
        first, last = start // 2, (stop + 1) // 2
        pieces = [
            _rounded(self._numbers(plan, at, min(last, at + PIECE))).tobytes() for at in range(first, last, PIECE)
        ]
        return b"".join(pieces)[start - 2 * first :][: stop - start]

    def _numbers(self, plan: Plan, first: int, last: int) -> npt.NDArray[np.float32]:
        mean, deviation = _scale(self.shape, plan.role)
        seed = STRANGER_SEED if self.kind == "stranger" else PARENT_SEED
        x_N = _normal(seed, plan.name, first, last) * np.float32(deviation) + np.float32(mean)
        if self.kind == "child":
            x_N += _normal(CHILD_SEED, plan.name, first, last) * np.float32(NOISE * deviation)
        return x_N
