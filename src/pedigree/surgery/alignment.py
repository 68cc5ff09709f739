"""The order of the inner units of one feed-forward network in which they stand beside those of another.

Units have no order of their own: a network computes the same with its units in any order. Two networks are averaged
unit by unit only after each unit was matched with its like, by the largest sum of cosines of what a unit reads and
writes (an assignment problem, solved exactly).

Law     a network whose units were put into another order is brought back to the first, whatever the order was.
Source  2209.04836 (Git Re-Basin), 2310.01334 (M-SMoE) for experts.

Shapes  U = units, d = residual width, P = parts of a network (gate, up, down turned), k = columns kept of a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pedigree.surgery.nodes import Node, Statistic, Turn, Work
from pedigree.surgery.randomness import Stream
from pedigree.surgery.selection import Index

if TYPE_CHECKING:
    import torch

MOST_COLUMNS = 1024


class Alignment(Statistic):
    """For each unit of a reference the number of the unit of another network that is most like it, int64 [U].

    Args:
        reference, other: matrices of a network by part; "down" is [d, U], the others [U, d].
        seed: of the projections by which wide matrices are compared (their cosines then err by about 1/32).
    """

    name = "alignment of units"

    def __init__(self, reference: dict[str, Node], other: dict[str, Node], seed: int) -> None:
        self._parts = tuple(reference)
        self._seed = seed
        self._nodes = [
            Turn(one[part]) if part == "down" else one[part] for one in (reference, other) for part in self._parts
        ]

    def inputs(self) -> Sequence[Node]:
        """The parts of the reference, then those of the other."""
        return self._nodes

    def held_bytes(self) -> int:
        """Units of both networks, and their products."""
        units, width = self._nodes[0].shape
        return units * (2 * len(self._parts) * min(width, MOST_COLUMNS) * 4 + units * 12)

    def start(self) -> Any:
        """No rows yet."""
        return ([], [])

    def add(self, state: Any, tiles: Sequence[Any], rows: slice, work: Work) -> Any:
        """Some units more of both, float32 [U, P k]."""
        count = len(self._parts)
        for side in range(2):
            state[side].append(self._narrow(tiles[side * count : (side + 1) * count]))
        return state

    def _narrow(self, tiles: Sequence[Any]) -> torch.Tensor:
        import torch

        width = tiles[0].shape[1]
        kept = []
        for part, tile in zip(self._parts, tiles, strict=True):
            tile = tile.to(torch.float32)
            if width > MOST_COLUMNS:
                stream = Stream(self._seed, f"alignment/{part}", MOST_COLUMNS)
                tile = tile @ stream.normal(slice(0, width), slice(0, MOST_COLUMNS))
            kept.append(tile.clone())
        return torch.cat(kept, dim=1)

    def finish(self, state: Any) -> Index:
        """The assignment with the largest sum of cosines."""
        import torch
        from scipy.optimize import linear_sum_assignment

        reference, other = (torch.nn.functional.normalize(torch.cat(rows), dim=1) for rows in state)
        _, matched = linear_sum_assignment((reference @ other.T).numpy(), maximize=True)
        return np.asarray(matched, dtype=np.int64)
