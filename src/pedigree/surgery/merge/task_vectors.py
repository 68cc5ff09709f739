"""Task arithmetic and its kin: the base plus a combination of what each fine-tune added to it.

Law     base + lambda * sum of w_i d_i, each d_i = x_i - base, sparsified or not. With a sign consensus (TIES) an entry
        takes only those w_i d_i that have the sign of their sum, divided by their weights where `normalize`.
        One input, weight 1, density 1, lambda 1 gives the input, up to the rounding of base + (x - base).
Class   NFP.
Source  Ilharco et al., task arithmetic (arXiv 2212.04089); Yadav et al., TIES (2306.01708). TIES is trimmed tensor by
        tensor, as everybody runs it; the paper trims the whole task vector at once.

Shapes  R = rows of a tile, C = columns
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pedigree.errors import UsageError
from pedigree.surgery.merge.sparsifying import Sparsifier
from pedigree.surgery.merge.tensor_merge import TensorMerge, Tile

if TYPE_CHECKING:
    import torch


class TaskVectors(TensorMerge):
    """A combination of task vectors.

    Args:
        weights: one for each input.
        sparsifiers: one for each input, fresh; None keeps everything.
        consensus: elect a sign for every entry and drop what disagrees.
        normalize: divide by the sum of the weights (of those that agree).
        scale: lambda, on the combined change.

    Raises:
        UsageError: weights that sum to zero with normalize and without consensus.
    """

    def __init__(
        self,
        weights: Sequence[float],
        sparsifiers: Sequence[Sparsifier | None],
        *,
        consensus: bool,
        normalize: bool,
        scale: float = 1.0,
    ) -> None:
        if normalize and not consensus and abs(sum(weights)) < 1e-8:
            raise UsageError(
                "the weights of normalized task vectors sum to zero", got=list(weights), fix="normalize: false"
            )
        self.weights, self.sparsifiers = tuple(weights), tuple(sparsifiers)
        self.consensus, self.normalize, self.scale = consensus, normalize, scale

    @property
    def looks(self) -> int:
        """Those of the sparsifier that takes the most; all look at the same tiles."""
        return max((one.looks for one in self.sparsifiers if one is not None), default=0)

    def wants_look(self) -> bool:
        """Whether any sparsifier has something to find out."""
        return any(one is not None and one.wants_look() for one in self.sparsifiers)

    def look(self, tile: Tile) -> list[Any]:
        """What each sparsifier that is not done sees."""
        return [
            one.look(delta_RC, tile.start) if one is not None and one.wants_look() else None
            for one, delta_RC in zip(self.sparsifiers, tile.deltas(), strict=True)
        ]

    def absorb(self, seen: list[Any]) -> None:
        """Hand each sparsifier what it saw."""
        for one, part in zip(self.sparsifiers, seen, strict=True):
            if one is not None and part is not None:
                one.absorb(part)

    def learn(self) -> None:
        """End the look of those that took part."""
        for one in self.sparsifiers:
            if one is not None and one.wants_look():
                one.learn()

    def compute(self, tile: Tile) -> torch.Tensor:
        """Base and combined change."""
        import torch

        changes = []
        for weight, one, delta_RC in zip(self.weights, self.sparsifiers, tile.deltas(), strict=True):
            kept_RC = delta_RC if one is None else one.keep(delta_RC, tile.start)
            changes.append(kept_RC * weight)
        total_RC = _sum(changes)
        if self.consensus and len(changes) == 1:  # whoever is alone agrees with itself
            if self.normalize and self.weights[0] != 0:
                total_RC = total_RC / self.weights[0]
        elif self.consensus:
            sign_RC = (total_RC >= 0).to(total_RC.dtype) * 2 - 1
            agreeing = [(change.sign() == sign_RC).to(total_RC.dtype) for change in changes]
            total_RC = _sum([c * a for c, a in zip(changes, agreeing, strict=True)])
            if self.normalize:
                divisor_RC = _sum([a * w for a, w in zip(agreeing, self.weights, strict=True)])
                total_RC = total_RC / divisor_RC.where(divisor_RC != 0, torch.ones_like(divisor_RC))
        elif self.normalize:
            total_RC = total_RC / sum(self.weights)
        if self.scale != 1.0:
            total_RC = total_RC * self.scale
        if tile.base is None:
            raise UsageError("task vectors need a base", fix="name one: base: X")
        return tile.base + total_RC


def _sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of tensors of one shape."""
    import torch

    if len(tensors) > 2:
        return torch.stack(list(tensors)).sum(0)
    return tensors[0] if len(tensors) == 1 else tensors[0] + tensors[1]
