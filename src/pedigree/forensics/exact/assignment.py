"""Which unit of B resembles which unit of A, decided without ever looking at indices.

Shapes    A = units of the first model, B = units of the second, K = matched pairs, 2 = (unit of A, unit of B),
          M = matched units of A that count

Exact tests on indices (`fixed_points`, `increasing_subsequence`) hold only if the matching is blind to them. The trap
is ties: dead units have similarity zero with everything, duplicated units have equal similarities, and an argmax
that settles ties by the lowest index lines such units up in order in both models, which looks like descent. Hence
`mutual_nearest` and `assign` leave ambiguous units out (ask `ambiguous_rows` which), and `best_match`, which must
answer for widened models with true duplicates, draws among ties by a seeded shuffle; `permutation_z` scores its
answer on a view of the weights that it has not seen. Ties are judged with a small tolerance, because a matrix
product may round equal rows differently at different places.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pedigree.errors import UsageError

TIE = 1e-6  # relative to the largest similarity; rounding of a float32 product of unit rows stays below it


def mutual_nearest(sim_AB: Tensor) -> Tensor:
    """Pairs that are each other's single best match.

    Args:
        sim_AB: similarities, larger is closer; compute them in float32 or better. Entries that are not finite
            (cosines of dead units) never match.

    Returns:
        int64 tensor pairs_K2, ordered by the unit of A, no unit twice. A unit whose best match is tied is left out.

    Raises:
        UsageError: the tensor is not a matrix.
    """
    clean_AB, tie = _clean(sim_AB)
    if min(clean_AB.shape) == 0:
        return torch.empty((0, 2), dtype=torch.int64, device=clean_AB.device)
    best_A, sure_A = _single_best(clean_AB, tie)
    best_B, sure_B = _single_best(clean_AB.T, tie)
    i_A = torch.arange(len(best_A), device=best_A.device)
    keep_A = sure_A & sure_B[best_A] & (best_B[best_A] == i_A)
    return torch.stack((i_A[keep_A], best_A[keep_A]), dim=1)


def best_match(sim_AB: Tensor, *, seed: int = 0) -> Tensor:
    """For each unit of A the unit of B that resembles it most; several may choose the same.

    Args:
        sim_AB: similarities, larger is closer; entries that are not finite never match.
        seed: of the shuffle that settles ties between duplicated units of B.

    Returns:
        int64 tensor index_A into B; -1 for units equally similar to everything (dead) or without a finite entry.

    Raises:
        UsageError: the tensor is not a matrix.
    """
    clean_AB, tie = _clean(sim_AB)
    n_a, n_b = clean_AB.shape
    if min(n_a, n_b) == 0:
        return torch.full((n_a,), -1, dtype=torch.int64, device=clean_AB.device)
    top_A = clean_AB.amax(dim=1)
    shuffle_B = torch.randperm(n_b, generator=torch.Generator().manual_seed(seed)).to(clean_AB.device)
    first_A = (clean_AB[:, shuffle_B] >= (top_A - tie)[:, None]).to(torch.uint8).argmax(dim=1)
    return torch.where(_is_blank(clean_AB, tie), -1, shuffle_B[first_A])


def assign(sim_AB: Tensor) -> Tensor:
    """The one-to-one matching with the largest total similarity (linear sum assignment).

    Args:
        sim_AB: similarities, larger is closer; entries that are not finite never match.

    Returns:
        int64 tensor pairs_K2, ordered by the unit of A. Units of either side that are dead or duplicated are left
        out (`ambiguous_rows`), the rest of the smaller side is matched completely.

    Raises:
        UsageError: the tensor is not a matrix.
    """
    from scipy.optimize import linear_sum_assignment

    clean_AB, _ = _clean(sim_AB)
    keep_A = torch.nonzero(~ambiguous_rows(sim_AB)).flatten()
    keep_B = torch.nonzero(~ambiguous_rows(sim_AB.T)).flatten()
    if not (len(keep_A) and len(keep_B)):
        return torch.empty((0, 2), dtype=torch.int64, device=clean_AB.device)
    kept_AB = clean_AB[keep_A][:, keep_B]
    finite_AB = torch.isfinite(kept_AB)
    # The solver takes no infinities: a forbidden entry costs more than any complete matching, and is dropped after.
    span = float(kept_AB[finite_AB].abs().max()) + 1.0
    allowed_AB = torch.where(finite_AB, kept_AB, -4.0 * span * min(kept_AB.shape))
    rows, columns = (torch.from_numpy(x) for x in linear_sum_assignment(allowed_AB.cpu().numpy(), maximize=True))
    allowed_K = finite_AB.cpu()[rows, columns]
    i_K, j_K = rows[allowed_K].to(keep_A.device), columns[allowed_K].to(keep_B.device)
    return torch.stack((keep_A[i_K], keep_B[j_K]), dim=1)


def permutation_z(score_AB: Tensor, match_A: Tensor, unit_B: Tensor | None = None) -> tuple[float, float]:
    """How far the held-out mean score of a match lies above that of its shuffles.

    The null: the units of B could have borne each other's held-out views, since the match was not made on those. Units
    of B are shuffled, not rows of the match: where many units of A choose the same unit of B, their scores rise and
    fall together and are one piece of evidence. (Shuffling rows instead lets 64 units of A that meet 6 of B pass for 64
    pieces; strangers with latent attention then reach z of 11, docs/LOG.md 2026-11-29.)

    With the matched units c = 1..m of B and S[c, c'] = sum over rows a that chose c of score[a, c'], the statistic is
    T = sum of S[c, c] / n. Shuffling the units has T the mean sum S / (m n) and the variance
    sum d^2 / (n^2 (m-1)), d being S centered by rows and columns (Hoeffding 1951). Both are exact. The normal tail of
    z is not: units that training makes universal lift strangers a little (forensics study 9.10: z under 4.1, effect
    under 0.02), so a threshold on z belongs to a bank of independent pairs. z cannot exceed m-1, so few units
    cannot say much.

    Args:
        score_AB: held-out similarity of unit a of A with unit b of B.
        match_A: integer index into B for each unit of A, repetitions allowed; negative means unmatched, left out.
            Units whose matched score is not finite (dead on the held-out view) are left out too.
        unit_B: label of each column; columns of one label are the same unit, or copies of it, and are shuffled as
            one. None: every column is a unit of its own.

    Returns:
        z and effect = T minus its mean under shuffling. Both are 0.0 where shuffling changes nothing (fewer than two
        units matched, or all to one column).

    Raises:
        UsageError: shapes do not fit, or an index lies outside B.
    """
    if score_AB.ndim != 2 or match_A.ndim != 1 or len(match_A) != len(score_AB) or match_A.is_floating_point():
        raise UsageError(
            "A match needs one column index per row of the scores",
            got=f"scores {tuple(score_AB.shape)}, match {tuple(match_A.shape)} of {match_A.dtype}",
        )
    if len(match_A) and int(match_A.max()) >= score_AB.shape[1]:
        raise UsageError("A match points outside the scores", got=int(match_A.max()), expected=f"< {score_AB.shape[1]}")
    row_M = torch.nonzero(match_A >= 0).flatten()
    row_M = row_M[torch.isfinite(score_AB[row_M, match_A[row_M]])]
    x_MM = score_AB[row_M][:, match_A[row_M]].double()
    whole_M = torch.isfinite(x_MM).all(dim=1)  # what is left of stray entries that are not finite
    x_MM, row_M = x_MM[whole_M][:, whole_M], row_M[whole_M]
    chosen_M = match_A[row_M] if unit_B is None else unit_B[match_A[row_M]]
    units_C, unit_M = torch.unique(chosen_M, return_inverse=True)
    n, m = len(x_MM), len(units_C)
    if m < 2:
        return 0.0, 0.0
    member_CM = torch.zeros(m, n, dtype=torch.float64)
    member_CM[unit_M, torch.arange(n)] = 1.0
    s_CC = member_CM @ x_MM @ (member_CM / member_CM.sum(dim=1, keepdim=True)).T
    d_CC = s_CC - s_CC.mean(dim=0, keepdim=True)
    d_CC -= d_CC.mean(dim=1, keepdim=True)
    effect = float(s_CC.diagonal().sum() - s_CC.sum() / m) / n
    sd = math.sqrt(float(d_CC.square().sum()) / (m - 1)) / n
    scale = float(x_MM.abs().max())
    if sd <= 1e-12 * scale:  # nothing but rounding is left
        return 0.0, 0.0
    return effect / sd, effect


def ambiguous_rows(sim_AB: Tensor) -> Tensor:
    """Which units of A no index-free rule can place: dead, without a finite entry, or duplicated within A.

    Returns:
        bool tensor over A. For the units of B pass the transpose.
    """
    clean_AB, tie = _clean(sim_AB)
    if clean_AB.numel() == 0:
        return torch.ones(len(clean_AB), dtype=torch.bool, device=clean_AB.device)
    # Equal rows have equal projections, so after sorting by one random projection they are neighbors.
    solid_AB = torch.where(torch.isfinite(clean_AB), clean_AB, 0.0)
    probe_B = torch.randn(solid_AB.shape[1], generator=torch.Generator().manual_seed(0)).to(solid_AB)
    order_A = (solid_AB @ probe_B).argsort()
    sorted_AB = solid_AB[order_A]
    twin = (sorted_AB[1:] - sorted_AB[:-1]).abs().amax(dim=1) <= tie
    flags_A = torch.zeros(len(clean_AB), dtype=torch.bool, device=clean_AB.device)
    flags_A[order_A[1:]] |= twin
    flags_A[order_A[:-1]] |= twin
    return flags_A | _is_blank(clean_AB, tie)


def _clean(sim_AB: Tensor) -> tuple[Tensor, float]:
    """The matrix in float32 or better with entries that are not finite at -inf, and the width of a tie in its unit."""
    if sim_AB.ndim != 2:
        raise UsageError(
            "Similarities must form a matrix", got=tuple(sim_AB.shape), expected="(units of A, units of B)"
        )
    wide_AB = sim_AB.detach() if sim_AB.dtype in (torch.float32, torch.float64) else sim_AB.detach().float()
    finite_AB = torch.isfinite(wide_AB)
    if bool(finite_AB.all()):
        return wide_AB, TIE * float(wide_AB.abs().max()) if wide_AB.numel() else 0.0
    scale = float(torch.where(finite_AB, wide_AB, 0.0).abs().max())
    return torch.where(finite_AB, wide_AB, -torch.inf), TIE * scale


def _is_blank(clean_AB: Tensor, tie: float) -> Tensor:
    """Rows with no finite entry, or whose finite entries (when there are two or more) are all alike."""
    finite_AB = torch.isfinite(clean_AB)
    count_A = finite_AB.sum(dim=1)
    low_A = torch.where(finite_AB, clean_AB, torch.inf).amin(dim=1)
    return (count_A == 0) | ((count_A > 1) & (clean_AB.amax(dim=1) - low_A <= tie))


def _single_best(clean_AB: Tensor, tie: float) -> tuple[Tensor, Tensor]:
    """Per row the column of the maximum, and whether no other column comes within a tie of it."""
    if clean_AB.shape[1] == 1:
        return torch.zeros(len(clean_AB), dtype=torch.int64, device=clean_AB.device), torch.isfinite(clean_AB[:, 0])
    top = clean_AB.topk(2, dim=1)
    sure_A = torch.isfinite(top.values[:, 0]) & (top.values[:, 0] - top.values[:, 1] > tie)
    return top.indices[:, 0], sure_A
