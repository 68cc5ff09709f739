"""New rows of the output head, set so that new tokens are predicted about as often as old ones of their frequency.

A made-up head row may be right in direction and wrong in level: with too large a logit on average it steals
probability from every other token, at every place. The mean logit of a row over a text is its product with the mean
state, so it can be set exactly, by a multiple of that one vector.

Method  mean logits of copied rows are fitted as a straight line in the logarithm of their frequency; each new row is
        moved along the mean state h to the value of the line at its own frequency: r + (wanted - r.h) h / |h|^2.
        Before that, the part of a new row that differs from the mean row is brought to at most the median length that
        copied rows have there.
Law     afterwards r.h is the wanted value to rounding; what is orthogonal to h changes only by the length limit.

Shapes  S = copied rows, N = new rows, d = width
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pedigree.errors import UsageError
from pedigree.surgery.vocabulary.rows import Numbers, RowTable, mean_row, portions

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Level:
    """How high the logits of rows are.

    Attributes:
        state_d: mean state that enters the head, float32.
        slope, offset: mean logit of a copied row = offset + slope * ln(frequency + 1/2).
        mean_d: mean copied row.
        length: median distance of copied rows from it.
    """

    state_d: torch.Tensor
    slope: float
    offset: float
    mean_d: torch.Tensor
    length: float

    def wanted(self, uses_N: Floats) -> Floats:
        """The mean logit of rows of these frequencies."""
        return self.offset + self.slope * np.log(uses_N + 0.5)

    def apply(self, rows_Nd: torch.Tensor, uses_N: Floats) -> torch.Tensor:
        """New rows at their level, float32 [N, d]."""
        import torch

        apart_Nd = rows_Nd.double() - self.mean_d.double()
        shrink_N1 = (self.length / apart_Nd.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(max=1.0)
        rows_Nd = self.mean_d.double() + apart_Nd * shrink_N1
        state_d = self.state_d.double()
        missing_N = torch.from_numpy(self.wanted(uses_N)) - rows_Nd @ state_d
        return (rows_Nd + missing_N[:, None] * state_d / state_d.square().sum()).float()


def fit_level(head: RowTable, old_S: Numbers, uses_S: Floats, state_d: torch.Tensor) -> Level:
    """The level of the copied rows.

    Args:
        head: the old output table.
        old_S: its rows that are copied.
        uses_S: how often their tokens occur in the text that gave the mean state.
        state_d: the mean state.

    Raises:
        UsageError: nothing to fit on, or no state.
    """
    import torch

    if len(old_S) < 2 or float(state_d.norm()) == 0:
        raise UsageError("no level to set new output rows by", got=f"{len(old_S)} copied rows", fix="calibrate: false")
    logits, lengths = [], []
    mean_d = mean_row(head, old_S)
    for part in portions(old_S):
        rows_Nd = head.rows(part)
        logits.append((rows_Nd.double() @ state_d.double()).numpy())
        lengths.append((rows_Nd - mean_d).norm(dim=1))
    x_S, y_S = np.log(uses_S + 0.5), np.concatenate(logits)
    spread = float(np.var(x_S))
    slope = float(np.mean((x_S - x_S.mean()) * (y_S - y_S.mean())) / spread) if spread > 0 else 0.0
    return Level(state_d, slope, float(y_S.mean() - slope * x_S.mean()), mean_d, float(torch.cat(lengths).median()))
