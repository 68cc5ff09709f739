"""From canonical parts back to stored tensors: fused, transposed, packed and interleaved as the architecture has them.

Where a part has as many rows as it was read with, its rows go back to the places they came from. Where rows were added
or taken, the places are worked out anew from heads and head dimension, by the rules that divided the source.

Shapes  E = experts, R = stored rows of one expert (or of the tensor), C = stored columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pedigree.errors import UsageError
from pedigree.surgery.nodes import Gather, Join, Leaf, Node, Turn
from pedigree.surgery.selection import Index
from pedigree.surgery.symbolic import Key, Stored, Symbolic
from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.dimensions import Heads, read_hints, solve_heads
from pedigree.weights.division import Divider
from pedigree.weights.number_types import WIDE_FLOATS
from pedigree.weights.orientation import Oriented
from pedigree.weights.table import tables

_ROTARY = ("attn.q", "attn.k", "norm.q", "norm.k")


@dataclass(frozen=True, eq=False)
class Output:
    """One tensor of the file to be.

    Attributes:
        name, dtype, shape: what the header will say.
        node: its numbers, as [rows, columns] (or [n]) in the order of the file.
        checkpoint, origin: the stored tensor it is byte for byte, "" where it is none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    node: Node
    checkpoint: Checkpoint
    origin: str = ""


def outputs(symbolic: Symbolic) -> list[Output]:
    """Every tensor of the result, in the order of the source; layers that were added stand where they come.

    Raises:
        UsageError: a changed tensor cannot be stored as the architecture stores it.
    """
    result: list[Output] = []
    for stored in sorted(symbolic.stored, key=lambda s: _rank(symbolic, s)):
        name = symbolic.name_of(stored)
        old = stored.dtype or symbolic.checkpoint.tensors[stored.origin].dtype
        dtype = _type(symbolic, stored, old)
        if stored.loose is not None:
            origin = stored.origin if dtype == old else ""
            result.append(Output(name, dtype, stored.shape, stored.loose, symbolic.checkpoint, origin))
            continue
        nodes = [symbolic.parts.get(key) for key in stored.keys]
        if not any(nodes):
            continue  # an operator took these parts away
        present = [_present(stored, node) for node in nodes]
        if dtype == old and all(node is leaf for node, leaf in zip(present, stored.leaves, strict=True)):
            result.append(Output(name, dtype, stored.shape, present[0], symbolic.checkpoint, stored.origin))
            continue
        if dtype not in WIDE_FLOATS and stored.dtype is None:
            raise UsageError(
                "an operator changes a tensor of a quantized type", where=name, got=dtype,
                expected=", ".join(sorted(WIDE_FLOATS)), fix="put `- cast: {to: bfloat16}` before the first step",
            )  # fmt: skip
        node, shape = _rebuilt(symbolic, stored, present)
        result.append(_copied(name, dtype, shape, node) or Output(name, dtype, shape, node, symbolic.checkpoint))
    return result


def _copied(name: str, dtype: str, shape: tuple[int, ...], node: Node) -> Output | None:
    """The output of a node that is a stored tensor as it stands, such as an expert that begins as a copy."""
    if not isinstance(node, Leaf) or len(node.part.pieces) != 1 or not isinstance(node.part.checkpoint, Checkpoint):
        return None
    piece, checkpoint = node.part.pieces[0], node.part.checkpoint
    if checkpoint.format != "safetensors":
        return None
    whole = piece.row_contiguous and piece.lead is None and piece.start == 0 and tuple(piece.stored) == shape
    if not whole or node.part.shape != shape or not dtype == node.dtype == node.part.dtype:
        return None
    return Output(name, dtype, shape, node, checkpoint, piece.source)


def _type(symbolic: Symbolic, stored: Stored, old: str) -> str:
    """The number type a tensor is written in: that of the source, unless a cast was asked for."""
    scaled = any(isinstance(leaf, Leaf) and leaf.dtype != leaf.part.dtype for leaf in stored.leaves)
    if symbolic.dtype is None or not (old in WIDE_FLOATS or scaled):
        return old
    kept = {key[0] for key in stored.keys} & symbolic.kept_types
    return old if kept and not scaled else symbolic.dtype


def _rank(symbolic: Symbolic, stored: Stored) -> tuple[int, int]:
    """Outside the layers first what the source had first; layers in the order of their numbers."""
    if stored.layer is None:
        return (0, 0)
    return (1, stored.layer + (symbolic.n_layers if stored.prediction else 0))


def _present(stored: Stored, node: Node | None) -> Node:
    if node is None:
        raise UsageError("only some of the parts of a fused tensor were taken away", where=stored.origin)
    return node


def _rebuilt(symbolic: Symbolic, stored: Stored, nodes: Sequence[Node]) -> tuple[Node, tuple[int, ...]]:
    """The node of a stored tensor in file order, and its shape."""
    if stored.swapped or stored.tail or any(_gathered(leaf) for leaf in stored.leaves):
        raise UsageError(
            "a tensor is stored in a way that is read but not written",
            where=stored.origin,
            got=f"shape {stored.shape}, held by {symbolic.anatomy.architecture}",
            fix="convert the layout first",
        )
    if stored.packed:
        blocks = []
        experts = sorted({expert or 0 for _, _, expert in stored.keys})
        for expert in experts:
            inside = [n for n, key in enumerate(stored.keys) if (key[2] or 0) == expert]
            block = _block(symbolic, stored, [stored.keys[n] for n in inside], [nodes[n] for n in inside],
                           [stored.rows[n] for n in inside])  # fmt: skip
            blocks.append(Turn(block) if stored.transposed else block)
        whole: Node = blocks[0] if len(blocks) == 1 else Join(tuple(blocks))
        return whole, (len(experts), *blocks[0].shape)
    block = _block(symbolic, stored, stored.keys, nodes, stored.rows)
    if stored.transposed:
        block = Turn(block)
    shape = block.shape
    if stored.vector and len(stored.shape) > 1:
        shape = (*(1 for _ in stored.shape[:-1]), *shape)
    if not stored.vector and len(stored.shape) == 3 and math.prod(stored.shape[1:-1]) == 1:  # a 1x1 convolution
        shape = (shape[0], 1, shape[1])
    return block, shape


def _gathered(leaf: Node) -> bool:
    """Whether a part is put together from several stored tensors."""
    return isinstance(leaf, Leaf) and len(leaf.part.pieces) > 1


def _block(
    symbolic: Symbolic, stored: Stored, keys: Sequence[Key], nodes: Sequence[Node], rows: Sequence[Index | None]
) -> Node:
    """Parts of one tensor (or of one expert of it) in the order of their stored rows."""
    whole: Node = nodes[0] if len(nodes) == 1 else Join(tuple(nodes))
    if all(order is None for order in rows) and not _turns(symbolic, keys):
        return whole
    leaves = dict(zip(stored.keys, stored.leaves, strict=True))
    same = all(node.shape[0] == leaves[key].shape[0] for key, node in zip(keys, nodes, strict=True))
    if same and symbolic.head_dim == symbolic.anatomy.head_dim:
        places = _old_places(keys, nodes, rows)
    else:
        places = _new_places(symbolic, stored, keys, whole)
    inverse = np.empty_like(places)
    inverse[places] = np.arange(len(places), dtype=np.int64)
    return whole if bool(np.all(np.diff(places) == 1)) else Gather(whole, inverse)


def _turns(symbolic: Symbolic, keys: Sequence[Key]) -> bool:
    """Whether rows of these parts are stored as neighbouring pairs."""
    return symbolic.anatomy.rope == "interleaved" and any(key[0].removesuffix(".bias") in _ROTARY for key in keys)


def _old_places(keys: Sequence[Key], nodes: Sequence[Node], rows: Sequence[Index | None]) -> Index:
    """The stored row of each row, as in the source."""
    places, begin = [], 0
    for node, order in zip(nodes, rows, strict=True):
        places.append(np.arange(begin, begin + node.shape[0], dtype=np.int64) if order is None else order)
        begin += node.shape[0]
    return np.concatenate(places)


def _new_places(symbolic: Symbolic, stored: Stored, keys: Sequence[Key], whole: Node) -> Index:
    """The stored row of each row, from the heads as they are now.

    Raises:
        UsageError: they cannot be worked out (latent attention, or heads unknown).
    """
    match, heads = stored.match, heads_of(symbolic)
    if match is None or heads is None or symbolic.part("attn.kv_a", keys[0][1]) is not None:
        raise UsageError(
            "rows were added to a tensor whose rows are interleaved, and their places are not known",
            where=stored.origin,
            got=f"{symbolic.anatomy.architecture}, {symbolic.n_heads} heads",
            fix="convert the layout first",
        )
    n_rows = whole.shape[0]
    q_rows = (symbolic.n_heads or 0) * (symbolic.head_dim or 0)
    item = Oriented(match, whole.shape, n_rows, None if stored.vector else whole.shape[1])
    interleaved = symbolic.anatomy.rope == "interleaved"
    shares = Divider(heads, None, interleaved, {match.layer: q_rows}, None).divide(item)
    by_role = {share.role: share for share in shares}
    places = []
    for role, _, _ in keys:
        share = by_role.get(role.removesuffix(".bias"))
        if share is None:
            raise UsageError("a fused tensor does not divide into its roles", where=stored.origin, got=n_rows)
        places.append(np.arange(share.start, share.stop, dtype=np.int64) if share.order is None else share.order)
    joined = np.concatenate(places)
    if len(joined) != n_rows or len(np.unique(joined)) != n_rows:
        raise UsageError("a fused tensor does not divide into its roles", where=stored.origin, got=n_rows)
    return joined


def heads_of(symbolic: Symbolic) -> Heads | None:
    """Heads of the result with their rotary dimensions; None where heads are unknown."""
    heads, kv, dim = symbolic.n_heads, symbolic.n_kv_heads, symbolic.head_dim
    if not heads or not kv or not dim:
        return None
    hints = read_hints(symbolic.config.values)
    facts: Mapping[str, object] = {}
    for table in tables():
        if table.name == symbolic.anatomy.architecture:
            facts = table.facts_for(hints.kinds, hints.flags)
    fraction = facts.get("rotary_fraction")
    return solve_heads(
        hints, [], q_rows=heads * dim, k_rows=kv * dim, norm_length=None, stored_heads=(heads, dim),
        rotary_fraction=float(fraction) if isinstance(fraction, int | float) else None,
    )  # fmt: skip
