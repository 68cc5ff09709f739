"""Nearest neighbors among sketches: exact by numpy, approximate by faiss for large libraries where it is installed.

Source  hierarchical navigable small worlds (Malkov and Yashunin, arXiv:1603.09320), as faiss has them.
Shapes  N = vectors, E = their length, K = neighbors asked for.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from pedigree.forensics.sketch import Floats

EXACT_UP_TO = 20_000
"""So many vectors are searched exactly in less time than an approximate index takes to load."""

LINKS, BREADTH = 32, 128


def has_index() -> bool:
    """Whether the approximate index is installed (extra `library`)."""
    try:
        return find_spec("faiss") is not None
    except (ImportError, ValueError):
        return False


def nearest(vectors_NE: Floats, query_E: Floats, wanted: int, *, approximate: bool | None = None) -> list[int]:
    """Row numbers of the vectors most similar to the query, best first; ties in row order.

    Args:
        vectors_NE: vectors of length one.
        query_E: likewise.
        wanted: how many; all, if there are fewer.
        approximate: None decides by size and by what is installed.
    """
    if approximate is None:
        approximate = len(vectors_NE) > EXACT_UP_TO and has_index()
    if approximate:
        return search(build(vectors_NE), query_E, min(wanted, len(vectors_NE)))
    similarity_N = vectors_NE @ query_E
    return [int(i) for i in np.argsort(-similarity_N, kind="stable")[:wanted]]


def build(vectors_NE: Floats) -> Any:
    """An approximate index of vectors; one thread, so that the same vectors give the same index."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(vectors_NE.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BREADTH
    index.hnsw.efSearch = BREADTH
    index.add(np.ascontiguousarray(vectors_NE))
    return index


def search(index: Any, query_E: Floats, wanted: int) -> list[int]:
    """Row numbers that an index holds nearest to the query."""
    index.hnsw.efSearch = max(BREADTH, 2 * wanted)
    _, rows = index.search(np.ascontiguousarray(query_E[None]), wanted)
    return [int(row) for row in rows[0] if row >= 0]
