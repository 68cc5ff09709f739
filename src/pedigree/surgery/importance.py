"""Which units matter, from the weights alone: sums of squares by row or column, and the best of their products.

A unit whose incoming and outgoing weights are small writes little. Scores from activations on text (2407.14679) rank
better; they need a forward pass, which these do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pedigree.surgery.nodes import Derived, Node, Statistic, Work
from pedigree.surgery.selection import Index


class SquaresByRow(Statistic):
    """Sum of squares of each row of a node, float64 [R]."""

    name = "squares by row"

    def __init__(self, node: Node) -> None:
        self._node = node

    def inputs(self) -> Sequence[Node]:
        """The node."""
        return (self._node,)

    def start(self) -> Any:
        """Nothing yet."""
        return []

    def add(self, state: Any, tiles: Sequence[Any], rows: slice, work: Work) -> Any:
        """The sums of these rows."""
        import torch

        tile = tiles[0].to(torch.float64).square()
        state.append((tile if tile.ndim == 1 else tile.sum(dim=1)).numpy())
        return state

    def finish(self, state: Any) -> Any:
        """All sums, one after the other."""
        return np.concatenate(state)


class SquaresByColumn(SquaresByRow):
    """Sum of squares of each column of a node, float64 [C]."""

    name = "squares by column"

    def add(self, state: Any, tiles: Sequence[Any], rows: slice, work: Work) -> Any:
        """The sums with these rows."""
        import torch

        state.append(tiles[0].to(torch.float64).square().sum(dim=0).numpy())
        return [np.sum(state, axis=0)]


class Best(Derived):
    """The units with the largest scores, in their old order.

    Args:
        scores: statistics [U] (or [U * size]: `size` neighbours count as one unit).
        count: units to keep in all.
        size: coordinates of one unit.
        groups: units are kept evenly from this many equal groups.
        product: whether scores are multiplied, else added.
        coordinates: coordinates of one unit in the result, where it differs from `size`.
    """

    def __init__(
        self, scores: Sequence[Statistic], count: int, *, size: int = 1, groups: int = 1, product: bool = True,
        coordinates: int | None = None,
    ) -> None:  # fmt: skip
        self.name = f"best {count} of {groups} groups, {size} each"
        self._scores, self._count, self._size, self._groups, self._product = scores, count, size, groups, product
        self._coordinates = size if coordinates is None else coordinates

    def needs(self) -> Sequence[Statistic]:
        """The scores."""
        return self._scores

    def value(self, values: Sequence[Any]) -> Index:
        """Coordinates of the units that are kept, in order."""
        by_unit = []
        for value in values:
            units = value.reshape(-1, self._size).sum(axis=1) if self._size > 1 else value
            by_unit.append(units)
        total = np.prod(by_unit, axis=0) if self._product else np.sum(by_unit, axis=0)
        grouped = total.reshape(self._groups, -1)
        keep = self._count // self._groups
        # Ties go to the unit that stands first.
        best = np.sort(np.argsort(-grouped, axis=1, kind="stable")[:, :keep], axis=1)
        units = (best + np.arange(self._groups)[:, None] * grouped.shape[1]).reshape(-1)
        inside = np.arange(self._coordinates)[None, :]
        return np.asarray((units[:, None] * self._coordinates + inside).reshape(-1), dtype=np.int64)
