"""Weights by layer and component, for merges that vary over the depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.merges.gram import GramTensor
from pedigree.forensics.merges.mixture import (
    BRANCH_RATIO,
    Mixture,
    affine_weights,
    distance,
    fit_mixture,
    mixture_residual,
    select_sources,
)

Groups = dict[tuple[int | None, str], list[GramTensor]]


@dataclass(frozen=True)
class Group:
    """One component of one layer with its own mixture.

    Attributes:
        layer, component: which.
        mixture: weights of its own.
        held_out_residual: squared distance with weights from the other half of the rows.
        energy: squared length of the child there.
        convinces: one source lies on the child, or all that take part pass the branch ratio.
        t: position between the two sources, for spherical interpolation.
    """

    layer: int | None
    component: str
    mixture: Mixture
    held_out_residual: float
    energy: float
    convinces: bool
    t: float | None = None

    @classmethod
    def spherical(
        cls, layer: int | None, component: str, grams: Sequence[Tensor], first: int, second: int, t: float, rest: float
    ) -> Group:
        """A group of a spherical interpolation."""
        energy = float(sum(g[0, 0] for g in grams))
        mixture = Mixture((first, second), (1.0 - t, t), rest, (0.0, 0.0))
        return cls(layer, component, mixture, rest, energy, True, t)


def group_tensors(tensors: Sequence[GramTensor]) -> Groups:
    """Tensors by layer and component, in order."""
    out: Groups = {}
    for tensor in tensors:
        out.setdefault((tensor.layer, tensor.component), []).append(tensor)
    return out


def explain_groups(groups: Groups, candidates: Sequence[int], base: int | None) -> list[Group]:
    """The mixture of each group by itself."""
    out = []
    for (layer, component), members in groups.items():
        units = [half for t in members for half in t.halves_2MM]
        total = torch.stack(units).sum(0)
        mixture = select_sources(units, candidates, () if base is None else (base,))
        if len([s for s in mixture.sources if s != base]) < 2:
            mixture = _nearest(total, candidates)
        halves = torch.stack([t.halves_2MM for t in members]).sum(0)
        rest = 0.0
        for fit, score in ((0, 1), (1, 0)):
            weights = affine_weights(halves[fit], mixture.sources)
            rest += mixture_residual(halves[score], mixture.sources, weights)
        out.append(Group(layer, component, mixture, rest, float(total[0, 0]), _convinces(total, mixture, candidates)))
    return out


def fit_groups(groups: Groups, sources: Sequence[int]) -> list[Group]:
    """The mixture of given sources in each group: of tables, which stand alone and so select no source."""
    out = []
    for (layer, component), members in groups.items():
        total = torch.stack([t.gram_MM for t in members]).sum(0)
        mixture = fit_mixture(total, list(sources))
        out.append(Group(layer, component, mixture, mixture.residual, float(total[0, 0]), True))
    return out


def _nearest(total: Tensor, candidates: Sequence[int]) -> Mixture:
    return fit_mixture(total, [min(candidates, key=lambda s: distance(total, 0, s))])


def _convinces(total: Tensor, mixture: Mixture, candidates: Sequence[int]) -> bool:
    """Several sources that passed, or one with nothing of the others beside it."""
    if len(mixture.sources) > 1:
        return all(ratio < BRANCH_RATIO for ratio in mixture.branch_ratios)
    only = mixture.sources[0]
    others = [s for s in candidates if s != only]
    rest = distance(total, 0, only)
    return all(rest < 0.05 * distance(total, only, s) for s in others)
