"""A wider residual stream.

Law     pad: coordinates that nobody writes are zero, so readers may have any column for them. The mean square is
        taken over D instead of d coordinates: RMS'^2 = (d/D) RMS^2, hence every gain is multiplied by sqrt(d/D) and
        every epsilon by d/D. Without the gain the function breaks, without the epsilon it is only nearly kept.
        clone: every coordinate stands n times; writers repeat their rows, readers divide by n; mean and mean square
        stay, so any norm does. A tied head would read n times too much: 1/n goes into the final norm.
Source  derived for the project; cloning HyperCloning 2409.12903, zero columns Net2Net 1511.05641.

Shapes  d = old width, D = new one, n = D / d
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Fill, Given, Join, Node
from pedigree.surgery.operator import Antisymmetric, Operator, Parameters, Step
from pedigree.surgery.operators.shape import head_shape, keep_inner, refuse_wide_head_norm
from pedigree.surgery.spread import Spread
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.surgery.verbs import fresh, index, pad, perturb, scale
from pedigree.weights.roles import BIAS, MTP

_WIDTH_SCALES = ("dim_model_base", "scale_depth")
_FINAL = ("norm.final", "norm.final" + BIAS)


class GrowHiddenParameters(Parameters):
    """The new width. pad: fresh coordinates, any width; clone: every coordinate again, a multiple of the old width.

    new_columns: what readers have for fresh coordinates; zero leaves them without a gradient until they are written.
    """

    to: int
    op: Literal["pad", "clone"] = "pad"
    new_columns: Literal["random", "zero"] = "random"
    noise: Antisymmetric | None = None


def apply(symbolic: Symbolic, parameters: GrowHiddenParameters, step: Step) -> Exactness:
    """Widen every part that lies in the residual stream."""
    old, new = symbolic.d_model, parameters.to
    if new <= old:
        raise step.refuse("this is not wider", got=f"width {old}", expected=f"fewer than {new}")
    _refuse_unknown(symbolic, step)
    for level in symbolic.config.levels():
        for key in _WIDTH_SCALES:
            if level.get(key) is not None:
                raise step.refuse("the config scales by the width", got=f"{key} {level[key]}",
                                  expected="a model without it")  # fmt: skip
    if parameters.op == "pad":
        _pad(symbolic, parameters, step)
    else:
        _clone(symbolic, parameters, step)
    symbolic.d_model = new
    keep_inner(symbolic)
    symbolic.config.set("d_model", new)
    if symbolic.n_heads and symbolic.head_dim:
        symbolic.config.set_heads(new, symbolic.n_heads, symbolic.n_kv_heads, symbolic.head_dim)
    return Exactness.FP1


def _refuse_unknown(symbolic: Symbolic, step: Step) -> None:
    if symbolic.anatomy.unmapped:
        raise step.refuse(
            "tensors without a role may lie in the residual stream", got=", ".join(symbolic.anatomy.unmapped[:3]),
            expected="a role for every tensor",
        )  # fmt: skip
    wrong = [
        key for key, node in symbolic.parts.items()
        for axis, size in zip(symbolic.axes(key), node.shape, strict=True)
        if axis.space == "residual" and size != symbolic.d_model
    ]  # fmt: skip
    if wrong:
        raise step.refuse("a part of the residual stream has another width", got=wrong[0][0],
                          expected=symbolic.d_model)  # fmt: skip


def _pad(symbolic: Symbolic, parameters: GrowHiddenParameters, step: Step) -> None:
    old, new = symbolic.d_model, parameters.to
    if symbolic.anatomy.norm != "rms":
        raise step.refuse(
            "a layer norm subtracts the mean, which zeros would move", got="norm: layer",
            expected="RMS norms", fix=f"op: clone with to: {2 * old}, or convert the norms first",
        )  # fmt: skip
    if parameters.noise is not None:
        raise step.refuse("fresh coordinates need no noise", got="op: pad with noise")
    shrink = math.sqrt(old / new)
    embed_scale, final_scale = 1.0, shrink
    if symbolic.anatomy.embedding_scale == "sqrt-d":  # the class multiplies by sqrt(D)
        embed_scale = shrink
        final_scale = 1.0 if symbolic.tied else shrink
    offset = symbolic.anatomy.gain_offset

    def padded(key: Key, node: Node) -> Node:
        role = key[0].removeprefix(MTP)
        for axis, space in enumerate(symbolic.axes(key)):
            if space.space != "residual":
                continue
            if space.part == "gain":
                factor = final_scale if role in _FINAL else shrink
                node = pad(scale(node, factor, 0, offset), axis, new - old, Fill((new - old,), factor - offset))
            elif space.part == "reader" and parameters.new_columns == "random":
                rows = (node.shape[0], new - old)
                node = pad(node, axis, new - old,
                           fresh(rows, step.seed, step.stream(key), Spread(node), dtype=node.dtype))  # fmt: skip
            else:
                node = pad(node, axis, new - old)
        return scale(node, embed_scale) if role == "embed" and embed_scale != 1 else node

    for key, node in list(symbolic.parts.items()):
        symbolic.parts[key] = padded(key, node)
    eps = symbolic.config.find("eps")
    if eps is None:
        if symbolic.config.values:
            symbolic.notes.append("the config names no epsilon; norms keep theirs, which is not exact")
    else:
        eps[0][eps[1]] = float(eps[0][eps[1]]) * old / new


def _clone(symbolic: Symbolic, parameters: GrowHiddenParameters, step: Step) -> None:
    times, rest = divmod(parameters.to, symbolic.d_model)
    if rest:
        raise step.refuse("clones need a multiple of the width", got=f"to: {parameters.to}",
                          expected=f"a multiple of {symbolic.d_model}", fix="op: pad takes any width")  # fmt: skip
    if symbolic.n_heads and symbolic.head_dim and not symbolic.config.free_head_dim and symbolic.config.values:
        _clone_heads(symbolic, times, step)
    old = symbolic.d_model
    order = np.tile(np.arange(old, dtype=np.int64), times)
    grown = 1.0 if symbolic.anatomy.embedding_scale != "sqrt-d" else math.sqrt(times)
    for key, node in list(symbolic.parts.items()):
        role = key[0].removeprefix(MTP)
        for axis, space in enumerate(symbolic.axes(key)):
            if space.space != "residual":
                continue
            node = index(node, axis, order)
            if space.part == "reader":
                node = scale(node, 1.0 / times)
                if parameters.noise is not None:
                    node = perturb(node, _noise(symbolic.parts[key], axis, times, parameters.noise.antisym, step, key))
        if role == "embed" and grown != 1:
            node = scale(node, 1 / grown)
        if role in _FINAL and symbolic.tied:
            offset = symbolic.anatomy.gain_offset if role == "norm.final" else 0.0
            node = scale(node, grown / times, 0, offset)
        symbolic.parts[key] = node


def _noise(node: Node, axis: int, times: int, antisym: float, step: Step, key: Key) -> Node:
    """Noise on the columns of a reader that sums to zero over the copies of each: N, -N, N', -N', and none if odd."""
    rows, columns = node.shape
    blocks: list[Node] = []
    for pair in range(times // 2):
        name = step.stream(key, f"noise {pair}")
        one = fresh((rows, columns), step.seed, name, Spread(node, antisym / times))
        blocks += [one, scale(one, -1.0)]
    if times % 2:
        blocks.append(Fill((rows, columns)))
    return Join(tuple(blocks), axis)


def _clone_heads(symbolic: Symbolic, times: int, step: Step) -> None:
    """All heads again, group after group: for classes whose head dimension is width / heads."""
    import torch

    shape = head_shape(symbolic, step)
    refuse_wide_head_norm(symbolic, step)
    for key, node in list(symbolic.parts.items()):
        for axis, space in enumerate(symbolic.axes(key)):
            if space.space in ("heads", "kv_heads"):
                order = np.tile(np.arange(node.shape[axis], dtype=np.int64), times)
                node = index(node, axis, order)
                if space.part == "reader":
                    share = torch.full((len(order),), 1.0 / times)
                    node = scale(node, Given(share), axis)
        symbolic.parts[key] = node
    symbolic.n_heads = shape.heads * times
    symbolic.n_kv_heads = shape.kv_heads * times


GROW_HIDDEN = Operator(
    "grow.hidden",
    "a wider residual stream: fresh coordinates with the norms corrected, or every coordinate several times",
    {"pad": Exactness.FP1, "clone": Exactness.FP1}, "pad: RMS norms", "2409.12903, 1511.05641",
    GrowHiddenParameters, apply, ("pad", "index", "fold", "perturb"),
)  # fmt: skip
