"""Fewer key/value heads: the heads of a group are turned onto each other and averaged, and the output fitted anew.

Law     turning is exact: keys and queries turn together within the planes of the rotary frequencies, values turn and
        the output projection turns back. Averaging is not, and the function changes; where the heads of a group were
        equal up to such turns, nothing does. With a `text`, the output projection of each layer is fitted by ridge
        regression so that the narrower model follows the wider one through the whole stack; what it costs on text that
        the fit has not seen is told.
Source  2305.13245 (GQA: mean of heads), 2502.07864 (TransMLA); alignment and refit are derived for the project.

Shapes  H = query heads, K = key/value heads, e = head dimension, m = heads of a group, G = H / K
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import GroupedAttention
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.head_alignment import Aligned, MeanHeads, TurnedHeads
from pedigree.surgery.nodes import Given, Node
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.operators.shape import HeadShape, head_shape
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.surgery.verbs import scale
from pedigree.weights.roles import BIAS

MOST_HELD = 2 << 30  # bytes of fitted matrices that wait for the run


class KvParameters(Parameters):
    """Key/value heads in all; align: whether they are turned first; text: what the outputs are fitted on."""

    to: int = Field(ge=1)
    align: bool = True
    text: str | None = None
    tokens: int = Field(default=8192, ge=256)
    ridge: float = Field(default=1e-3, gt=0)


def apply(symbolic: Symbolic, parameters: KvParameters, step: Step) -> Exactness:
    """Turn, average, and fit."""
    model, shape = model_of(symbolic, step), head_shape(symbolic, step)
    attention = model.attention
    if not isinstance(attention, GroupedAttention) or not 0 < parameters.to < shape.kv_heads:
        raise step.refuse("these are not fewer", got=f"{shape.kv_heads} key/value heads",
                          expected=f"more than {parameters.to}", fix="grow.kv makes more of them")  # fmt: skip
    if shape.kv_heads % parameters.to:
        raise step.refuse("the heads do not divide into groups", got=f"{shape.kv_heads} heads into {parameters.to}",
                          expected=f"a divisor of {shape.kv_heads}")  # fmt: skip
    changed = model.replace(attention=attention.replace(n_kv_heads=parameters.to))
    fitted = _fitted(symbolic, parameters, changed, step) if parameters.text is not None else None
    if attention.q_norm or attention.k_norm:
        symbolic.notes.append("norms on heads stand between turns and scores: keys are averaged as they are")
    for layer in range(symbolic.n_layers):
        turns = _turns(symbolic, layer, model, shape, parameters) if fitted is None else fitted[layer].turns
        _pool(symbolic, layer, shape, parameters.to, turns)
        if fitted is not None:
            symbolic.parts["attn.o", layer, None] = Given(fitted[layer].output)
    rehouse(symbolic, changed, step)
    return Exactness.NFP


def _turns(
    symbolic: Symbolic, layer: int, model: ModelConfig, shape: HeadShape, parameters: KvParameters
) -> tuple[Any, Any]:
    """What turns keys (with their queries), and what turns values; None where nothing is."""
    attention = model.attention
    if not parameters.align or not isinstance(attention, GroupedAttention):
        return None, None
    group = shape.kv_heads // parameters.to
    gain = symbolic.part("norm.attn", layer)
    keys, values = (symbolic.parts[role, layer, None] for role in ("attn.k", "attn.v"))
    seen = [node if gain is None else scale(node, gain, 1) for node in (keys, values)]
    normed = attention.q_norm or attention.k_norm
    turn_k = None if normed else Aligned(seen[0], shape.dim, group, model.rotary_dim)
    return turn_k, Aligned(seen[1], shape.dim, group, 0)


def _pool(symbolic: Symbolic, layer: int, shape: HeadShape, to: int, turns: tuple[Any, Any]) -> None:
    """Turn what belongs to keys and to values, and average over groups."""
    own = tuple(range(shape.kv_heads))
    read = tuple(head // shape.group for head in range(shape.heads))
    group = shape.kv_heads // to
    for role, turn in (("attn.k", turns[0]), ("attn.v", turns[1])):
        for key in _with_bias(symbolic, role, layer):
            symbolic.parts[key] = MeanHeads(_turned(symbolic.parts[key], turn, own, 0), shape.dim, group)
    for key in _with_bias(symbolic, "attn.q", layer):
        symbolic.parts[key] = _turned(symbolic.parts[key], turns[0], read, 0)
    output: Key = ("attn.o", layer, None)
    symbolic.parts[output] = _turned(symbolic.parts[output], turns[1], read, 1)


def _turned(node: Node, turns: Any, heads: tuple[int, ...], axis: int) -> Node:
    return node if turns is None else TurnedHeads(node, turns, heads, axis)


def _with_bias(symbolic: Symbolic, role: str, layer: int) -> list[Key]:
    keys: list[Key] = [(role, layer, None), (role + BIAS, layer, None)]
    return [key for key in keys if key in symbolic.parts]


def _fitted(symbolic: Symbolic, parameters: KvParameters, changed: ModelConfig, step: Step) -> Any:
    """Turns and outputs of every layer, from the source run on the text beside the narrower model."""
    from pedigree.surgery.influence import tokens_of
    from pedigree.surgery.output_refit import fit_outputs

    if changed.query_layer != "none":
        raise step.refuse("outputs around a query layer are not fitted", got=changed.query_layer, expected="none",
                          fix="convert.query_layer first, or leave text out")  # fmt: skip
    if step.number:
        raise step.refuse("outputs are fitted on the source", got=f"step {step.number + 1}", expected="the first step",
                          fix="put it first, or leave text out")  # fmt: skip
    held = (
        4
        * symbolic.n_layers
        * sum(symbolic.parts["attn.o", 0, None].shape[:1])
        * symbolic.parts["attn.o", 0, None].shape[1]
    )
    if held > MOST_HELD:
        raise step.refuse(
            "fitted outputs would wait for the run in memory", got=f"{held / 1e9:.1f} GB",
            expected=f"at most {MOST_HELD / 1e9:.1f} GB", fix="leave text out, and train on after averaging",
        )  # fmt: skip
    place = Path(step.folder, parameters.text or "").expanduser()
    tokens_BT = tokens_of(symbolic.checkpoint, place, parameters.tokens)
    if tokens_BT.shape[0] < 2:
        raise step.refuse("the text is too short to keep a part of it back", got=f"{tokens_BT.numel()} tokens",
                          expected="two sequences of 256 or more")  # fmt: skip
    found = fit_outputs(symbolic.checkpoint, tokens_BT, changed, align=parameters.align, ridge=parameters.ridge)
    symbolic.notes.append(
        f"held-out loss, nats per token: {found.before:.4f} with {symbolic.n_kv_heads} key/value heads, "
        f"{found.after:.4f} with {parameters.to}, on {found.tokens:,} tokens that the fit has not seen"
    )
    return found.layers


CONVERT_KV = Operator(
    name="convert.kv",
    summary="fewer key/value heads: those of a group turned onto each other, averaged, outputs fitted on a text",
    classes={"": Exactness.NFP},
    needs="a text, for the fit",
    source="2305.13245, 2502.07864",
    parameters=KvParameters,
    apply=apply,
    verbs=("rebase", "blend", "fit"),
)
