"""What of a model no source accounts for: a parent that is not among them, or what was learned after the merge.

Both leave a residual. A missing parent that shares a start with the sources gives its weight to them as well, to each
by one over the squared length of its own way, and leaves u^2 of a way like theirs; so the residual bounds u, and a
candidate that took no part yet would have got some of it bounds u, too. A stranger shares nothing with anybody: it
leaves less than one whole model of the sources, and the same part of it in every layer.

Shapes  S = sources.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pedigree.forensics.merges.gram import GramTensor
from pedigree.forensics.merges.merge_groups import group_tensors
from pedigree.forensics.merges.mixture import MIN_WEIGHT, affine_weights, distance, fit_mixture, own_way

WHOLE = 0.9
"""Part of a source in a model from which the model has all of it; children have 0.99 to 1.06 after long training."""

LEAST_SHARE = 0.1
"""Share of a missing weight that a candidate would get at least to tell that nothing is missing."""

BESIDE = 0.1
"""Part that a sibling of the one source of a model may have."""

MIRRORED = 0.5
"""Part of what the residual allows that sources without a part of their own tell at least of a missing parent."""

NOT_SHRUNK = 0.5
"""Energy beside a source, over that of the part of another as long as it, from which a lack is no decay of weights."""


def may_be_missing(gram_MM: Tensor, active: Sequence[int], candidates: Sequence[int]) -> tuple[float, list[float]]:
    """The largest weight that a parent may have that is not among the sources of a merge, and what of it each source
    that takes part would have got.

    The second is empty where no candidate beside those that take part has a like part: training leaves as much.

    Args:
        gram_MM: inner products over all tensors; the model is number 0.
        active: sources that take part, two or more.
        candidates: all sources of the family, those that take no part among them.
    """
    own = [own_way(gram_MM, active, k) for k in range(len(active))]
    most = (fit_mixture(gram_MM, active).residual / max(sorted(own)[len(own) // 2], 1e-300)) ** 0.5
    decoys = [s for s in candidates if s not in active]
    told = most
    if decoys:
        weights_S, shares_S = affine_weights(gram_MM, candidates), _shares(gram_MM, candidates)
        told = min(
            (max(0.0, float(w / share)) for s, w, share in zip(candidates, weights_S, shares_S, strict=True)
             if s in decoys and share >= LEAST_SHARE),
            default=most,
        )  # fmt: skip
    missing = min(1.0, most, told)
    if missing < MIN_WEIGHT:
        return 0.0, []
    is_told = decoys and told < 1.0 and missing >= MIRRORED * most
    return missing, [missing * share for share in _shares(gram_MM, active)] if is_told else []


def _shares(gram_MM: Tensor, sources: Sequence[int]) -> list[float]:
    """Shares of the weight of a missing sibling that its siblings get."""
    inverse = [1.0 / max(own_way(gram_MM, sources, k), 1e-300) for k in range(len(sources))]
    return [one / sum(inverse) for one in inverse]


def part_of_stranger(tensors: Sequence[GramTensor], source: int, siblings: Sequence[int]) -> float | None:
    """Part of one source in a model beside a stranger that is missing: no layer has the source whole, and its siblings
    have no part; else None.

    A model that continues a source has all of it, at least in the layers that it kept.
    """
    total = torch.stack([t.gram_MM for t in tensors]).sum(0)
    index = torch.tensor([source, *siblings])
    free_S = torch.linalg.lstsq(total[index][:, index], total[index, 0][:, None], driver="gelsd").solution[1:, 0]
    if siblings and float(free_S.abs().max()) > BESIDE:
        return None
    parts = [_part(torch.stack([t.gram_MM for t in own]).sum(0), source) for own in group_tensors(tensors).values()]
    part = _part(total, source)
    if max(parts) >= WHOLE or part >= WHOLE:
        return None
    beside = float(total[0, 0]) - part**2 * float(total[source, source])
    if beside < NOT_SHRUNK * (1.0 - part) ** 2 * float(total[source, source]):
        return None
    return max(0.0, part)


def _part(gram_MM: Tensor, source: int) -> float:
    return float(gram_MM[0, source]) / max(float(gram_MM[source, source]), 1e-300)


def part_among_siblings(gram_MM: Tensor, source: int, others: Sequence[int]) -> float:
    """Weight of the nearest source where the rest is a missing sibling's, of which all got a share; zero where it
    accounts for less than it leaves. Of two sources alone it is not known what they share, and nothing is taken off."""
    fitted = fit_mixture(gram_MM, [source, *others])
    weight = fitted.weight(source)
    if not (0.0 < weight < 1.0 and fitted.own_ratios[0] < 1.0):
        return 0.0
    if len(others) < 2:
        return weight
    leaked = (1.0 - weight) / (1.0 - _shares(gram_MM, [source, *others])[0])
    return max(0.0, 1.0 - leaked)


def rest_in_words(rest: float) -> str:
    """What a rest may be."""
    return f"unassigned: {rest:.2f}; a parent that is not among the sources, or a common ancestor that is not"


def nearest_of(gram_MM: Tensor, candidates: Sequence[int]) -> int:
    """The source at the least distance."""
    return min(candidates, key=lambda s: distance(gram_MM, 0, s))
