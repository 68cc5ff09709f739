"""Numbers laid out as a checkpoint stores its own: canonical parts go in, stored tensors come out.

A part knows how to be read from storage, however its rows are fused, packed, turned or reordered there. Read from a
storage in which each number is its own place, it tells where each of its numbers belongs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pedigree.weights.part import Part, TensorSource

if TYPE_CHECKING:
    import torch


class LaidOut:
    """Tensors of the names and shapes of another checkpoint, zero where nothing was put; a `TensorSource`.

    Args:
        like: the checkpoint. It is asked for names and shapes only.
    """

    def __init__(self, like: TensorSource) -> None:
        self.tensors, self.config = like.tensors, like.config
        self._made: dict[str, torch.Tensor] = {}

    @property
    def names(self) -> list[str]:
        """Tensors in which something was put."""
        return list(self._made)

    def put(self, part: Part, values: torch.Tensor) -> None:
        """Lay the numbers of a part where its checkpoint stores them.

        Args:
            part: of the checkpoint that this one is like; its shape is that of the values.
            values: canonical orientation, [R, C] or [R].
        """
        import torch

        places = _Places({name: tuple(self.tensors[name].shape) for name in part.sources})
        at = replace(part, checkpoint=places).read_native().flatten()
        flat = values.float().flatten()
        for name in part.sources:
            if name not in self._made:
                self._made[name] = torch.zeros(tuple(self.tensors[name].shape))
            first, last = places.span(name)
            here = (at >= first) & (at < last)
            self._made[name].view(-1)[at[here] - first] = flat[here]

    def read(self, name: str) -> torch.Tensor:
        """A whole tensor, float32."""
        return self._made[name]

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Items start..stop of axis 0."""
        return self._made[name][start:stop]

    def read_index(self, name: str, index: Sequence[int]) -> torch.Tensor:
        """Items of axis 0 in the order given."""
        return self._made[name][list(index)]


class _Places:
    """Storage in which each number is its own place, counted on from tensor to tensor."""

    config: Mapping[str, Any] | None = None

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.tensors: Mapping[str, Any] = shapes
        self._begin: dict[str, int] = {}
        total = 0
        for name, shape in shapes.items():
            self._begin[name] = total
            total += math.prod(shape)

    def span(self, name: str) -> tuple[int, int]:
        """First place of a tensor, and the one behind its last."""
        first = self._begin[name]
        return first, first + math.prod(self.tensors[name])

    def read(self, name: str) -> torch.Tensor:
        import torch

        return torch.arange(*self.span(name)).reshape(self.tensors[name])

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.read(name)[start:stop]

    def read_index(self, name: str, index: Sequence[int]) -> torch.Tensor:
        return self.read(name)[list(index)]
