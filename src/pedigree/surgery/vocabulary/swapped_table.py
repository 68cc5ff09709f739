"""A table with the rows of another vocabulary: copied ones bit for bit, new ones made, padding kept.

Law     the row of a token that both vocabularies have is the old row, uncast. Rows behind the last token are the old
        padding rows as far as there are any, then the mean row; a table that was padded stays padded.

Shapes  W = new rows with padding, N = rows asked for, d = width
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pedigree.errors import UsageError
from pedigree.surgery.vocabulary.output_rows import Floats, Level
from pedigree.surgery.vocabulary.rows import Numbers, RowMaker, RowTable
from pedigree.surgery.vocabulary.token_map import NO_ROW, TokenMap

if TYPE_CHECKING:
    import torch

ReadNative = Callable[[Numbers], "torch.Tensor"]
_MULTIPLES = (128, 64, 32, 16, 8)


def padded_rows(new_size: int, old_rows: int, old_size: int, pad_to: int | None = None) -> int:
    """Rows of the new table.

    Args:
        new_size: tokens of the new vocabulary.
        old_rows: rows of the old table.
        old_size: tokens of the old vocabulary.
        pad_to: a multiple that is asked for; None keeps the old habit: where the old table had more rows than tokens,
            the largest of 128, 64 .. 8 that divided its rows, else none.

    Raises:
        UsageError: a multiple that is none.
    """
    if pad_to is not None and pad_to < 1:
        raise UsageError("rows cannot be padded to this", got=pad_to, expected="a positive number")
    if pad_to is None:
        padded = old_rows > old_size
        pad_to = next((n for n in _MULTIPLES if old_rows % n == 0), 1) if padded else 1
    return -(-new_size // pad_to) * pad_to


class SwappedTable:
    """The new table of one tensor, made portion by portion.

    Args:
        old: the old table.
        native: rows of the old table as they are stored.
        token_map: which rows are copied.
        maker: makes the others.
        n_rows: rows with padding.
        old_size: tokens of the old vocabulary; rows behind them are padding.
        level: for output tables, the level new rows are set to; None leaves them as they were made.
        uses_W: frequency of every new token, with `level`.
    """

    def __init__(
        self,
        old: RowTable,
        native: ReadNative,
        token_map: TokenMap,
        maker: RowMaker,
        n_rows: int,
        old_size: int,
        level: Level | None = None,
        uses_W: Floats | None = None,
    ) -> None:
        self.old, self.native, self.maker = old, native, maker
        self.level, self.uses_W = level, uses_W
        old_of_W = np.full(n_rows, NO_ROW, np.int64)
        count = len(token_map.old_of_W)
        old_of_W[:count] = token_map.old_of_W
        empty = np.concatenate([np.array(token_map.holes, np.int64), np.arange(count, n_rows)])
        paddings = np.arange(old_size, old.shape[0])[: len(empty)]
        old_of_W[empty[: len(paddings)]] = paddings
        self.old_of_W = old_of_W
        self._empty_W = np.zeros(n_rows, bool)
        self._empty_W[empty] = True

    def rows(self, numbers_N: Numbers) -> torch.Tensor:
        """New rows in the stored type [N, d]."""
        import torch

        old_N = self.old_of_W[numbers_N]
        copied_N, made_N = old_N != NO_ROW, old_N == NO_ROW
        kept = self.native(old_N[copied_N])
        result_Nd = torch.empty(len(numbers_N), self.old.shape[1], dtype=kept.dtype)
        result_Nd[torch.from_numpy(copied_N)] = kept
        if made_N.any():
            result_Nd[torch.from_numpy(made_N)] = self._made(numbers_N[made_N]).to(kept.dtype)
        return result_Nd

    def _made(self, numbers_M: Numbers) -> torch.Tensor:
        """Rows of new tokens, and of padding beyond the old."""
        import torch

        empty_M = self._empty_W[numbers_M]
        tokens_M = numbers_M[~empty_M]
        made_Md = torch.empty(len(numbers_M), self.old.shape[1])
        if len(tokens_M):
            rows_Td = self.maker.make(self.old, tokens_M)
            if self.level is not None and self.uses_W is not None:
                rows_Td = self.level.apply(rows_Td, self.uses_W[tokens_M])
            made_Md[torch.from_numpy(~empty_M)] = rows_Td
        if empty_M.any():
            made_Md[torch.from_numpy(empty_M)] = self._mean_d()
        return made_Md

    def _mean_d(self) -> torch.Tensor:
        from pedigree.surgery.vocabulary.rows import mean_row

        if not hasattr(self, "_mean"):
            copied = np.unique(self.old_of_W[(self.old_of_W != NO_ROW) & ~self._empty_W])
            self._mean = mean_row(self.old, copied)
        return self._mean
