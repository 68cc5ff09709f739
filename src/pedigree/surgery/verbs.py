"""The seven verbs of surgery on one axis of a node; every operator is made of them.

    index     new coordinates are a gather of old ones: drop, repeat, permute, replicate
    pad       fresh coordinates at the end
    rebase    a change of basis, one side of it: permutation, sign, scale, or a matrix
    fold      a factor or a term moved from one tensor into its neighbour
    blend     several tensors of one shape into one, element by element
    fit       numbers found by least squares and the like, from statistics of an earlier pass
    perturb   noise added, from a counter-based stream

Each takes nodes and gives a node; nothing is computed. `blend` and `fit` are `pedigree.surgery.nodes.Blend` and any
node whose `statistics()` name what it was fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pedigree.surgery.nodes import Blend, Blending, Fill, Gather, Join, Node, Random, Scale, Statistic
from pedigree.surgery.randomness import Stream
from pedigree.surgery.selection import Index


def index(node: Node, axis: int, order: Index | Sequence[int]) -> Node:
    """Coordinate j of the result is coordinate order[j] of the node."""
    rows = np.asarray(order, dtype=np.int64)
    if len(rows) == node.shape[axis] and bool(np.array_equal(rows, np.arange(len(rows)))):
        return node
    return Gather(node, rows, axis)


def pad(node: Node, axis: int, count: int, fresh: Node | None = None) -> Node:
    """`count` coordinates more at the end: zeros, or those of `fresh`."""
    if count == 0:
        return node
    shape = tuple(count if a == axis else size for a, size in enumerate(node.shape))
    return Join((node, Fill(shape, dtype=node.dtype) if fresh is None else fresh), axis)


def insert(node: Node, axis: int, groups: int, count: int, fresh: Node | None = None) -> Node:
    """`count` coordinates more at the end of each of `groups` equal groups: zeros, or those of `fresh` in turn."""
    size = node.shape[axis] // groups
    padded = pad(node, axis, groups * count, fresh)
    old = np.arange(groups * size, dtype=np.int64).reshape(groups, size)
    new = groups * size + np.arange(groups * count, dtype=np.int64).reshape(groups, count)
    return index(padded, axis, np.concatenate([old, new], axis=1).reshape(-1))


def scale(node: Node, factor: float | Node, axis: int = 0, offset: float = 0.0) -> Node:
    """A factor for all, or one for each coordinate of an axis; `offset` is what is added to a gain before it acts."""
    if isinstance(factor, float | int) and factor == 1:
        return node
    return Scale(node, factor, axis, offset)


def fresh(
    shape: tuple[int, ...], seed: int, name: str, std: float | Statistic = 1.0, kind: str = "normal", dtype: str = "F32"
) -> Node:
    """Random coordinates: numbers that depend on seed, name and place alone."""
    columns = shape[1] if len(shape) == 2 else 1
    return Random(shape, Stream(seed, name, columns), kind, std, dtype)


def blend(nodes: Sequence[Node], function: Blending, needs: Sequence[Statistic] = ()) -> Node:
    """Tiles of all nodes through a function, `function(tiles, at) -> tile`."""
    return Blend(tuple(nodes), function, tuple(needs))


def perturb(node: Node, noise: Node, sign: float = 1.0) -> Node:
    """A node plus (or minus) noise."""
    return Blend((node, noise), lambda tiles, at: tiles[0].add(tiles[1], alpha=sign))


def halves(node: Node, axis: int, stop: int) -> tuple[Node, Node]:
    """The first `stop` coordinates of an axis, and the others."""
    size = node.shape[axis]
    return index(node, axis, np.arange(stop)), index(node, axis, np.arange(stop, size))
