"""Slerp and nuslerp: between two tensors along the great circle through them.

Law     slerp at t = 0 is the first input, at t = 1 the second; for orthogonal inputs of norm n every result has norm n.
        Nearly parallel or opposed inputs (|cos| over the limit), and inputs without a direction (norm 0), are mixed
        linearly, which is the limit.
Method  One look sums squares and products in float64; angle and factors are float64, the rows float32.
Class   NFP.
Source  Shoemake, "Animating rotation with quaternion curves" (SIGGRAPH 1985). Nuslerp: weights instead of t, whole
        tensors, rows or columns as the vectors, optionally between the task vectors over a base; as mergekit names it.

Shapes  R = rows of a tile, C = columns, V = vectors that are turned (1 for the whole tensor, R rows, or C columns)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pedigree.errors import InternalError
from pedigree.surgery.merge.tensor_merge import TensorMerge, Tile, exact_sum

if TYPE_CHECKING:
    import torch

Unit = Literal["tensor", "row", "column"]
SLERP_LIMIT = 0.9995
NUSLERP_LIMIT = 1 - 1e-10  # an angle of 1.4e-5: circle and chord differ by less than float32 can say


class Spherical(TensorMerge):
    """Great-circle interpolation of two inputs.

    Args:
        t: 0 is the first input, 1 the second.
        unit: what is one vector: the whole tensor, each row, or each column.
        limit: |cos| above which the mix is linear.
    """

    def __init__(self, t: float, *, unit: Unit = "tensor", limit: float = SLERP_LIMIT) -> None:
        self.t, self.unit, self.limit = t, unit, limit
        self._seen: list[tuple[torch.Tensor, ...]] = []
        self._factors: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def looks(self) -> int:
        """One; rows need none, since a tile holds them whole."""
        return 0 if self.unit == "row" else 1

    def wants_look(self) -> bool:
        """Until the angle is known."""
        return self._factors is None and self.unit != "row"

    def look(self, tile: Tile) -> tuple[torch.Tensor, ...]:
        """Sums of a^2, b^2 and ab: for each row of the tile, or for each column."""
        return _products(*self._pair(tile), axis=0 if self.unit == "column" else 1)

    def absorb(self, seen: tuple[torch.Tensor, ...]) -> None:
        """Keep the sums of rows, add those of columns."""
        if self.unit == "column" and self._seen:
            self._seen = [tuple(a + b for a, b in zip(self._seen[0], seen, strict=True))]
        else:
            self._seen.append(seen)

    def learn(self) -> None:
        """The factors of the two inputs."""
        import torch

        if self.unit == "column":
            sums = list(self._seen[0])
        else:
            sums = [torch.tensor([exact_sum(parts)], dtype=torch.float64) for parts in zip(*self._seen, strict=True)]
        self._seen = []
        self._factors = self._turn(*sums)

    def compute(self, tile: Tile) -> torch.Tensor:
        """The rows between the two inputs."""
        a_RC, b_RC = self._pair(tile)
        if self.unit == "row":
            first_R, second_R = self._turn(*_products(a_RC, b_RC, axis=1))
            first, second = first_R[:, None], second_R[:, None]
        elif self._factors is not None:
            first, second = self._factors
        else:
            raise InternalError("a merge computes before it has looked")
        mixed_RC = (first * a_RC + second * b_RC).to(a_RC.dtype)
        return mixed_RC if tile.base is None else mixed_RC.add_(tile.base)

    def _pair(self, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        a_RC, b_RC = tile.inputs if tile.base is None else tile.deltas()
        return a_RC, b_RC

    def _turn(self, aa_V: torch.Tensor, bb_V: torch.Tensor, ab_V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of the two vectors, float64 [V]."""
        import torch

        norm_V = aa_V.sqrt() * bb_V.sqrt()
        cos_V = (ab_V / norm_V.where(norm_V > 0, torch.ones_like(norm_V))).clamp(-1, 1)
        straight_V = (cos_V.abs() > self.limit) | (norm_V == 0)
        angle_V = torch.acos(cos_V.where(~straight_V, torch.zeros_like(cos_V)))
        first_V = torch.sin((1 - self.t) * angle_V) / torch.sin(angle_V)
        second_V = torch.sin(self.t * angle_V) / torch.sin(angle_V)
        return (
            first_V.where(~straight_V, torch.full_like(first_V, 1 - self.t)),
            second_V.where(~straight_V, torch.full_like(second_V, self.t)),
        )


def nuslerp_t(weights: Sequence[float]) -> float:
    """The position of two weighted inputs on the circle between them: the second's share."""
    total = sum(weights)
    return 0.5 if abs(total) < 1e-6 else weights[1] / total


def _products(a_RC: torch.Tensor, b_RC: torch.Tensor, axis: int) -> tuple[torch.Tensor, ...]:
    a, b = a_RC.double(), b_RC.double()
    return (a * a).sum(axis), (b * b).sum(axis), (a * b).sum(axis)
