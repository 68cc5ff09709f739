"""Assignments, rank correlation and alignment indices that several methods use, after their published formulas.

Shapes  N, M = units of two sides, D = width
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def padded(a_ND: Tensor, b_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Both with as many columns as the wider one, zeros behind."""
    import torch

    width = max(a_ND.shape[1], b_MD.shape[1])
    return tuple(torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in (a_ND, b_MD))  # type: ignore[return-value]


def cosines(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """Cosine of every row of one with every row of the other, [N, M]; widths are padded by zeros."""
    a_ND, b_MD = padded(a_ND.double(), b_MD.double())
    return _normal(a_ND) @ _normal(b_MD).T


def _normal(rows_ND: Tensor) -> Tensor:
    scaled: Tensor = rows_ND / rows_ND.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return scaled


def assign(gain_NM: Tensor) -> tuple[Any, Any]:
    """The one-to-one matching of largest gain: row numbers in order, and the column of each."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(gain_NM.numpy(), maximize=True)
    return rows, columns


def log10_p_of_rank_agreement(first: Any, second: Any) -> float:
    """log10 of the one-sided p-value of Spearman's correlation of two rankings, by Student's t with n - 2 degrees."""
    import numpy as np
    from scipy import stats

    n = len(first)
    if n < 4:
        return 0.0
    r = float(np.corrcoef(stats.rankdata(first), stats.rankdata(second))[0, 1])
    if not math.isfinite(r):
        return 0.0
    if r >= 1 - 1e-12:
        # The t statistic is infinite; a perfect agreement has probability 1 / n! under the null.
        return -math.lgamma(n + 1) / math.log(10)
    t = r * math.sqrt((n - 2) / (1 - r * r))
    return float(stats.t.logsf(t, n - 2)) / math.log(10)


def fisher_log10(log10_p: Sequence[float]) -> float:
    """log10 of Fisher's combination of independent p-values."""
    from scipy import stats

    if not log10_p:
        return 0.0
    statistic = -2.0 * math.log(10) * sum(log10_p)
    found = float(stats.chi2.logsf(statistic, 2 * len(log10_p))) / math.log(10)
    # Beyond what floats hold, the tail of chi-square is that of its leading term.
    return found if math.isfinite(found) else sum(log10_p)


def biased_cka(x_ND: Tensor, y_NE: Tensor) -> float:
    """Linear centered kernel alignment with the biased estimator; rows are the same inputs."""
    x, y = x_ND.double(), y_NE.double()
    x, y = x - x.mean(0), y - y.mean(0)
    cross = float((y.T @ x).norm() ** 2)
    return cross / max(1e-30, float((x.T @ x).norm() * (y.T @ y).norm()))


def unbiased_cka(x_ND: Tensor, y_NE: Tensor) -> float:
    """Linear alignment with the unbiased estimator (Song et al. 2012): diagonals of the Gram matrices left out."""
    k, m = x_ND.double() @ x_ND.double().T, y_NE.double() @ y_NE.double().T
    k.fill_diagonal_(0)
    m.fill_diagonal_(0)
    cross, one, two = _unbiased_hsic(k, m), _unbiased_hsic(k, k), _unbiased_hsic(m, m)
    return cross / math.sqrt(one * two) if one > 0 and two > 0 else 0.0


def _unbiased_hsic(k: Tensor, m: Tensor) -> float:
    n = k.shape[0]
    trace = float((k * m).sum())
    sums = float(k.sum() * m.sum()) / ((n - 1) * (n - 2))
    rows = float(k.sum(0) @ m.sum(0)) * 2 / (n - 2)
    return (trace + sums - rows) / (n * (n - 3))


def polar(m_NM: Tensor) -> Tensor:
    """The nearest partial isometry."""
    import torch

    u, _, vh = torch.linalg.svd(m_NM.double(), full_matrices=False)
    turn: Tensor = u @ vh
    return turn


def pearson(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one side does not vary."""
    import numpy as np

    if len(first) < 2 or np.std(first) == 0 or np.std(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
