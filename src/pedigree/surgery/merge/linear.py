"""Linear merge (weighted average) and passthrough (one input, perhaps scaled).

Law     sum of w_i x_i over sum of w_i, or without the division; one input of weight 1 comes out bit for bit.
Class   NFP; passthrough without a scale is FP0.
Source  Wortsman et al., model soups (arXiv 2203.05482).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pedigree.errors import UsageError
from pedigree.surgery.merge.tensor_merge import TensorMerge, Tile

if TYPE_CHECKING:
    import torch


class Linear(TensorMerge):
    """Weighted average, in float32.

    Args:
        weights: one for each input.
        normalize: divide by the sum of the weights.

    Raises:
        UsageError: the weights sum to nothing, so the average is not defined.
    """

    def __init__(self, weights: Sequence[float], *, normalize: bool = True) -> None:
        if normalize and abs(sum(weights)) < 1e-8:
            raise UsageError(
                "the weights of a normalized average sum to zero",
                got=list(weights),
                expected="a sum away from zero",
                fix="change a weight, or normalize: false",
            )
        self.weights = tuple(weights)
        self.divisor = sum(weights) if normalize else 1.0

    def compute(self, tile: Tile) -> torch.Tensor:
        """Average of the rows."""
        sum_RC = tile.inputs[0] * self.weights[0]
        for x_RC, weight in zip(tile.inputs[1:], self.weights[1:], strict=True):
            sum_RC.add_(x_RC, alpha=weight)
        return sum_RC if self.divisor == 1.0 else sum_RC.div_(self.divisor)


class Passthrough(TensorMerge):
    """One input as it is, or times a number.

    Args:
        scale: None leaves every bit.
    """

    def __init__(self, scale: float | None = None) -> None:
        self.scale = scale

    def compute(self, tile: Tile) -> torch.Tensor:
        """The rows, scaled."""
        return tile.inputs[0].clone() if self.scale is None else tile.inputs[0] * self.scale
