"""New rows from the old table alone: random, mean, and the mean of old pieces.

Random      the careless swap: normal numbers of the spread of the old table. It is here so that what it costs can be
            measured (docs/LOG.md).
Mean        the mean of all old rows that stand for tokens: hard to beat without training, since a new output row of
            middling direction steals no probability.
SubToken    the (weighted) mean of the old pieces of the token's bytes; the mean row where there are no pieces.

Law     a mean lies in the hull of the rows it is made of; a token that is one old piece gets exactly that row.
Source  Hewitt, "Initializing new word embeddings" (2021), for the mean; FVT (arXiv 2402.09977) for pieces.

Shapes  N = tokens asked for, P = their pieces, d = width
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pedigree.surgery.merge.draws import draw_key, uniform
from pedigree.surgery.vocabulary.pieces import Pieces
from pedigree.surgery.vocabulary.rows import Numbers, RowTable, mean_row, portions

if TYPE_CHECKING:
    import torch


class Mean:
    """The mean of the old rows in use.

    Args:
        in_use_N: numbers of old rows that stand for tokens; padding rows say nothing.
    """

    def __init__(self, in_use_N: Numbers) -> None:
        self.in_use_N = in_use_N
        self.mean_d: torch.Tensor | None = None

    def prepare(self, table: RowTable) -> None:
        """One pass over the table."""
        self.mean_d = mean_row(table, self.in_use_N)

    def make(self, table: RowTable, numbers_N: Numbers) -> torch.Tensor:
        """The same row for every token."""
        mean_d = mean_row(table, self.in_use_N) if self.mean_d is None else self.mean_d
        return mean_d.expand(len(numbers_N), -1).clone()


class Random(Mean):
    """Normal numbers with the mean and spread of every column of the old table.

    Args:
        seed: of the draws; the row of a token depends on its number and on nothing else.
        name: of the table, so that tables differ.
    """

    def __init__(self, in_use_N: Numbers, seed: int, name: str) -> None:
        super().__init__(in_use_N)
        self.seed, self.name = seed, name
        self._spread_d: torch.Tensor | None = None

    def prepare(self, table: RowTable) -> None:
        """Mean and spread, two passes."""
        super().prepare(table)
        self._spread_d = self._measured(table)

    def _measured(self, table: RowTable) -> torch.Tensor:
        import torch

        mean_1d = super().make(table, self.in_use_N[:1])
        square_d = torch.zeros(table.shape[1], dtype=torch.float64)
        for part in portions(self.in_use_N):
            square_d += (table.rows(part) - mean_1d).double().square().sum(0)
        return (square_d / max(1, len(self.in_use_N))).sqrt().float()

    def make(self, table: RowTable, numbers_N: Numbers) -> torch.Tensor:
        """One draw for each token."""
        import torch

        key, width = draw_key(self.seed, "rows", self.name), table.shape[1]
        # Consecutive numbers are drawn together; new tokens mostly stand in a few runs.
        runs = np.split(numbers_N, np.flatnonzero(np.diff(numbers_N) != 1) + 1)
        shares = [uniform(key, int(run[0]) * width, (int(run[-1]) + 1) * width) for run in runs if len(run)]
        mean_Nd = super().make(table, numbers_N)
        if not shares:
            return mean_Nd
        # Half a step away from 0 and 1, where the quantile is infinite.
        share_Nd = torch.cat(shares).reshape(len(numbers_N), width).clamp(2**-33, 1 - 2**-33)
        spread_d = self._measured(table) if self._spread_d is None else self._spread_d
        rows_Nd: torch.Tensor = mean_Nd + torch.special.ndtri(share_Nd).float() * spread_d
        return rows_Nd


class SubToken(Mean):
    """Weighted means of old pieces.

    Args:
        in_use_N: old rows in use, for the mean of tokens without pieces.
        pieces: old pieces of every new token, by new number.
        weights_P: a weight for every piece.
    """

    def __init__(self, in_use_N: Numbers, pieces: Pieces, weights_P: np.typing.NDArray[np.float32]) -> None:
        super().__init__(in_use_N)
        self.pieces, self.weights_P = pieces, weights_P

    def make(self, table: RowTable, numbers_N: Numbers) -> torch.Tensor:
        """The means of these tokens' pieces."""
        import torch

        mean_Nd = super().make(table, numbers_N)
        starts_N, counts_N = self.pieces.starts_N[numbers_N], self.pieces.counts_N[numbers_N]
        total = int(counts_N.sum())
        if not total:
            return mean_Nd
        offsets_N = np.concatenate(([0], np.cumsum(counts_N)[:-1]))
        places_P = np.repeat(starts_N - offsets_N, counts_N) + np.arange(total)
        unique, inverse_P = np.unique(self.pieces.pieces_P[places_P], return_inverse=True)
        summed_Nd = torch.nn.functional.embedding_bag(
            torch.from_numpy(inverse_P.astype(np.int64)),
            table.rows(unique),
            torch.from_numpy(offsets_N),
            mode="sum",
            per_sample_weights=torch.from_numpy(self.weights_P[places_P]),
        )
        has_any_N1 = torch.from_numpy(counts_N > 0)[:, None]
        return summed_Nd.where(has_any_N1, mean_Nd)
