"""Merges of masked changes: each number of the child is the base plus changes of those parents that were kept there.

Which ones these were can be read off number by number where changes are large against the rounding of the child. For
each tensor, a parent that was kept alone shows as a peak in the ratio of the child's change to its own; candidates
without a peak took no part. Then every readable number is given the subset of parents that comes nearest, and those
within rounding are counted, against the same count after the parents' changes have been shuffled. What was kept tells
the method (`mask_marks.py`).

Source  Yadav et al. (arXiv:2306.01708) for TIES, Yu et al. (arXiv:2311.03099) for DARE, Wan et al. (arXiv:2408.07990)
        for SCE; forms as mergekit 0.1.5 computes them.
Shapes  N = numbers of a tensor that are looked at, K = parents, Q = subsets of parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from pedigree.forensics.merges.gram import bands, fraction_bits, last_place, read_band
from pedigree.weights.anatomy import Part

LARGE = 16.0
"""A change counts as readable from this many last places of the child's number type."""

TOLERANCE = 1.5
"""Last places within which a prediction explains a number."""

EXPLAINED = 0.9
"""Share of readable numbers that has to be explained, shuffled numbers being explained much less often."""

PEAK = 0.01
"""Share of a parent's large changes that has to stand in the peak, beyond what stands beside it."""

How = Literal["sums", "one mean", "scaled means", "own means"]
HOW: tuple[How, ...] = ("sums", "one mean", "scaled means", "own means")
"""A merge sums what it keeps, or divides by its weights: one set of weights and one scale for all tensors (TIES), what
each parent keeps scaled tensor by tensor (DELLA), or weights for each tensor (SCE)."""

SLACKS = (2.0, 8.0)
"""How many times the usual rounding numbers may be off in a child that was trained a little after the merge."""

MAX_TENSORS, MAX_NUMBERS, MIN_READABLE, MOST_PARENTS = 24, 1 << 17, 4000, 6


@dataclass(frozen=True)
class Block:
    """Numbers of one tensor: changes of child and parents from the base, the last place of the child there, the base,
    how the parents' changes rank in the tensor, 0 to 1, each by its size, and by how much they differ; and how far
    training after the merge may have moved any number."""

    change_N: Tensor
    parents_NK: Tensor
    place_N: Tensor
    base_N: Tensor
    rank_NK: Tensor
    spread_N: Tensor
    dtype: str
    precision: float
    noise: float = 0.0

    def picked(self, seen_N: Tensor, parents: list[int]) -> Block:
        """Some of the numbers, and of the parents."""
        return replace(
            self,
            change_N=self.change_N[seen_N],
            parents_NK=self.parents_NK[seen_N][:, parents],
            place_N=self.place_N[seen_N],
            base_N=self.base_N[seen_N],
            rank_NK=self.rank_NK[seen_N][:, parents],
            spread_N=_ranks(self.parents_NK[:, parents].var(dim=1, unbiased=False))[seen_N],
        )

    def readable(self, parents: list[int]) -> Tensor:
        """Where the changes of all these parents are large against rounding, whichever of them were kept: what the
        child came to be has no say in it, or kept changes would be seen less often."""
        size_NK = self.parents_NK[:, parents].abs()
        place_N = last_place(self.base_N.abs() + size_NK.sum(dim=1), self.dtype)
        return (size_NK > LARGE * place_N.clamp_min(self.noise)[:, None]).all(dim=1)

    def tolerance(self, prediction_N: Tensor) -> Tensor:
        """How far a prediction may be off: the sum was rounded, and so were the steps that led to it."""
        return self.least_N + self.precision * prediction_N.abs()

    @property
    def least_N(self) -> Tensor:
        """Below this a change may be rounding, or what came after the merge."""
        return TOLERANCE * self.place_N.clamp_min(self.noise)


@dataclass(frozen=True)
class Assigned:
    """Readable numbers of a tensor that a subset of parents explains: their changes, ranks, and who was kept."""

    parents_NK: Tensor
    rank_NK: Tensor
    kept_NK: Tensor
    spread_N: Tensor


@dataclass(frozen=True)
class SparseMerge:
    """Masked changes as they were read.

    Attributes:
        active: which parents took part, in order.
        levels_TK: for each tensor what a change of each of them was multiplied with where it was kept alone.
        weights_K: relative weights where a merge divides by the weights of what it keeps, None where it does not.
        explained, shuffled: share of readable numbers that changed which is explained, and the same with shuffled
            changes.
        readable: how many numbers that rests on.
        assigned: of each tensor, what was kept.
        heavy_K: mean rank of each one's changes, weighted by their size.
        slack: how many times rounding numbers were allowed to be off, since the child was changed afterwards.
    """

    active: list[int]
    levels_TK: Tensor
    weights_K: Tensor | None
    explained: float
    shuffled: float
    readable: int
    assigned: list[Assigned] = field(repr=False)
    heavy_K: Tensor
    slack: float = 1.0


def find_sparse_merge(rows: Sequence[tuple[Part, ...]]) -> SparseMerge | str:
    """The masked merge behind a child, or why none was found.

    Args:
        rows: aligned parts (child, parents..., base).
    """
    blocks = read_blocks(rows)
    found = _masks_of(blocks)
    for slack in SLACKS if isinstance(found, str) else ():
        # A little training after the merge moves all numbers about as far; what is much larger can still be read.
        wider = _masks_of([replace(block, noise=slack * float(block.place_N.median())) for block in blocks])
        if not isinstance(wider, str):
            return replace(wider, slack=slack)
    return found


def _masks_of(blocks: Sequence[Block]) -> SparseMerge | str:
    """The same of what was read."""
    each = range(blocks[0].parents_NK.shape[1]) if blocks else range(0)
    if max((sum(int(block.readable([k]).sum()) for block in blocks) for k in each), default=0) < MIN_READABLE:
        return "the parents' changes are too small against the rounding of the child's number type to look for masks"
    active = _taking_part(blocks)
    if not active:
        return "no mask of the parents' changes explains the numbers one by one"
    readable = [block.picked(block.readable(active), active) for block in blocks]
    readable = [block for block in readable if len(block.change_N) >= 50]
    if sum(len(block.change_N) for block in readable) < MIN_READABLE / 2:
        return "the parents' changes are too small against the rounding of the child's number type to look for masks"
    tried = [_explain(readable, active, how) for how in HOW]
    best = max((t for t in tried if t is not None), key=lambda t: t.explained, default=None)
    if best is None or best.explained < EXPLAINED or best.shuffled > best.explained - 0.3:
        return "no mask of the parents' changes explains the numbers one by one"
    weighed = [(b.parents_NK[:, active].abs(), b.rank_NK[:, active]) for b in blocks]
    total_K = torch.stack([size_NK.sum(dim=0) for size_NK, _ in weighed]).sum(dim=0).clamp_min(1e-30)
    heavy_K = torch.stack([(size_NK * rank_NK).sum(dim=0) for size_NK, rank_NK in weighed]).sum(dim=0) / total_K
    return replace(best, heavy_K=heavy_K)


CLIPPED = 0.2
"""Share of a parent's changes that has to stand at the limit for changes to count as cut off there."""


def find_clipped_changes(rows: Sequence[tuple[Part, ...]]) -> tuple[int, float, float] | None:
    """The one parent whose changes the child has up to a limit (nearswap): its number, the limit, and the share of
    changes explained; None where there is none."""
    blocks = read_blocks(rows)
    change_N = torch.cat([block.change_N for block in blocks]) if blocks else torch.zeros(0)
    place_N = torch.cat([block.place_N for block in blocks]) if blocks else torch.zeros(0)
    best: tuple[int, float, float] | None = None
    for k in range(blocks[0].parents_NK.shape[1] if blocks else 0):
        parent_N = torch.cat([block.parents_NK[:, k] for block in blocks])
        moved_N = (parent_N.abs() > TOLERANCE * place_N) & (change_N != 0)
        limit = float(change_N[moved_N].abs().median()) if bool(moved_N.any()) else 0.0
        cut_N = moved_N & (parent_N.abs() > 2.0 * limit)
        limit = float(change_N[cut_N].abs().mean()) if bool(cut_N.any()) else 0.0
        right_N = (change_N - parent_N.clamp(-limit, limit)).abs() <= TOLERANCE * place_N
        sure_N = cut_N & (limit > 2.0 * TOLERANCE * place_N)
        if int(sure_N.sum()) < max(MIN_READABLE / 8, CLIPPED * 0.05 * len(parent_N)):
            continue
        told = float((right_N & sure_N).sum() / sure_N.sum())
        if told >= EXPLAINED and (best is None or told > best[2]):
            best = (k, limit, told)
    return best


def read_blocks(rows: Sequence[tuple[Part, ...]]) -> list[Block]:
    """Some tensors of the layers, spread over the depth, as changes from the base."""
    chosen = [row for row in rows if row[0].role.startswith(("attn.", "mlp.", "moe."))]
    found = []
    for parts in chosen[:: max(1, len(chosen) // MAX_TENSORS)]:
        taken, count = [], 0
        for band in bands(parts[0], whole=False):
            taken.append(read_band(parts, band).flatten(1))
            count += taken[-1].shape[1]
            if count >= MAX_NUMBERS:
                break
        block_MN = torch.cat(taken, dim=1)[:, :MAX_NUMBERS]
        delta_MN = block_MN[:-1] - block_MN[-1]
        # The larger of the two last places: the sum of base and change was rounded at its own size.
        place_N = torch.maximum(last_place(block_MN[0], parts[0].dtype), last_place(block_MN[-1], parts[0].dtype))
        parents_NK = delta_MN[1:].T
        rank_NK = _ranks(parents_NK.abs())
        there_N = place_N > 0
        precision = 2.0 ** -min(fraction_bits(part.dtype) for part in parts)
        every = list(range(parents_NK.shape[1]))
        whole = Block(delta_MN[0], parents_NK, place_N, block_MN[-1], rank_NK, place_N, parts[0].dtype, precision)
        found.append(whole.picked(there_N, every))
    return found


def _ranks(size_N: Tensor) -> Tensor:
    """Ranks along the first axis, 0 for the smallest to 1."""
    return size_N.argsort(dim=0).argsort(dim=0) / max(1, size_N.shape[0] - 1)


# -- who took part -----------------------------------------------------------------------------------------------------


def _taking_part(blocks: Sequence[Block]) -> list[int]:
    """Parents whose changes were kept alone somewhere, by a peak in the ratio of the child's change to theirs."""
    excess = []
    for k in range(blocks[0].parents_NK.shape[1]):
        hits = beside = total = 0
        for block in blocks:
            part = block.picked(block.readable([k]) & (block.change_N.abs() > block.least_N), [k])
            level = peak(part, part.change_N, part.parents_NK[:, 0])
            off_N = (part.change_N - level * part.parents_NK[:, 0]).abs()
            width_N = part.tolerance(level * part.parents_NK[:, 0])
            hits += int((off_N <= width_N).sum())
            beside += int(((off_N > width_N) & (off_N <= 3 * width_N)).sum()) // 2
            total += len(off_N)
        excess.append((hits - beside) / max(1, total) if hits > 1.5 * beside else 0.0)
    order = sorted(range(len(excess)), key=lambda k: -excess[k])[:MOST_PARENTS]
    return sorted(k for k in order if excess[k] >= PEAK)


def peak(block: Block, y_N: Tensor, x_N: Tensor) -> float:
    """Where most ratios y / x lie, zero left out; sharpened by least squares on those that agree with it."""
    ratio_N = y_N / x_N
    inside_N = ratio_N[(ratio_N.abs() > 0.03) & (ratio_N.abs() < 8.0)]
    if not inside_N.numel():
        return 0.0
    counts = torch.histc(inside_N, bins=1600, min=-8.0, max=8.0)
    smooth = counts[:-1] + counts[1:]
    level = -8.0 + (int(smooth.argmax()) + 1) * 0.01
    for _ in range(4):
        near_N = (y_N - level * x_N).abs() <= block.tolerance(level * x_N)
        if not bool(near_N.any()):
            break
        level = float((y_N[near_N] * x_N[near_N]).sum() / (x_N[near_N] ** 2).sum())
    return level


# -- which of them, number by number -----------------------------------------------------------------------------------


def _explain(blocks: Sequence[Block], active: list[int], how: How) -> SparseMerge | None:
    """Subsets for every number, of a merge of that kind; None where it cannot be one."""
    n_parents, normalized = len(active), how != "sums"
    if normalized and n_parents < 2:
        return None
    each = range(n_parents)
    levels = [torch.tensor([peak(b, b.change_N, b.parents_NK[:, k]) for k in each]) for b in blocks]
    if how in ("one mean", "own means"):
        levels = [torch.stack(levels).median()[None].expand(n_parents)] * len(blocks)
    if how == "own means":
        weights = [_relative_weights([block], [level_K]) for block, level_K in zip(blocks, levels, strict=True)]
    else:
        one = _relative_weights(blocks, levels) if normalized else torch.ones(n_parents)
        weights = [one] * len(blocks)
    if any(weight_K is None for weight_K in weights):
        return None
    subsets = [s for size in range(n_parents + 1) for s in combinations(range(n_parents), size)]
    member_QK = torch.tensor([[float(k in s) for k in range(n_parents)] for s in subsets])
    assigned, hits, by_chance, total = [], 0, 0, 0
    generator = torch.Generator().manual_seed(0)
    for block, level_K, weight_K in zip(blocks, levels, weights, strict=True):
        table_QK = member_QK * level_K
        if normalized and weight_K is not None:
            # What is kept is divided by its weights; alone, a change comes through at its level.
            table_QK = table_QK * weight_K / (member_QK @ weight_K).clamp_min(1e-9)[:, None]
        choice_N, within_N = _assign(block, block.parents_NK, table_QK)
        order = torch.randperm(len(block.change_N), generator=generator)
        moved_N = block.change_N.abs() > block.least_N
        hits += int((within_N & moved_N).sum())
        by_chance += int((_assign(block, block.parents_NK[order], table_QK)[1] & moved_N).sum())
        total += int(moved_N.sum())
        kept_NK = member_QK[choice_N[within_N]] > 0
        assigned.append(
            Assigned(block.parents_NK[within_N] * level_K, block.rank_NK[within_N], kept_NK, block.spread_N[within_N])
        )
    mean_K = torch.stack([w for w in weights if w is not None]).mean(0) if normalized else None
    total = max(1, total)
    none_K = torch.zeros(n_parents)
    return SparseMerge(active, torch.stack(levels), mean_K, hits / total, by_chance / total, total, assigned, none_K)


def _assign(block: Block, parents_NK: Tensor, table_QK: Tensor) -> tuple[Tensor, Tensor]:
    """The subset that comes nearest to each number, and whether it is within rounding."""
    predicted_NQ = parents_NK @ table_QK.T
    nearest = (predicted_NQ - block.change_N[:, None]).abs().min(dim=1)
    best_N = predicted_NQ.gather(1, nearest.indices[:, None])[:, 0]
    return nearest.indices, nearest.values <= block.tolerance(best_N)


def _relative_weights(blocks: Sequence[Block], levels: Sequence[Tensor]) -> Tensor | None:
    """Weights, summing to one, of a merge that divides by the weights of the parents that were kept."""
    n_parents = len(levels[0])
    weight_K = torch.ones(n_parents)
    for k in range(1, n_parents):
        rests, gaps, places = [], [], []
        for block, level_K in zip(blocks, levels, strict=True):
            alone_NK = block.parents_NK * level_K
            left_N = (alone_NK - block.change_N[:, None]).abs().amin(dim=1) > block.tolerance(block.change_N)
            left_N &= block.change_N.abs() > block.least_N
            gap_N, rest_N = alone_NK[:, 0] - alone_NK[:, k], block.change_N - alone_NK[:, k]
            share_N = rest_N / gap_N
            left_N &= (gap_N.abs() > LARGE * block.place_N.clamp_min(block.noise)) & (share_N > 0.02) & (share_N < 0.98)
            rests.append(rest_N[left_N])
            gaps.append(gap_N[left_N])
            places.append(block.place_N[left_N])
        rest_N, gap_N, place_N = torch.cat(rests), torch.cat(gaps), torch.cat(places)
        if len(rest_N) < 20:
            return None
        pair = replace(blocks[0], place_N=place_N)
        share = peak(pair, rest_N, gap_N)
        if not 0.0 < share < 1.0:
            return None
        weight_K[k] = (1.0 - share) / share
    return weight_K / weight_K.sum()
