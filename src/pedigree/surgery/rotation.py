"""Rotations of a space, block by block in a random order of its coordinates; memory for one block, not for the whole.

Coordinates are put into a random order, every block of them is rotated by an orthogonal matrix drawn uniformly (QR of
a Gaussian with the signs of R taken out, Mezzadri math-ph/0609050).

Shapes  D = coordinates, B = coordinates of a block
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pedigree.surgery.nodes import Computed, Work, as_type
from pedigree.surgery.randomness import Stream, permutation
from pedigree.surgery.selection import Index, Selection, numbers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rotation:
    """New coordinate c of block b is the sum over j of Q_b[j, c] times old coordinate order[b * B + j]."""

    size: int
    block: int
    seed: int
    name: str

    @cached_property
    def order(self) -> Index:
        """Old coordinates, block after block."""
        return permutation(self.seed, f"{self.name}/order", self.size)

    @cached_property
    def matrices(self) -> torch.Tensor:
        """Q of every block, float64 [D / B, B, B]."""
        import torch

        count = self.size // self.block
        found = []
        for number in range(count):
            drawn = Stream(self.seed, f"{self.name}/{number}", self.block).normal(
                slice(0, self.block), slice(0, self.block)
            )
            q, r = torch.linalg.qr(drawn.to(torch.float64))
            found.append(q * torch.sign(torch.diagonal(r))[None, :])
        return torch.stack(found)


@dataclass(frozen=True, eq=False)
class Rotated(Computed):
    """A node with one axis rotated: rows Q^T W, or columns W Q; a vector Q^T v."""

    rotation: Rotation
    axis: int

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The blocks that the selection meets, rotated, and of them what was asked for."""
        import torch

        wanted = numbers(rows if self.axis == 0 or cols is None else cols)
        size = self.rotation.block
        pieces, places = [], []
        for block in np.unique(wanted // size).tolist():
            place = np.flatnonzero(wanted // size == block)
            old = self.rotation.order[block * size : (block + 1) * size]
            matrix = self.rotation.matrices[block].to(torch.float32)[:, torch.from_numpy(wanted[place] - block * size)]
            if self.axis == 0:
                tile = as_type(self.node.tile(old, cols, work), "F32")
                pieces.append(matrix.T @ tile)
            else:
                tile = as_type(self.node.tile(rows, old, work), "F32")
                pieces.append(tile @ matrix)
            places.append(place)
        joined = torch.cat(pieces, dim=self.axis)
        back = np.argsort(np.concatenate(places), kind="stable")
        return joined.index_select(self.axis, torch.from_numpy(back))
