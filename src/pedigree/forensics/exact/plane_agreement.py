"""Plane agreement: do rotary planes of attention agree in a frame that nobody could choose?

Question  Are query/key planes of B those of A, laid side by side in the frame that vocabulary rows of both give?
Null      B's query/key planes were drawn independently of A's and of the vocabulary rows of both; the order of heads
          was then chosen to make them agree
Assumes   queries and keys are turned by rotary positions; planes of different heads or frequencies agree as much as
          planes at one place do when models are independent
Source    chi-square tail, union bound over orders of heads; measured in docs/LOG.md, 2026-11-30
Shapes    P = planes of a layer, V = query heads of a group and their key, D = directions that are looked through

Under rotary positions a plane (two dimensions of a head that turn together) may be turned and scaled without any
change of function, query and key alike; other mixtures of dimensions do change it. Rows of a plane are read as
complex numbers: with blocks of length one, z = sum of a conj(b) changes by a phase when either plane is turned. Under
the null z' C^-1 z is a chi-square of two degrees of freedom, whatever the phase; C, the covariance under a common
rotation of B's rows, follows from the inner products inside both planes. It is raised where planes of the layer that do
not belong together agree more than that: they crowd in few directions.

The frame takes part, so it must not be the framer's. It is fitted on vocabulary rows: whoever turns the residual
stream turns them with it, and tokens name them, so they have no order. With r the mean of z' C^-1 z / 2 over n planes,
p is the tail of a gamma variable of n degrees beyond n r, times the number of orders of heads. Since all of these are
paid for, the best that can be found is taken (`frames/head_order.py`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pedigree.forensics.exact.card import TestCard, TestOutcome
from pedigree.forensics.exact.tails import LN10

CARD = TestCard(
    name="plane-agreement",
    version=2,
    null="B's query/key planes are independent of A's and of all vocabulary rows; the order of heads was then chosen "
    "to make them agree",
    assumes="rotary positions; planes that do not belong together show how far independent ones agree",
    source="tail of a chi-square, union bound over orders of heads; docs/guide/methods.md",
    unit="mean squared agreement of planes, 1 when they are independent",
)

LEAST_RATIO = 2.0
"""Mean agreement below which nothing is said: with thousands of planes edits that leave the function nearly as it is,
such as mixing planes of like frequency, would be significant otherwise."""

LEAST_PLANES = 16
"""Fewer planes than this are not put to the test."""


class PlaneMeter:
    """Adds up the agreement of planes, one layer after the other."""

    def __init__(self) -> None:
        self._ratios: list[Tensor] = []

    def add(self, a_PV2D: Tensor, b_PV2D: Tensor) -> None:
        """Take in a layer: planes of both models in one frame, plane p of A beside plane p of B."""
        ratio_P = plane_ratios(a_PV2D, b_PV2D)
        if len(ratio_P):
            self._ratios.append(ratio_P)

    @property
    def planes(self) -> int:
        """Planes taken in."""
        return sum(len(ratios) for ratios in self._ratios)

    def log10_tail(self) -> float | None:
        """log10 p without any choice paid for and without a least ratio; None with too few planes."""
        n = self.planes
        if n < LEAST_PLANES:
            return None
        ratio = float(torch.cat(self._ratios).mean())
        return _gamma_log_tail(n, n * ratio) / LN10 if ratio > 0.0 else 0.0

    def outcome(self, choices: float) -> TestOutcome:
        """The test over everything taken in.

        Args:
            choices: natural logarithm of the number of orders of heads (and layer maps) that were open.

        Returns:
            statistic the mean squared agreement; log10_p with the choices paid for; extra the mean of each layer and
            the choices.
        """
        n = self.planes
        if n < LEAST_PLANES:
            return TestOutcome.not_applicable(CARD, f"fewer than {LEAST_PLANES} rotary planes", n=n)
        ratio = float(torch.cat(self._ratios).mean())
        log_p = _gamma_log_tail(n, n * ratio) if ratio >= LEAST_RATIO else 0.0
        return TestOutcome(
            CARD,
            statistic=ratio,
            n=n,
            log10_p=min(0.0, (log_p + choices) / LN10),
            extra={"by_layer": [float(r.mean()) for r in self._ratios], "log10_choices": choices / LN10},
        )


def plane_ratios(a_PV2D: Tensor, b_PV2D: Tensor) -> Tensor:
    """Squared agreement of each plane of a layer with the one beside it, over what chance gives.

    Args:
        a_PV2D, b_PV2D: planes of both models in one frame, plane p of A beside plane p of B.

    Returns:
        ratios, exponential of mean one when planes are independent; none of planes that are no planes, and none at all
        where the layer has fewer than two.
    """
    a_PV2D, b_PV2D = a_PV2D.double(), b_PV2D.double()
    real_PP = torch.einsum("pvid,qvid->pq", a_PV2D, b_PV2D)
    cross_PP = torch.einsum("pvd,qvd->pq", a_PV2D[:, :, 0], b_PV2D[:, :, 1])
    cross_PP = cross_PP - torch.einsum("pvd,qvd->pq", a_PV2D[:, :, 1], b_PV2D[:, :, 0])
    square_PP = real_PP.square() + cross_PP.square()
    n = len(square_PP)
    if n < 2:
        return real_PP.new_zeros(0)
    real_P, cross_P, mixed_P = _covariance(a_PV2D, b_PV2D)
    determinant_P = real_P * cross_P - mixed_P.square()
    whole_P = determinant_P > 1e-9 * (real_P + cross_P).square()
    x_P, y_P = real_PP.diagonal(), cross_PP.diagonal()
    distance_P = cross_P * x_P.square() - 2.0 * mixed_P * x_P * y_P + real_P * y_P.square()
    drawn = float((real_P + cross_P).mean())
    apart = float((square_PP.sum() - square_PP.trace()) / (n * n - n))
    # A chi-square of two degrees of freedom over its mean; more where planes of the layer crowd in few directions.
    ratio_P: Tensor = distance_P[whole_P] / (2.0 * determinant_P[whole_P])
    return ratio_P / max(1.0, apart / max(drawn, 1e-300))


def _gamma_log_tail(n: int, total: float) -> float:
    """ln P(sum of n unit exponentials >= total): a finite sum, taken in logarithms."""
    terms = [k * math.log(total) - math.lgamma(k + 1) for k in range(n)]
    top = max(terms)
    return min(0.0, top + math.log(math.fsum(math.exp(term - top) for term in terms)) - total)


def _covariance(a_PV2D: Tensor, b_PV2D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Variances of real and imaginary part and their covariance, if the rows of each plane of B were turned together.

    Rows inside a plane resemble each other (queries, their key), so it is not what single rows give. Under a random
    rotation of the rows as they are, the covariance of sum <a_n, x_n> and sum <a_n, y_n> is
    sum_nm <a_n, a_m> <x_n, y_m> / D, x being B's plane and y the same turned by a right angle.
    It turns with either plane.
    """
    planes, views, _, dims = a_PV2D.shape
    gram_a = torch.einsum("pvid,pwjd->pviwj", a_PV2D, a_PV2D).reshape(planes, 2 * views, 2 * views)
    turned = torch.stack([b_PV2D[:, :, 1], -b_PV2D[:, :, 0]], dim=2)

    def moment(x: Tensor, y: Tensor) -> Tensor:
        gram_b = torch.einsum("pvid,pwjd->pviwj", x, y).reshape(planes, 2 * views, 2 * views)
        total: Tensor = (gram_a * gram_b).sum((1, 2)) / dims
        return total

    return moment(b_PV2D, b_PV2D), moment(turned, turned), moment(b_PV2D, turned)
