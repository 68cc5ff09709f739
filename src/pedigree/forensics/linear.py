"""Decompositions of `torch.linalg`, which carries no type annotations, with types and in one place.

Shapes: R = rows, C = columns, K = min(R, C).
"""

from __future__ import annotations

import torch
from torch import Tensor


def thin_svd(m_RC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition: [R, K], [K] descending, [K, C]."""
    u_RK, s_K, vt_KC = torch.linalg.svd(m_RC, full_matrices=False)
    return u_RK, s_K, vt_KC


def thin_qr(m_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Thin QR decomposition over the last two axes: [..., R, K], [..., K, C]."""
    q_RK, r_KC = torch.linalg.qr(m_RC)
    return q_RK, r_KC


def symmetric_eigen(m_CC: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ascending [C] and eigenvectors as columns [C, C] of a symmetric matrix."""
    values_C, vectors_CC = torch.linalg.eigh(m_CC)
    return values_C, vectors_CC


LARGEST = 1e10
"""A number beyond this is damage: no trained weight is as large, and its square would overflow single precision."""


def without_damage(rows: Tensor) -> Tensor:
    """The same numbers in float32, with those that are not finite or absurdly large replaced by zero."""
    rows = rows.float()
    if rows.numel() == 0:
        return rows
    low, high = torch.aminmax(rows)  # one pass without a copy; not-a-number comes through and fails the comparison
    if float(low) >= -LARGEST and float(high) <= LARGEST:
        return rows
    return torch.where(rows.abs() <= LARGEST, rows, torch.zeros((), dtype=rows.dtype))
