"""Selections of rows or columns: a slice with both ends, or row numbers in any order.

Contiguous selections stay slices as long as possible, because a slice is one read and an index is many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Index = NDArray[np.int64]
Selection = slice | Index
"""A slice with start and stop set and step 1, or int64 row numbers."""


def everything(size: int) -> slice:
    """All of an axis."""
    return slice(0, size)


def length(selection: Selection) -> int:
    """How many rows are selected."""
    return int(selection.stop - selection.start) if isinstance(selection, slice) else len(selection)


def numbers(selection: Selection) -> Index:
    """The row numbers of a selection."""
    if isinstance(selection, slice):
        return np.arange(selection.start, selection.stop, dtype=np.int64)
    return selection


def is_all(selection: Selection, size: int) -> bool:
    """Whether a selection is the whole axis in order."""
    return isinstance(selection, slice) and selection.start == 0 and selection.stop == size


def tidy(index: Index) -> Selection:
    """Row numbers as a slice where they follow each other."""
    if len(index) == 0:
        return slice(0, 0)
    first, last = int(index[0]), int(index[-1])
    if last - first + 1 == len(index) and bool(np.all(np.diff(index) == 1)):
        return slice(first, last + 1)
    return index


def through(index: Index, selection: Selection) -> Selection:
    """The old rows behind selected new rows, where new row j is old row index[j]."""
    return tidy(index[selection])


def shares(selection: Selection, sizes: Sequence[int]) -> Iterator[tuple[int, Selection, Index | None]]:
    """A selection over joined blocks, block by block.

    Yields:
        The number of the block, the selection inside it, and the places in the result its rows go to (None where the
        blocks simply follow each other).
    """
    begin = 0
    for number, size in enumerate(sizes):
        end = begin + size
        if isinstance(selection, slice):
            low, high = max(begin, selection.start), min(end, selection.stop)
            if low < high:
                yield number, slice(low - begin, high - begin), None
        else:
            places = np.flatnonzero((selection >= begin) & (selection < end))
            if len(places):
                yield number, tidy(selection[places] - begin), places
        begin = end


def take(tensor: torch.Tensor, axis: int, selection: Selection) -> torch.Tensor:
    """The selected items of one axis of a tensor; a view where the selection is a slice."""
    import torch

    if is_all(selection, tensor.shape[axis]):
        return tensor
    if isinstance(selection, slice):
        return tensor.narrow(axis, selection.start, length(selection))
    return tensor.index_select(axis, torch.from_numpy(np.ascontiguousarray(selection)))
