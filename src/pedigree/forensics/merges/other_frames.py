"""A merge beside sources that stand in other frames: units reordered, stream rotated, on either side.

Every model is laid beside one of the sources, the hub, as pairs are laid side by side (`laid_beside`); what is taken
apart then are the rows that all of them have. Rows hold the gains that are folded into them, and a product of two
averages is not the average of products: weights are those of the merge to the second order of what its parents learned.

A rotation is fitted to the hub alone, and turns the merge toward it by what of the way to the other parents looks like
a rotation (as many free numbers as half of a square, of all rows: a twentieth where a model has ten times more rows
than coordinates). So the frame of the merge is fitted again to the mixture, and the mixture in that frame, until both
stay. A merge leaves nothing there, so that the two together are not bent by what either was fitted on.

Shapes  M = models (the child is number 0), U = rows of a matrix, K = kept dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pedigree.errors import PedigreeError
from pedigree.forensics.compare import measure_pair
from pedigree.forensics.comparison.laid_beside import KEPT, Beside, Key, beside
from pedigree.forensics.merges.gram import GramTensor
from pedigree.forensics.merges.mixture import affine_weights
from pedigree.forensics.sides.linear import thin_svd
from pedigree.forensics.spread import ANY_FAULT

ALIKE = ("identical", "related", "partly-related", "shared-initialization")
"""Verdicts on two models that share numbers, whether by descent or by their start: that is enough to be laid."""

ROUNDS, STILL = 60, 1e-6
"""Times that frame and mixture are fitted in turns, at most, and change of a weight at which they stay."""

TAKES_PART = 0.05
"""Weight of a source from which its frame is fitted again."""

LEAST_ROWS = 256
"""Rows that all models have, below which nothing is taken apart."""


@dataclass(frozen=True)
class Laid:
    """Models in one frame.

    Attributes:
        tensors: Gram matrices of the child and of the sources that could be laid beside it, in the order of `numbers`.
        numbers: those sources, by their numbers.
        hub: number of the source in whose frame they stand.
        is_bent: whether a model was rotated against it, and not only reordered, and stands in a frame that was fitted
            to the hub alone, since not all coordinates are held.
    """

    tensors: list[GramTensor]
    numbers: tuple[int, ...]
    hub: int
    is_bent: bool


def lay_sources(locations: Sequence[str | Path], *, allow_pickle: bool = False) -> Laid | None:
    """The child and its relatives among the sources in one frame; None where fewer than two can be laid so.

    Args:
        locations: of the child, then of all sources.
        allow_pickle: read torch files (weights only).
    """
    beside_child = {n: _laid(place, locations[0], allow_pickle) for n, place in enumerate(locations) if n}
    kin = {n: one for n, one in beside_child.items() if one is not None}
    if not kin:
        return None
    hub = max(kin, key=lambda n: (sum(int(there_U.sum()) for there_U in kin[n][0].there.values()), -n))
    laid = {0: kin[hub]}
    for number in range(1, len(locations)):
        found = None if number == hub else _laid(locations[hub], locations[number], allow_pickle)
        if found is not None:
            laid[number] = found
    models = [0, *sorted({hub, *laid} - {0})]
    if len(models) < 3:
        return None
    rows = _common({n: one for n, (one, _) in laid.items()}, models, hub)
    if sum(x_MUK.shape[1] for x_MUK in rows.values()) < LEAST_ROWS:
        return None
    turned = [at for at, n in enumerate(models) if n in laid and laid[n][1]]
    is_whole = next(iter(rows.values())).shape[2] < KEPT
    if turned and is_whole:
        _turn_to_mixture(rows, turned)
    tensors = [_gram(key, x_MUK) for key, x_MUK in rows.items()]
    return Laid(tensors, tuple(models[1:]), hub, bool(turned) and not is_whole)


def _laid(hub: str | Path, other: str | Path, allow_pickle: bool) -> tuple[Beside, bool] | None:
    """The rows of a relative beside those of the hub, and whether its stream is rotated; None of a stranger."""
    try:
        a, b, found, judgment = measure_pair(hub, other, allow_pickle=allow_pickle)
        alike = judgment.verdict in ALIKE or judgment.open_origin
        laid = beside(a, b, found) if alike else None
        a.checkpoint.close()
        b.checkpoint.close()
    except (PedigreeError, *ANY_FAULT):
        return None
    return None if laid is None else (laid, found.evidence.gauge.kind == "orthogonal")


def _common(laid: dict[int, Beside], models: Sequence[int], hub: int) -> dict[Key, Tensor]:
    """Rows [M, U, K] that all models have, in double precision, by matrix."""
    out = {}
    others = list(laid.values())
    for key, own_UK in laid[0].hub.items():
        if not all(key in one.other and torch.equal(one.hub[key], own_UK) for one in others):
            continue
        there_U = torch.stack([one.there[key] for one in others]).all(0)
        if int(there_U.sum()) > 1:
            of = [own_UK if n == hub else laid[n].other[key] for n in models]
            out[key] = torch.stack([rows_UK[there_U].double() for rows_UK in of])
    return out


def _turn_to_mixture(rows: dict[Key, Tensor], turned: Sequence[int]) -> None:
    """Fit the frames of turned models to what the mixture leaves for them, and the mixture in these frames, in turns;
    rows are turned in place."""
    models = next(iter(rows.values())).shape[0]
    before_S = torch.full((models - 1,), torch.inf, dtype=torch.float64)
    for _ in range(ROUNDS):
        gram_MM = torch.stack([torch.einsum("muk,nuk->mn", x_MUK, x_MUK) for x_MUK in rows.values()]).sum(0)
        weights_S = affine_weights(gram_MM, range(1, models))
        if float((weights_S - before_S).abs().max()) < STILL:
            return
        before_S = weights_S
        signed_M = torch.cat([torch.ones(1, dtype=torch.float64), -weights_S])
        for m in turned:
            if abs(float(signed_M[m])) < TAKES_PART:
                continue
            others_M = signed_M.clone()
            others_M[m] = 0.0
            toward_KK = sum(
                x_MUK[m].T @ torch.einsum("m,muk->uk", -others_M / signed_M[m], x_MUK) for x_MUK in rows.values()
            )
            u_KK, _, vt_KK = thin_svd(torch.as_tensor(toward_KK))
            for x_MUK in rows.values():
                x_MUK[m] = x_MUK[m] @ u_KK @ vt_KK


def _gram(key: Key, x_MUK: Tensor) -> GramTensor:
    kind, layer, name = key
    halves = [x_MUK[:, half::2].flatten(1) for half in (0, 1)]
    halves_2MM = torch.stack([flat_MN @ flat_MN.T for flat_MN in halves])
    component = "mlp" if kind == "ffn" else "attn"
    return GramTensor(f"layers.{layer}.{component}.{name}", component, layer, x_MUK[0].numel(), halves_2MM, 0.0)
