"""A mixture of experts becomes a dense model.

Law     What every token sees alike is kept: the shared expert stands first among the units, unchanged. Of the routed
        experts, `keep` takes some as they are, `average` one whose numbers are the means of all, `concatenate` all of
        them side by side, each writing its mean weight. None of these is the mixture, whose weights depend on the
        token; with one expert, or experts that are equal, all of them are exact.
Source  merging experts: 2310.01334 (M-SMoE), 2306.11222; row 8 of the family's systems keeps one expert.

Shapes  N = experts, k = chosen for a token, w = width of an expert, s = width of the shared one
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Experts
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Join, Node
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.retarget import become, model_of
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.verbs import blend, scale

PARTS = ("gate", "up", "down")


class DensifyParameters(Parameters):
    """Which experts stay.

    Attributes:
        op: keep, average or concatenate.
        experts: of keep: their numbers, the same in every layer; `by_layer` names others for single layers.
        by_layer: layer -> numbers, such as the most used ones that a health page lists; as many as `experts`.
    """

    op: Literal["keep", "average", "concatenate"] = "keep"
    experts: tuple[int, ...] = Field(default=(0,), min_length=1)
    by_layer: dict[int, tuple[int, ...]] = Field(default_factory=dict)


def apply(symbolic: Symbolic, parameters: DensifyParameters, step: Step) -> Exactness:
    """Replace the experts of every layer by one network."""
    model = model_of(symbolic, step)
    e = model.experts
    if e is None:
        raise step.refuse("this model has no experts", got=symbolic.config.kind, expected="a mixture of experts")
    if e.first_dense:
        raise step.refuse(
            "dense and sparse layers would get different widths", got=f"{e.first_dense} dense layers", expected="none"
        )
    wrong = [n for chosen in (parameters.experts, *parameters.by_layer.values()) for n in chosen if n >= e.n_experts]
    if wrong or any(len(chosen) != len(parameters.experts) for chosen in parameters.by_layer.values()):
        raise step.refuse(
            "these experts cannot be kept", got=wrong or "another number of experts in some layers",
            expected=f"numbers below {e.n_experts}, equally many in every layer",
        )  # fmt: skip
    width = e.d_shared + e.d_expert * _count(parameters, e)
    for layer in range(symbolic.n_layers):
        _layer(symbolic, layer, parameters, e)
    if e.shared_gate:
        symbolic.notes.append("the shared expert had a gate of its own; it writes half of what it wrote without it")
    become(symbolic, _dense(model, width), step)
    return Exactness.NFP if e.n_experts > 1 else Exactness.FP1


def _count(parameters: DensifyParameters, e: Experts) -> int:
    """Networks of the width of an expert that stand side by side."""
    return {"keep": len(parameters.experts), "average": 1, "concatenate": e.n_experts}[parameters.op]


def _weight(parameters: DensifyParameters, e: Experts) -> float:
    """What a network is multiplied by: its mean weight over tokens if all experts were used alike."""
    whole = e.scale if e.renormalize or e.router != "softmax" else e.scale * e.top_k / e.n_experts
    if e.learned_scale:  # softmax weights of 1/N, each times a learned scale that begins at N
        whole = float(e.top_k)
    return whole / _count(parameters, e)


def _layer(symbolic: Symbolic, layer: int, parameters: DensifyParameters, e: Experts) -> None:
    experts = {
        part: [symbolic.parts.pop((f"moe.expert.{part}", layer, n)) for n in range(e.n_experts)] for part in PARTS
    }
    for key in [key for key in symbolic.layer_keys(layer) if key[0].startswith("moe.router")]:
        del symbolic.parts[key]
    gate = symbolic.parts.pop(("moe.shared.router", layer, None), None)
    for part in PARTS:
        shared = symbolic.parts.pop((f"moe.shared.{part}", layer, None), None)
        made = _made(experts[part], 1 if part == "down" else 0, layer, parameters)
        if part == "down":
            made = scale(made, _weight(parameters, e))
            shared = shared if shared is None or gate is None else scale(shared, 0.5)
        if shared is not None:
            made = Join((shared, made), 1 if part == "down" else 0)
        symbolic.parts[f"mlp.{part}", layer, None] = made


def _made(nodes: list[Node], axis: int, layer: int, parameters: DensifyParameters) -> Node:
    """The networks of one part side by side along their units."""
    if parameters.op == "average":
        return blend(nodes, lambda tiles, at: sum(tiles[1:], tiles[0]) / len(tiles))
    chosen = parameters.by_layer.get(layer, parameters.experts) if parameters.op == "keep" else range(len(nodes))
    kept = [nodes[n] for n in chosen]
    return kept[0] if len(kept) == 1 else Join(tuple(kept), axis)


def _dense(model: ModelConfig, width: int) -> ModelConfig:
    return model.replace(experts=None, feed_forward=model.feed_forward.replace(d_inner=width))


MOE_DENSIFY = Operator(
    name="moe.densify",
    summary="experts become one dense network: some kept, all averaged, or all side by side",
    classes={"keep": Exactness.NFP, "average": Exactness.NFP, "concatenate": Exactness.NFP},
    needs="",
    source="2310.01334, 2306.11222",
    parameters=DensifyParameters,
    apply=apply,
    verbs=("index", "blend", "fold"),
)
