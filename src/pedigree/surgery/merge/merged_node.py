"""A merge as a node of the engine: looks become statistics, one behind the other, and the tiles are computed from them.

Law     a tile is the same whatever rows and columns are asked for: whole rows are merged, what was asked for is taken.

Shapes  R = selected rows, C = selected columns
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pedigree.errors import InternalError
from pedigree.surgery.merge.tensor_merge import TensorMerge, Tile
from pedigree.surgery.nodes import Node, Statistic, Work, as_type, computing
from pedigree.surgery.selection import Selection, everything, numbers, take

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Awaiting(Node):
    """A node that must not be read before something is known."""

    proportional: ClassVar[bool] = True
    node: Node
    needs: tuple[Statistic, ...]
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.node.shape)
        object.__setattr__(self, "dtype", self.node.dtype)

    def children(self) -> Sequence[Node]:
        """The node."""
        return (self.node,)

    def statistics(self) -> Sequence[Statistic]:
        """What it waits for."""
        return self.needs

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The tile."""
        return self.node.tile(rows, cols, work)


class Look(Statistic):
    """One look of a merge over the whole of its inputs. Its value is the merge, which has learned from it."""

    exact: ClassVar[bool] = True

    def __init__(self, number: int, build: Callable[[], TensorMerge], nodes: Sequence[Node], n_inputs: int) -> None:
        self.name = f"merge look {number + 1}"
        self.build, self.nodes, self.n_inputs = build, tuple(nodes), n_inputs
        self.before: Look | None = None

    def inputs(self) -> Sequence[Node]:
        """All inputs, the base last; they wait for the look before."""
        before = self.before
        return self.nodes if before is None else tuple(Awaiting(node, (before,)) for node in self.nodes)

    def start(self) -> Any:
        """A fresh merge for the first look; the later ones find it in the values of the first tile's work."""
        return None if self.before is not None else self.build()

    def add(self, state: Any, tiles: Sequence[torch.Tensor], rows: slice, work: Work) -> Any:
        """One more block of rows."""
        merge: TensorMerge = work.values[self.before] if state is None and self.before is not None else state
        dtype = computing(*(node.dtype for node in self.nodes))  # the same numbers as those that will be merged
        merge.absorb(merge.look(tile_of([as_type(tile, dtype) for tile in tiles], rows.start, self.n_inputs)))
        return merge

    def finish(self, state: Any) -> Any:
        """The merge, wiser."""
        state.learn()
        return state


@dataclass(frozen=True, eq=False)
class Merged(Node):
    """Inputs (and a base) merged.

    Args:
        inputs: nodes of one shape.
        base: of the same shape, None without one.
        build: makes the merge of this tensor, the same every time.
    """

    proportional: ClassVar[bool] = True
    inputs: tuple[Node, ...]
    base: Node | None
    build: Callable[[], TensorMerge]
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)
    looks: tuple[Look, ...] = field(init=False)

    def __post_init__(self) -> None:
        nodes = self.children()
        if any(node.shape != nodes[0].shape for node in nodes):
            raise InternalError("tensors of different shapes are merged", got=[node.shape for node in nodes])
        object.__setattr__(self, "shape", nodes[0].shape)
        object.__setattr__(self, "dtype", computing(*(node.dtype for node in nodes)))
        looks = [Look(number, self.build, nodes, len(self.inputs)) for number in range(self.build().looks)]
        for earlier, later in pairwise(looks):
            later.before = earlier
        object.__setattr__(self, "looks", tuple(looks))

    def children(self) -> Sequence[Node]:
        """The inputs, the base last."""
        return self.inputs if self.base is None else (*self.inputs, self.base)

    def statistics(self) -> Sequence[Statistic]:
        """The last look, which has those before it behind it."""
        return self.looks[-1:]

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The merged tile."""
        import torch

        merge = work.values[self.looks[-1]] if self.looks else self.build()
        if cols is None:  # vectors are small: whole
            whole = self._rows(merge, everything(self.shape[0]), None, work)
            return take(whole, 0, rows)
        if isinstance(rows, slice):
            merged_RC = self._rows(merge, rows, everything(self.shape[1]), work)
        else:
            places = numbers(rows)
            runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
            parts = [
                self._rows(merge, slice(int(run[0]), int(run[-1]) + 1), everything(self.shape[1]), work)
                for run in runs
                if len(run)
            ]
            empty = self._rows(merge, slice(0, 0), everything(self.shape[1]), work) if not parts else None
            merged_RC = torch.cat(parts) if empty is None else empty
        return take(merged_RC, 1, cols)

    def _rows(self, merge: TensorMerge, rows: slice, cols: Selection | None, work: Work) -> torch.Tensor:
        tiles = [as_type(node.tile(rows, cols, work), self.dtype) for node in self.children()]
        merged = merge.compute(tile_of(tiles, rows.start, len(self.inputs)))
        return as_type(merged.reshape(tiles[0].shape), self.dtype)


def tile_of(tiles: Sequence[torch.Tensor], first_row: int, n_inputs: int) -> Tile:
    """Tiles of the engine as a tile of a merge: a vector is one row."""
    rows = [tile if tile.dim() == 2 else tile.reshape(1, -1) for tile in tiles]
    base = rows[n_inputs] if len(rows) > n_inputs else None
    return Tile(first_row if tiles[0].dim() == 2 else 0, tuple(rows[:n_inputs]), base)
