"""More query heads, more key/value heads, larger heads.

Laws
- a new query head whose output columns are zero adds nothing; it stands at the END OF EACH GROUP, because query head j
  reads key/value head j // G. A new group (one key/value head with its G query heads) stands at the end.
- a key/value head may stand r times in place (interleaved, not tiled) where r divides G: nothing changes.
- head dimension e -> e': attention divides by sqrt(e'), so queries grow by sqrt(e'/e). Rotary pair j of e has the
  frequency base^(-2j/e): with e' = m e it goes to pair m j; with any e' the base becomes base^(e'/e) and j stays j.
- a norm for each head (qk-norm) averages over e' instead of e coordinates: its gain shrinks by sqrt(e/e') and its
  epsilon by e/e'.

Source  add-nothing law of Net2Net 1511.05641; grouped queries 2305.13245; rotary embedding 2104.09864. The maps of head
        dimension under RoPE are derived here and tested.

Shapes  H, K, e, G as in `HeadShape`; R = rotary rows of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Node
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.operators.shape import (
    HeadShape,
    change,
    head_shape,
    refuse_wide_head_norm,
    rows_of_heads,
    with_bias,
)
from pedigree.surgery.selection import Index
from pedigree.surgery.spread import Spread
from pedigree.surgery.storing import heads_of
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.surgery.verbs import fresh, index, insert, pad, scale
from pedigree.weights.roles import BIAS

_ROTARY = with_bias("attn.q", "attn.k")


# Where the config holds one of these, scores are not divided by the root of the head dimension.
_FIXED_SCALES = ("query_pre_attn_scalar", "attention_multiplier")


class GrowHeadsParameters(Parameters):
    """Query heads in all. zero: fresh heads that write nothing. copy: each group's heads again, outputs shared."""

    to: int
    op: Literal["zero", "copy"] = "zero"


class GrowKvParameters(Parameters):
    """Key/value heads in all. replicate: each stands several times; groups: fresh groups that write nothing."""

    to: int
    op: Literal["replicate", "groups"] = "replicate"


class GrowHeadDimParameters(Parameters):
    """The new head dimension."""

    to: int


def grow_heads(symbolic: Symbolic, parameters: GrowHeadsParameters, step: Step) -> Exactness:
    """More query heads for the same key/value heads."""
    shape = head_shape(symbolic, step)
    refuse_wide_head_norm(symbolic, step)
    if parameters.to <= shape.heads or parameters.to % shape.kv_heads:
        raise step.refuse(
            "these query heads do not divide over the key/value heads", got=f"to: {parameters.to}",
            expected=f"a multiple of {shape.kv_heads} above {shape.heads}",
            fix=f"to: {(shape.heads // shape.kv_heads + 1) * shape.kv_heads}",
        )  # fmt: skip
    if symbolic.n_kv_heads == symbolic.n_heads and symbolic.config.find("n_kv_heads") is None:
        raise step.refuse("this kind of model has a key/value head for each query head", got=symbolic.config.kind,
                          fix="grow.kv: {op: groups} adds both")  # fmt: skip
    more = parameters.to // shape.kv_heads - shape.group  # new heads of each group
    if parameters.op == "zero":
        _fresh_heads(symbolic, shape, step, per_group=more)
        exactness = Exactness.FP0
    else:
        _copied_heads(symbolic, shape, more)
        exactness = Exactness.FP1
    symbolic.n_heads = parameters.to
    symbolic.config.set_heads(symbolic.d_model, parameters.to, shape.kv_heads, shape.dim)
    return exactness


def _fresh_heads(symbolic: Symbolic, shape: HeadShape, step: Step, *, per_group: int) -> None:
    count = per_group * shape.dim
    total = shape.kv_heads * count

    def query(key: Key, node: Node) -> Node:
        rows = None
        if len(node.shape) == 2:
            rows = fresh((total, node.shape[1]), step.seed, step.stream(key), Spread(node), dtype=node.dtype)
        return insert(node, 0, shape.kv_heads, count, rows)

    change(symbolic, with_bias("attn.q"), query)
    change(symbolic, ("attn.o",), lambda key, node: insert(node, 1, shape.kv_heads, count))


def _copied_heads(symbolic: Symbolic, shape: HeadShape, more: int) -> None:
    """Heads of a group again, first ones first; the output columns of a head are divided by how often it stands."""
    import torch

    from pedigree.surgery.nodes import Given

    inside = np.concatenate([np.arange(shape.group), np.arange(more) % shape.group])
    order = (np.arange(shape.kv_heads)[:, None] * shape.group + inside[None, :]).reshape(-1)
    times = np.bincount(order, minlength=shape.heads)
    rows = rows_of_heads(order, shape.dim)
    share = Given(torch.from_numpy(np.repeat(1.0 / times[order], shape.dim).astype(np.float32)))
    change(symbolic, with_bias("attn.q"), lambda key, node: index(node, 0, rows))
    change(symbolic, ("attn.o",), lambda key, node: scale(index(node, 1, rows), share, 1))


def grow_kv(symbolic: Symbolic, parameters: GrowKvParameters, step: Step) -> Exactness:
    """More key/value heads: the same ones several times, or fresh groups."""
    shape = head_shape(symbolic, step)
    if symbolic.config.values and symbolic.config.find("n_kv_heads") is None and parameters.op == "replicate":
        raise step.refuse("this kind of model has a key/value head for each query head", got=symbolic.config.kind)
    if parameters.op == "replicate":
        times, rest = divmod(parameters.to, shape.kv_heads)
        if rest or times < 1 or shape.group % times:
            options = [shape.kv_heads * r for r in range(2, shape.group + 1) if shape.group % r == 0]
            raise step.refuse(
                "key/value heads cannot be repeated to this number", got=f"to: {parameters.to}",
                expected=f"one of {options}" if options else f"{shape.heads} query heads have one each already",
            )  # fmt: skip
        _no_wide_norm(symbolic, step)
        rows = rows_of_heads(np.repeat(np.arange(shape.kv_heads), times), shape.dim)
        change(symbolic, with_bias("attn.k", "attn.v"), lambda key, node: index(node, 0, rows))
        symbolic.n_kv_heads = parameters.to
        symbolic.config.set_heads(symbolic.d_model, shape.heads, parameters.to, shape.dim)
        return Exactness.FP0
    if parameters.to <= shape.kv_heads:
        raise step.refuse("these are no more groups", got=f"to: {parameters.to}", expected=f"above {shape.kv_heads}")
    refuse_wide_head_norm(symbolic, step)
    _fresh_groups(symbolic, shape, parameters.to - shape.kv_heads, step)
    symbolic.n_kv_heads = parameters.to
    symbolic.n_heads = parameters.to * shape.group
    symbolic.config.set_heads(symbolic.d_model, symbolic.n_heads, parameters.to, shape.dim)
    return Exactness.FP0


def _no_wide_norm(symbolic: Symbolic, step: Step) -> None:
    """Repeating key heads under one norm over all of them repeats its gain too: the mean square stays."""
    for key, node in list(symbolic.parts.items()):
        if key[0] == "norm.k" and node.shape[0] != symbolic.head_dim:
            raise step.refuse("one norm spans all key heads", got=f"norm.k of {node.shape[0]}",
                              expected="a norm for each head, or none")  # fmt: skip


def _fresh_groups(symbolic: Symbolic, shape: HeadShape, count: int, step: Step) -> None:
    def rows(key: Key, node: Node) -> Node:
        new = count * shape.dim * (shape.group if key[0].removesuffix(BIAS).endswith("attn.q") else 1)
        given = None
        if len(node.shape) == 2:
            given = fresh((new, node.shape[1]), step.seed, step.stream(key), Spread(node), dtype=node.dtype)
        return pad(node, 0, new, given)

    change(symbolic, with_bias("attn.q", "attn.k", "attn.v"), rows)
    change(symbolic, ("attn.o",), lambda key, node: pad(node, 1, count * shape.group * shape.dim))


def grow_head_dim(symbolic: Symbolic, parameters: GrowHeadDimParameters, step: Step) -> Exactness:
    """Larger heads; rotary pairs keep their frequencies."""
    shape = head_shape(symbolic, step)
    refuse_wide_head_norm(symbolic, step)
    old, new = shape.dim, parameters.to
    if new <= old or new % 2:
        raise step.refuse("this is no larger head dimension", got=f"to: {new}", expected=f"an even number above {old}")
    inside = _pairs(symbolic, old, new, step)
    plain = np.arange(old, dtype=np.int64)
    fixed = any(level.get(key) for level in symbolic.config.levels() for key in _FIXED_SCALES)
    growth = 1.0 if fixed else math.sqrt(new / old)
    normed = any(key[0] == "norm.q" for key in symbolic.parts)
    for roles, places, factor in (
        (with_bias("attn.q"), inside, 1.0 if normed else growth),
        (with_bias("attn.k"), inside, 1.0),
        (with_bias("attn.v"), plain, 1.0),
    ):
        change(symbolic, roles, _larger(old, new, places, factor))
    change(symbolic, ("attn.o",), lambda key, node: _spread(node, 1, old, new, plain))
    exactness = Exactness.FP1
    if normed:
        # The mean square is taken over more coordinates, the new ones zero: the gain shrinks by sqrt(e/e'), and that of
        # the queries grows again by what the queries of other models grow. The epsilon should shrink too, and is one
        # number for all norms of the config: what remains is at most epsilon / (2 mean square).
        offset = symbolic.anatomy.gain_offset
        for role, factor in (("norm.q", growth / math.sqrt(new / old)), ("norm.k", 1 / math.sqrt(new / old))):
            change(symbolic, (role,), _larger(old, new, inside, factor, offset))
        exactness = Exactness.FPE
    symbolic.head_dim = new
    symbolic.config.set_heads(symbolic.d_model, shape.heads, shape.kv_heads, new)
    return exactness


def _larger(old: int, new: int, places: Index, factor: float, offset: float = 0.0) -> Callable[[Key, Node], Node]:
    """Rows of larger heads, times a factor."""

    def changed(key: Key, node: Node) -> Node:
        return _spread(scale(node, factor, 0, offset), 0, old, new, places)

    return changed


def _spread(node: Node, axis: int, old: int, new: int, places: Index) -> Node:
    """Coordinate i of every head at place places[i] of a larger head, zeros elsewhere."""
    n_heads = node.shape[axis] // old
    padded = pad(node, axis, 1)
    zero = node.shape[axis]
    order = np.full((n_heads, new), zero, dtype=np.int64)
    order[:, places] = np.arange(n_heads * old, dtype=np.int64).reshape(n_heads, old)
    return index(padded, axis, order.reshape(-1))


def _pairs(symbolic: Symbolic, old: int, new: int, step: Step) -> Index:
    """Where each query coordinate goes, so that its pair keeps its frequency; edits the rotary base where it must."""
    if symbolic.anatomy.rope == "none":
        return np.arange(old, dtype=np.int64)
    heads = heads_of(symbolic)
    rotary = old if heads is None or not heads.rotary_dim else heads.rotary_dim
    _refuse_scaled(symbolic, step)
    if rotary != old:  # the new coordinates are not rotated: they stand behind the others
        _new_share(symbolic, rotary, new, step)
        return np.arange(old, dtype=np.int64)
    half = np.arange(old // 2, dtype=np.int64)
    if new % old == 0:
        first = half * (new // old)
        return np.concatenate([first, new // 2 + first])
    _new_base(symbolic, new / old, step)
    return np.concatenate([half, new // 2 + half])


def _refuse_scaled(symbolic: Symbolic, step: Step) -> None:
    for level in symbolic.config.levels():
        for key in ("rope_scaling", "rope_parameters"):
            value: Any = level.get(key)
            kind = (value.get("rope_type") or value.get("type")) if isinstance(value, dict) else None
            if kind not in (None, "default", "linear"):
                raise step.refuse(
                    "scaled rotary frequencies depend on the head dimension in more than the base", got=kind,
                    expected="plain rotary frequencies", fix="keep the head dimension",
                )  # fmt: skip


def _new_share(symbolic: Symbolic, rotary: int, new: int, step: Step) -> None:
    """The share of a head that is rotated, wherever the config holds it."""
    share = rotary / new
    if int(new * share) != rotary:
        share = math.nextafter(share, 1.0)
    found = False
    for level in symbolic.config.levels():
        for holder in (level, level.get("rope_parameters")):
            for key in ("partial_rotary_factor", "rotary_pct"):
                if isinstance(holder, dict) and isinstance(holder.get(key), int | float):
                    holder[key] = share
                    found = True
            if isinstance(holder, dict) and type(holder.get("rotary_dim")) is int:
                found = True
    if not found and symbolic.config.values:
        raise step.refuse("the config does not say which share of a head is rotated", got="no partial_rotary_factor")


def _new_base(symbolic: Symbolic, power: float, step: Step) -> None:
    """base -> base^power, wherever the config holds it."""
    found = False
    for level in symbolic.config.levels():
        for holder in (level, level.get("rope_parameters")):
            if not isinstance(holder, dict):
                continue
            for key in ("rope_theta", "rotary_emb_base"):
                if isinstance(holder.get(key), int | float):
                    holder[key] = float(holder[key]) ** power
                    found = True
    if not found and symbolic.config.values:
        raise step.refuse("the config does not say the base of the rotary frequencies", got="no rope_theta",
                          fix="write rope_theta into config.json, or a multiple of the old head dimension")  # fmt: skip


GROW_HEADS = Operator(
    "grow.heads",
    "more query heads in each group, fresh ones that write nothing or copies that share their output",
    {"zero": Exactness.FP0, "copy": Exactness.FP1}, "", "1511.05641, 2305.13245", GrowHeadsParameters, grow_heads,
    ("pad", "index"),
)  # fmt: skip
GROW_KV = Operator(
    "grow.kv",
    "more key/value heads: each several times in place, or fresh groups that write nothing",
    {"replicate": Exactness.FP0, "groups": Exactness.FP0}, "", "2305.13245", GrowKvParameters, grow_kv,
    ("index", "pad"),
)  # fmt: skip
GROW_HEAD_DIM = Operator(
    "grow.head_dim",
    "larger heads; rotary pairs keep their frequencies, queries are scaled",
    {"": Exactness.FP1, "norms of queries": Exactness.FPE}, "plain rotary frequencies", "2104.09864",
    GrowHeadDimParameters, grow_head_dim, ("pad", "rebase"),
)  # fmt: skip
