"""Nearest neighbors among sketches: exact by numpy, approximate by faiss for large libraries where it is installed.

The approximate index keeps half a byte for every four numbers (product quantization with 16 words for each piece,
looked up in registers) and is searched from end to end: no cell or link can hide a relative, a million sketches take
128 megabytes, and building it is one pass. What it finds is ranked again by the exact vectors, so similarities are
exact and a place among the candidates is all that the index can cost.

Source  product quantization (Jegou, Douze, Schmid 2011); its search in registers (Andre, Kermarrec, Le Scouarnec
        2017), as faiss has them.
Shapes  N = vectors, E = their length, K = neighbors asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from pedigree.errors import MalformedFile
from pedigree.forensics.scanning.sketch import LENGTH, Floats

EXACT_UP_TO = 20_000
"""So many vectors are searched exactly in less time than an approximate index takes to load."""

PIECE = 4
"""Numbers of a vector that share one of 16 words."""

TRAINED_ON = 40_000
"""Vectors that the words are learned from; 16 words a piece need no more."""

AGAIN = 64
"""Found vectors that are ranked again, for each neighbor asked for."""

MARK = b"pedigree-index-1"

Ids = npt.NDArray[np.int64]


def has_index() -> bool:
    """Whether the approximate index is installed (extra `library`)."""
    try:
        return find_spec("faiss") is not None
    except (ImportError, ValueError):
        return False


def most_similar(vectors_NE: Floats, query_E: Floats, wanted: int) -> list[int]:
    """Row numbers of the vectors most similar to the query, best first; ties in row order."""
    similarity_N = vectors_NE @ query_E
    return [int(i) for i in np.argsort(-similarity_N, kind="stable")[:wanted]]


class Index:
    """An approximate index; make one with `build_index` or `Index.from_bytes`.

    Attributes:
        ids_N: what the vectors are called, in the order they were added.
    """

    def __init__(self, codes: Any, ids_N: Ids) -> None:
        import faiss

        self._codes = codes
        self._search = faiss.IndexPQFastScan(codes)
        self.ids_N = ids_N

    def __len__(self) -> int:
        return len(self.ids_N)

    def search(self, query_E: Floats, wanted: int) -> list[int]:
        """Ids that are worth an exact look for so many neighbors: more than were asked for, in no order."""
        import faiss

        faiss.omp_set_num_threads(1)
        _, rows = self._search.search(np.ascontiguousarray(query_E[None]), min(len(self), AGAIN * wanted))
        return [int(self.ids_N[row]) for row in rows[0] if row >= 0]

    def to_bytes(self) -> bytes:
        """The index as a file holds it: a mark, the number of ids, ids, words, codes; little-endian."""
        import faiss

        words, codes = (faiss.vector_to_array(part) for part in (self._codes.pq.centroids, self._codes.codes))
        ids = self.ids_N.astype("<i8").tobytes()
        return b"".join([MARK, len(self).to_bytes(8, "little"), ids, words.astype("<f4").tobytes(), codes.tobytes()])

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Index:
        """What `to_bytes` wrote; only numbers are taken from it, never a structure of faiss.

        Raises:
            MalformedFile: it is something else.
        """
        import faiss

        start, n_words = len(MARK) + 8, 16 * LENGTH
        count = int.from_bytes(data[len(MARK) : start], "little")
        wanted = start + 8 * count + 4 * n_words + LENGTH // (2 * PIECE) * count
        if data[: len(MARK)] != MARK or len(data) != wanted:
            raise MalformedFile(
                "the index of the library cannot be read", where=where, got=f"{len(data)} bytes",
                expected=f"{wanted} bytes for {count} models", fix="delete it; pedigree library add makes it again",
            )  # fmt: skip
        codes = _empty(LENGTH)
        words_at = start + 8 * count
        faiss.copy_array_to_vector(np.frombuffer(data, "<f4", n_words, words_at).astype(np.float32), codes.pq.centroids)
        faiss.copy_array_to_vector(np.frombuffer(data, np.uint8, offset=words_at + 4 * n_words), codes.codes)
        codes.ntotal, codes.is_trained = count, True
        return cls(codes, np.frombuffer(data, "<i8", count, start).astype(np.int64))


def _empty(length: int) -> Any:
    import faiss

    return faiss.IndexPQ(length, length // PIECE, 4, faiss.METRIC_INNER_PRODUCT)


def build_index(sample_NE: Floats, batches: Iterable[tuple[Ids, Floats]]) -> Index:
    """An approximate index of vectors; one thread, so that the same vectors give the same index.

    Args:
        sample_NE: vectors of length one that the words are learned from, `TRAINED_ON` of them or all.
        batches: ids and vectors of everything, a part at a time.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    codes = _empty(sample_NE.shape[1])
    codes.train(np.ascontiguousarray(sample_NE))
    ids = []
    for ids_N, vectors_NE in batches:
        codes.add(np.ascontiguousarray(vectors_NE))
        ids.append(ids_N)
    return Index(codes, np.concatenate(ids) if ids else np.zeros(0, np.int64))
