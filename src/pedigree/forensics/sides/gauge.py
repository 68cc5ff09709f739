"""Residual frames of two models and the map between them.

The residual stream of a pre-norm model may be permuted, reflected or rotated without changing its function (forensics
study, section 1), so directions of two models can be compared only after their frames are aligned. A `Gauge` is such
a map; it is fitted on vocabulary rows that both models share, or on moments of the weights, and is never evidence:
whatever it was fitted on is not what a verdict is scored on.

Shapes: T = shared tokens, A and B = residual widths of the two models, U = units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from pedigree.forensics.sides.linear import product, side_by_side, thin_qr, thin_svd, without_damage

GaugeKind = Literal["identity", "signed-permutation", "orthogonal", "partial-isometry", "none"]

MIN_ANCHORS = 64
"""Fewer shared vocabulary rows than this do not fit a frame."""

EXACT_WIDTH = 1024
"""Up to this width frames are decomposed in double precision; beyond, single precision saves half the time."""

WIDEST_POLAR = 6144
"""Widest matrix that is decomposed to refit a frame: beyond, that takes two gigabytes, and the frame stays."""

ROUNDING_MASS = 0.5
"""Share of a rotation's energy on its nearest signed permutation above which rounding is tried."""

OF_TOKENS = "vocabulary rows of shared tokens"
"""What a frame rests on in which each coordinate is a token."""


@dataclass(frozen=True)
class Gauge:
    """A map from the residual frame of A to that of B.

    Attributes:
        kind: what sort of map it is.
        map_AB: matrix applied on the right of row vectors of A; None for the identity of equal widths.
        fitted_on: what it was fitted on, in words.
        anchors: number of vocabulary rows used in the fit.
        lens_BK: orthonormal directions of B's frame that comparisons look through; None for all of them. They leave
            out the leading directions of vocabulary rows, where models that learned the same language agree
            without any common descent (docs/LOG.md, 2026-11-23).
        partial: whether the map reaches only a part of B's frame (other widths, or fewer anchors than coordinates).
    """

    kind: GaugeKind
    map_AB: Tensor | None
    fitted_on: str
    anchors: int = 0
    lens_BK: Tensor | None = None
    partial: bool = False

    @property
    def reaches_all(self) -> bool:
        """Whether the map reaches all of B's frame: then rows of B look the same whatever the map is."""
        return not self.partial or self.map_AB is None

    def carry(self, rows_UA: Tensor) -> Tensor:
        """Map rows from A's frame into B's: [U, A] -> [U, B]."""
        return rows_UA if self.map_AB is None else rows_UA @ self.map_AB.to(rows_UA.dtype)

    def meet(self, rows_UB: Tensor) -> Tensor:
        """Rows of B restricted to the part of its frame that the map reaches."""
        if not self.partial or self.map_AB is None:
            return rows_UB
        map_AB = self.map_AB.to(rows_UB.dtype)
        return (rows_UB @ map_AB.T) @ map_AB

    @cached_property
    def _lens_AK(self) -> Tensor | None:
        if self.lens_BK is None or self.map_AB is None:
            return self.lens_BK
        return self.map_AB @ self.lens_BK

    @cached_property
    def _lens_of_b_BK(self) -> Tensor | None:
        if self.lens_BK is None or self.map_AB is None or not self.partial:
            return self.lens_BK
        return self.map_AB.T @ (self.map_AB @ self.lens_BK)

    def view_a(self, rows_UA: Tensor) -> Tensor:
        """Rows of A as comparisons see them: carried into B's frame and looked at through the lens."""
        lens = self._lens_AK
        return self.carry(rows_UA) if lens is None else rows_UA @ lens

    def view_b(self, rows_UB: Tensor) -> Tensor:
        """Rows of B as comparisons see them."""
        lens = self._lens_of_b_BK
        return self.meet(rows_UB) if lens is None else rows_UB @ lens

    def inverse(self) -> Gauge:
        """The map from B's frame into A's (transpose of an isometry), without a lens."""
        turned = None if self.map_AB is None else self.map_AB.T
        return Gauge(self.kind, turned, self.fitted_on, self.anchors, partial=self.partial)

    @property
    def by_tokens(self) -> bool:
        """Whether coordinates are tokens (`token_gauge`)."""
        return self.fitted_on == OF_TOKENS

    @property
    def is_trivial(self) -> bool:
        """Whether coordinates keep their index (identity, or padding to another width)."""
        return self.kind == "identity" or self.fitted_on == "coordinates by index"


def identity_gauge(d_a: int, d_b: int) -> Gauge:
    """Coordinates keep their index; between different widths the common leading ones are kept."""
    if d_a == d_b:
        return Gauge("identity", None, "coordinates by index")
    return Gauge("partial-isometry", torch.eye(d_a, d_b), "coordinates by index", partial=True)


def token_gauge(tokens: int) -> Gauge:
    """Coordinates that tokens name: they are one frame for both models, whatever the streams of these are."""
    return Gauge("partial-isometry", None, OF_TOKENS, tokens)


def center(rows_TD: Tensor) -> Tensor:
    """Rows minus their mean, float32, not-a-number replaced by zero."""
    rows_TD = without_damage(rows_TD)
    return rows_TD - rows_TD.mean(dim=0, keepdim=True)


def polar(m_AB: Tensor) -> Tensor:
    """Nearest (partial) isometry of a matrix: the orthogonal polar factor by thin SVD."""
    wide = m_AB.double() if max(m_AB.shape) <= EXACT_WIDTH else m_AB.float()
    u_AK, _, vt_KB = thin_svd(wide)
    return (u_AK @ vt_KB).float()


def fit_rotation(a_TA: Tensor, b_TB: Tensor, fitted_on: str) -> Gauge | None:
    """Orthogonal Procrustes between two sets of rows that name the same things (Schoenemann 1966).

    Returns:
        An orthogonal gauge, a partial isometry when widths differ, or None with too few anchors.
    """
    if a_TA.shape[0] < MIN_ANCHORS:
        return None
    a_TA, b_TB = center(a_TA), center(b_TB)
    if float(a_TA.abs().max()) == 0.0 or float(b_TB.abs().max()) == 0.0:
        return None
    tokens, d_a, d_b = a_TA.shape[0], a_TA.shape[1], b_TB.shape[1]
    kind: GaugeKind = "orthogonal" if d_a == d_b else "partial-isometry"
    thin = tokens < min(d_a, d_b)
    map_AB = _polar_of_span(a_TA, b_TB) if thin else polar(a_TA.T @ b_TB)
    return Gauge(kind, map_AB, fitted_on, tokens, partial=thin or d_a != d_b)


def _polar_of_span(a_TA: Tensor, b_TB: Tensor) -> Tensor:
    """Polar factor of a^T b when there are fewer rows than coordinates: an isometry between the two row spans.

    Directions outside the spans are dropped; what is compared under this frame loses them, on both sides alike.
    """
    (qa_AT, ra_TT), (qb_BT, rb_TT) = side_by_side(thin_qr, a_TA.T, b_TB.T)
    return product(product(qa_AT, polar(product(ra_TT, rb_TT.T))), qb_BT.T)


def round_to_permutation(gauge: Gauge, min_mass: float = ROUNDING_MASS) -> Gauge | None:
    """Nearest signed permutation (or signed selection), when at least `min_mass` of the rotation's energy is there."""
    if gauge.map_AB is None:
        return None
    r_AB = gauge.map_AB
    energy_AB = r_AB**2
    # No assignment holds more than the best of every row: most rotations are known to be none without solving one.
    if float(energy_AB.amax(dim=1).sum() / energy_AB.sum().clamp_min(1e-30)) < min_mass:
        return None
    from scipy.optimize import linear_sum_assignment  # most comparisons never come here; it starts slowly

    rows, cols = linear_sum_assignment(-r_AB.abs().numpy())
    rows_K, cols_K = torch.as_tensor(rows), torch.as_tensor(cols)
    picked_K = r_AB[rows_K, cols_K]
    mass = float((picked_K**2).sum() / (r_AB**2).sum().clamp_min(1e-30))
    if mass < min_mass:
        return None
    rounded_AB = torch.zeros_like(r_AB)
    rounded_AB[rows_K, cols_K] = torch.where(picked_K < 0, -1.0, 1.0)
    square = r_AB.shape[0] == r_AB.shape[1]
    if square and torch.equal(rounded_AB, torch.eye(r_AB.shape[0])):
        return Gauge("identity", None, gauge.fitted_on, gauge.anchors)
    kind: GaugeKind = "signed-permutation" if square else "partial-isometry"
    return Gauge(kind, rounded_AB, gauge.fitted_on, gauge.anchors, partial=not square)


def refit_on_units(a_UA: Tensor, b_UB: Tensor, weight_U: Tensor, fitted_on: str) -> Gauge | None:
    """Procrustes on matched unit directions, weighted by how sure each match is."""
    if a_UA.shape[0] < MIN_ANCHORS:
        return None
    if max(a_UA.shape[1], b_UB.shape[1]) > WIDEST_POLAR and a_UA.shape[0] < min(a_UA.shape[1], b_UB.shape[1]):
        map_AB = _polar_of_span(unit_rows(a_UA) * weight_U[:, None], unit_rows(b_UB))
        kind: GaugeKind = "orthogonal" if map_AB.shape[0] == map_AB.shape[1] else "partial-isometry"
        return Gauge(kind, map_AB, fitted_on, int(a_UA.shape[0]), partial=True)
    return refit_on_moment((unit_rows(a_UA) * weight_U[:, None]).T @ unit_rows(b_UB), int(a_UA.shape[0]), fitted_on)


def refit_on_moment(m_AB: Tensor, rows: int, fitted_on: str) -> Gauge | None:
    """The same from the sum over `rows` matched rows of a^T b, which is all that it needs of them."""
    if rows < MIN_ANCHORS or max(m_AB.shape) > WIDEST_POLAR:
        return None
    kind: GaugeKind = "orthogonal" if m_AB.shape[0] == m_AB.shape[1] else "partial-isometry"
    thin = rows < min(m_AB.shape)
    return Gauge(kind, polar(m_AB), fitted_on, rows, partial=thin or m_AB.shape[0] != m_AB.shape[1])


def unit_rows(rows_UD: Tensor, floor: Tensor | None = None) -> Tensor:
    """Rows scaled to length one, float32; rows of (near) zero length stay zero.

    Args:
        rows_UD: the rows.
        floor: length below which a row is empty; a millionth of the median by default.
    """
    rows_UD = rows_UD.float()
    norm_U1 = rows_UD.norm(dim=1, keepdim=True)
    if floor is None:
        floor = 1e-6 * norm_U1.median().clamp_min(1e-30)
    return torch.where(norm_U1 > floor, rows_UD / norm_U1.clamp_min(1e-30), torch.zeros_like(rows_UD))
