"""Gram agreement: do two sets of units stand to each other as they do in the other model, in any frame?

Question  Units of A were paired with units of B. Are the inner products among A's units those among B's, beyond what
          any choice of pairs, signs and frame could bring about?
Null      B's directions were drawn independently of A's; after that somebody who knew both chose the frame, the pairs,
          the lengths and the signs so as to make them agree
Assumes   directions of units are spread over as many dimensions as their second moment says (rows are whitened layer
          by layer and projection by projection; what is left uneven is paid for by a smaller dimension)
Source    chi-square and beta tails of a bilinear form; union bound over pairings; forensics study 9.2 and 9.4 for
          why a fitted frame is no evidence. Measured against an optimizer in docs/LOG.md, 2026-11-29
Shapes    U = paired units, V = projections of a unit, D and E = dimensions of the two models, N = U V rows

A frame cannot be chosen here, since none takes part: with M = sum a_n b_n^T over paired rows,
    |M|^2 = sum_nm <a_n, a_m> <b_n, b_m>
holds inner products within each model alone, and turning, reflecting or renumbering coordinates of either changes
nothing (nor do widths have to agree). What a framer has left is the order and the signs of units. Their number is
counted and multiplied in, so the p-value holds for the best of them. That makes it stronger than the other exact tests,
whose null takes order and signs as drawn by chance.

For a pairing that is given, off-diagonal terms (pairs of different units) are summed and two bounds are at hand:
 1. r = 1 + off / N is a mean of about k_A k_B squares of normals under the null, k being the dimensions that rows
    really fill (participation ratio of the second moment). Chernoff: ln p <= -k_A k_B (r - 1 - ln r) / 2.
 2. rho, the correlation of the two sets of inner products, has ln p <= nu ln(1 - rho^2) / 2, where nu is what these
    numbers are free to be: no more than there are pairs of rows, than N rows have coordinates after a rotation, or than
    their fourth moments allow.
The first is sharp for many units that agree a little, the second for few that agree well.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pedigree.forensics.exact.card import TestCard, TestOutcome
from pedigree.forensics.exact.tails import LN10

CARD = TestCard(
    name="gram-agreement",
    version=1,
    null="B's directions are independent of A's; frame, pairs and signs of units were then chosen to make them agree",
    assumes="directions of units fill as many dimensions as their second moment says",
    source="Chernoff bound of a bilinear form, tail of a correlation, union bound over pairings; docs/guide/methods.md",
    unit="mean square of the sum of paired directions, 1 when they are independent",
)

MARGIN = 1.25
"""Choices of a framer count one and a quarter times. An optimizer that alternates frames and assignments used 0.82 of
the bound at most, on trained strangers of 512 units in 32 dimensions, and under half of it elsewhere (docs/LOG.md)."""

LEAST_UNITS = 8
"""Fewer paired units than this are not put to the test."""

FEW_ROWS = 2048
"""Up to this many rows the correlation bound is taken, which needs all inner products at once."""


class GramMeter:
    """Adds up what the test needs, one layer after the other: rows while they are few, their moments beyond."""

    def __init__(self) -> None:
        self.units = 0
        self._rows = 0
        self._pairs = 0.0
        self._energy = 0.0
        self._own = 0.0
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._moments: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, a_UVD: Tensor, b_UVE: Tensor) -> None:
        """Take in paired units: unit-length rows of each projection, signs chosen; rows of zeros say nothing."""
        n_units, n_views = a_UVD.shape[:2]
        gram_a_UVV, gram_b_UVV = (rows.double() @ rows.double().mT for rows in (a_UVD, b_UVE))
        self._own += float((gram_a_UVV * gram_b_UVV).sum())
        squares = gram_a_UVV.diagonal(dim1=1, dim2=2) * gram_b_UVV.diagonal(dim1=1, dim2=2)
        self._energy += float(squares.sum())
        unit_N = torch.arange(self.units, self.units + n_units).repeat_interleave(n_views)
        self.units += n_units
        self._rows += n_units * n_views
        self._pairs += n_units * n_views * n_views
        self._kept.append((a_UVD.flatten(0, 1), b_UVE.flatten(0, 1), unit_N))
        if self._rows > FEW_ROWS:
            for x_ND, y_NE, _ in self._kept:
                x_ND, y_NE = x_ND.double(), y_NE.double()
                more = x_ND.T @ y_NE, x_ND.T @ x_ND, y_NE.T @ y_NE
                before = self._moments
                self._moments = more if before is None else tuple(m + n for m, n in zip(before, more, strict=True))  # type: ignore[assignment]
            self._kept = []

    def outcome(self, choices: float, margin: float = MARGIN) -> TestOutcome:
        """The test over everything taken in.

        Args:
            choices: natural logarithm of the number of pairings (signs included) that a framer could choose from.
            margin: how often each of them counts.

        Returns:
            statistic r; log10_p with the choices paid for; extra the p-value of a pairing that is given
            (`log10_p_given`), the choices, dimensions and the correlation.
        """
        if self.units < LEAST_UNITS or self._energy <= 0.0:
            return TestOutcome.not_applicable(CARD, f"fewer than {LEAST_UNITS} paired units", n=self.units)
        if self._moments is None:
            whole, dims_a, dims_b, rho, freedom = self._of_few_rows()
        else:
            cross_DE, moment_DD, moment_EE = self._moments
            whole, rho, freedom = float(cross_DE.square().sum()), 0.0, 0.0
            dims_a = _dimensions(float(moment_DD.square().sum()), float(moment_DD.trace()), self._rows, len(moment_DD))
            dims_b = _dimensions(float(moment_EE.square().sum()), float(moment_EE.trace()), self._rows, len(moment_EE))
        ratio = 1.0 + (whole - self._own) / self._energy
        log_given = -0.5 * dims_a * dims_b * (ratio - 1.0 - math.log(ratio)) if ratio > 1.0 else 0.0
        if rho > 0.0:
            log_given = min(log_given, 0.5 * freedom * math.log1p(-min(rho * rho, 1.0 - 1e-12)))
        # Two bounds were looked at.
        log_given = min(0.0, log_given + math.log(2.0))
        return TestOutcome(
            CARD,
            statistic=ratio,
            n=self.units,
            log10_p=min(0.0, (log_given + margin * choices) / LN10),
            extra={
                "log10_p_given": log_given / LN10, "log10_choices": choices / LN10, "correlation": rho,
                "dimensions": [round(dims_a, 1), round(dims_b, 1)], "freedom": round(freedom, 1),
            },
        )  # fmt: skip

    def _of_few_rows(self) -> tuple[float, float, float, float, float]:
        """From all inner products: their agreement, the dimensions of both models, the correlation over different units
        and how many numbers it is worth."""
        a_ND, b_NE, unit_N = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        gram_a_NN, gram_b_NN = (a_ND @ a_ND.T).double(), (b_NE @ b_NE.T).double()
        n = self._rows
        dims_a, dims_b = (
            _dimensions(float(gram_NN.square().sum()), float(gram_NN.trace()), n, rows.shape[1])
            for gram_NN, rows in ((gram_a_NN, a_ND), (gram_b_NN, b_NE))
        )
        whole = float((gram_a_NN * gram_b_NN).sum())
        same_NN = unit_N[:, None] == unit_N[None, :]
        # Zeros add nothing to any of the sums below, and taking the others out would copy both.
        left, right = gram_a_NN.masked_fill_(same_NN, 0.0), gram_b_NN.masked_fill_(same_NN, 0.0)
        lengths, dims = float(left.norm() * right.norm()), min(dims_a, dims_b)
        if lengths <= 0.0:
            return whole, dims_a, dims_b, 0.0, 0.0
        free = n * (n - 1) / 2.0 if n <= dims else n * (dims - 1.0) - dims * (dims - 1.0) / 2.0
        freedom = min(free, (n * n - self._pairs) / 2.0, _worth(left), _worth(right))
        return whole, dims_a, dims_b, float((left * right).sum()) / lengths, freedom


def _dimensions(square: float, trace: float, rows: int, width: int) -> float:
    """Dimensions that rows fill: participation ratio of the second moment, corrected for the number of rows."""
    spread = square / max(trace * trace, 1e-300)
    return min(float(width), 1.0 / max(spread - 1.0 / max(rows, 1), 1.0 / width))


def _worth(products: Tensor) -> float:
    """Number of normal numbers with the same second and fourth moment (each pair of rows stands there twice)."""
    square = float(products.square().sum())
    return 1.5 * square * square / max(float(products.square().square().sum()), 1e-300)


def log_pairings(n_a: int, n_b: int, kept: int, signed: bool = True) -> float:
    """Natural logarithm of the ways to pair `kept` of `n_a` units with as many of `n_b`, each with a sign."""
    if kept == 0:
        return 0.0
    left = math.lgamma(n_a + 1) - math.lgamma(kept + 1) - math.lgamma(n_a - kept + 1)
    right = math.lgamma(n_b + 1) - math.lgamma(n_b - kept + 1)
    return left + right + (kept * math.log(2.0) if signed else 0.0)
