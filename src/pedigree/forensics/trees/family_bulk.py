"""What the ways of two models have in common beside what every training learns.

Trainings on like texts move weights in the same few directions, so that siblings share a part of their ways, and a
later training undoes a part of an earlier one. Both happen in the strongest singular directions of what was changed. In
the bulk of the others two trainings are nearly at right angles: there a model that continues another has its whole way,
and siblings have little in common unless an ancestor that is not among the models has gone that way before them.

Shapes  N = models, U = rows of a matrix, K = dimensions of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pedigree.forensics.descent.share import Share, ShareMeter

Floats = npt.NDArray[np.float32]

STRONG = 0.25
"""Part of the singular directions, the strongest ones of either way, that is left out on both sides of a matrix."""

MOST_NUMBERS, MOST_ROWS = 3_000_000, 512
"""Numbers of a model that are kept, and rows of a matrix."""

LEAST_ROWS = 16
"""Fewer rows of a matrix have no bulk."""


@dataclass(frozen=True)
class Shared:
    """Squared lengths of two ways in the bulk, and their inner product.

    Attributes:
        one, two, both: those.
        part: how much of the first way lies in the bulk.
    """

    one: float
    two: float
    both: float
    part: float

    @property
    def cosine(self) -> float:
        """Of both ways."""
        return float(self.both / max(self.one * self.two, 1e-300) ** 0.5)


@dataclass
class Bulk:
    """Rows of some matrices of all models of a family.

    Attributes:
        rows: [N, U, K] of each matrix.
        there: which models have which row [N, U].
    """

    rows: list[Floats] = field(default_factory=list)
    there: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    _bases: dict[tuple[int, int, int, bytes], tuple[Floats, Floats]] = field(default_factory=dict)
    _known: dict[tuple[int, int, int], Shared | None] = field(default_factory=dict)

    def shared(self, parent: int, i: int, j: int) -> Shared | None:
        """What the ways from the parent to i and to j share in the bulk; None where there are too few rows."""
        if (parent, i, j) not in self._known:
            self._known[parent, i, j] = self._shared(parent, i, j)
        return self._known[parent, i, j]

    def _shared(self, parent: int, i: int, j: int) -> Shared | None:
        total = np.zeros(4)
        for at, (rows_NUK, there_NU) in enumerate(zip(self.rows, self.there, strict=True)):
            common_U = there_NU[parent] & there_NU[i] & there_NU[j]
            if int(common_U.sum()) < LEAST_ROWS:
                continue
            ways = [rows_NUK[k][common_U] - rows_NUK[parent][common_U] for k in (i, j)]
            whole = float((ways[0].astype(np.float64) ** 2).sum())
            for k, way_UK in zip((i, j), tuple(ways), strict=True):
                left_UQ, right_KQ = self._strong(at, parent, k, common_U, way_UK)
                ways = [x - (x @ right_KQ) @ right_KQ.T for x in ways]
                ways = [x - left_UQ @ (left_UQ.T @ x) for x in ways]
            one, two = (x.astype(np.float64) for x in ways)
            total += [float((one**2).sum()), float((two**2).sum()), float((one * two).sum()), whole]
        if min(total[0], total[1]) <= 0:
            return None
        return Shared(float(total[0]), float(total[1]), float(total[2]), float(total[0] / total[3]))

    def own_share(self, of: int, others: list[int], weights: Floats) -> Share | None:
        """The share of the difference between a model and a mixture of others that is the model's own; None where they
        have too few rows in common."""
        meter = ShareMeter()
        for rows_NUK, there_NU in zip(self.rows, self.there, strict=True):
            common_U = there_NU[[of, *others]].all(0)
            if int(common_U.sum()) >= LEAST_ROWS:
                mixed_UK = np.einsum("n,nuk->uk", weights, rows_NUK[others][:, common_U])
                meter.add(torch.from_numpy(rows_NUK[of][common_U]), torch.from_numpy(mixed_UK.astype(np.float32)))
        return meter.result()

    def _strong(
        self, at: int, parent: int, k: int, common_U: npt.NDArray[np.bool_], way_UK: Floats
    ) -> tuple[Floats, Floats]:
        """The strongest directions of a way, of its rows and of its columns."""
        key = (at, parent, k, np.packbits(common_U).tobytes())
        if key not in self._bases:
            left, _, right = np.linalg.svd(way_UK, full_matrices=False)
            count = int(STRONG * min(way_UK.shape))
            self._bases[key] = (left[:, :count], right[:count].T)
        return self._bases[key]


def thinned(rows: list[npt.NDArray[np.float64]], there: list[npt.NDArray[np.bool_]]) -> Bulk:
    """Some matrices, evenly spaced, and some of their rows."""
    out, sizes = Bulk(), [min(x.shape[1], MOST_ROWS) * x.shape[2] for x in rows]
    step = max(1, -(-sum(sizes) // MOST_NUMBERS))
    for rows_NUK, there_NU in list(zip(rows, there, strict=True))[::step]:
        every = max(1, -(-rows_NUK.shape[1] // MOST_ROWS))
        out.rows.append(rows_NUK[:, ::every].astype(np.float32))
        out.there.append(there_NU[:, ::every])
    return out
