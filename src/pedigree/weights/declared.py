"""A checkpoint that does not exist yet: names, types and shapes, and no bytes to read.

Plans of work on weights need headers only, so they can be made for models of any size before there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pedigree.errors import MissingInput
from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.contents import Contents
from pedigree.weights.extent import Extent, TensorInfo
from pedigree.weights.meter import ByteMeter
from pedigree.weights.number_types import BITS
from pedigree.weights.source import Range

T = TypeVar("T")
_FILE = "model.safetensors"


def declared_checkpoint(
    name: str, tensors: Mapping[str, tuple[str, tuple[int, ...]]], config: Mapping[str, Any] | None
) -> Checkpoint:
    """A checkpoint with these tensors, of which nothing can be read.

    Args:
        name: what messages call it.
        tensors: number type and shape by name, such as ("BF16", (4096, 4096)).
        config: its config.json.
    """
    extents: dict[str, Extent] = {}
    place = 0
    for tensor, (dtype, shape) in tensors.items():
        size = math.prod(shape) * BITS[dtype] // 8
        extents[tensor] = Extent(TensorInfo(tensor, dtype, shape, size, _FILE), place)
        place += size
    contents = Contents("safetensors", extents, {_FILE: place})
    return Checkpoint(name, _Nowhere(name), ByteMeter(), contents, config)


class _Nowhere:
    """A place without files."""

    gap_bytes = 0
    probe_bytes = 0

    def __init__(self, location: str) -> None:
        self.location = location

    def names(self) -> tuple[str, ...] | None:
        """None are there."""
        return ()

    def place(self, name: str) -> str:
        """As messages call it."""
        return f"{self.location}, {name}"

    def size(self, name: str) -> int | None:
        """There is no file."""
        return None

    def stamp(self, name: str) -> str:
        """There is nothing to say."""
        return ""

    def fill(self, name: str, ranges: Sequence[Range]) -> None:
        """Nothing can be read.

        Raises:
            MissingInput: always.
        """
        raise MissingInput("this model is not made yet, so its weights cannot be read", where=self.place(name))

    def each(self, function: Callable[[str], T], names: Sequence[str]) -> list[T]:
        """A function of every name."""
        return [function(name) for name in names]

    def close(self) -> None:
        """Nothing is open."""
