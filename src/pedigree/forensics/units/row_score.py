"""A layer of A against many layers of B at once: the numbers of `matching.score_layers`, in a few large products.

A sampled model has as many units in every layer, so the layers of B stand in one matrix: one product finds the nearest
units of all of them, one more scores all matches, and the permutation statistics of all layers are worked out side by
side. Pairs that are not of that plain form (other projections, copies of a unit, empty rows) are scored one by one.

Shapes: M = picked units of A, J = layers of B, U = units of a layer of B, N = J M, D = width through the lens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.units.matching import MatchScore, Table, score_layers, similarity

FEWEST = 8
"""Matches below which a pair has no score (`matching.confirm`)."""


def score_many(a: Table, others: Sequence[Table], max_units: int | None = None) -> list[MatchScore]:
    """`score_layers` of one table of A with each of several tables of B, in their order.

    Args:
        a: units of a layer of A, already carried into B's frame.
        others: units of layers of B.
        max_units: use an evenly spaced subset of A's units.
    """
    pick_M = spread_evenly(a.match_UD.shape[0], max_units)
    groups: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
    if a.is_plain and len(pick_M) >= FEWEST:
        for number, b in enumerate(others):
            names = tuple(name for name in a.confirm_UD if name in b.confirm_UD)
            fits = a.name == b.name and a.match_UD.shape[1] == b.match_UD.shape[1]
            if fits and names and b.is_plain and len(b.match_UD):
                groups[len(b.match_UD), names].append(number)
    scores: dict[int, MatchScore] = {}
    for (_, names), numbers in groups.items():
        if len(numbers) > 1:
            together = _score_together(a, [others[n] for n in numbers], names, pick_M)
            scores.update(zip(numbers, together, strict=True))
    return [scores.get(n) or score_layers(a, b, max_units) for n, b in enumerate(others)]


def _score_together(a: Table, others: Sequence[Table], names: Sequence[str], pick_M: Tensor) -> list[MatchScore]:
    """Scores of tables of one size that are held out on the same projections."""
    m = len(pick_M)
    similarity_JMU = torch.stack([similarity(a, b, pick_M) for b in others])
    match_JM = (similarity_JMU.abs() if a.kind != "ffn" else similarity_JMU).argmax(dim=2)
    total_JMM: Tensor | None = None
    for name in names:
        right_JMD = torch.stack([b.confirm_UD[name][match_M] for b, match_M in zip(others, match_JM, strict=True)])
        cos_JMM = torch.matmul(right_JMD, a.confirm_UD[name][pick_M].T).transpose(1, 2)
        total_JMM = cos_JMM if total_JMM is None else total_JMM + cos_JMM
    if total_JMM is None:
        return [MatchScore(0.0, 0.0, 0) for _ in others]
    z_J, effect_J = _permutation_scores(total_JMM.abs() / len(names), match_JM)
    return [MatchScore(float(z), float(effect), m) for z, effect in zip(z_J, effect_J, strict=True)]


def _permutation_scores(x_JMM: Tensor, match_JM: Tensor) -> tuple[Tensor, Tensor]:
    """`exact.assignment.permutation_z` of several score matrices, column m of which is the unit that row m chose.

    Args:
        x_JMM: held-out agreement of each picked unit of A with each unit that was chosen.
        match_JM: number of the unit of B that was chosen.

    Returns:
        z and effect of each layer; zeros where fewer than two units were chosen, or nothing but rounding is left.
    """
    j, m = match_JM.shape
    # A unit is known by the first row that chose it. Rows are added up by their units; its columns are equal, and the
    # first stands for all.
    first_JM = (match_JM[:, :, None] == match_JM[:, None, :]).to(torch.uint8).argmax(dim=2)
    place_N = (first_JM + m * torch.arange(j)[:, None]).flatten()
    chosen_JM = first_JM == torch.arange(m)
    s_JMM = torch.zeros(j * m, m, dtype=torch.float64)
    s_JMM = s_JMM.index_add_(0, place_N, x_JMM.reshape(j * m, m).double()).reshape(j, m, m)
    s_JMM *= chosen_JM[:, None, :]
    units_J = chosen_JM.sum(dim=1).double()
    column_J1M = s_JMM.sum(dim=1, keepdim=True)
    whole_J = column_J1M.sum(dim=(1, 2))
    effect_J = (s_JMM.diagonal(dim1=1, dim2=2).sum(dim=1) - whole_J / units_J) / m
    d_JMM = s_JMM - column_J1M / units_J[:, None, None]
    d_JMM -= (s_JMM.sum(dim=2, keepdim=True) - whole_J[:, None, None] / units_J[:, None, None]) / units_J[:, None, None]
    d_JMM *= chosen_JM[:, :, None] & chosen_JM[:, None, :]
    sd_J = (d_JMM.square().sum(dim=(1, 2)) / (units_J - 1).clamp_min(1.0)).sqrt() / m
    empty_J = (units_J < 2) | (sd_J <= 1e-12 * x_JMM.abs().amax(dim=(1, 2)))
    zero = torch.zeros((), dtype=torch.float64)
    return torch.where(empty_J, zero, effect_J / sd_J), torch.where(empty_J, zero, effect_J)
