"""Changes of the numbers that keep the function: what a disguise is made of. For the benchmark of forensics.

Law     reader and writer law: a space may be rebased by M if every writer gets M and every reader its inverse, and
        what stands between commutes with M. Inner units and groups of heads: any permutation. Residual stream: any
        permutation (and sign, under RMS norms; any rotation, when gains are folded away). `up` and `down`: any
        factor and its inverse, unit by unit; `v` and `o` the same.
Source  permutation and rescaling symmetries, 2407.14679 and 2404.00456 (rotation of the residual stream).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Given, Node
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.operators.feed_forward import SERIES
from pedigree.surgery.operators.shape import HeadShape, head_shape, rows_of_heads, with_bias
from pedigree.surgery.randomness import Stream, permutation
from pedigree.surgery.rotation import Rotated, Rotation
from pedigree.surgery.selection import Index
from pedigree.surgery.spread import Spread
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.surgery.verbs import fresh, index, perturb, scale

_READ_BEHIND = {
    "norm.attn": ("attn.q", "attn.k", "attn.v", *(f"shortcut.{number}.enter" for number in range(4))),
    "norm.mlp": ("mlp.gate", "mlp.up"),
    "norm.final": ("head",),
}


class PermuteParameters(Parameters):
    """Which spaces get a random order."""

    spaces: tuple[Literal["inner", "heads", "residual"], ...] = ("inner", "heads", "residual")


class RescaleParameters(Parameters):
    """Factors are powers of two up to `octaves` either way, so that floats stay exact."""

    octaves: int = 1


class NoiseParameters(Parameters):
    """Noise on every matrix, this many decibels below its numbers."""

    snr: float = 40.0


class RotateParameters(Parameters):
    """Rotation in blocks of this many channels, in a random order of channels."""

    block: int = 256


def permute(symbolic: Symbolic, parameters: PermuteParameters, step: Step) -> Exactness:
    """A random order in each space."""
    if "residual" in parameters.spaces:
        _known(symbolic, step)
        order = permutation(step.seed, step.stream(("residual", None, None)), symbolic.d_model)
        _in_space(symbolic, "residual", order)
    for layer in range(symbolic.n_layers):
        key: Key = ("mlp.down", layer, None)
        if "inner" in parameters.spaces and key in symbolic.parts:
            order = permutation(step.seed, step.stream(key), symbolic.parts[key].shape[1])
            roles = (*with_bias("mlp.gate", "mlp.up"), "mlp.down", "norm.mlp.down", *SERIES)
            _in_space(symbolic, "inner", order, [(role, layer, None) for role in roles])
        if "heads" in parameters.spaces:
            _permute_heads(symbolic, layer, head_shape(symbolic, step), step)
    return Exactness.FP1


def _permute_heads(symbolic: Symbolic, layer: int, shape: HeadShape, step: Step) -> None:
    """Groups in a random order, and the query heads inside each."""
    name = step.stream(("attn.o", layer, None))
    groups = permutation(step.seed, name, shape.kv_heads)
    inside = [permutation(step.seed, f"{name}/{group}", shape.group) for group in range(shape.kv_heads)]
    heads = np.concatenate([group * shape.group + inside[group] for group in groups.tolist()])
    query, key = rows_of_heads(heads, shape.dim), rows_of_heads(groups, shape.dim)
    _in_space(symbolic, "heads", query, [(r, layer, None) for r in (*with_bias("attn.q"), "attn.o", "norm.q")])
    _in_space(symbolic, "kv_heads", key, [(r, layer, None) for r in (*with_bias("attn.k", "attn.v"), "norm.k")])


def _in_space(symbolic: Symbolic, space: str, order: Index, keys: list[Key] | None = None) -> None:
    for key in list(symbolic.parts) if keys is None else keys:
        node = symbolic.parts.get(key)
        if node is None:
            continue
        for axis, found in enumerate(symbolic.axes(key)):
            if found.space == space:
                node = index(node, axis, order)
        symbolic.parts[key] = node


def _known(symbolic: Symbolic, step: Step) -> None:
    if symbolic.anatomy.unmapped:
        raise step.refuse("tensors without a role may lie in the residual stream",
                          got=", ".join(symbolic.anatomy.unmapped[:3]), expected="a role for every tensor")  # fmt: skip


def rescale(symbolic: Symbolic, parameters: RescaleParameters, step: Step) -> Exactness:
    """Factors on `up` and `down`, and on `v` and `o`, that cancel."""
    if symbolic.anatomy.mlp == "plain":
        raise step.refuse("without a gate the activation stands between the two factors", got="a plain feed-forward")
    shape = head_shape(symbolic, step)
    for layer in range(symbolic.n_layers):
        down = symbolic.parts.get(("mlp.down", layer, None))
        if down is not None and ("norm.mlp.down", layer, None) not in symbolic.parts:
            factors = _factors(step, ("mlp.up", layer, None), down.shape[1], parameters.octaves)
            for role in with_bias("mlp.up"):
                _scale(symbolic, (role, layer, None), factors, 0)
            _scale(symbolic, ("mlp.down", layer, None), 1 / factors, 1)
        if ("norm.attn.o", layer, None) in symbolic.parts:
            continue
        one = _factors(step, ("attn.v", layer, None), shape.kv_heads * shape.dim, parameters.octaves)
        for role in with_bias("attn.v"):
            _scale(symbolic, (role, layer, None), one, 0)
        by_query = np.repeat(1 / one.reshape(shape.kv_heads, 1, shape.dim), shape.group, axis=1).reshape(-1)
        _scale(symbolic, ("attn.o", layer, None), by_query, 1)
    return Exactness.FP1


def _factors(step: Step, key: Key, count: int, octaves: int) -> np.ndarray:
    uniform = Stream(step.seed, step.stream(key), 1).uniform(slice(0, count), slice(0, 1)).numpy()[:, 0]
    return np.asarray(2.0 ** (np.floor(uniform * (2 * octaves + 1)) - octaves))


def _scale(symbolic: Symbolic, key: Key, factors: np.ndarray, axis: int) -> None:
    import torch

    node = symbolic.parts.get(key)
    if node is not None:
        symbolic.parts[key] = scale(node, Given(torch.from_numpy(factors.astype(np.float32))), axis)


def noise(symbolic: Symbolic, parameters: NoiseParameters, step: Step) -> Exactness:
    """Independent noise on every matrix."""
    level = 10 ** (-parameters.snr / 20)
    for key, node in list(symbolic.parts.items()):
        if len(node.shape) == 2:
            added = fresh(node.shape, step.seed, step.stream(key), Spread(node, level))
            symbolic.parts[key] = perturb(node, added)
    return Exactness.NFP


def rotate(symbolic: Symbolic, parameters: RotateParameters, step: Step) -> Exactness:
    """Fold the gains into what reads behind them, then rotate the residual stream."""
    _known(symbolic, step)
    a = symbolic.anatomy
    if a.norm != "rms" or a.norm_placement != "pre":
        raise step.refuse("only RMS norms in front of each branch commute with a rotation",
                          got=f"{a.norm} norms, {a.norm_placement}")  # fmt: skip
    if symbolic.tied:
        raise step.refuse("the gain of the final norm cannot be folded into a tied head", got="a tied head",
                          fix="untie first")  # fmt: skip
    if any(key[0].startswith(("moe.", "mtp.")) for key in symbolic.parts):
        raise step.refuse("experts and prediction layers are not rotated yet", got=a.architecture)
    if any(key[0] in ("embed.query", "norm.final.bias") for key in symbolic.parts):
        raise step.refuse(
            "the gain of a norm cannot be folded past this", got="a query layer, or a bias of the final norm",
            expected="neither", fix="convert.query_layer, or convert.biases: {drop: [final]}",
        )  # fmt: skip
    for gain, readers in _READ_BEHIND.items():
        for key in list(symbolic.keys(gain)):
            _fold(symbolic, key, readers, a.gain_offset)
    size = next(b for b in range(min(parameters.block, symbolic.d_model), 0, -1) if symbolic.d_model % b == 0)
    rotation = Rotation(symbolic.d_model, size, step.seed, step.stream(("residual", None, None)))
    for key, node in list(symbolic.parts.items()):
        for axis, space in enumerate(symbolic.axes(key)):
            if space.space == "residual" and space.part != "gain":
                node = Rotated(node, rotation, axis)
        symbolic.parts[key] = node
    return Exactness.FP1


def _fold(symbolic: Symbolic, gain: Key, readers: tuple[str, ...], offset: float) -> None:
    """Columns of the readers times the gain; the gain becomes 1."""
    import torch

    node: Node = symbolic.parts[gain]
    factor: Node = node
    if offset:
        factor = perturb(node, Given(torch.full(node.shape, offset)))
    for role in readers:
        for key in list(symbolic.keys(role)):
            if key[1] == gain[1]:
                symbolic.parts[key] = scale(symbolic.parts[key], factor, 1)
    symbolic.parts[gain] = Given(torch.full(node.shape, 1.0 - offset))


_FP1 = {"": Exactness.FP1}
PERMUTE = Operator(
    "launder.permute", "a random order of inner units, of heads, and of the residual stream", _FP1, "", "2407.14679",
    PermuteParameters, permute, ("rebase",),
)  # fmt: skip
RESCALE = Operator(
    "launder.rescale", "factors on up and v that down and o take back", _FP1, "a gated feed-forward", "2407.14679",
    RescaleParameters, rescale, ("rebase",),
)  # fmt: skip
ROTATE = Operator(
    "launder.rotate", "gains folded away and the residual stream rotated", _FP1, "RMS norms, an untied head",
    "2404.00456", RotateParameters, rotate, ("fold", "rebase"),
)  # fmt: skip
NOISE = Operator(
    "launder.noise", "noise on every matrix", {"": Exactness.NFP}, "", "", NoiseParameters, noise, ("perturb",)
)
OPERATORS = (PERMUTE, RESCALE, ROTATE, NOISE)
__all__ = ["NOISE", "OPERATORS", "PERMUTE", "RESCALE", "ROTATE"]
