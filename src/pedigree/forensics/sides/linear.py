"""Decompositions of `torch.linalg`, which carries no type annotations, with types and in one place.

Shapes: R = rows, C = columns, K = min(R, C).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

BLOCK = 1024
"""Columns of a large product that are computed together; fixed, so that results do not depend on how many cores."""


def thin_svd(m_RC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition: [R, K], [K] descending, [K, C]."""
    u_RK, s_K, vt_KC = torch.linalg.svd(m_RC, full_matrices=False)
    return u_RK, s_K, vt_KC


def thin_qr(m_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Thin QR decomposition over the last two axes: [..., R, K], [..., K, C]."""
    q_RK, r_KC = torch.linalg.qr(m_RC)
    return q_RK, r_KC


def whole_qr(m_RC: Tensor) -> Tensor:
    """Orthonormal basis of the whole space as columns, the first C of which span those of the matrix, [R, R]."""
    q_RR: Tensor = torch.linalg.qr(m_RC, mode="complete")[0]
    return q_RR


@dataclass(frozen=True, eq=False)
class Reflections:
    """The orthonormal basis of a QR decomposition as the reflections that make it; the basis itself costs as much again
    and is seldom wanted.

    Attributes:
        made_RC: reflections below the diagonal, and above it the other factor.
        length_C: their lengths, as LAPACK keeps them.
    """

    made_RC: Tensor
    length_C: Tensor

    @classmethod
    def of(cls, m_RC: Tensor) -> Reflections:
        """Those of a matrix with at least as many rows as columns."""
        return cls(*torch.geqrf(m_RC))

    @property
    def upper_CC(self) -> Tensor:
        """The other factor: the columns of the matrix in terms of the basis."""
        return self.made_RC[: self.made_RC.shape[1]].triu()

    @property
    def basis_RC(self) -> Tensor:
        """The basis itself, as columns."""
        q_RC: Tensor = torch.linalg.householder_product(self.made_RC, self.length_C)
        return q_RC

    def coordinates(self, x_RK: Tensor) -> Tensor:
        """Vectors, as columns, in terms of the basis, [C, K]; what lies outside of its span is left out."""
        turned_RK: Tensor = torch.ormqr(self.made_RC, self.length_C, x_RK, transpose=True)
        return turned_RK[: self.made_RC.shape[1]]

    def vectors(self, inside_CK: Tensor) -> Tensor:
        """The vectors that have these coordinates, as columns, [R, K]."""
        rows, columns = self.made_RC.shape
        return self.turned(torch.cat([inside_CK, inside_CK.new_zeros(rows - columns, inside_CK.shape[1])]))

    def turned(self, x_RK: Tensor) -> Tensor:
        """Vectors in terms of the basis and one of everything outside of its span, in the space itself, [R, K]."""
        turned_RK: Tensor = torch.ormqr(self.made_RC, self.length_C, x_RK)
        return turned_RK


def symmetric_eigen(m_CC: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ascending [C] and eigenvectors as columns [C, C] of a symmetric matrix."""
    values_C, vectors_CC = torch.linalg.eigh(m_CC)
    return values_C, vectors_CC


def singular_values(m_RC: Tensor) -> Tensor:
    """Singular values [K], descending, by the smaller Gram matrix: those below 1e-8 of the largest are rounding."""
    m_RC = m_RC.double()
    gram_KK = m_RC.T @ m_RC if m_RC.shape[0] > m_RC.shape[1] else m_RC @ m_RC.T
    values_K: Tensor = torch.linalg.eigvalsh(gram_KK)
    return values_K.clamp_min(0.0).sqrt().flip(0)


LARGEST = 1e10
"""A number beyond this is damage: no trained weight is as large, and its square would overflow single precision."""


def is_damaged(numbers: Tensor) -> bool:
    """Whether some of the numbers are not finite or absurdly large."""
    if numbers.numel() == 0:
        return False
    wide = (
        numbers if numbers.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64) else numbers.float()
    )
    low, high = torch.aminmax(wide)  # one pass without a copy; not-a-number comes through and fails the comparison
    return not (float(low) >= -LARGEST and float(high) <= LARGEST)


def without_damage(rows: Tensor) -> Tensor:
    """The same numbers in float32, with those that are not finite or absurdly large replaced by zero."""
    rows = rows.float()
    if rows.numel() == 0:
        return rows
    low, high = torch.aminmax(rows)  # one pass without a copy; not-a-number comes through and fails the comparison
    if float(low) >= -LARGEST and float(high) <= LARGEST:
        return rows
    return torch.where(rows.abs() <= LARGEST, rows, torch.zeros((), dtype=rows.dtype))


def product(a_RK: Tensor, b_KC: Tensor) -> Tensor:
    """a @ b, in blocks of columns that several cores share: the same bits on any number of them."""
    if b_KC.shape[1] <= BLOCK:
        return a_RK @ b_KC
    parts = [b_KC[:, begin : begin + BLOCK] for begin in range(0, b_KC.shape[1], BLOCK)]
    with ThreadPoolExecutor(max(1, torch.get_num_interop_threads())) as pool:
        return torch.cat(list(pool.map(lambda part_KB: a_RK @ part_KB, parts)), dim=1)


@cache
def _multiplies_bfloat16() -> bool:
    """Whether products of bfloat16 are faster here than those of single precision."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and "AVX512" in torch.backends.cpu.get_cpu_capability()


def rounded_product(a_RK: Tensor, b_KC: Tensor) -> Tensor:
    """a @ b with all three rounded to bfloat16, float32: several times as fast where processors multiply such numbers.

    Others round and multiply in single precision, so that all get the same numbers, but for one in thousands that lies
    in the middle between two.
    """
    a_RK, b_KC = a_RK.to(torch.bfloat16), b_KC.to(torch.bfloat16)
    if _multiplies_bfloat16():
        return (a_RK @ b_KC).float()
    return (a_RK.float() @ b_KC.float()).to(torch.bfloat16).float()


def side_by_side(function: Callable[[Tensor], T], *matrices: Tensor) -> list[T]:
    """A decomposition of several matrices at once, results in their order."""
    with ThreadPoolExecutor(len(matrices)) as pool:
        return list(pool.map(function, matrices))


LOUD, QUIET_QUANTILE = 3.0, 0.1
"""Rows longer than so many times the length that a tenth of the rows stay below count as that long in a mean."""


def row_weights(length_U: Tensor) -> Tensor | None:
    """Weights of rows in their mean, [U]; None where all count alike.

    Whoever adds rows that do nothing (units whose writers cancel, heads that write nothing) may make them as long as he
    likes, and a plain mean is theirs: all others would point away from it.

    Args:
        length_U: lengths of the rows; those of zero do not count in the quantile.
    """
    there_U = length_U[length_U > 0]
    if not len(there_U):
        return None
    short = there_U.sort().values[int(QUIET_QUANTILE * (len(there_U) - 1))]
    if float(there_U.max()) <= LOUD * float(short):
        return None
    return (LOUD * short / length_U.clamp_min(1e-30)).clamp_max(1.0)


def mean_row(rows_UD: Tensor, length_U: Tensor | None = None) -> Tensor:
    """The mean of rows, [D], to which no row adds more than a few ordinary ones (`row_weights`)."""
    weight_U = row_weights(rows_UD.norm(dim=1) if length_U is None else length_U)
    return rows_UD.mean(dim=0) if weight_U is None else weight_U @ rows_UD / weight_U.sum()
