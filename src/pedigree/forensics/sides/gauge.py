"""Residual frames of two models and the map between them.

The residual stream of a pre-norm model may be permuted, reflected or rotated without changing its function (forensics
study, section 1), so directions of two models can be compared only after their frames are aligned. A `Gauge` is such
a map; it is fitted on vocabulary rows that both models share, or on moments of the weights, and is never evidence:
whatever it was fitted on is not what a verdict is scored on.

Shapes: T = shared tokens, A and B = residual widths of the two models, U = units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from pedigree.forensics.sides.linear import (
    Reflections,
    product,
    rounded_product,
    side_by_side,
    thin_qr,
    thin_svd,
    without_damage,
)
from pedigree.forensics.sides.sampling import spread_evenly

GaugeKind = Literal["identity", "signed-permutation", "orthogonal", "partial-isometry", "none"]

MIN_ANCHORS = 64
"""Fewer shared vocabulary rows than this do not fit a frame."""

EXACT_WIDTH = 1024
"""Up to this width frames are decomposed in double precision; beyond, single precision saves half the time."""

WIDEST_POLAR = 6144
"""Widest matrix that is decomposed to refit a frame: beyond, that takes two gigabytes, and the frame stays."""

LOOKED_AT = 256
"""Coordinates by which it is seen that a map in factors is far from a permutation."""

ROUNDING_MASS = 0.5
"""Share of a rotation's energy on its nearest signed permutation above which rounding is tried."""

OF_TOKENS = "vocabulary rows of shared tokens"
"""What a frame rests on in which each coordinate is a token."""


@dataclass(frozen=True, eq=False)
class SpanMap:
    """A map of the span of a few directions of A's frame onto that of as many of B's, in factors.

    Fewer rows than coordinates fit such a map. Wide models ask for what a few hundred directions are under it, and the
    matrix with the two bases behind it would cost several times that.

    Attributes:
        of_a, of_b: bases of the two spans.
        turn_TT: orthogonal matrix between the coordinates in these.
    """

    of_a: Reflections
    turn_TT: Tensor
    of_b: Reflections

    @property
    def T(self) -> SpanMap:
        """The map back."""
        return SpanMap(self.of_b, self.turn_TT.T, self.of_a)

    def carry(self, rows_UA: Tensor) -> Tensor:
        """Rows of A in B's frame, [U, B]."""
        return self.of_b.vectors(self.turn_TT.T @ self.of_a.coordinates(rows_UA.T)).T

    def meet(self, rows_UB: Tensor) -> Tensor:
        """What of rows of B lies in the span that is reached, [U, B]."""
        return self.of_b.vectors(self.of_b.coordinates(rows_UB.T)).T

    def inside(self, rows_UA: Tensor, rows_VB: Tensor, lens_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of both and a lens in coordinates of the span that is reached, [U, T], [V, T], [T, K]: carried and met
        they stand to each other as they do there, and are made of more numbers."""
        there_TN = self.of_b.coordinates(torch.cat([rows_VB.T, lens_BK], dim=1))
        carried_UT = self.of_a.coordinates(rows_UA.T).T @ self.turn_TT
        return carried_UT, there_TN[:, : len(rows_VB)].T, there_TN[:, len(rows_VB) :]

    @cached_property
    def matrix_AB(self) -> Tensor:
        """The map as a matrix."""
        return product(product(self.of_a.basis_RC, self.turn_TT), self.of_b.basis_RC.T)

    def some_rows(self) -> Tensor:
        """Where some coordinates of A go, evenly spaced, [U, B]."""
        width = self.of_a.made_RC.shape[0]
        pick_U = spread_evenly(width, LOOKED_AT)
        one_UA = torch.zeros(len(pick_U), width)
        one_UA[torch.arange(len(pick_U)), pick_U] = 1.0
        return self.carry(one_UA)


@dataclass(frozen=True)
class Gauge:
    """A map from the residual frame of A to that of B.

    Attributes:
        kind: what sort of map it is.
        frame_AB: matrix applied on the right of row vectors of A, or its factors; None for the identity of equal
            widths.
        fitted_on: what it was fitted on, in words.
        anchors: number of vocabulary rows used in the fit.
        lens_BK: orthonormal directions of B's frame that comparisons look through; None for all of them. They leave
            out the leading directions of vocabulary rows, where models that learned the same language agree
            without any common descent (docs/LOG.md, 2026-11-23).
        partial: whether the map reaches only a part of B's frame (other widths, or fewer anchors than coordinates).
    """

    kind: GaugeKind
    frame_AB: Tensor | SpanMap | None
    fitted_on: str
    anchors: int = 0
    lens_BK: Tensor | None = None
    partial: bool = False

    @property
    def map_AB(self) -> Tensor | None:
        """The map as a matrix; None for the identity of equal widths."""
        return self.frame_AB.matrix_AB if isinstance(self.frame_AB, SpanMap) else self.frame_AB

    @property
    def reaches_all(self) -> bool:
        """Whether the map reaches all of B's frame: then rows of B look the same whatever the map is."""
        return not self.partial or self.frame_AB is None

    def carry(self, rows_UA: Tensor) -> Tensor:
        """Map rows from A's frame into B's: [U, A] -> [U, B]."""
        if isinstance(self.frame_AB, SpanMap):
            return self.frame_AB.carry(rows_UA.float()).to(rows_UA.dtype)
        return rows_UA if self.frame_AB is None else rows_UA @ self.frame_AB.to(rows_UA.dtype)

    def meet(self, rows_UB: Tensor) -> Tensor:
        """Rows of B restricted to the part of its frame that the map reaches."""
        if self.reaches_all or self.frame_AB is None:
            return rows_UB
        if isinstance(self.frame_AB, SpanMap):
            return self.frame_AB.meet(rows_UB.float()).to(rows_UB.dtype)
        map_AB = self.frame_AB.to(rows_UB.dtype)
        return (rows_UB @ map_AB.T) @ map_AB

    @cached_property
    def _lens_AK(self) -> Tensor | None:
        if self.lens_BK is None or self.frame_AB is None:
            return self.lens_BK
        if isinstance(self.frame_AB, SpanMap):
            return self.frame_AB.T.carry(self.lens_BK.T).T.contiguous()
        return self.frame_AB @ self.lens_BK

    @cached_property
    def _lens_of_b_BK(self) -> Tensor | None:
        if self.lens_BK is None or self.frame_AB is None or not self.partial:
            return self.lens_BK
        if isinstance(self.frame_AB, SpanMap):
            return self.frame_AB.meet(self.lens_BK.T).T.contiguous()
        return self.frame_AB.T @ (self.frame_AB @ self.lens_BK)

    def view_a(self, rows_UA: Tensor, *, rounded: bool = False) -> Tensor:
        """Rows of A as comparisons see them: carried into B's frame and looked at through the lens, if need be in
        numbers rounded to bfloat16."""
        lens = self._lens_AK
        if lens is None:
            return self.carry(rows_UA)
        return rounded_product(rows_UA, lens) if rounded else rows_UA @ lens

    def view_b(self, rows_UB: Tensor, *, rounded: bool = False) -> Tensor:
        """Rows of B as comparisons see them."""
        lens = self._lens_of_b_BK
        if lens is None:
            return self.meet(rows_UB)
        return rounded_product(rows_UB, lens) if rounded else rows_UB @ lens

    def views(self, rows_UA: Tensor, rows_VB: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Rows of both models in one frame, whole and as they are seen through the lens; lengths and angles are those
        that count, coordinates may be any."""
        if isinstance(self.frame_AB, SpanMap) and self.lens_BK is not None:
            x_UT, y_VT, lens_TK = self.frame_AB.inside(rows_UA, rows_VB, self.lens_BK)
            return (x_UT, y_VT), (x_UT @ lens_TK, y_VT @ lens_TK)
        bare = replace(self, lens_BK=None)
        return (bare.view_a(rows_UA), bare.view_b(rows_VB)), (self.view_a(rows_UA), self.view_b(rows_VB))

    def inverse(self) -> Gauge:
        """The map from B's frame into A's (transpose of an isometry), without a lens."""
        turned = None if self.frame_AB is None else self.frame_AB.T
        return Gauge(self.kind, turned, self.fitted_on, self.anchors, partial=self.partial)

    @property
    def by_tokens(self) -> bool:
        """Whether coordinates are tokens (`token_gauge`)."""
        return self.fitted_on == OF_TOKENS

    @property
    def is_trivial(self) -> bool:
        """Whether coordinates keep their index (identity, or padding to another width)."""
        return self.kind == "identity" or self.fitted_on == "coordinates by index"

    @property
    def keeps_channels(self) -> bool:
        """Whether each coordinate is one of the other model's: it keeps its index, or was permuted and negated."""
        return self.is_trivial or (self.kind == "signed-permutation" and not self.partial)


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
    frame_AB = _polar_of_span(a_TA, b_TB) if thin else polar(a_TA.T @ b_TB)
    return Gauge(kind, frame_AB, fitted_on, tokens, partial=thin or d_a != d_b)


def _polar_of_span(a_TA: Tensor, b_TB: Tensor) -> Tensor | SpanMap:
    """Polar factor of a^T b when there are fewer rows than coordinates: an isometry between the two row spans.

    Directions outside the spans are dropped; what is compared under this frame loses them, on both sides alike.
    """
    if max(a_TA.shape[1], b_TB.shape[1]) > EXACT_WIDTH:
        of_a, of_b = side_by_side(Reflections.of, a_TA.T, b_TB.T)
        return SpanMap(of_a, polar(product(of_a.upper_CC, of_b.upper_CC.T)), of_b)
    (qa_AT, ra_TT), (qb_BT, rb_TT) = side_by_side(thin_qr, a_TA.T, b_TB.T)
    return product(product(qa_AT, polar(product(ra_TT, rb_TT.T))), qb_BT.T)


def round_to_permutation(gauge: Gauge, min_mass: float = ROUNDING_MASS) -> Gauge | None:
    """Nearest signed permutation (or signed selection), when at least `min_mass` of the rotation's energy is there."""
    if isinstance(gauge.frame_AB, SpanMap) and _most_mass(gauge.frame_AB.some_rows()) < min_mass / 2:
        return None
    r_AB = gauge.map_AB
    # No assignment holds more than the best of every row: most rotations are known to be none without solving one.
    if r_AB is None or _most_mass(r_AB) < min_mass:
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


def _most_mass(rows_UB: Tensor) -> float:
    """Share of the energy of rows in the largest number of each."""
    energy_UB = rows_UB**2
    return float(energy_UB.amax(dim=1).sum() / energy_UB.sum().clamp_min(1e-30))


def refit_on_units(a_UA: Tensor, b_UB: Tensor, weight_U: Tensor, fitted_on: str) -> Gauge | None:
    """Procrustes on matched unit directions, weighted by how sure each match is."""
    if a_UA.shape[0] < MIN_ANCHORS:
        return None
    if max(a_UA.shape[1], b_UB.shape[1]) > WIDEST_POLAR and a_UA.shape[0] < min(a_UA.shape[1], b_UB.shape[1]):
        frame_AB = _polar_of_span(unit_rows(a_UA) * weight_U[:, None], unit_rows(b_UB))
        kind: GaugeKind = "orthogonal" if a_UA.shape[1] == b_UB.shape[1] else "partial-isometry"
        return Gauge(kind, frame_AB, fitted_on, int(a_UA.shape[0]), partial=True)
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
