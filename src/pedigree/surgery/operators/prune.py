"""Narrower and shallower: layers, feed-forward units, heads, groups and residual channels taken away.

Nothing here keeps the function. Units go by the smallest weights, or by number. Query heads go evenly from each group,
key/value heads with all their query heads, residual channels everywhere at once.

Source  Minitron 2407.14679 (what is cut together), ShortGPT 2403.03853 (layers).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import model_validator

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.importance import Best, SquaresByColumn, SquaresByRow
from pedigree.surgery.nodes import Node, Pick, Statistic
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.operators.depth import check_layers, take_layers
from pedigree.surgery.operators.shape import HeadShape, head_shape, keep_inner, refuse_wide_head_norm, with_bias
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.verbs import index
from pedigree.weights.roles import MTP


class PruneDepthParameters(Parameters):
    """Layers to leave out: by number, or `count` of them that change the states of a `text` least.

    by: influence (each layer for itself) or block (neighbors together).
    """

    drop: tuple[int, ...] | None = None
    count: int | None = None
    text: str | None = None
    by: Literal["influence", "block"] = "influence"
    tokens: int = 2048

    @model_validator(mode="after")
    def _one_way(self) -> PruneDepthParameters:
        if (self.drop is None) == (self.count is None) or (self.count is None) != (self.text is None):
            raise ValueError("give drop, or count with text")
        return self


class PruneFfnParameters(Parameters):
    """The new inner width; which units stay is decided by the weights, or listed in `keep`."""

    to: int
    keep: tuple[int, ...] | None = None


class PruneHeadsParameters(Parameters):
    """Query heads in all, taken evenly from each group."""

    to: int


class PruneKvParameters(Parameters):
    """Key/value heads in all, each with its query heads."""

    to: int


class PruneHiddenParameters(Parameters):
    """The new width of the residual stream."""

    to: int


def prune_depth(symbolic: Symbolic, parameters: PruneDepthParameters, step: Step) -> Exactness:
    """Leave layers out."""
    drop = parameters.drop if parameters.drop is not None else _least_influence(symbolic, parameters, step)
    check_layers(symbolic.n_layers, drop, step)
    order = [layer for layer in range(symbolic.n_layers) if layer not in drop]
    if not order:
        raise step.refuse("no layer would be left", got=f"{symbolic.n_layers} layers")
    take_layers(symbolic, order, step)
    return Exactness.NFP if drop else Exactness.FP0


def _least_influence(symbolic: Symbolic, parameters: PruneDepthParameters, step: Step) -> tuple[int, ...]:
    """Layers that change the states of a text least. The source is run for it, one layer at a time."""
    from pedigree.surgery.influence import influences, least, tokens_of

    count = parameters.count or 0
    if step.number:
        raise step.refuse("influence is measured on the source", got=f"step {step.number + 1}",
                          expected="the first step", fix="put it first, or give drop")  # fmt: skip
    if not 0 < count < symbolic.n_layers:
        raise step.refuse("so many layers cannot be left out", got=count, expected=f"1 to {symbolic.n_layers - 1}")
    place = Path(step.folder, parameters.text or "").expanduser()
    tokens_BT = tokens_of(symbolic.checkpoint, place, parameters.tokens)
    span = count if parameters.by == "block" else 1
    scores = influences(symbolic.checkpoint, tokens_BT, span)
    first = least(scores, 1)[0]
    drop = list(range(first, first + count)) if parameters.by == "block" else least(scores, count)
    told = ", ".join(f"{layer} ({scores[first if span > 1 else layer]:.4f})" for layer in drop)
    symbolic.notes.append(f"layers left out, by influence on {tokens_BT.numel()} tokens: {told}")
    return tuple(drop)


def prune_ffn(symbolic: Symbolic, parameters: PruneFfnParameters, step: Step) -> Exactness:
    """Take units from every dense feed-forward network."""
    keys = list(symbolic.keys("mlp.down"))
    widths = {symbolic.parts[key].shape[1] for key in keys}
    if not keys or not 0 < parameters.to < min(widths):
        raise step.refuse(
            "this is not narrower", got=f"inner width {sorted(widths)}", expected=f"above {parameters.to}"
        )
    listed = None
    if parameters.keep is not None:
        listed = np.asarray(sorted(set(parameters.keep)), dtype=np.int64)
        if len(listed) != parameters.to or listed[0] < 0 or listed[-1] >= min(widths):
            raise step.refuse("the units to keep do not fit", got=f"{len(listed)} units up to {listed.max(initial=0)}",
                              expected=f"{parameters.to} numbers from 0 to {min(widths) - 1}")  # fmt: skip
    for _, layer, _ in keys:
        down = symbolic.parts["mlp.down", layer, None]
        inner = [("mlp.up", 0), ("mlp.gate", 0), ("mlp.up.bias", 0), ("mlp.gate.bias", 0), ("norm.mlp.down", 0),
                 ("mlp.down", 1), ("mlp.series.slope", 1), ("mlp.series.shift", 1)]  # fmt: skip
        scores: list[Statistic] = [SquaresByColumn(down)]
        scores += [SquaresByRow(node) for role in ("mlp.up", "mlp.gate") if (node := symbolic.part(role, layer))]
        best = Best(scores, parameters.to)
        for role, axis in inner:
            node = symbolic.parts.get((role, layer, None))
            if node is not None:
                chosen: Node = Pick(node, best, parameters.to, axis) if listed is None else index(node, axis, listed)
                symbolic.parts[role, layer, None] = chosen
    symbolic.config.set("d_inner", parameters.to)
    return Exactness.NFP


def prune_heads(symbolic: Symbolic, parameters: PruneHeadsParameters, step: Step) -> Exactness:
    """Take query heads from each group."""
    shape = head_shape(symbolic, step)
    refuse_wide_head_norm(symbolic, step)
    if not 0 < parameters.to < shape.heads or parameters.to % shape.kv_heads:
        raise step.refuse("these query heads do not divide over the key/value heads", got=f"to: {parameters.to}",
                          expected=f"a multiple of {shape.kv_heads} below {shape.heads}")  # fmt: skip
    if shape.group == 1:
        raise step.refuse(
            "every key/value head has one query head", got=f"{shape.heads} heads", fix="prune.kv takes both"
        )
    for layer in _layers(symbolic):
        q, o = symbolic.parts["attn.q", layer, None], symbolic.parts["attn.o", layer, None]
        best = Best([SquaresByRow(q), SquaresByColumn(o)], parameters.to, size=shape.dim, groups=shape.kv_heads)
        _pick(symbolic, layer, best, parameters.to * shape.dim, with_bias("attn.q"), ("attn.o",))
    symbolic.n_heads = parameters.to
    symbolic.config.set_heads(symbolic.d_model, parameters.to, shape.kv_heads, shape.dim)
    return Exactness.NFP


def prune_kv(symbolic: Symbolic, parameters: PruneKvParameters, step: Step) -> Exactness:
    """Take key/value heads with their query heads."""
    shape = head_shape(symbolic, step)
    refuse_wide_head_norm(symbolic, step)
    if not 0 < parameters.to < shape.kv_heads:
        raise step.refuse("these are not fewer", got=f"to: {parameters.to}", expected=f"1 to {shape.kv_heads - 1}")
    for layer in _layers(symbolic):
        _prune_groups(symbolic, layer, shape, parameters.to)
    symbolic.n_kv_heads = parameters.to
    symbolic.n_heads = parameters.to * shape.group
    symbolic.config.set_heads(symbolic.d_model, symbolic.n_heads, parameters.to, shape.dim)
    return Exactness.NFP


def _prune_groups(symbolic: Symbolic, layer: int | None, shape: HeadShape, count: int) -> None:
    v, o = symbolic.parts["attn.v", layer, None], symbolic.parts["attn.o", layer, None]
    wide = shape.dim * shape.group
    scores = [_PerGroup(SquaresByRow(v), shape.dim), _PerGroup(SquaresByColumn(o), wide)]
    for coordinates, rows, cols in (
        (shape.dim, with_bias("attn.k", "attn.v"), ()),
        (wide, with_bias("attn.q"), ("attn.o",)),
    ):
        best = Best(scores, count, coordinates=coordinates)
        _pick(symbolic, layer, best, count * coordinates, rows, cols)


class _PerGroup(Best):
    """Scores summed over groups of coordinates."""

    def __init__(self, score: Statistic, size: int) -> None:
        super().__init__([score], 0, size=size)
        self.name = f"{score.name} by {size}"

    def value(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """One sum for each group."""
        return np.asarray(values[0].reshape(-1, self._size).sum(axis=1))


def _pick(
    symbolic: Symbolic, layer: int | None, best: Best, count: int, rows: Sequence[str], cols: Sequence[str]
) -> None:
    for role, axis in [*((role, 0) for role in rows), *((role, 1) for role in cols)]:
        node = symbolic.parts.get((role, layer, None))
        if node is not None:
            symbolic.parts[role, layer, None] = Pick(node, best, count, axis)


def _layers(symbolic: Symbolic) -> list[int | None]:
    return [layer for role, layer, _ in symbolic.parts if role == "attn.o"]


def prune_hidden(symbolic: Symbolic, parameters: PruneHiddenParameters, step: Step) -> Exactness:
    """Take channels out of the residual stream, everywhere the same ones: those that are written least."""
    if not 0 < parameters.to < symbolic.d_model:
        raise step.refuse("this is not narrower", got=f"width {symbolic.d_model}", expected=f"above {parameters.to}")
    if any(role.startswith(MTP) for role, _, _ in symbolic.parts) or symbolic.anatomy.unmapped:
        raise step.refuse("parts of this model may read the stream in ways that are not known",
                          got="prediction layers, or tensors without a role")  # fmt: skip
    scores: list[Statistic] = []
    for key, node in symbolic.parts.items():
        for axis, space in enumerate(symbolic.axes(key)):
            if space.space == "residual" and space.part == "writer" and len(node.shape) == 2:
                scores.append(SquaresByRow(node) if axis == 0 else SquaresByColumn(node))
    best = Best(scores, parameters.to, product=False)
    for key, node in list(symbolic.parts.items()):
        for axis, space in enumerate(symbolic.axes(key)):
            if space.space == "residual":
                node = Pick(node, best, parameters.to, axis)
        symbolic.parts[key] = node
    symbolic.d_model = parameters.to
    keep_inner(symbolic)
    symbolic.config.set("d_model", parameters.to)
    if symbolic.n_heads and symbolic.head_dim:
        symbolic.config.set_heads(parameters.to, symbolic.n_heads, symbolic.n_kv_heads, symbolic.head_dim)
    return Exactness.NFP


_NFP = {"": Exactness.NFP}
PRUNE_DEPTH = Operator(
    "prune.depth",
    "leave layers out, by number or by influence on a text",
    _NFP,
    "",
    "2403.03853, 2403.17887",
    PruneDepthParameters,
    prune_depth,
    ("index",),
)
PRUNE_FFN = Operator(
    "prune.ffn", "a narrower feed-forward network: the units with the largest weights stay", _NFP, "", "2407.14679",
    PruneFfnParameters, prune_ffn, ("index",),
)  # fmt: skip
PRUNE_HEADS = Operator(
    "prune.heads", "fewer query heads, taken evenly from each group", _NFP, "", "2407.14679", PruneHeadsParameters,
    prune_heads, ("index",),
)  # fmt: skip
PRUNE_KV = Operator(
    "prune.kv", "fewer key/value heads, each with its query heads", _NFP, "", "2407.14679", PruneKvParameters,
    prune_kv, ("index",),
)  # fmt: skip
PRUNE_HIDDEN = Operator(
    "prune.hidden", "a narrower residual stream: the channels that are written most stay", _NFP, "", "2407.14679",
    PruneHiddenParameters, prune_hidden, ("index",),
)  # fmt: skip
