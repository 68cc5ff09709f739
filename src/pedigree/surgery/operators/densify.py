"""A mixture of experts becomes a dense model.

Law     What every token sees alike is kept: the shared expert stands first among the units, unchanged. Of the routed
        experts, `keep` takes some as they are, `average` one whose numbers are the means of all (units beside their
        like first), `concatenate` all of them side by side, each writing its mean weight, `select` the units of those
        that write most. None of these is the mixture, whose weights depend on the token; with one expert, or experts
        that are equal, all but `select` are exact, for gated networks and for plain ones with biases. `refit` then fits
        what the network writes to what the experts wrote on a text; a network that writes that already stays.
Source  merging experts: 2310.01334 (M-SMoE), 2306.11222; aligned units 2209.04836; row 8 of the family's systems.

Shapes  N = experts, k = chosen for a token, w = width of an expert, s = width of the shared one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Experts
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.expert_parts import ExpertNodes, axis_of, experts_in, mixture_of, put_experts, sparse_layers
from pedigree.surgery.expert_use import ExpertUse
from pedigree.surgery.importance import Best, SquaresByColumn, SquaresByRow
from pedigree.surgery.network_refit import Fitted, Refit
from pedigree.surgery.nodes import Blend, Join, Node, Pick, Statistic
from pedigree.surgery.operator import Operator, Step
from pedigree.surgery.operators.experts import Measured, averaged
from pedigree.surgery.retarget import become, model_of
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.verbs import scale
from pedigree.weights.roles import BIAS


class DensifyParameters(Measured):
    """Which experts stay.

    Attributes:
        op: keep, average, concatenate or select.
        experts: of keep: their numbers, the same in every layer; `by_layer` names others for single layers. With a text
            the `count` most used ones of every layer are kept instead.
        by_layer: layer -> numbers, such as the most used ones that a health page lists; as many as `experts`.
        count: of keep with a text: how many.
        align: of average: put units beside their like before they are averaged.
        width: of select: inner units of the result; by default those of an expert and the shared one.
        text: with it the weight of an expert is its share of the weights of the router on that text, not an equal one.
        refit: with a text: fit what the network writes to what the experts wrote there, by ridge regression.
        strength: of that ridge, relative to the mean square of the units; it pulls towards the network as it is.
    """

    op: Literal["keep", "average", "concatenate", "select"] = "keep"
    experts: tuple[int, ...] = Field(default=(0,), min_length=1)
    by_layer: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    count: int = Field(default=1, ge=1)
    align: bool = True
    width: int | None = Field(default=None, ge=1)
    refit: bool = False
    strength: float = Field(default=1e-2, gt=0)

    @model_validator(mode="after")
    def _fits_together(self) -> DensifyParameters:
        if self.by_layer and self.text is not None:
            raise ValueError("either by_layer names the experts, or a text says which are most used")
        if self.width is not None and self.op != "select":
            raise ValueError("only select has a width of its own")
        if self.refit and self.text is None:
            raise ValueError("a refit needs a text")
        return self


def apply(symbolic: Symbolic, parameters: DensifyParameters, step: Step) -> Exactness:
    """Replace the experts of every layer by one network."""
    model = model_of(symbolic, step)
    e = mixture_of(model, symbolic, step)
    wrong = [n for chosen in (parameters.experts, *parameters.by_layer.values()) for n in chosen if n >= e.n_experts]
    if wrong or any(len(chosen) != len(parameters.experts) for chosen in parameters.by_layer.values()):
        raise step.refuse(
            "these experts cannot be kept", got=wrong or "another number of experts in some layers",
            expected=f"numbers below {e.n_experts}, equally many in every layer",
        )  # fmt: skip
    if parameters.count > e.n_experts:
        raise step.refuse("so many experts cannot be kept", got=parameters.count, expected=f"at most {e.n_experts}")
    width = _width(parameters, e, step)
    if e.first_dense and width != model.feed_forward.d_inner:
        raise step.refuse(
            "dense and sparse layers would get different widths",
            got=f"{e.first_dense} dense layers of {model.feed_forward.d_inner}, {width} units",
            expected=f"{model.feed_forward.d_inner} units", fix=f"op: select, width: {model.feed_forward.d_inner}",
        )  # fmt: skip
    use = parameters.use(symbolic, step, states=parameters.refit) if parameters.text is not None else {}
    for layer in sparse_layers(model):
        _layer(symbolic, layer, parameters, e, use.get(layer), width)
        if parameters.refit:
            _refit(symbolic, layer, use[layer], model.feed_forward.kind, parameters.strength)
    if e.shared_gate:
        symbolic.notes.append("the shared expert had a gate of its own; it writes half of what it wrote without it")
    plain = model.feed_forward.kind != "swiglu" or model.feed_forward.bias
    become(symbolic, _dense(model, width), step, own=plain)
    exact = e.n_experts == 1 and parameters.op != "select"
    return Exactness.FP1 if exact else Exactness.NFP


def _count(parameters: DensifyParameters, e: Experts) -> int:
    """Networks of the width of an expert that stand side by side."""
    kept = len(parameters.experts) if parameters.text is None else parameters.count
    return {"keep": kept, "average": 1}.get(parameters.op, e.n_experts)


def _width(parameters: DensifyParameters, e: Experts, step: Step) -> int:
    """Inner units of the result."""
    whole = e.d_shared + e.d_expert * _count(parameters, e)
    if parameters.op != "select":
        return whole
    width = parameters.width or e.d_shared + e.d_expert
    if width > whole:
        raise step.refuse("there are not that many units", got=f"width: {width}", expected=f"at most {whole}")
    return width


def _total(e: Experts) -> float:
    """What the weights of a token's experts sum to, if all experts were used alike."""
    if e.learned_scale:  # softmax weights of 1/N, each times a learned scale that begins at N
        return float(e.top_k)
    return e.scale if e.renormalize or e.router != "softmax" else e.scale * e.top_k / e.n_experts


def _layer(
    symbolic: Symbolic, layer: int, parameters: DensifyParameters, e: Experts, use: ExpertUse | None, width: int
) -> None:
    experts = experts_in(symbolic, layer, e.n_experts)
    put_experts(symbolic, layer, [], e.n_experts)
    for key in [key for key in symbolic.layer_keys(layer) if key[0].startswith("moe.router")]:
        del symbolic.parts[key]
    networks = _weighted(experts, parameters, e, layer, use)
    gate = symbolic.parts.pop(("moe.shared.router", layer, None), None)
    shared: ExpertNodes = {
        name: node for name in experts[0]
        if (node := symbolic.parts.pop((f"moe.shared.{name}", layer, None), None)) is not None
    }  # fmt: skip
    if shared:
        networks.insert(0, (shared, 1.0 if gate is None else 0.5))
    made = side_by_side(networks)
    if parameters.op == "select":
        made = _selected(made, width)
    for name, node in made.items():
        symbolic.parts[f"mlp.{name}", layer, None] = node


def _weighted(
    experts: list[ExpertNodes], parameters: DensifyParameters, e: Experts, layer: int, use: ExpertUse | None
) -> list[tuple[ExpertNodes, float]]:
    """The networks that stand side by side, and the weight of each."""
    total = _total(e)
    everything = range(len(experts))
    if parameters.op == "average":
        shares = _share_of_gates(use, everything)
        return [(averaged(experts, shares, 0 if parameters.align else None), total)]
    chosen: Sequence[int] = everything
    if parameters.op == "keep":
        chosen = parameters.by_layer.get(layer, parameters.experts)
        if use is not None:
            chosen = sorted(int(n) for n in (-use.load).argsort(stable=True)[: parameters.count])
    shares = _share_of_gates(use, chosen)
    return [(experts[n], total * share) for n, share in zip(chosen, shares, strict=True)]


def _share_of_gates(use: ExpertUse | None, chosen: Sequence[int]) -> list[float]:
    """The share of each expert in the weights that the router gave these; equal ones where nothing was measured."""
    if use is None or float(use.gate[list(chosen)].sum()) == 0:
        return [1 / len(chosen)] * len(chosen)
    gates = use.gate[list(chosen)]
    return [float(value) for value in gates / gates.sum()]


def side_by_side(networks: Sequence[tuple[ExpertNodes, float]]) -> ExpertNodes:
    """One network that computes the weighted sum of several."""
    made: ExpertNodes = {}
    for name in networks[0][0]:
        nodes = [scale(nodes[name], weight) if name.startswith("down") else nodes[name] for nodes, weight in networks]
        if len(nodes) == 1:
            made[name] = nodes[0]
        elif axis_of(name) < 0:
            made[name] = Blend(tuple(nodes), lambda tiles, at: sum(tiles[1:], tiles[0]))
        else:
            made[name] = Join(tuple(nodes), axis_of(name))
    return made


def _refit(symbolic: Symbolic, layer: int, use: ExpertUse, kind: str, strength: float) -> None:
    """What the network writes, fitted to what the experts wrote on the text."""
    names = [name for part in ("gate", "up", "down") for name in (part, part + BIAS)]
    network = {name: node for name in names if (node := symbolic.part(f"mlp.{name}", layer)) is not None}
    if use.x_Nd is None or use.y_Nd is None:
        return
    refit = Refit(network, use.x_Nd, use.y_Nd, kind, strength)
    symbolic.parts["mlp.down", layer, None] = Fitted(refit, 0, network["down"].shape)
    if "down" + BIAS in network:
        symbolic.parts["mlp.down" + BIAS, layer, None] = Fitted(refit, 1, network["down" + BIAS].shape)


def _selected(network: ExpertNodes, width: int) -> ExpertNodes:
    """The units of a network that are largest in the product of what they read and write."""
    scores: list[Statistic] = [
        SquaresByColumn(node) if name == "down" else SquaresByRow(node)
        for name, node in network.items()
        if not name.endswith(BIAS)
    ]
    best = Best(scores, width)

    def picked(name: str, node: Node) -> Node:
        return node if axis_of(name) < 0 else Pick(node, best, width, axis_of(name))

    return {name: picked(name, node) for name, node in network.items()}


def _dense(model: ModelConfig, width: int) -> ModelConfig:
    return model.replace(experts=None, feed_forward=model.feed_forward.replace(d_inner=width))


MOE_DENSIFY = Operator(
    name="moe.densify",
    summary="experts become one dense network: some kept, all averaged, all side by side, or their largest units",
    classes=dict.fromkeys(("keep", "average", "concatenate", "select"), Exactness.NFP),
    needs="to keep the most used or weigh by use, a text and the tokenizer beside the weights",
    source="2310.01334, 2306.11222, 2209.04836",
    parameters=DensifyParameters,
    apply=apply,
    verbs=("index", "blend", "fold"),
)
