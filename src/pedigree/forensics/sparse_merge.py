"""Merges of masked changes: TIES keeps the largest changes of each parent and lets signs vote, DARE keeps random ones.

Either way each number of the child is base + c . (changes of some subset of the parents), with one vector c for each
subset. Where a change is large against the rounding of the child, which subset it was can be read off number by
number. So: find the coefficients from the modes of ratios, assign every such number to a subset, and count how many
numbers are explained within their rounding, against the same count after the parents' changes have been shuffled.

Source  Yadav et al. (arXiv:2306.01708) for TIES, Yu et al. (arXiv:2311.03099) for DARE.
Shapes  N = numbers looked at, K = parents, Q = subsets of parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from pedigree.forensics.gram import bands, last_place, read_band
from pedigree.weights.anatomy import Part

LARGE = 16.0
"""A change counts as readable from this many last places of the child's number type."""

TOLERANCE = 1.5
"""Last places within which a prediction explains a number."""

EXPLAINED = 0.9
"""Share of readable numbers that has to be explained, shuffled numbers being explained much less often."""

MAX_TENSORS, MAX_NUMBERS, MIN_READABLE = 24, 1 << 18, 4000


@dataclass(frozen=True)
class SparseMerge:
    """A merge of masked changes.

    Attributes:
        method: "ties", "dare_ties" or "dare_linear".
        weights, densities: for each parent, zero where it takes no part.
        explained, shuffled: share of readable numbers explained, and the same with shuffled changes.
        readable: how many numbers that rests on.
        singles: what each parent's change was multiplied with where it was kept alone.
    """

    method: str
    weights: list[float]
    densities: list[float]
    explained: float
    shuffled: float
    readable: int
    singles: list[float]


def find_sparse_merge(rows: Sequence[tuple[Part, ...]]) -> SparseMerge | str:
    """The masked merge behind a child, or why none was found.

    Args:
        rows: aligned parts (child, parents..., base).
    """
    change_N, parents_NK, last_N, sizes_NK = _readable(rows)
    if change_N.shape[0] < MIN_READABLE:
        return "the parents' changes are too small against the rounding of the child's number type to look for masks"
    single_K = torch.tensor([_mode(change_N / parents_NK[:, k]) for k in range(parents_NK.shape[1])])
    best = _better(change_N, parents_NK, last_N, single_K)
    if best is not None and 0.0 in best.weights:
        # Once more without those that took no part: their changes would explain some numbers by chance.
        active = [k for k, w in enumerate(best.weights) if w]
        best = _spread(_better(change_N, parents_NK[:, active], last_N, single_K[active]), active, len(best.weights))
    if best is None or best.explained < EXPLAINED or best.shuffled > best.explained - 0.3:
        return "no mask of the parents' changes explains the numbers one by one"
    return _with_thresholds(best, change_N, parents_NK, last_N, sizes_NK) if best.method == "ties" else best


def _with_thresholds(
    found: SparseMerge, change_N: Tensor, parents_NK: Tensor, last_N: Tensor, sizes_NK: Tensor
) -> SparseMerge:
    """Densities of a merge that keeps the largest changes: the share of all above the smallest one kept alone."""
    densities = []
    for k, (single, weight) in enumerate(zip(found.singles, found.weights, strict=True)):
        alone_N = (change_N - single * parents_NK[:, k]).abs() <= TOLERANCE * last_N
        kept_N = parents_NK[alone_N, k].abs()
        if not weight or not kept_N.numel():
            densities.append(0.0)
            continue
        densities.append(float((sizes_NK[:, k] >= torch.quantile(kept_N[:MAX_NUMBERS], 0.02)).float().mean()))
    return replace(found, densities=densities)


def _better(change_N: Tensor, parents_NK: Tensor, last_N: Tensor, single_K: Tensor) -> SparseMerge | None:
    """The better of merges that divide by the weights of what they keep and those that do not."""
    tried = [_explain(change_N, parents_NK, last_N, single_K, normalized) for normalized in (False, True)]
    return max((t for t in tried if t is not None), key=lambda t: t.explained, default=None)


def _spread(found: SparseMerge | None, active: list[int], n_parents: int) -> SparseMerge | None:
    """Numbers of the active parents back at their places among all."""
    if found is None:
        return None

    def wide(values: list[float]) -> list[float]:
        by_parent = dict(zip(active, values, strict=True))
        return [by_parent.get(k, 0.0) for k in range(n_parents)]

    return replace(
        found, weights=wide(found.weights), densities=wide(found.densities), singles=wide(found.singles)
    )  # fmt: skip


def _readable(rows: Sequence[tuple[Part, ...]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Changes of the child and of the parents where all parents' changes are large, with the last place there; sizes
    of the parents' changes, large or not."""
    chosen = [row for row in rows if row[0].role.startswith(("attn.", "mlp.", "moe."))]
    step = max(1, len(chosen) // MAX_TENSORS)
    changes, parents, places, sizes = [], [], [], []
    for parts in chosen[::step]:
        for band in bands(parts[0], whole=False):
            block_MRD = read_band(parts, band)
            delta_MN = (block_MRD[:-1] - block_MRD[-1]).flatten(1)[:, :MAX_NUMBERS]
            # The larger of the two last places: the sum of base and change was rounded at its own size.
            place_N = torch.maximum(last_place(block_MRD[0], parts[0].dtype), last_place(block_MRD[-1], parts[0].dtype))
            place_N = place_N.flatten()[:MAX_NUMBERS]
            keep_N = (delta_MN[1:].abs() > LARGE * place_N).all(dim=0) & (place_N > 0)
            changes.append(delta_MN[0, keep_N])
            parents.append(delta_MN[1:, keep_N].T)
            places.append(place_N[keep_N])
            sizes.append(delta_MN[1:, ::8].abs().T)
    if not changes:
        none = torch.zeros(0, len(rows[0]) - 2 if rows else 0)
        return torch.zeros(0), none, torch.zeros(0), none
    return torch.cat(changes), torch.cat(parents), torch.cat(places), torch.cat(sizes)


def _mode(ratio_N: Tensor) -> float:
    """Where most ratios lie, zero left out: the coefficient of a change that was kept alone."""
    inside_N = ratio_N[(ratio_N.abs() > 0.03) & (ratio_N.abs() < 8.0)]
    if not inside_N.numel():
        return 0.0
    counts = torch.histc(inside_N, bins=800, min=-8.0, max=8.0)
    smooth = counts[:-1] + counts[1:]
    middle = -8.0 + (int(smooth.argmax()) + 1) * 0.02
    near_N = inside_N[(inside_N - middle).abs() < 0.03]
    return float(near_N.median()) if near_N.numel() else middle


def _explain(
    change_N: Tensor, parents_NK: Tensor, last_N: Tensor, single_K: Tensor, normalized: bool
) -> SparseMerge | None:
    n_parents = parents_NK.shape[1]
    subsets = [s for size in range(n_parents + 1) for s in combinations(range(n_parents), size)]
    weights_K = _relative_weights(change_N, parents_NK, last_N, single_K) if normalized else single_K
    if weights_K is None:
        return None
    table_QK = torch.zeros(len(subsets), n_parents)
    for q, subset in enumerate(subsets):
        index = list(subset)
        if not index:
            continue
        total = weights_K[index].sum()
        # A normalized merge divides by the weights of those that were kept; alone, a change comes through whole.
        scale = float(single_K[index].mean() / total) if normalized else 1.0
        table_QK[q, index] = weights_K[index] * scale
    choice_N, error_N = _assign(change_N, parents_NK, table_QK)
    explained_N = error_N <= TOLERANCE * last_N
    order = torch.randperm(change_N.shape[0], generator=torch.Generator().manual_seed(0))
    shuffled = float((_assign(change_N, parents_NK[order], table_QK)[1] <= TOLERANCE * last_N).float().mean())
    member_QK = torch.tensor([[k in s for k in range(n_parents)] for s in subsets])
    kept_NK = member_QK[choice_N[explained_N]]
    return _name(
        parents_NK[explained_N], kept_NK, weights_K, single_K, normalized, float(explained_N.float().mean()), shuffled
    )


def _assign(change_N: Tensor, parents_NK: Tensor, table_QK: Tensor) -> tuple[Tensor, Tensor]:
    """The subset that comes nearest to each number, and how near."""
    error_NQ = (parents_NK @ table_QK.T - change_N[:, None]).abs()
    nearest = error_NQ.min(dim=1)
    return nearest.indices, nearest.values


def _relative_weights(change_N: Tensor, parents_NK: Tensor, last_N: Tensor, single_K: Tensor) -> Tensor | None:
    """Weights, up to a common factor, of a merge that divides by the weights of the parents that were kept."""
    n_parents = parents_NK.shape[1]
    weights_K = torch.ones(n_parents)
    alone_N = (parents_NK * single_K - change_N[:, None]).abs().amin(dim=1) <= TOLERANCE * last_N
    open_N = ~alone_N & (change_N.abs() > TOLERANCE * last_N)
    for k in range(1, n_parents):
        level = float(single_K[[0, k]].mean())
        gap_N = level * (parents_NK[:, 0] - parents_NK[:, k])
        share_N = (change_N - level * parents_NK[:, k]) / gap_N
        inside_N = share_N[open_N & (gap_N.abs() > LARGE * last_N) & (share_N > 0.02) & (share_N < 0.98)]
        if inside_N.numel() < 100:
            return None
        share = _mode(inside_N)
        if not 0.0 < share < 1.0:
            return None
        weights_K[k] = (1.0 - share) / share
    return weights_K / weights_K.sum()


def _name(
    parents_NK: Tensor,
    kept_NK: Tensor,
    weights_K: Tensor,
    single_K: Tensor,
    normalized: bool,
    explained: float,
    shuffled: float,
) -> SparseMerge | None:
    """The method by its marks: whether large changes were preferred, and whether signs were made to agree."""
    if kept_NK.shape[0] < MIN_READABLE // 2:
        return None
    density_K = kept_NK.float().mean(dim=0)
    takes_part_K = (density_K > 0.03) & (single_K.abs() > 0.01)
    if not bool(takes_part_K.any()):
        return None
    elected = _signs_agree(parents_NK, kept_NK)
    trimmed = normalized or _prefers_large(parents_NK, kept_NK, takes_part_K)
    method = "ties" if trimmed else "dare_ties" if elected else "dare_linear"
    # DARE divides what it keeps by the share it keeps; a voted-down change looks like a dropped one.
    density_K = torch.where(takes_part_K, density_K, 0.0)
    weights = torch.where(takes_part_K, weights_K if trimmed else weights_K * density_K, 0.0)
    if trimmed:
        weights = weights / weights.sum()
    readable = int(parents_NK.shape[0])
    return SparseMerge(
        method, weights.tolist(), density_K.tolist(), explained, shuffled, readable, single_K.tolist()
    )  # fmt: skip


def _prefers_large(parents_NK: Tensor, kept_NK: Tensor, takes_part_K: Tensor) -> bool:
    gaps = []
    for k in torch.nonzero(takes_part_K).flatten().tolist():
        large_N = parents_NK[:, k].abs() > parents_NK[:, k].abs().median()
        gaps.append(float(kept_NK[large_N, k].float().mean() - kept_NK[~large_N, k].float().mean()))
    return sum(gaps) / len(gaps) > 0.15


def _signs_agree(parents_NK: Tensor, kept_NK: Tensor) -> bool:
    """Whether no two changes of opposite sign were kept together."""
    if kept_NK.shape[1] < 2:
        return False
    sign_NK = torch.sign(parents_NK) * kept_NK
    clash = float(((sign_NK > 0).any(1) & (sign_NK < 0).any(1)).float().mean())
    both = float((kept_NK.sum(1) >= 2).float().mean())
    return both > 0.01 and clash < 0.02 * both
