"""What two models learned where the start is known: gains of norms begin at one.

A matrix holds its random start and what was learned, and only their sum is seen. A gain begins at one in every channel,
so its deviations from its own mean are learned and nothing else. Models that were trained apart from one random start
learn gains that agree a little, since text and start are alike; a child has those of its parent, and adds to them.

Null   for twins: none that is exact. Other text or another order leaves cosines of 0.0 to 0.6 (docs/LOG.md,
       2026-11-30), so this is evidence on start or descent of models that are known to share numbers, and never on
       anything else: gains of strangers look alike, too.
Not used where coordinates were turned, where a gain was folded away, or where gains of one side were scattered and
divided out of the readers behind them: chosen numbers say nothing about what was learned.

Shapes: D = residual width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.sides.gauge import Gauge
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import read_gain

IN_LAYERS = ("norm.attn", "norm.mlp", "norm.attn.post", "norm.mlp.post", "norm.block.post")

LEARNED = 1e-4
"""Deviation of a gain, relative to its mean, below which it was folded away or not trained."""

SCATTERED = 0.3
"""Deviation of log gains above which they may have been chosen; both sides have to lie on one side of it."""

SAME_GAINS, SAME_SLOPE = 0.95, (0.8, 1.25)
"""Cosine of learned gains, and the share of one's that is in the other's, between which nothing was learned apart."""


@dataclass(frozen=True)
class LearnedGains:
    """Agreement of learned gains, averaged over norms.

    Attributes:
        cosine: of the deviations from the mean.
        forward: how much of A's deviations lives on in B, <a, b> / |a|^2: one in a child of A.
        backward: the same of B's in A.
        norms: how many took part.
    """

    cosine: float
    forward: float
    backward: float
    norms: int


def are_same(gains: LearnedGains | None) -> bool:
    """Whether two models hold the same learned gains."""
    if gains is None or gains.cosine < SAME_GAINS:
        return False
    return all(SAME_SLOPE[0] <= slope <= SAME_SLOPE[1] for slope in (gains.forward, gains.backward))


def compare_gains(a: Side, b: Side, layer_map: Sequence[int | None], gauge: Gauge) -> LearnedGains | None:
    """Agreement of the gains of mapped layers and of the final norm; None where they cannot be laid side by side.

    Args:
        a, b: the models.
        layer_map: for each layer of B its layer in A.
        gauge: the frame; coordinates have to stand where they stood, or be permuted.
    """
    if not gauge.is_trivial and gauge.kind != "signed-permutation":
        return None
    order_AB = None if gauge.is_trivial or gauge.map_AB is None else gauge.map_AB.abs()
    rows = [row for x_D, y_D in _pairs(a, b, layer_map, order_AB) if (row := _compare(x_D, y_D)) is not None]
    if not rows:
        return None
    means = torch.tensor(rows, dtype=torch.float64).mean(dim=0)
    return LearnedGains(float(means[0]), float(means[1]), float(means[2]), len(rows))


def _pairs(
    a: Side, b: Side, layer_map: Sequence[int | None], order_AB: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Gains of both models [D], channels of A in B's order."""
    places: list[tuple[str, int | None, int | None]] = [("norm.final", None, None)]
    places += [(role, i, j) for j, i in enumerate(layer_map) if i is not None for role in IN_LAYERS]
    for role, i, j in places:
        x_D, y_D = read_gain(a.anatomy, role, i), read_gain(b.anatomy, role, j)
        if x_D is None or y_D is None:
            continue
        if order_AB is not None and order_AB.shape == (len(x_D), len(y_D)):
            x_D = x_D.float() @ order_AB.float()
        if len(x_D) == len(y_D):
            yield x_D.double(), y_D.double()


def _compare(x_D: Tensor, y_D: Tensor) -> tuple[float, float, float] | None:
    """Cosine and both slopes of the deviations; None where there are none, or where they may have been chosen."""
    dx_D, dy_D = _deviations(x_D), _deviations(y_D)
    if dx_D is None or dy_D is None or _is_scattered(x_D) != _is_scattered(y_D):
        return None
    cross, x2, y2 = float(dx_D @ dy_D), float(dx_D @ dx_D), float(dy_D @ dy_D)
    return cross / math.sqrt(x2 * y2), cross / x2, cross / y2


def _deviations(gain_D: Tensor) -> Tensor | None:
    mean = float(gain_D.mean())
    if not math.isfinite(mean) or abs(mean) < 1e-6 or not bool(torch.isfinite(gain_D).all()):
        return None
    deviations_D = gain_D / mean - 1.0
    return deviations_D if float(deviations_D.std()) > LEARNED else None


def _is_scattered(gain_D: Tensor) -> bool:
    return float(gain_D.abs().clamp_min(1e-6).log().std()) > SCATTERED
