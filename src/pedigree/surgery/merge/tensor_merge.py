"""One tensor merged tile by tile: what every method is, and the loop that drives it.

A method sees tiles: the same rows of all inputs, float32. It may ask for looks (statistics over the whole tensor)
before it computes; a look is a pure function of one tile, what it saw is taken in tile by tile, in order of rows, and
learned when the tensor ends. Results do not depend on the height of a tile.

Law     for every method: the tiles of `merge_tensor` joined are the same bits for every height of a tile.
Class   all merges are NFP (they do not keep any input's function), but for one input of weight 1, which is FP0.

Shapes  M = inputs, R = rows of a tile, C = columns (size of the last axis)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pedigree.errors import InputError, InternalError

if TYPE_CHECKING:
    import torch

ROWS_OF_A_TILE = 1 << 19
"""Numbers in a tile of the reference loop: it stays in the cache of one core."""


@dataclass(frozen=True, slots=True)
class Tile:
    """The same rows of every input.

    Attributes:
        first_row: number of the first row in the tensor.
        inputs: float32 [R, C], one for each input that is merged.
        base: float32 [R, C], the common ancestor; None for methods that have none.
    """

    first_row: int
    inputs: tuple[torch.Tensor, ...]
    base: torch.Tensor | None = None

    @property
    def start(self) -> int:
        """Flat index of the first element."""
        return self.first_row * self.inputs[0].shape[1]

    @property
    def stop(self) -> int:
        """Flat index behind the last element."""
        return self.start + self.inputs[0].numel()

    def deltas(self) -> list[torch.Tensor]:
        """What each input adds to the base."""
        if self.base is None:
            raise InputError("this method compares with a base model", expected="a base model", fix="name one: base: X")
        return [x_RC - self.base for x_RC in self.inputs]


class TensorMerge(ABC):
    """A method with its numbers for one tensor. Make a new one for every tensor."""

    @property
    def looks(self) -> int:
        """How often the whole tensor is read for statistics before the read that computes."""
        return 0

    def wants_look(self) -> bool:
        """Whether another look is due before `compute`."""
        return False

    def look(self, tile: Tile) -> Any:
        """Statistics of one tile, for `absorb`."""
        raise InternalError("this merge has no looks")

    def absorb(self, seen: Any) -> None:
        """Take in what was seen of the next tile; memory does not grow with tiles but for a few numbers a row."""
        raise InternalError("this merge has no looks")

    def learn(self) -> None:
        """End a look."""
        raise InternalError("this merge has no looks")

    @abstractmethod
    def compute(self, tile: Tile) -> torch.Tensor:
        """The merged rows, float32 [R, C]; the inputs stay as they are."""


ReadRows = Callable[[int, int], "torch.Tensor"]


def as_rows(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor: the last axis is the columns, a vector is one row."""
    return (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def merge_tensor(
    method: TensorMerge,
    inputs: Sequence[ReadRows],
    base: ReadRows | None,
    shape: Sequence[int],
    rows_per_tile: int | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Merge one tensor, tile by tile.

    Args:
        method: fresh, for this tensor.
        inputs: readers of rows [start, stop) as float32 [R, C], one for each input.
        base: the same for the base, None without one.
        shape: of the tensor.
        rows_per_tile: height of a tile; by default about half a million numbers.

    Yields:
        first row, merged rows float32 [R, C].
    """
    n_rows, n_columns = as_rows(shape)
    height = rows_per_tile or max(1, ROWS_OF_A_TILE // max(1, n_columns))

    def tiles() -> Iterator[Tile]:
        for first in range(0, n_rows, height):
            last = min(n_rows, first + height)
            yield Tile(first, tuple(read(first, last) for read in inputs), base(first, last) if base else None)

    while method.wants_look():
        for tile in tiles():
            method.absorb(method.look(tile))
        method.learn()
    for tile in tiles():
        yield tile.first_row, method.compute(tile)


def exact_sum(rows: Sequence[torch.Tensor]) -> float:
    """The sum of per-row sums, rounded once: the same number whatever pieces the rows came in."""
    return math.fsum(number for row in rows for number in row.tolist())
