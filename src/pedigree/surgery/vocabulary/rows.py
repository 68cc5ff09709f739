"""Rows of an embedding table made for new tokens, and the readers they are made from.

A maker is prepared once for a table (a pass over it where it needs one) and then gives the rows of any tokens, in any
order and portion: a table of 150,000 rows is never held in float32.

Shapes  V = old rows, N = tokens asked for, d = width
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Numbers = npt.NDArray[np.int64]
ROWS_AT_ONCE = 4096


class RowTable(Protocol):
    """A table that is read by rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        ...

    def rows(self, numbers_N: Numbers) -> torch.Tensor:
        """Rows in the order asked for, float32 [N, d]."""
        ...


class RowMaker(Protocol):
    """Makes rows for new tokens of one table."""

    def prepare(self, table: RowTable) -> None:
        """Read what is needed of the table whose rows will be made."""
        ...

    def make(self, table: RowTable, numbers_N: Numbers) -> torch.Tensor:
        """Rows of new tokens, float32 [N, d]."""
        ...


class MemoryTable:
    """A table in memory."""

    def __init__(self, table_Vd: torch.Tensor) -> None:
        self.table_Vd = table_Vd

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return self.table_Vd.shape[0], self.table_Vd.shape[1]

    def rows(self, numbers_N: Numbers) -> torch.Tensor:
        """Rows in the order asked for, float32 [N, d]."""
        import torch

        return self.table_Vd[torch.from_numpy(np.ascontiguousarray(numbers_N))].to(torch.float32)


def portions(numbers_N: Numbers, size: int = ROWS_AT_ONCE) -> Iterator[Numbers]:
    """Numbers, some thousands at a time."""
    for start in range(0, len(numbers_N), size):
        yield numbers_N[start : start + size]


def mean_row(table: RowTable, numbers_N: Numbers) -> torch.Tensor:
    """The mean of some rows, float32 [d], summed in float64."""
    import torch

    sum_d = torch.zeros(table.shape[1], dtype=torch.float64)
    for part in portions(numbers_N):
        sum_d += table.rows(part).double().sum(0)
    return (sum_d / max(1, len(numbers_N))).float()
