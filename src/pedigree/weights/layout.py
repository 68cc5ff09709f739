"""Where the rows of a role lie inside a stored tensor.

Everything here is arithmetic on row numbers; no tensor is touched. Results are cached, so that all layers of a model
share one index.

Shapes: H = heads, K = key/value heads, D = head dimension, R = rotary dimensions of a head.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@lru_cache(maxsize=256)
def half_split_order(n_heads: int, head_dim: int, rotary_dim: int, *, at_end: bool = False) -> Rows:
    """Stored row for each canonical row when rotary pairs are stored as neighbours (interleaved).

    Canonical row j < R/2 of a head is the first member of pair j (stored at 2j), row R/2 + j the second (2j + 1).
    Rows outside the rotary part keep their place. The GGUF conversion of Llama stores exactly this order, so
    undoing it is the same map.

    Args:
        n_heads: heads (H) in the tensor.
        head_dim: rows per head (D).
        rotary_dim: rows per head that rotate (R), even.
        at_end: whether the rotary rows are the last of the head (MLA) instead of the first.

    Returns:
        int64 [H * D].
    """
    head = np.arange(head_dim, dtype=np.int64)
    begin = head_dim - rotary_dim if at_end else 0
    pair = np.arange(rotary_dim // 2, dtype=np.int64)
    head[begin : begin + rotary_dim] = begin + np.concatenate([2 * pair, 2 * pair + 1])
    return _frozen(np.arange(n_heads, dtype=np.int64)[:, None] * head_dim + head[None, :])


@lru_cache(maxsize=256)
def grouped_rows(n_groups: int, group_rows: int, begin: int, stop: int) -> Rows:
    """Rows begin..stop of every group, group after group; int64 [n_groups * (stop - begin)].

    A fused projection stored head by head (GPT-NeoX) has groups of 3 D rows: query, key, value. One stored by KV head
    has groups of (H / K + 2) D rows.
    """
    inside = np.arange(begin, stop, dtype=np.int64)
    return _frozen(np.arange(n_groups, dtype=np.int64)[:, None] * group_rows + inside[None, :])


def compose(outer: Rows | None, inner: Rows | None) -> Rows | None:
    """The index that first applies `inner` to the stored rows and then `outer` to the result."""
    if outer is None or inner is None:
        return inner if outer is None else outer
    return _frozen(inner[outer])


def _frozen(rows: Rows) -> Rows:
    flat = np.ascontiguousarray(rows.reshape(-1))
    flat.flags.writeable = False
    return flat
