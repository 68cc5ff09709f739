"""What attention remembers between the steps of a generation.

Grouped attention keeps keys and values, latent attention its latent and the one rotary key. Space for the whole
generation is taken at once; nothing is copied as it grows.

Shapes: B = batch, S = places, X = whatever a layer keeps for one token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pedigree.errors import UsageError


class Cache:
    """Two tensors a layer, filled from the left.

    Args:
        capacity: tokens that fit.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, layer: int, first_BTX: Tensor, second_BTX: Tensor) -> tuple[Tensor, Tensor]:
        """Keep what a layer computed for the new tokens; returns what it has for all tokens so far.

        Raises:
            UsageError: the cache is full.
        """
        end = self.length + first_BTX.shape[1]
        if end > self.capacity:
            raise UsageError(
                "The cache is full", got=end, expected=f"at most {self.capacity} tokens", fix="make a larger Cache"
            )
        if layer not in self._kept:
            self._kept[layer] = (self._room(first_BTX), self._room(second_BTX))
        for kept, new in zip(self._kept[layer], (first_BTX, second_BTX), strict=True):
            kept[:, self.length : end] = new
        first, second = self._kept[layer]
        return first[:, :end], second[:, :end]

    def _room(self, like: Tensor) -> Tensor:
        return like.new_zeros((like.shape[0], self.capacity, *like.shape[2:]))

    def advance(self, n_tokens: int) -> None:
        """Close a step: the next tokens stand behind these."""
        self.length += n_tokens

    def n_bytes(self) -> int:
        """Bytes taken, the free places included."""
        return sum(t.numel() * t.element_size() for pair in self._kept.values() for t in pair)


def cached_mask(n_new: int, n_all: int, device: torch.device) -> Tensor | None:
    """Which of all tokens the new ones may see; None for a single one, which sees everything.

    Returns:
        Boolean [n_new, n_all], or None.
    """
    if n_new == 1:
        return None
    places = torch.arange(n_all, device=device)
    return places[None, :] <= places[n_all - n_new :, None]
