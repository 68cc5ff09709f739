"""Rows that were handed down: exact signs of whose way goes over whom.

A row of weights that a training does not move keeps its direction to the last digit: rows of an input table whose token
its text has not, what was frozen, what an adapter left alone. Weight decay shortens such a row and does not turn it.
And nobody learns a row twice: so a direction is a state that arises once, like an allele where there are infinitely
many, and three models tell by their rows how they stand to each other, whatever their texts have in common.
Seen from a model of which i and j descend,

    kept      rows that i turned and that are in j as they are in i: a model below the first had them before both
    apart     rows that i turned and that are in j as in the first model: i is no ancestor of j
    beyond    rows that j turned and that are in i as in the first model: j is no ancestor of i

    near      rows that i turned and that j has nearly so: both learned them, over one text in one order

None of the first three is ever more than zero against the truth, but for merges, for rows that were put back, and for
what two trainings of one start learn from one text in one order: there rows that a few steps touch meet, some to the
last digit, amid many that nearly do. What was handed down is met by none nearly. Zero says little by itself, where two
texts have the same tokens. Trained tables that are tied to the output have none, since every row
takes part in every step there.

Source  infinitely many alleles (Kimura and Crow 1964); trees of states that arise once (perfect phylogeny: Gusfield
        1991). For weights not from the literature; of pairs see `descent/untouched_rows`.
Shapes  R = rows of the hub, N = models, D = residual width, K = kept dimensions, V = rows of its table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.sides.anchors import RUN
from pedigree.forensics.sides.linear import without_damage
from pedigree.forensics.sides.sampling import runs
from pedigree.forensics.sides.side import Side

EQUAL = 1e-12
"""Squared sine of the angle of two rows up to which they are one row: to the last digit, in any frame in which numbers
stand as they are stored."""

TURNED = 1e-5
"""The same from which one was turned: storing in bfloat16 leaves 1e-6, a single step of a usual training 1e-3."""

LEAST = 3
"""Fewer rows than this prove nothing: a single one may have been put back by hand."""

MOST_ROWS = 4096
"""Rows of a table that are looked at."""


@dataclass(frozen=True)
class Handed:
    """How many rows say what of two models, seen from a third; see the text of the module."""

    kept: int = 0
    apart: int = 0
    beyond: int = 0
    near: int = 0

    def __add__(self, other: Handed) -> Handed:
        return Handed(
            self.kept + other.kept, self.apart + other.apart, self.beyond + other.beyond, self.near + other.near
        )

    @property
    def shares(self) -> bool:
        """Whether the two have an ancestor below the third, which may be one of them."""
        return self.kept >= LEAST and self.kept > self.near

    @property
    def excludes(self) -> bool:
        """Whether the first is no ancestor of the second."""
        return self.apart >= LEAST

    @property
    def follows(self) -> bool:
        """Whether the second can only be below the first, or beside it below a model that is not there."""
        return self.shares and self.apart == 0 and self.beyond >= LEAST


def handed_rows(gram_R33: npt.NDArray[np.float64]) -> Handed:
    """Count rows of three models, the one they are seen from first; rows without a length are passed over."""
    square_R3 = np.einsum("rnn->rn", gram_R33)
    gram_R33 = gram_R33[(square_R3 > 0).all(1)]
    square_R3 = np.einsum("rnn->rn", gram_R33)

    def turned(x: int, y: int) -> npt.NDArray[np.float64]:
        out: npt.NDArray[np.float64] = 1.0 - gram_R33[:, x, y] ** 2 / (square_R3[:, x] * square_R3[:, y])
        return out

    of_i_R, of_j_R, apart_R = turned(0, 1), turned(0, 2), turned(1, 2)
    new_i_R, new_j_R = of_i_R >= TURNED, of_j_R >= TURNED
    return Handed(
        int((new_i_R & (apart_R <= EQUAL)).sum()),
        int((new_i_R & (of_j_R <= EQUAL)).sum()),
        int((new_j_R & (of_i_R <= EQUAL)).sum()),
        int((new_i_R & (apart_R > EQUAL) & (apart_R < TURNED)).sum()),
    )


def ways_in_rows(gram_R33: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Inner products [R, 2, 2] of the ways from the first of three models to the others, row by row, and which rows
    either of them turned [R]."""
    way_R22 = gram_R33[:, 1:, 1:] - gram_R33[:, :1, 1:] - gram_R33[:, 1:, :1] + gram_R33[:, :1, :1]
    square_R3 = np.einsum("rnn->rn", gram_R33)
    whole_R2 = square_R3[:, :1] * square_R3[:, 1:]
    sine_R2 = 1.0 - gram_R33[:, 0, 1:] ** 2 / np.where(whole_R2 > 0, whole_R2, 1.0)
    return way_R22, ((sine_R2 >= TURNED) & (whole_R2 > 0)).any(1)


def table_beside(a: Side, b: Side, found: Findings, signs_DK: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rows [V, K] of the input table of A, those of the same tokens in B, and which of them B has [V]; None where a
    table is tied to the output, where coordinates were moved, and where there is none."""
    left, right = a.anatomy.part("embed"), b.anatomy.part("embed")
    if left is None or right is None or a.anatomy.tied or b.anatomy.tied or not found.evidence.gauge.is_trivial:
        return None
    count, width = (int(extent) for extent in left.shape)
    if width != int(right.shape[1]) or width != len(signs_DK):
        return None
    rows_V = torch.arange(count) if count <= MOST_ROWS else runs(count, MOST_ROWS, RUN)
    place = torch.full((count,), -1)
    place[found.tokens.a_T] = found.tokens.b_T
    there_V = place[rows_V] >= 0
    if not bool(there_V.any()):
        return None
    own_VD = without_damage(left.read(rows=rows_V.tolist()))
    other_VD = torch.zeros_like(own_VD)
    other_VD[there_V] = without_damage(right.read(rows=place[rows_V][there_V].tolist())).to(own_VD.dtype)
    return own_VD.double() @ signs_DK.double(), other_VD.double() @ signs_DK.double(), there_V
