"""Whose is the difference of two models? The share of it that belongs to A: none if A is the parent, all if B is.

Let P be the last common ancestor, A = P + a, B = P + b. The difference B - A = b - a contains what A learned, with
the sign turned, and A itself contains it as it is. So along the strong singular directions u_k v_k^T of the difference,
of strength s_k, where learning stands out of the bulk, A is smaller by s_k wherever the direction is A's own:

    share of A = 1/2 - sum_k s_k u_k^T M v_k / sum_k s_k^2,    M = (A + B) / 2

which is |a|^2 / (|a|^2 + |b|^2) where a, b and P are independent of each other. It is zero for a parent, one for a
child, one half for siblings that drifted alike. What spoils independence is that training goes on in directions in
which a model is strong already: so the strongest eighth of the directions of M is taken out of both first. Changes of
gains are rows and columns of the matrices themselves, scaled; where nothing else changed, a matrix is passed over.

Two numbers were measured with it (docs/LOG.md, 2026-11-29): between parent and child its sign was right in 314 of 316
pairs, the other two being merges that were trained on; but of siblings the one that drifted less has a small share,
too, and looks like a parent the more so the less it drifted.

Source  forensics study, section 9.6 (direction); this statistic is not from the literature.
Shapes  N = rows, D = residual width, K = singular directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.sides.linear import symmetric_eigen

MIN_DIRECTIONS = 16
STRONG = 8
"""One in so many directions of the mean of both is taken out: those in which training simply goes on."""

FOLLOWED = 4
"""One in so many directions of the difference is followed."""

UNMOVED = 4e-3
"""Difference over length below which nothing but gains and number types has changed: two roundings to bfloat16, each of
2^-8 at most and evenly spread, leave 0.0032 at most, and 0.0022 as a rule."""

MOST = 1.3
"""Shares lie between zero and one; estimates outside by more than this say no more than by this."""


@dataclass(frozen=True)
class Share:
    """The share of the difference that belongs to A.

    Attributes:
        of_a: 0 where A is the parent, 1 where B is; estimates go a little beyond.
        error: its standard error, leaving out one matrix after the other.
        moved: length of the difference over that of the weights, median of the matrices.
        matrices: how many took part.
    """

    of_a: float
    error: float
    moved: float
    matrices: int

    @property
    def lean(self) -> float:
        """From -1/2 (B is the parent) to 1/2 (A is)."""
        return 0.5 - self.of_a

    def turned(self) -> Share:
        """Seen from the other side."""
        return Share(1.0 - self.of_a, self.error, self.moved, self.matrices)


class ShareMeter:
    """Takes in matched matrices of A and B, one pair after the other."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, float]] = []
        self._moved: list[float] = []

    def add(self, a_ND: Tensor, b_ND: Tensor) -> None:
        """Take in matrices [N, D] of A and B in one frame, rows of B in A's order; small ones are passed over."""
        if min(a_ND.shape) < MIN_DIRECTIONS:
            return
        mean_ND, difference_ND = (a_ND.double() + b_ND.double()) / 2, b_ND.double() - a_ND.double()
        length = float(mean_ND.norm())
        if not _is_beyond_gains(difference_ND, mean_ND):
            return
        if mean_ND.shape[0] > mean_ND.shape[1]:
            mean_ND, difference_ND = mean_ND.T, difference_ND.T
        agreement, energy, bulk = _follow(mean_ND, difference_ND)
        if energy > 0.0 and bulk > 0.0:
            self._rows.append((agreement / bulk, energy / bulk))
            self._moved.append(float(difference_ND.norm()) / length)

    def take(self, other: ShareMeter) -> None:
        """Add what another one took in."""
        self._rows += other._rows
        self._moved += other._moved

    def result(self) -> Share | None:
        """The share over all matrices, each weighed by the noise of its bulk; None where none was large enough."""
        if not self._rows:
            return None
        rows_M2 = torch.tensor(self._rows, dtype=torch.float64)
        total_2 = rows_M2.sum(0)
        slope = float(total_2[0] / total_2[1])
        n = len(rows_M2)
        error = 0.5
        if n >= 3:
            left_M2 = total_2 - rows_M2
            slopes_M = left_M2[:, 0] / left_M2[:, 1]
            error = float(((slopes_M - slopes_M.mean()) ** 2).sum().mul((n - 1) / n).sqrt())
        slope = max(0.5 - MOST, min(MOST - 0.5, slope))
        return Share(0.5 - slope, min(0.5, error), sorted(self._moved)[n // 2], n)


def moved_beyond_gains(a_ND: Tensor, b_ND: Tensor) -> float:
    """Length of what differs beside the scales of rows and columns, over that of the weights; of matrices without a
    length nothing does."""
    mean_ND = (a_ND.double() + b_ND.double()) / 2
    length = float(mean_ND.norm())
    return float(_without_gains(b_ND.double() - a_ND.double(), mean_ND).norm()) / length if length > 0.0 else 0.0


def _is_beyond_gains(difference_ND: Tensor, mean_ND: Tensor) -> bool:
    length = float(mean_ND.norm())
    return length > 0.0 and float(_without_gains(difference_ND, mean_ND).norm()) >= UNMOVED * length


def _without_gains(difference_ND: Tensor, mean_ND: Tensor) -> Tensor:
    """The difference without what scaling of rows and columns explains."""
    rest_ND = difference_ND.clone()
    for one in ("nd,nd->n", "nd,nd->d", "nd,nd->n", "nd,nd->d"):
        scale = torch.einsum(one, rest_ND, mean_ND) / torch.einsum(one, mean_ND, mean_ND).clamp_min(1e-300)
        rest_ND -= mean_ND * (scale[:, None] if one.endswith("n") else scale)
    return rest_ND


def _follow(mean_ND: Tensor, difference_ND: Tensor) -> tuple[float, float, float]:
    """Sum of s_k u_k^T M v_k, sum of s_k^2, and mean square of the bulk of M; N is at most D.

    Both are followed through Gram matrices of the smaller side: with u_k an eigenvector of D D^T, s_k u_k^T M v_k is
    u_k^T M D^T u_k.
    """
    n = mean_ND.shape[0]
    values_N, u_NN = symmetric_eigen(mean_ND @ mean_ND.T)
    strong = max(1, n // STRONG)
    u_NK, values_K = u_NN[:, -strong:], values_N[-strong:].clamp_min(1e-300)
    v_DK = mean_ND.T @ u_NK / values_K.sqrt()
    rest_ND = difference_ND - u_NK @ (u_NK.T @ difference_ND)
    rest_ND = rest_ND - (rest_ND @ v_DK) @ v_DK.T
    energies_N, w_NN = symmetric_eigen(rest_ND @ rest_ND.T)
    w_NK = w_NN[:, -max(2, n // FOLLOWED) :]
    agreement = float((w_NK * (mean_ND @ (rest_ND.T @ w_NK))).sum())
    bulk = float(values_N[:-strong].clamp_min(0.0).sum()) / mean_ND.numel()
    energy = float(energies_N[-w_NK.shape[1] :].clamp_min(0.0).sum())
    return (agreement, energy, bulk) if math.isfinite(agreement + energy + bulk) else (0.0, 0.0, 0.0)
