"""What the masks of a merge say of its method, and with which weights and densities it would be made again.

Marks    kept by size  a sharp threshold: TIES; the same without the largest: breadcrumbs
         kept by chance DARE; more of the larger, gently: DELLA
         all or none   what differs most between the parents: SCE
         a vote        no two changes of opposite sign were kept together: TIES, DARE-TIES, DELLA, SCE
Marks of size and chance are looked for where all changes have one sign, since a vote takes nothing there.
Shapes  N = numbers, K = parents that took part, T = tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pedigree.forensics.merges.sparse_merge import SparseMerge

SHARP = 0.25
"""Share of what is told wrongly without a threshold that one may leave."""

GENTLE = 0.08
"""Rise of the chance to be kept, from the smallest to the largest change, from which size takes part in it."""


@dataclass(frozen=True)
class MaskedMethod:
    """A merge of masked changes, as mergekit is told to make it.

    Attributes:
        name: its method.
        weights, densities: of the parents that took part; densities are empty where the method has none.
        parameters: of the whole merge.
        each: parameters of each parent beside weight and density.
        also: other methods that leave the same marks.
    """

    name: str
    weights: list[float]
    densities: list[float]
    parameters: dict[str, float | bool] = field(default_factory=dict)
    each: dict[str, float] = field(default_factory=dict)
    also: tuple[str, ...] = ()


def name_method(found: SparseMerge) -> MaskedMethod:
    """The method by its marks."""
    parents_NK = torch.cat([a.parents_NK for a in found.assigned])
    rank_NK = torch.cat([a.rank_NK for a in found.assigned])
    kept_NK = torch.cat([a.kept_NK for a in found.assigned])
    votes = _signs_agree(parents_NK, kept_NK)
    one_sign_N = (torch.sign(parents_NK) == torch.sign(parents_NK[:, :1])).all(dim=1)
    rank_NK, kept_NK = rank_NK[one_sign_N], kept_NK[one_sign_N]
    bands = [_band(rank_NK[:, k], kept_NK[:, k]) for k in range(kept_NK.shape[1])]
    levels_K = found.levels_TK.mean(dim=0)
    sharp = _are_sharp(kept_NK, bands)
    if not sharp and _all_or_none(kept_NK):
        spread = _band(torch.cat([a.spread_N for a in found.assigned])[one_sign_N], kept_NK.any(dim=1))
        return MaskedMethod("sce", _given(found, levels_K), [], {"select_topk": round(1.0 - spread.first, 4)})
    if sharp:
        return _by_size(found, levels_K, bands, votes)
    if kept_NK.shape[1] == 1 and abs(float(levels_K[0]) - 1.0) < 5e-3 and float(found.levels_TK.std()) < 5e-3:
        return MaskedMethod("arcee_fusion", [1.0], [], also=("a mask of another kind, without rescaling",))
    return _by_chance(found, levels_K, rank_NK, kept_NK, votes)


def _by_size(found: SparseMerge, levels_K: Tensor, bands: list[_Band], votes: bool) -> MaskedMethod:
    densities = [round(band.last - band.first, 4) for band in bands]
    top = max(1.0 - band.last for band in bands)
    weights = _given(found, levels_K)
    if top > 2e-3:
        name = "breadcrumbs_ties" if votes else "breadcrumbs"
        return MaskedMethod(name, weights, densities, each={"gamma": round(top, 4)})
    normalized = found.weights_K is not None
    if not votes and not normalized and len(weights) > 1:
        return MaskedMethod("breadcrumbs", weights, densities, each={"gamma": 0.0})
    parameters: dict[str, float | bool] = {"normalize": normalized}
    if normalized:
        parameters["lambda"] = round(float(levels_K.mean()), 4)
    return MaskedMethod("ties", weights, densities, parameters, also=("breadcrumbs",) if len(weights) == 1 else ())


def _by_chance(found: SparseMerge, levels_K: Tensor, rank_NK: Tensor, kept_NK: Tensor, votes: bool) -> MaskedMethod:
    """What is kept is scaled up so that sizes sum to what they did; the weight is what that leaves of the level."""
    lines = [_line(rank_NK[:, k], kept_NK[:, k]) for k in range(kept_NK.shape[1])]
    shares_K = torch.tensor([m + slope * (float(r) - 0.5) for (m, slope), r in zip(lines, found.heavy_K, strict=True)])
    rise = sum(slope for _, slope in lines) / len(lines)
    gentle = rise > GENTLE
    densities = [round(min(1.0, max(0.0, middle)), 4) for middle, _ in lines]
    normalized = found.weights_K is not None
    weights = _given(found, levels_K * shares_K)
    parameters: dict[str, float | bool] = {"normalize": normalized}
    if normalized:
        parameters["lambda"] = round(float((levels_K * shares_K).mean()), 4)
    each = {"epsilon": round(rise / 2.0, 4)} if gentle else {}
    name = ("della" if votes else "della_linear") if gentle else ("dare_ties" if votes else "dare_linear")
    also: tuple[str, ...] = ()
    if len(weights) == 1:  # nobody votes alone
        name, also = ("della_linear", ("della",)) if gentle else ("dare_linear", ("dare_ties",))
    return MaskedMethod(name, weights, densities, parameters, each, also)


def _given(found: SparseMerge, levels_K: Tensor) -> list[float]:
    """Weights: relative ones where the merge divides by them, else what changes were multiplied with."""
    return [float(w) for w in (levels_K if found.weights_K is None else found.weights_K)]


@dataclass(frozen=True)
class _Band:
    """Ranks from the first to the last that was kept, and the share of numbers that this tells rightly."""

    first: float
    last: float
    told: float


def _band(rank_N: Tensor, kept_N: Tensor) -> _Band:
    """The band of ranks that tells best which numbers were kept."""
    order = rank_N.argsort()
    ranks_N, value_N = rank_N[order], torch.where(kept_N[order], 1.0, -1.0).double()
    sums_N = torch.cat([torch.zeros(1, dtype=torch.float64), value_N.cumsum(0)])
    lowest_N = sums_N.cummin(0)
    gain_N = sums_N - lowest_N.values
    stop = int(gain_N.argmax())
    start = int(lowest_N.indices[stop])
    n = len(ranks_N)
    if stop <= start:
        return _Band(1.0, 1.0, float((~kept_N).double().mean()))
    told = float(gain_N[stop] + (value_N < 0).sum()) / n
    first = 0.0 if start == 0 else float(ranks_N[start - 1] + ranks_N[start]) / 2
    last = 1.0 if stop == n else float(ranks_N[stop - 1] + ranks_N[stop]) / 2
    return _Band(first, last, told)


def _line(rank_N: Tensor, kept_N: Tensor) -> tuple[float, float]:
    """Chance to be kept at the middle rank, and its rise from the smallest to the largest, by least squares."""
    x, y = rank_N.double(), kept_N.double()
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / max(spread, 1e-30)
    return float(y.mean()) + slope * (0.5 - float(x.mean())), slope


def _are_sharp(kept_NK: Tensor, bands: list[_Band]) -> bool:
    """Whether ranks tell who was kept, far better than saying the same of all numbers would."""
    share_K = kept_NK.double().mean(dim=0)
    bare = float(torch.minimum(share_K, 1.0 - share_K).sum())
    return sum(1.0 - band.told for band in bands) <= SHARP * bare + 0.01 * len(bands)


def _all_or_none(kept_NK: Tensor) -> bool:
    """Whether changes of one sign were kept or dropped together."""
    if kept_NK.shape[1] < 2:
        return False
    mixed = float((kept_NK.any(dim=1) & ~kept_NK.all(dim=1)).float().mean())
    dropped = float((~kept_NK.any(dim=1)).float().mean())
    return mixed < 0.03 < dropped


def _signs_agree(parents_NK: Tensor, kept_NK: Tensor) -> bool:
    """Whether no two changes of opposite sign were kept together."""
    if kept_NK.shape[1] < 2:
        return False
    sign_NK = torch.sign(parents_NK) * kept_NK
    clash = float(((sign_NK > 0).any(1) & (sign_NK < 0).any(1)).float().mean())
    both = float((kept_NK.sum(1) >= 2).float().mean())
    return both > 0.01 and clash < 0.02 * both
