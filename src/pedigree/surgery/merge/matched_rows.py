"""Tables of models with different vocabularies, brought to one of them: rows matched by token before they are merged.

Law     row r of the result is the row of the token that has number r in the chosen vocabulary. Where a model does not
        have the token, the row of the chosen model stands in: it has no say there beyond that. Rows behind the last
        token (padding) are the chosen model's in all of them, so padding stays as it was.

Shapes  W = rows of the chosen model, V = rows of the other
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pedigree.errors import UsageError
from pedigree.surgery.nodes import Node, Work, as_type
from pedigree.surgery.selection import Index, Selection, length, numbers
from pedigree.surgery.vocabulary.token_map import NO_ROW, map_tokens
from pedigree.tokenizers.encoder import Encoder

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class MatchedRows(Node):
    """Rows of `other` in the order of `chosen`; rows it does not have are those of `chosen`.

    Args:
        other: table [V, d] or vector [V].
        chosen: table [W, d] or vector [W].
        row_of_W: row in `other`, -1 where there is none.
    """

    other: Node
    chosen: Node
    row_of_W: Index
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.chosen.shape)
        object.__setattr__(self, "dtype", self.other.dtype)

    def children(self) -> Sequence[Node]:
        """Both tables."""
        return (self.other, self.chosen)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """Matched rows."""
        import torch

        wanted = numbers(rows)
        source = self.row_of_W[wanted]
        found = source != NO_ROW
        if found.all():
            return self.other.tile(source, cols, work)
        lent = as_type(self.chosen.tile(wanted[~found], cols, work), self.dtype)
        tile = torch.empty((length(rows), *lent.shape[1:]), dtype=lent.dtype)
        tile[torch.from_numpy(~found)] = lent
        if found.any():
            tile[torch.from_numpy(found)] = self.other.tile(source[found], cols, work)
        return tile


def matched_rows(other: Encoder, chosen: Encoder, n_rows: int) -> Index:
    """For every row of the chosen model's tables the row of the other's, -1 where there is none.

    Raises:
        UsageError: the two vocabularies have nothing in common.
    """
    rows_W = np.full(n_rows, NO_ROW, np.int64)
    mapped = map_tokens(other, chosen).old_of_W[:n_rows]
    rows_W[: len(mapped)] = mapped
    if not (rows_W != NO_ROW).any():
        raise UsageError("the vocabularies have no token in common", where=other.location, got=chosen.location)
    return rows_W
