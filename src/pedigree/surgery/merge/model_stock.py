"""Model stock: how far fine-tunes can be trusted, read from the angles between their changes.

Law     t = n c / (1 + (n - 1) c) with c the mean cosine of the n changes over all pairs; result
        t * mean + (1 - t) * base. Equal changes give c = 1 and the mean, orthogonal ones c = 0 and the base.
        At the pole 1 + (n - 1) c = 0 the base is kept.
Method  One look sums the products of all pairs in float64. Cosines are taken of the changes as they are: small changes
        are not rounded towards zero by a floor under their norms.
Class   NFP.
Source  Jang, Yun and Han, "Model Stock" (arXiv 2403.19522), equation 7.

Shapes  n = changes, R = rows of a tile, C = columns
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from pedigree.errors import InternalError, UsageError
from pedigree.surgery.merge.tensor_merge import TensorMerge, Tile, exact_sum

if TYPE_CHECKING:
    import torch

_POLE = 1e-6


class ModelStock(TensorMerge):
    """The weight between base and mean that the angles give.

    Args:
        n_inputs: fine-tunes, two or more.
        unit: one angle for the tensor, or one for each row.

    Raises:
        UsageError: fewer than two inputs.
    """

    def __init__(self, n_inputs: int, *, unit: Literal["tensor", "row"] = "tensor") -> None:
        if n_inputs < 2:
            raise UsageError("model stock needs angles between fine-tunes", got=n_inputs, expected="two models or more")
        self.n, self.unit = n_inputs, unit
        self._seen: list[list[torch.Tensor]] = []
        self._share: torch.Tensor | None = None

    @property
    def looks(self) -> int:
        """One; rows need none, since a tile holds them whole."""
        return 0 if self.unit == "row" else 1

    def wants_look(self) -> bool:
        """Until the angles are known."""
        return self._share is None and self.unit == "tensor"

    def look(self, tile: Tile) -> list[torch.Tensor]:
        """Row sums of the products of all pairs of changes."""
        return _gram(tile.deltas())

    def absorb(self, seen: list[torch.Tensor]) -> None:
        """Keep the row sums."""
        self._seen.append(seen)

    def learn(self) -> None:
        """The share of the mean."""
        import torch

        sums = [torch.tensor([exact_sum(parts)], dtype=torch.float64) for parts in zip(*self._seen, strict=True)]
        self._seen = []
        self._share = self._trust(sums)

    def compute(self, tile: Tile) -> torch.Tensor:
        """Rows between the base and the mean."""
        deltas = tile.deltas()
        share = self._trust(_gram(deltas))[:, None] if self.unit == "row" else self._share
        if share is None or tile.base is None:
            raise InternalError("a merge computes before it has looked")
        mean_RC = deltas[0]
        for delta_RC in deltas[1:]:
            mean_RC = mean_RC + delta_RC
        return tile.base + (mean_RC * (share / self.n).to(mean_RC.dtype))

    def _trust(self, sums: Sequence[torch.Tensor]) -> torch.Tensor:
        import torch

        norms = [square.sqrt() for square in sums[: self.n]]
        cosines = []
        for product, (i, j) in zip(sums[self.n :], combinations(range(self.n), 2), strict=True):
            scale = norms[i] * norms[j]
            cosines.append((product / scale.where(scale > 0, torch.ones_like(scale))).clamp(-1, 1))
        cos = torch.stack(cosines).mean(0)
        below = 1 + (self.n - 1) * cos
        at_pole = below.abs() < _POLE
        return (self.n * cos / below.where(~at_pole, torch.ones_like(below))).where(~at_pole, torch.zeros_like(cos))


def _gram(deltas: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Row sums of squares of each change, then of the products of each pair, float64 [R] each."""
    doubles = [delta.double() for delta in deltas]
    squares = [(d * d).sum(1) for d in doubles]
    return squares + [(a * b).sum(1) for a, b in combinations(doubles, 2)]
