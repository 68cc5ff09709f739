"""A dense model becomes a mixture of experts.

Law     copy: every expert is the whole network and the weights of the chosen ones sum to 1, so any router gives the old
        function; of a random router the table names one expert, whose weight is 1. granular: the network is cut into G
        shards; the G experts of one copy share a router row, so they are chosen together and each weighs 1/G of its
        copy; down columns times G undo that exactly, and so does each of them adding the whole bias. grouped: every
        expert of group j holds shard j, the router is zero, its softmax 1/N, and the learned scale N: one expert a
        group, each of weight 1; the shared expert alone adds the bias. All are exact in real arithmetic, for gated
        networks and for plain ones with biases. reinit draws a share of each expert's units anew: the same units in all
        its matrices, by the spread of the matrix, and what they wrote before is lost.
Source  sparse upcycling 2212.05055; virtual groups 2410.07524 (whose factor is approximate, this one is exact);
        grouped experts 2505.21411; drop-upcycling 2502.19261; random routed experts 2303.10845.

Shapes  f = inner width, d = residual width, N = experts, G = shards or groups, w = width of an expert
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Balance, Experts, GroupedAttention
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Fill, Given, Node
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.randomness import Stream, permutation
from pedigree.surgery.retarget import become, model_of
from pedigree.surgery.spread import Spread
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.surgery.verbs import fresh, index, pad, scale
from pedigree.weights.roles import BIAS

PARTS = ("gate", "up", "down")


class UpcycleParameters(Parameters):
    """How many experts, and what they hold.

    Attributes:
        experts, top_k: in all, and chosen for a token.
        op: copy, granular or grouped.
        shards: of granular: parts that the network is cut into.
        groups: of grouped: groups of experts, each with one shard; as many are chosen, one a group.
        shared: units of the network that become a shared expert: the first ones (grouped); of copy and granular the
            width of a shared expert that adds nothing at first, for architectures that have one.
        width: of an expert; units beyond its shard are fresh and write nothing (grouped).
        router: softmax, or random: a fixed table from token to expert, drawn here (copy only, top_k 1).
        first_dense: leading layers that stay dense.
        router_std: spread of the router's numbers; a grouped router is exact at 0 only.
        reinit: share of the units of each expert that are drawn anew.
    """

    experts: int = Field(ge=2, le=4096)
    op: Literal["copy", "granular", "grouped"] = "copy"
    top_k: int | None = Field(default=None, ge=1)
    router: Literal["softmax", "random"] = "softmax"
    first_dense: int = Field(default=0, ge=0)
    shards: int = Field(default=1, ge=1)
    groups: int = Field(default=1, ge=1)
    shared: int = Field(default=0, ge=0)
    width: int | None = Field(default=None, ge=1)
    router_std: float | None = Field(default=None, ge=0)
    reinit: float = Field(default=0.0, ge=0, le=1)

    @property
    def chosen(self) -> int:
        """Experts of a token: as asked for, else 2, or the one that a random table names."""
        return self.top_k or (1 if self.router == "random" else 2)


def apply(symbolic: Symbolic, parameters: UpcycleParameters, step: Step) -> Exactness:
    """Replace every dense feed-forward network by experts."""
    model = model_of(symbolic, step)
    if model.experts is not None:
        raise step.refuse("this model has experts already", got=symbolic.config.kind, expected="a dense model")
    if model.feed_forward.series > 1:
        raise step.refuse("a series activation does not stand in experts", got=f"series of {model.feed_forward.series}")
    if parameters.first_dense >= symbolic.n_layers:
        raise step.refuse("no layer would get experts", got=f"first_dense: {parameters.first_dense}",
                          expected=f"fewer than {symbolic.n_layers} layers")  # fmt: skip
    if parameters.router == "random" and (parameters.op != "copy" or parameters.chosen != 1 or parameters.shared):
        raise step.refuse("a random table names one expert, which has to be the whole network",
                          got=f"op: {parameters.op}, top_k: {parameters.chosen}, shared: {parameters.shared}",
                          expected="op: copy, top_k: 1, no shared expert")  # fmt: skip
    inner = model.feed_forward.d_inner
    plan = _grouped(parameters, inner, step) if parameters.op == "grouped" else _copied(parameters, inner, step)
    for layer in range(parameters.first_dense, symbolic.n_layers):
        _layer(symbolic, layer, parameters, plan, step)
    plain = model.feed_forward.kind != "swiglu" or model.feed_forward.bias
    become(symbolic, _mixture(model, symbolic, parameters, plan, published=not plain), step, own=plain)
    if parameters.reinit:
        return Exactness.NFP
    return Exactness.FPE if parameters.op == "grouped" and plan.router_std else Exactness.FP1


class _Plan:
    """Which units an expert holds: `units[e]` of the network, then `padding` fresh ones; down times `factor`.

    `row[e]` is the router row that an expert shares, `shared` the units of the shared expert (grouped).
    """

    def __init__(self, units: list[np.ndarray], row: np.ndarray, std: float, factor: float = 1.0) -> None:
        self.units, self.row, self.router_std, self.factor = units, row, std, factor
        self.padding = 0
        self.shared: np.ndarray | None = None

    @property
    def width(self) -> int:
        """Units of an expert."""
        return len(self.units[0]) + self.padding


def _copied(parameters: UpcycleParameters, inner: int, step: Step) -> _Plan:
    shards = parameters.shards if parameters.op == "granular" else 1
    if parameters.op == "granular" and shards < 2:
        raise step.refuse("granular cuts the network into shards", got=f"shards: {shards}", expected="2 or more")
    for what, count in (("the inner width", inner), ("experts", parameters.experts), ("top_k", parameters.chosen)):
        if count % shards:
            raise step.refuse(
                f"the shards do not divide {what}",
                got=f"{count} and {shards} shards",
                expected=f"a multiple of {shards}",
            )
    if parameters.chosen > parameters.experts:
        raise step.refuse("more experts are chosen than there are", got=parameters.chosen, expected=parameters.experts)
    if parameters.width is not None:
        raise step.refuse("the width of these experts follows from the network", got=f"width: {parameters.width}",
                          expected=inner // shards, fix="remove width, or op: grouped")  # fmt: skip
    size = inner // shards
    units = [np.arange(size) + size * (e % shards) for e in range(parameters.experts)]
    row = np.arange(parameters.experts) // shards
    return _Plan(units, row, 0.02 if parameters.router_std is None else parameters.router_std, float(shards))


def _grouped(parameters: UpcycleParameters, inner: int, step: Step) -> _Plan:
    groups, rest = parameters.groups, inner - parameters.shared
    if parameters.experts % groups:
        raise step.refuse("the groups do not divide the experts", got=f"{parameters.experts} experts, {groups} groups")
    if parameters.shared < 1 or rest < groups or rest % groups:
        raise step.refuse(
            "what the shared expert leaves of the network does not divide into groups",
            got=f"{inner} - {parameters.shared} = {rest} units, {groups} groups",
            expected=f"shared from 1, and such that the rest is a multiple of {groups}",
            fix=f"shared: {max(1, inner // 3) + (inner - max(1, inner // 3)) % groups}",
        )  # fmt: skip
    size = rest // groups
    width = parameters.width or size
    if width < size:
        raise step.refuse("an expert is narrower than its shard", got=f"width: {width}", expected=f"{size} or more")
    per_group = parameters.experts // groups
    units = [np.arange(size) + parameters.shared + size * (e // per_group) for e in range(parameters.experts)]
    plan = _Plan(units, np.arange(parameters.experts), parameters.router_std or 0.0)
    plan.padding, plan.shared = width - size, np.arange(parameters.shared)
    return plan


def _layer(symbolic: Symbolic, layer: int, parameters: UpcycleParameters, plan: _Plan, step: Step) -> None:
    dense = {part: symbolic.parts.pop((f"mlp.{part}", layer, None)) for part in _parts(symbolic, layer)}
    biases = {part: symbolic.parts.pop((f"mlp.{part}{BIAS}", layer, None), None) for part in dense}
    for expert, units in enumerate(plan.units):
        for part, node in dense.items():
            key: Key = (f"moe.expert.{part}", layer, expert)
            axis = 1 if part == "down" else 0
            made = scale(index(node, axis, units), plan.factor) if part == "down" else index(node, axis, units)
            if plan.padding:
                made = pad(made, axis, plan.padding, None if part == "down" else _fresh(node, plan.padding, step, key))
            symbolic.parts[key] = _redrawn(made, node, axis, expert, layer, parameters.reinit, step)
        for part, bias in biases.items():
            if bias is not None:
                made = _bias(part, bias, units, plan)
                if part != "down":
                    made = _silenced(made, expert, layer, parameters.reinit, step)
                symbolic.parts[f"moe.expert.{part}{BIAS}", layer, expert] = made
    width = dense["up"].shape[1]
    _shared(symbolic, layer, dense, parameters, plan, step)
    _shared_biases(symbolic, layer, biases, parameters, plan)
    if parameters.router == "random":
        symbolic.parts["moe.router.table", layer, None] = _table(symbolic, layer, parameters, step)
        return
    place: Key = ("moe.router", layer, None)
    rows = int(plan.row.max()) + 1
    if plan.router_std:
        router: Node = fresh((rows, width), step.seed, step.stream(place), plan.router_std)
    else:
        router = Fill((rows, width))
    symbolic.parts[place] = index(router, 0, plan.row)
    if parameters.op == "grouped":
        symbolic.parts["moe.router.scale", layer, None] = Fill((parameters.experts,), float(parameters.experts))


def _parts(symbolic: Symbolic, layer: int) -> list[str]:
    """The matrices of a network: gate, up and down, or up and down."""
    return [part for part in PARTS if (f"mlp.{part}", layer, None) in symbolic.parts]


def _bias(part: str, bias: Node, units: np.ndarray, plan: _Plan) -> Node:
    """The bias of an expert: that of its units; behind them the whole one, or none beside a shared expert."""
    if part == "down":
        return bias if plan.shared is None else Fill(bias.shape, dtype=bias.dtype)
    return pad(index(bias, 0, units), 0, plan.padding)


def _table(symbolic: Symbolic, layer: int, parameters: UpcycleParameters, step: Step) -> Node:
    """A random expert for every token, int64 [vocabulary]."""
    import torch

    name = step.stream(("moe.router.table", layer, None))
    drawn = Stream(step.seed, name, 1).uniform(slice(0, symbolic.vocab_size), slice(0, 1))[:, 0]
    return Given((drawn.double() * parameters.experts).to(torch.int64), dtype="I64")


def _shared(
    symbolic: Symbolic, layer: int, dense: dict[str, Node], parameters: UpcycleParameters, plan: _Plan, step: Step
) -> None:
    """The shared expert: units of the network (grouped), or fresh ones that write nothing and a gate."""
    if plan.shared is not None:
        for part, node in dense.items():
            symbolic.parts[f"moe.shared.{part}", layer, None] = index(node, 1 if part == "down" else 0, plan.shared)
    elif parameters.shared:
        for part, node in dense.items():
            key: Key = (f"moe.shared.{part}", layer, None)
            if part == "down":
                symbolic.parts[key] = Fill((node.shape[0], parameters.shared), dtype=node.dtype)
            else:
                symbolic.parts[key] = _fresh(node, parameters.shared, step, key)
        key = ("moe.shared.router", layer, None)
        symbolic.parts[key] = fresh((1, dense["up"].shape[1]), step.seed, step.stream(key), 0.02)


def _shared_biases(
    symbolic: Symbolic, layer: int, biases: dict[str, Node | None], parameters: UpcycleParameters, plan: _Plan
) -> None:
    """Biases of the shared expert: those of its units and the whole one behind it (grouped), or zeros."""
    for part, bias in biases.items():
        if bias is None or not parameters.shared:
            continue
        if plan.shared is None:
            made: Node = Fill(bias.shape if part == "down" else (parameters.shared,), dtype=bias.dtype)
        else:
            made = bias if part == "down" else index(bias, 0, plan.shared)
        symbolic.parts[f"moe.shared.{part}{BIAS}", layer, None] = made


def _fresh(node: Node, count: int, step: Step, key: Key) -> Node:
    """Rows as large as those of a node."""
    return fresh((count, node.shape[1]), step.seed, step.stream(key, "fresh"), Spread(node), dtype=node.dtype)


def _redrawn(made: Node, node: Node, axis: int, expert: int, layer: int, share: float, step: Step) -> Node:
    """A share of the units drawn anew, the same units in all three matrices of an expert."""
    count = round(share * made.shape[axis])
    if not count:
        return made
    size, drawn = made.shape[axis], _drawn(made.shape[axis], count, expert, layer, step)
    shape = (made.shape[0], count) if axis == 1 else (count, made.shape[1])
    name = step.stream(("moe.expert.down" if axis else "moe.expert", layer, expert), f"new {shape}")
    both = pad(made, axis, count, fresh(shape, step.seed, name, Spread(node), dtype=made.dtype))
    places = np.arange(size)
    places[drawn] = size + np.arange(count)
    return index(both, axis, places)


def _drawn(size: int, count: int, expert: int, layer: int, step: Step) -> np.ndarray:
    """The units of an expert that are drawn anew."""
    return permutation(step.seed, step.stream(("moe.expert", layer, expert), "redrawn"), size)[:count]


def _silenced(bias: Node, expert: int, layer: int, share: float, step: Step) -> Node:
    """A bias without that of units that are drawn anew: theirs begins at zero, as biases do."""
    size = bias.shape[0]
    count = round(share * size)
    if not count:
        return bias
    places = np.arange(size)
    places[_drawn(size, count, expert, layer, step)] = size
    return index(pad(bias, 0, 1), 0, places)


def _mixture(
    model: ModelConfig, symbolic: Symbolic, parameters: UpcycleParameters, plan: _Plan, *, published: bool
) -> ModelConfig:
    """The config of the result; missing biases that its architecture has become zeros."""
    grouped = parameters.op == "grouped"
    shared, random = parameters.shared, parameters.router == "random"
    experts = Experts(
        n_experts=parameters.experts,
        top_k=parameters.groups if grouped else parameters.chosen,
        d_expert=plan.width,
        router="grouped" if grouped else parameters.router,
        n_groups=parameters.groups if grouped else 1,
        renormalize=not (grouped or random),
        learned_scale=grouped,
        d_shared=shared,
        shared_gate=bool(shared) and not grouped,
        first_dense=parameters.first_dense,
        balance=Balance() if random else Balance(scope="batch", coefficient=0.001),
    )
    attention = model.attention
    if grouped and published and isinstance(attention, GroupedAttention):
        for letter in "qkvo":
            _zero_bias(symbolic, f"attn.{letter}")
        attention = attention.replace(q_bias=True, k_bias=True, v_bias=True, o_bias=True)
    # Released grouped mixtures have no dense layers; their config gives the width of the shared expert there.
    narrowed = grouped and published
    feed_forward = model.feed_forward.replace(d_inner=shared) if narrowed else model.feed_forward
    return model.replace(experts=experts, attention=attention, feed_forward=feed_forward)


def _zero_bias(symbolic: Symbolic, role: str) -> None:
    for key in list(symbolic.keys(role)):
        bias = (role + BIAS, key[1], key[2])
        if bias not in symbolic.parts:
            node = symbolic.parts[key]
            symbolic.parts[bias] = Fill((node.shape[0],), dtype=node.dtype)


MOE_UPCYCLE = Operator(
    name="moe.upcycle",
    summary="a dense network becomes experts: whole copies, shards in virtual groups, or grouped experts",
    classes={"copy": Exactness.FP1, "granular": Exactness.FP1, "grouped": Exactness.FP1, "reinit": Exactness.NFP},
    needs="",
    source="2212.05055, 2410.07524, 2505.21411, 2502.19261, 2303.10845",
    parameters=UpcycleParameters,
    apply=apply,
    verbs=("index", "pad", "perturb"),
)
