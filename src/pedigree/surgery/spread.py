"""The spread of stored numbers, so that fresh rows are as large as those beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pedigree.surgery.nodes import Node, Statistic

if TYPE_CHECKING:
    from pedigree.surgery.nodes import Work


class Spread(Statistic):
    """Root mean square of a node, times a factor; of its first `rows` rows only, which is enough and costs little."""

    def __init__(self, node: Node, factor: float = 1.0, rows: int = 512) -> None:
        from pedigree.surgery.verbs import index

        self.name = f"spread x {factor!r} of {rows}"
        self._node = node if node.shape[0] <= rows else index(node, 0, range(rows))
        self._factor = factor

    def inputs(self) -> Sequence[Node]:
        """The node."""
        return (self._node,)

    def start(self) -> Any:
        """Sum of squares and count."""
        return (0.0, 0)

    def add(self, state: Any, tiles: Sequence[Any], rows: slice, work: Work) -> Any:
        """One block more, summed in float64."""
        import torch

        tile = tiles[0].to(torch.float64)
        return (state[0] + float(tile.square().sum()), state[1] + tile.numel())

    def finish(self, state: Any) -> float:
        """The root mean square."""
        total, count = state
        return float(self._factor * (total / count) ** 0.5) if count else 0.0
