"""Writers of the stream without their mean, and biases that took up a product.

A LayerNorm subtracts the mean over the channels. Where everything that is added to the stream has none, there is
nothing to subtract, and the RMS norm with the same gain and epsilon computes the same (2305.14858).

Laws
1. The sum over the residual axis of a centered writer is zero, up to rounding.
2. A tile is a pure function of its selection: means come from a pass of their own, products are summed in float64.

Shapes  R, C = rows and columns of a matrix; means [C] over rows, [R] over columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pedigree.surgery.nodes import Computed, Node, Statistic, Work, as_type, computing
from pedigree.surgery.selection import Selection, everything, numbers, take, tidy

if TYPE_CHECKING:
    import torch

MOST_NUMBERS = 2 << 20


class ColumnMeans(Statistic):
    """The mean over all rows of each column of a matrix, float64 [C]."""

    name = "means of columns"

    def __init__(self, node: Node) -> None:
        self._node = node

    def inputs(self) -> Sequence[Node]:
        """The matrix."""
        return (self._node,)

    def start(self) -> Any:
        """No sum yet."""
        return None

    def add(self, state: Any, tiles: Sequence[torch.Tensor], rows: slice, work: Work) -> Any:
        """The sums with these rows."""
        import torch

        total = tiles[0].to(torch.float64).sum(dim=0)
        return total if state is None else state + total

    def finish(self, state: Any) -> torch.Tensor:
        """Sums divided by the number of rows."""
        found: torch.Tensor = state / self._node.shape[0]
        return found


@dataclass(frozen=True, eq=False)
class Centered(Computed):
    """A node whose numbers along the residual axis have no mean; `axis` 0 or 1 of a matrix, 0 of a vector."""

    axis: int = 0
    means: ColumnMeans | None = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        by_column = len(self.shape) == 2 and self.axis == 0
        object.__setattr__(self, "means", ColumnMeans(self.node) if by_column else None)

    def statistics(self) -> Sequence[Statistic]:
        """The means, where the axis runs down the rows."""
        return () if self.means is None else (self.means,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The tile less the means that belong to it."""
        import torch

        if self.means is not None and cols is not None:
            tile = self.node.tile(rows, cols, work).to(torch.float64)
            return as_type(tile - take(work.values[self.means], 0, cols), self.dtype)
        if cols is None:
            whole = self.node.all(work).to(torch.float64)
            return as_type(take(whole - whole.mean(), 0, rows), self.dtype)
        wide = self.node.tile(rows, everything(self.shape[1]), work).to(torch.float64)
        return as_type(take(wide - wide.mean(dim=1, keepdim=True), 1, cols), self.dtype)


@dataclass(frozen=True, eq=False)
class Product(Node):
    """base + W v: what a linear map makes of a constant, added to its bias. [R]; base None is zero.

    Args:
        matrix: W, [R, C].
        vector: v, [C].
        base: the bias so far, [R].
        sign: -1 subtracts the product.
    """

    matrix: Node
    vector: Node
    base: Node | None = None
    sign: float = 1.0
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (self.matrix.shape[0],))
        object.__setattr__(self, "dtype", computing(self.matrix.dtype, self.vector.dtype))

    def children(self) -> Sequence[Node]:
        """Matrix, vector and base."""
        return (self.matrix, self.vector) if self.base is None else (self.matrix, self.vector, self.base)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The product of these rows; of the matrix no more than a tile is held."""
        import torch

        vector = self.vector.all(work).to(torch.float64)
        wanted, width = numbers(rows), self.matrix.shape[1]
        step = max(1, MOST_NUMBERS // max(1, width))
        sums = [torch.empty(0, dtype=torch.float64)]
        for start in range(0, len(wanted), step):
            wide = self.matrix.tile(tidy(wanted[start : start + step]), everything(width), work).to(torch.float64)
            sums.append((wide * vector).sum(dim=1))
        found = torch.cat(sums) * self.sign
        if self.base is not None:
            found = found + self.base.tile(rows, None, work).to(torch.float64)
        return as_type(found, self.dtype)
