"""Vectors of tokens from a corpus alone: which tokens stand beside which, reduced to a few dimensions.

A donor where there is no donor model: both vocabularies' shared tokens have vectors here and rows in the table, so a
map fitted on them carries the new ones over.

Method  Counts of the commonest tokens within a window on either side, as positive pointwise mutual information, then
        the leading singular vectors, each times the root of its singular value. Tokens that never occur get zeros, and
        thereby the mean row under ridge.
Source  Levy and Goldberg, "Neural word embedding as implicit matrix factorization" (NIPS 2014).

Shapes  W = tokens, C = context tokens, k = dimensions
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pedigree.errors import UsageError
from pedigree.surgery.vocabulary.rows import MemoryTable


def cooccurrence_vectors(
    documents: Sequence[npt.NDArray[np.int64]],
    n_tokens: int,
    *,
    window: int = 3,
    contexts: int = 2000,
    dimensions: int = 128,
) -> MemoryTable:
    """Vectors float32 [W, k] of all tokens.

    Args:
        documents: token numbers of each text.
        n_tokens: W.
        window: how far to look on either side.
        contexts: how many of the commonest tokens count as context.
        dimensions: k at most.

    Raises:
        UsageError: the texts hold too few different tokens.
    """
    import torch
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    flat = np.concatenate([*documents, np.zeros(0, np.int64)]).astype(np.int64)
    counts_W = np.bincount(flat, minlength=n_tokens)
    common_C = np.argsort(-counts_W, kind="stable")[: min(contexts, int((counts_W > 0).sum()))]
    if len(common_C) < 8:
        raise UsageError(
            "too few different tokens for vectors", got=len(common_C), expected="8 or more", fix="more text"
        )
    place_W = np.full(n_tokens, -1, np.int64)
    place_W[common_C] = np.arange(len(common_C))
    shape = (n_tokens, len(common_C))
    total = csr_array(shape, dtype=np.float64)
    for distance in range(1, window + 1):
        for left, right in (
            (slice(None, -distance), slice(distance, None)),
            (slice(distance, None), slice(None, -distance)),
        ):
            pairs = [(d[left], place_W[d[right]]) for d in documents if len(d) > distance]
            rows, columns = (np.concatenate(side) for side in zip(*pairs, strict=True))
            seen = columns >= 0
            total = total + csr_array((np.ones(int(seen.sum())), (rows[seen], columns[seen])), shape=shape)
    ppmi = _ppmi(total.tocoo(), shape)
    rank = min(dimensions, min(shape) - 1)
    # A fixed start vector: the same texts give the same vectors.
    left_Wk, values_k, _ = svds(ppmi, k=rank, v0=np.ones(min(shape)))
    return MemoryTable(torch.from_numpy((left_Wk * np.sqrt(values_k)).astype(np.float32)))


def _ppmi(counts: object, shape: tuple[int, int]) -> object:
    """Positive pointwise mutual information of the counted pairs."""
    from scipy.sparse import csr_array

    data, rows, columns = counts.data, counts.row, counts.col  # type: ignore[attr-defined]
    per_row, per_column = np.bincount(rows, data, shape[0]), np.bincount(columns, data, shape[1])
    value = np.log(data * data.sum() / (per_row[rows] * per_column[columns]))
    return csr_array((np.maximum(value, 0), (rows, columns)), shape=shape)
