"""Which unit of A each unit of B came from, in one pair of layers.

All projections together decide here (the held-out score has already answered whether the layers are related at all),
so copies, splits, subsets, permutations and experts can be told apart unit by unit.

Shapes: N = units of B, M = units of A, D = residual width of B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.sides.gauge import Gauge
from pedigree.forensics.sides.views import UnitSet
from pedigree.forensics.units.matching import Table, make_table

COPY_SCORE = 0.8
"""Score of a match, over that of the best one with the same origin, from which units are copies of each other: copies
reach 0.95 and more also after training; units that lost their own counterpart 0.64 (docs/LOG.md, 2026-11-30)."""


@dataclass(frozen=True)
class UnitMap:
    """Origin of each unit of a layer of B.

    Attributes:
        layer_a, layer_b: the pair of layers.
        origin_N: row (in A's unit set) of the best match of each unit of B; -1 where none is convincing.
        score_N: mean cosine over projections of the best match.
        index_a_M, label_a_M, index_b_N, label_b_N: position and expert of each unit.
        silent_N: units of B whose writing column is zero (they were added without effect).
        log_scale_N: log of the ratio of lengths B to A on the first held-out projection, nan where unmatched.
        sign_N: +1 or -1, sign of the agreement on the first held-out projection; 0 where unmatched.
        total_a, total_b: units in the layers (more than listed when sampled).
    """

    layer_a: int
    layer_b: int
    origin_N: Tensor
    score_N: Tensor
    index_a_M: Tensor
    label_a_M: Tensor
    index_b_N: Tensor
    label_b_N: Tensor
    silent_N: Tensor
    log_scale_N: Tensor
    sign_N: Tensor
    total_a: int
    total_b: int

    @property
    def matched_N(self) -> Tensor:
        """Mask of units of B with a convincing origin."""
        return self.origin_N >= 0

    @property
    def matched_share(self) -> float:
        """Share of B's units that have an origin in A."""
        return float(self.matched_N.float().mean()) if self.origin_N.numel() else 0.0

    @property
    def kept_share(self) -> float:
        """Share of A's units that live on in B."""
        kept = int(torch.unique(self.origin_N[self.matched_N]).numel())
        return kept / max(1, int(self.index_a_M.shape[0]))

    @property
    def in_place_share(self) -> float:
        """Among matched units, the share that kept their position."""
        hit = self.matched_N
        if not bool(hit.any()):
            return 0.0
        return float((self.index_a_M[self.origin_N[hit]] == self.index_b_N[hit]).float().mean())

    @property
    def copies(self) -> int:
        """Units of B whose origin also serves another unit of B, each of them about as well.

        Where a unit of A is gone, the one of B that came from it finds the next best, which is another one's origin.
        """
        hit_N = self.matched_N
        origin_K, score_K = self.origin_N[hit_N], self.score_N[hit_N]
        best_M = torch.zeros(len(self.index_a_M), dtype=score_K.dtype)
        best_M.scatter_reduce_(0, origin_K, score_K, "amax")
        alike_K = score_K >= COPY_SCORE * best_M[origin_K]
        return int(alike_K.sum() - torch.unique(origin_K[alike_K]).numel())

    def pairs(self) -> Tensor:
        """Matched positions (A, B), [K, 2]."""
        hit = self.matched_N
        return torch.stack([self.index_a_M[self.origin_N[hit]], self.index_b_N[hit]], dim=1)


def map_units(
    a: UnitSet,
    b: UnitSet,
    gauge: Gauge,
    layer_a: int,
    layer_b: int,
    tables: tuple[Table | None, Table | None] = (None, None),
) -> UnitMap | None:
    """Origin of each unit of `b` among the units of `a`; None where they share no two projections.

    Args:
        a, b: units of a layer of A and of B.
        gauge: map from A's residual frame into B's.
        layer_a, layer_b: their numbers.
        tables: tables of the same units under the same gauge, where they were made before.
    """
    left, right = tables[0] or make_table(a, gauge, "a"), tables[1] or make_table(b, gauge, "b")
    names = [name for name in left.confirm_UD if name in right.confirm_UD]
    if left.name != right.name or not names:
        return None
    first_MN = left.match_UD @ right.match_UD.T
    rest_MN = torch.zeros_like(first_MN)
    alive_MN = torch.zeros_like(first_MN)
    for name in names:
        x_MD, y_ND = left.confirm_UD[name], right.confirm_UD[name]
        rest_MN += x_MD @ y_ND.T
        alive_MN += (x_MD.abs().sum(1) > 0).float()[:, None] * (y_ND.abs().sum(1) > 0).float()[None, :]
    signed = a.kind != "ffn"
    total_MN = (first_MN.abs() if signed else first_MN) + rest_MN.abs()
    score_MN = total_MN / (1.0 + alive_MN)
    best_N, origin_N = score_MN.max(dim=0)
    threshold = _threshold(score_MN)
    origin_N = torch.where(best_N > threshold, origin_N, torch.full_like(origin_N, -1))
    sign_N, log_scale_N = _gauge_of_units(
        a, b, names[0], origin_N, left.confirm_UD[names[0]] @ right.confirm_UD[names[0]].T
    )
    writer = b.views_UD.get("down")
    silent_N = torch.zeros(b.count, dtype=torch.bool)
    if writer is not None:
        norm_N = writer.float().norm(dim=1)
        silent_N = norm_N <= 1e-6 * norm_N.max().clamp_min(1e-30)
    return UnitMap(
        layer_a, layer_b, origin_N, best_N, a.index_U, a.label_U, b.index_U, b.label_U,
        silent_N, log_scale_N, sign_N, a.total, b.total,
    )  # fmt: skip


THRESHOLD_SAMPLES = 200_000
"""Scores, evenly spaced, that tell what the bulk of them is."""


def _threshold(score_MN: Tensor) -> float:
    flat = score_MN.flatten()
    if flat.numel() > THRESHOLD_SAMPLES:
        flat = flat[:: flat.numel() // THRESHOLD_SAMPLES]
    return threshold_of(flat, score_MN.shape[0])


def threshold_of(score_S: Tensor, candidates: int) -> float:
    """Score above which the best of so many is convincing: the Gaussian maximum of the bulk plus three sd."""
    center = float(score_S.median())
    spread = 1.4826 * float((score_S - center).abs().median())
    return center + (math.sqrt(2.0 * math.log(max(2, candidates))) + 3.0) * max(spread, 1e-6)


def _gauge_of_units(a: UnitSet, b: UnitSet, name: str, origin_N: Tensor, cos_MN: Tensor) -> tuple[Tensor, Tensor]:
    hit = origin_N >= 0
    sign_N = torch.zeros(origin_N.shape[0])
    log_scale_N = torch.full((origin_N.shape[0],), float("nan"))
    columns = torch.nonzero(hit).flatten()
    picked = cos_MN[origin_N[hit], columns]
    sign_N[hit] = torch.where(picked < 0, -1.0, 1.0)
    norm_a, norm_b = a.views_UD[name].float().norm(dim=1), b.views_UD[name].float().norm(dim=1)
    log_scale_N[hit] = torch.log(norm_b[hit].clamp_min(1e-30) / norm_a[origin_N[hit]].clamp_min(1e-30))
    return sign_N, log_scale_N
