"""A swapped table as a node of the engine, and what is found out about the old model before its first row is made.

Makers are prepared when the first row is wanted, under a lock, from the stored table; rows do not depend on who asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pedigree.surgery.nodes import Node, Work
from pedigree.surgery.selection import Selection, everything, numbers, take
from pedigree.surgery.vocabulary.rows import Numbers
from pedigree.surgery.vocabulary.swapped_table import SwappedTable

if TYPE_CHECKING:
    import torch


class NodeTable:
    """A stored table (or a vector, as a table one wide) read by rows.

    Args:
        node: [V, d] or [V], straight from a checkpoint.
        row_of_W: which row stands for each number that is asked for; None: its own.
    """

    def __init__(self, node: Node, row_of_W: Numbers | None = None) -> None:
        self.node, self.row_of_W = node, row_of_W

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        count = self.node.shape[0] if self.row_of_W is None else len(self.row_of_W)
        return count, self.node.shape[1] if len(self.node.shape) == 2 else 1

    def native(self, numbers_N: Numbers) -> torch.Tensor:
        """Rows as they are stored, [N, d]."""
        rows = numbers_N if self.row_of_W is None else self.row_of_W[numbers_N]
        columns = everything(self.node.shape[1]) if len(self.node.shape) == 2 else None
        tile = self.node.tile(np.ascontiguousarray(rows), columns, Work())
        return tile if columns is not None else tile.reshape(-1, 1)

    def rows(self, numbers_N: Numbers) -> torch.Tensor:
        """Rows as float32 [N, d]."""
        return self.native(numbers_N).float()


@dataclass(frozen=True, eq=False)
class SwappedNode(Node):
    """The new table.

    Args:
        old: the stored table.
        n_rows: rows of the new one.
        build: makes the table, prepared; called once, when the first tile is due.
    """

    old: Node
    n_rows: int
    build: Callable[[], SwappedTable]
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)
    _made: list[SwappedTable] = field(init=False, default_factory=list, repr=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (self.n_rows, *self.old.shape[1:]))
        object.__setattr__(self, "dtype", self.old.dtype)

    def children(self) -> Sequence[Node]:
        """The old table."""
        return (self.old,)

    def table(self) -> SwappedTable:
        """The table, made on the first call."""
        with self._lock:
            if not self._made:
                self._made.append(self.build())
            return self._made[0]

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """Rows of the new table."""
        made_Rd = self.table().rows(numbers(rows))
        return made_Rd[:, 0] if cols is None else take(made_Rd, 1, cols)
