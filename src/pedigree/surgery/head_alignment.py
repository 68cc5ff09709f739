"""Heads turned so that they can be averaged: what commutes with rotary positions, and leaves scores as they are.

Keys and queries of a head may be turned together by any orthogonal matrix that commutes with the rotary positions: one
rotation in the plane of each frequency, anything orthogonal among channels that do not turn. Values may be turned by
any orthogonal matrix, if the output projection turns back.

Method  generalized Procrustes in a group: each head is turned onto the mean of all, which is then taken anew.
Source  orthogonal Procrustes, Schoenemann 1966; averaging of heads 2305.13245 (GQA); the planes of the frequencies are
        derived for the project, as in 2502.07864 (TransMLA).

Shapes  K = key/value heads, e = head dimension, d = channels, m = heads of a group, R = turning channels (half layout)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pedigree.surgery.nodes import Computed, Node, Statistic, Work, as_type, computing
from pedigree.surgery.selection import Selection, numbers

if TYPE_CHECKING:
    import torch

_ROUNDS = 4


def alignment(heads_Ked: torch.Tensor, group: int, rotary: int) -> torch.Tensor:
    """The matrix [e, e] that turns each head onto the mean of its group; float64 [K, e, e].

    Args:
        heads_Ked: rows of keys or of values by head.
        group: neighboring heads that are averaged.
        rotary: channels that turn with the position, paired i with i + rotary / 2; they stand first.
    """
    import torch

    n_heads, dim, _ = heads_Ked.shape
    turns = torch.eye(dim, dtype=torch.float64).repeat(n_heads, 1, 1)
    heads = heads_Ked.to(torch.float64)
    for first in range(0, n_heads, group):
        block_med = heads[first : first + group]
        rotation = turns[first : first + group]
        for _ in range(_ROUNDS):
            mean_ed = (rotation @ block_med).mean(0)
            for h in range(group):
                rotation[h] = _onto(block_med[h] @ mean_ed.T, rotary)
    return turns


def _onto(product_ee: torch.Tensor, rotary: int) -> torch.Tensor:
    """The allowed orthogonal R with the largest trace of R @ product: the one that turns a head onto another."""
    import torch

    dim = product_ee.shape[0]
    found = torch.zeros(dim, dim, dtype=product_ee.dtype)
    half = rotary // 2
    a, b = torch.arange(half), torch.arange(half, rotary)
    cos = product_ee[a, a] + product_ee[b, b]
    sin = product_ee[a, b] - product_ee[b, a]
    size = torch.hypot(cos, sin)
    still = size == 0
    cos, sin = torch.where(still, 1.0, cos / size), torch.where(still, 0.0, sin / size)
    found[a, a], found[b, b], found[a, b], found[b, a] = cos, cos, -sin, sin
    if rotary < dim:
        u, _, v = torch.linalg.svd(product_ee[rotary:, rotary:])
        found[rotary:, rotary:] = v.T @ u.T
    return found


class Aligned(Statistic):
    """The alignment of the heads of one matrix; one matrix is held for it."""

    def __init__(self, node: Node, dim: int, group: int, rotary: int) -> None:
        self.name = f"alignment of heads of {dim}, {group} a group, {rotary} turning"
        self._node, self._dim, self._group, self._rotary = node, dim, group, rotary

    def inputs(self) -> Sequence[Node]:
        """The matrix."""
        return (self._node,)

    def start(self) -> Any:
        """No rows yet."""
        return []

    def add(self, state: Any, tiles: Sequence[torch.Tensor], rows: slice, work: Work) -> Any:
        """Rows, one block after the other."""
        state.append(tiles[0].float())
        return state

    def finish(self, state: Any) -> torch.Tensor:
        """The matrices."""
        import torch

        rows = torch.cat(state)
        return alignment(rows.reshape(-1, self._dim, rows.shape[1]), self._group, self._rotary)


@dataclass(frozen=True, eq=False)
class TurnedHeads(Computed):
    """Rows (axis 0) or columns (axis 1) of heads turned by the matrices of their key/value heads; a vector too.

    Args:
        turns: the statistic, or float64 [K, e, e] at hand; None turns nothing.
        heads: key/value head of each head of the axis, in order.
        axis: 0 turns rows R w, 1 turns columns w R^T.
    """

    turns: Statistic | Any
    heads: tuple[int, ...]
    axis: int = 0

    def statistics(self) -> Sequence[Statistic]:
        """The alignment, where it has to be found."""
        return (self.turns,) if isinstance(self.turns, Statistic) else ()

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The heads that the selection meets, turned, and of them what was asked for."""
        import torch

        turns = work.values[self.turns] if isinstance(self.turns, Statistic) else self.turns
        if turns is None:
            return as_type(self.node.tile(rows, cols, work), self.dtype)
        wanted = numbers(rows if self.axis == 0 or cols is None else cols)
        size = self.shape[self.axis] // len(self.heads)
        pieces, places = [], []
        for head in np.unique(wanted // size).tolist():
            place = np.flatnonzero(wanted // size == head)
            inside = torch.from_numpy(wanted[place] - head * size)
            matrix = turns[self.heads[head]][inside]
            whole = slice(head * size, (head + 1) * size)
            at = (whole, cols) if self.axis == 0 else (rows, whole)
            tile = self.node.tile(at[0], at[1], work).to(torch.float64)
            pieces.append(matrix @ tile if self.axis == 0 else tile @ matrix.T)
            places.append(place)
        joined = torch.cat(pieces, dim=self.axis)
        back = np.argsort(np.concatenate(places), kind="stable")
        return as_type(joined.index_select(self.axis, torch.from_numpy(back)), self.dtype)


@dataclass(frozen=True, eq=False)
class MeanHeads(Node):
    """The mean over each group of neighboring heads; rows of a matrix, or a vector."""

    node: Node
    size: int
    group: int
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (self.node.shape[0] // self.group, *self.node.shape[1:]))
        object.__setattr__(self, "dtype", computing(self.node.dtype))

    def children(self) -> Sequence[Node]:
        """The heads."""
        return (self.node,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The mean of the rows of the same number in all heads of the group."""
        import torch

        wanted = numbers(rows)
        first = wanted // self.size * (self.size * self.group) + wanted % self.size
        total = torch.zeros(())
        for member in range(self.group):
            total = total + self.node.tile(first + member * self.size, cols, work).to(torch.float64)
        return as_type(total / self.group, self.dtype)
