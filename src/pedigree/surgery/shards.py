"""Files of the result: which tensors go into which, at which byte; known before the first is read.

A source file of which every tensor stays as it is, is shared by a hard link. All other tensors are packed in the order
of the source. Inside a file those that fill whole blocks come first, so that each of them begins at a block.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pedigree.errors import UsageError
from pedigree.surgery.direct import BLOCK, align_up
from pedigree.surgery.storing import Output
from pedigree.weights.number_types import BITS

MAX_HEADER = 100_000_000  # what readers of safetensors accept


@dataclass(frozen=True, eq=False)
class Placed:
    """A tensor, where it begins in its file, and how long it is."""

    output: Output
    offset: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class Shard:
    """One file: `link` is the source file it shares, else `header` and `tensors` say what is written."""

    name: str
    size: int
    tensors: tuple[Placed, ...]
    header: bytes = b""
    link: Path | None = None


def nbytes(output: Output) -> int:
    """Bytes of a tensor in a file."""
    return math.prod(output.shape) * BITS[output.dtype] // 8


def pack(outputs: Sequence[Output], shard_bytes: int, *, link: bool, stem: str = "model") -> list[Shard]:
    """Divide tensors into files.

    Args:
        outputs: in the order in which they are to stand.
        shard_bytes: most bytes of one file; a larger tensor has one of its own.
        link: share files that do not change.
        stem: the names begin with it.
    """
    linked = _unchanged_files(outputs) if link else {}
    gone = {id(output) for group in linked.values() for output in group}
    groups: list[list[Output]] = [[]]
    size = 0
    for output in outputs:
        if id(output) in gone:
            continue
        if groups[-1] and size + nbytes(output) > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(output)
        size += nbytes(output)
    groups = [group for group in groups if group]
    count = len(groups) + len(linked)
    names = [f"{stem}.safetensors"] if count == 1 else [
        f"{stem}-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)
    ]  # fmt: skip
    shards = [_written(name, group) for name, group in zip(names, groups, strict=False)]
    for name, (path, group) in zip(names[len(groups) :], linked.items(), strict=True):
        shards.append(_linked(name, path, group))
    return shards


def _unchanged_files(outputs: Sequence[Output]) -> dict[Path, list[Output]]:
    """Local source files of which every tensor stays, under its name."""
    kept: dict[Path, list[Output]] = {}
    wanted: dict[Path, int] = {}
    for output in outputs:
        if output.origin == output.name and output.checkpoint.format == "safetensors":
            file = output.checkpoint.tensors[output.origin].file
            path = output.checkpoint.local_file(file)
            if path is not None:
                kept.setdefault(path, []).append(output)
                if path not in wanted:
                    wanted[path] = sum(info.file == file for info in output.checkpoint.tensors.values())
    return {path: group for path, group in kept.items() if len(group) == wanted[path]}


def _linked(name: str, path: Path, group: Sequence[Output]) -> Shard:
    placed = []
    for output in group:
        extent = output.checkpoint.extent(output.origin)
        placed.append(Placed(output, extent.offset, extent.info.nbytes))
    return Shard(name, path.stat().st_size, tuple(placed), link=path)


def _written(name: str, group: Sequence[Output]) -> Shard:
    # Whole blocks first; then by size of the element, so that every tensor is aligned to its type.
    ordered = sorted(group, key=lambda o: (nbytes(o) % BLOCK != 0, -BITS[o.dtype] if nbytes(o) % BLOCK else 0))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for output in ordered:
        size = nbytes(output)
        header[output.name] = {
            "dtype": output.dtype, "shape": list(output.shape), "data_offsets": [position, position + size],
        }  # fmt: skip
        position += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    start = align_up(8 + len(text))
    if start > MAX_HEADER:
        raise UsageError(
            "a file would have too many tensors", got=f"{start} bytes of header", fix="smaller target.shard"
        )
    text += b" " * (start - 8 - len(text))
    placed, position = [], start
    for output in ordered:
        placed.append(Placed(output, position, nbytes(output)))
        position += nbytes(output)
    return Shard(name, position, tuple(placed), header=len(text).to_bytes(8, "little") + text)


def index_text(shards: Sequence[Shard]) -> str | None:
    """model.safetensors.index.json; None where one file holds everything."""
    if len(shards) == 1:
        return None
    where = {placed.output.name: shard.name for shard in shards for placed in shard.tensors}
    total = sum(placed.nbytes for shard in shards for placed in shard.tensors)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}, indent=2) + "\n"
