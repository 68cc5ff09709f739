"""Fewer experts: some left out, or several made one.

Law     prune: the experts that stay and their rows of the router are those of before, bit for bit; they keep their
        order, and each group of a grouped router loses as many. merge: the units of every expert of a group are put
        beside their like in the first one, then averaged, and so are the rows of the router. Neither keeps the
        function, but where experts are copies, in whatever order of units: all of one network behind a renormalized
        router; those of a group, m each, with equal rows of the router and k / m in the place of k; those of a group
        behind a table.
Source  merging 2310.01334; scores 2510.13999 (reap), 2606.15716 (norm).

Shapes  N = experts before, M = experts after
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pedigree.model.config_parts import Experts
from pedigree.surgery.alignment import Alignment
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.expert_parts import (
    MATRICES,
    TABLE,
    ExpertNodes,
    Renumbered,
    axis_of,
    experts_in,
    mixture_of,
    put_experts,
    router_keys,
    settle,
    sparse_layers,
)
from pedigree.surgery.expert_use import ExpertUse, Score, expert_use
from pedigree.surgery.importance import Best, SquaresByColumn, SquaresByRow
from pedigree.surgery.nodes import Blend, Derived, Node, OneOf, Pick, Statistic
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.verbs import index

MEASURED = ("load", "gate", "norm", "reap")


class Measured(Parameters):
    """A text on which the use of experts is measured; the source is run for it, one layer at a time.

    Attributes:
        text: beside the recipe; the tokenizer stands beside the weights.
        tokens: of it that are run, at most.
    """

    text: str | None = None
    tokens: int = Field(default=4096, ge=2)

    def use(self, symbolic: Symbolic, step: Step, *, states: bool = False) -> dict[int, ExpertUse]:
        """Use by layer, of the model as it is stored; with what goes in and comes out, where `states` asks for it.

        Raises:
            UsageError: there is no text, or an operator has changed the model before.
        """
        from pedigree.surgery.influence import tokens_of

        if self.text is None:
            raise step.refuse("the use of experts is measured on a text", got="no text", fix="text: FILE")
        if step.number:
            raise step.refuse("the use of experts is measured on the source", got=f"step {step.number + 1}",
                              expected="the first step", fix="put it first")  # fmt: skip
        tokens_BT = tokens_of(symbolic.checkpoint, Path(step.folder, self.text).expanduser(), self.tokens)
        symbolic.notes.append(f"experts: use measured on {tokens_BT.numel()} tokens of {self.text}")
        return expert_use(symbolic.checkpoint, tokens_BT, states=states)


class PruneExpertsParameters(Measured):
    """Which experts stay.

    Attributes:
        to: their number; `keep` says which, the same in every layer, `by_layer` others for single layers.
        by: the score where no numbers are given: size (of the weights), router (of the rows of the router), or, with
            a text, load, gate, norm or reap (the default with one).
        top_k: experts of a token from now on, where it changes.
    """

    to: int = Field(ge=1)
    keep: tuple[int, ...] | None = None
    by_layer: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    by: Literal["size", "router", "load", "gate", "norm", "reap"] | None = None
    top_k: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> PruneExpertsParameters:
        if self.by in MEASURED and self.text is None:
            raise ValueError(f"by: {self.by} is measured on a text")
        if self.by_layer and self.keep is None:
            raise ValueError("by_layer changes what keep says for all layers")
        if self.keep is not None and (self.by is not None or self.text is not None):
            raise ValueError("either keep names the experts, or a score does")
        return self


def prune(symbolic: Symbolic, parameters: PruneExpertsParameters, step: Step) -> Exactness:
    """Leave experts out of every layer that has some."""
    model = model_of(symbolic, step)
    e = mixture_of(model, symbolic, step)
    after = _fewer(e, parameters.to, parameters.top_k, step)
    score: Any = parameters.by or ("reap" if parameters.text is not None else "size")
    use = parameters.use(symbolic, step) if score in MEASURED else {}
    for layer in sparse_layers(model):
        experts = experts_in(symbolic, layer, e.n_experts)
        if parameters.keep is not None:
            kept: list[int] | Statistic = _named(parameters, layer, e, step)
        elif use:
            kept = _best(use[layer], score, parameters.to, e.n_groups)
            symbolic.notes.append(f"layer {layer}: experts {', '.join(map(str, kept))} stay, by {score}")
        elif score == "router":
            if symbolic.part("moe.router", layer) is None:
                raise step.refuse("this router has no rows", got=e.router, fix="by: size, or a text")
            kept = Best([SquaresByRow(symbolic.parts["moe.router", layer, None])], parameters.to, groups=e.n_groups)
        else:
            kept = _Largest([_sizes(one) for one in experts], parameters.to, e.n_groups)
        _keep(symbolic, layer, experts, kept, parameters.to)
    _tell_weights(symbolic, e)
    settle(symbolic, model, after, step)
    return Exactness.NFP if parameters.to < e.n_experts else Exactness.FP0


def _fewer(e: Experts, to: int, top_k: int | None, step: Step) -> Experts:
    """The experts of the result.

    Raises:
        UsageError: not fewer, fewer than a token chooses, or not evenly many in each group.
    """
    chosen = e.top_k if top_k is None else top_k
    if to > e.n_experts:
        raise step.refuse("this is not fewer", got=f"to: {to}", expected=f"at most {e.n_experts} experts")
    if to < chosen:
        raise step.refuse("fewer experts would be left than a token chooses", got=f"to: {to}, top_k: {chosen}",
                          expected=f"{chosen} or more", fix=f"to: {chosen}, or top_k: {to}")  # fmt: skip
    if to % e.n_groups:
        raise step.refuse("the experts would not divide into the groups of the router",
                          got=f"{to} experts, {e.n_groups} groups", expected=f"a multiple of {e.n_groups}",
                          fix=f"to: {max(1, to // e.n_groups) * e.n_groups}")  # fmt: skip
    return e.replace(n_experts=to, top_k=chosen)


def _tell_weights(symbolic: Symbolic, e: Experts) -> None:
    if e.router in ("softmax", "grouped") and not e.renormalize:
        symbolic.notes.append("the weights of this router are not renormalized: over fewer experts each grows")


def _named(parameters: PruneExpertsParameters, layer: int, e: Experts, step: Step) -> list[int]:
    """The experts that a recipe names for a layer, in order."""
    kept = sorted(set(parameters.by_layer.get(layer, parameters.keep or ())))
    per_group = [sum(n // e.per_group == group for n in kept) for group in range(e.n_groups)]
    if len(kept) != parameters.to or kept[0] < 0 or kept[-1] >= e.n_experts or len(set(per_group)) != 1:
        raise step.refuse(
            "these experts cannot stay", got=f"layer {layer}: {', '.join(map(str, kept))}",
            expected=f"{parameters.to} numbers from 0 to {e.n_experts - 1}"
            + (f", equally many of each of {e.n_groups} groups" if e.n_groups > 1 else ""),
        )  # fmt: skip
    return kept


def _best(use: ExpertUse, score: Score, count: int, groups: int) -> list[int]:
    """The experts with the largest scores, equally many of each group; of equal ones the first."""
    by_group = use.of(score).reshape(groups, -1)
    best = (-by_group).argsort(dim=1, stable=True)[:, : count // groups].sort(dim=1).values
    return [int(n) + group * by_group.shape[1] for group in range(groups) for n in best[group]]


def _sizes(expert: ExpertNodes) -> list[Statistic]:
    """Squares of the weights of each unit of an expert, part by part."""
    return [SquaresByColumn(expert[part]) if part == "down" else SquaresByRow(expert[part])
            for part in MATRICES if part in expert]  # fmt: skip


class _Largest(Derived):
    """The experts whose units are largest: sum over units of the product of their squares in all parts."""

    def __init__(self, sizes: Sequence[Sequence[Statistic]], count: int, groups: int) -> None:
        self.name = f"largest {count} of {groups} groups"
        self._sizes, self._count, self._groups = sizes, count, groups

    def needs(self) -> Sequence[Statistic]:
        """Squares of all experts."""
        return [statistic for one in self._sizes for statistic in one]

    def value(self, values: Sequence[Any]) -> Any:
        """Numbers of the experts that stay, int64 [M], in order."""
        parts = len(self._sizes[0])
        scores = np.array([np.prod(values[n : n + parts], axis=0).sum() for n in range(0, len(values), parts)])
        by_group = scores.reshape(self._groups, -1)
        best = np.sort(np.argsort(-by_group, axis=1, kind="stable")[:, : self._count // self._groups], axis=1)
        return (best + np.arange(self._groups)[:, None] * by_group.shape[1]).reshape(-1).astype(np.int64)


def _keep(
    symbolic: Symbolic, layer: int, experts: list[ExpertNodes], kept: list[int] | Statistic, count: int
) -> None:  # fmt: skip
    """Experts and rows of the router for those that stay."""
    table = symbolic.part(TABLE, layer)
    if isinstance(kept, Statistic):
        made: list[ExpertNodes] = [
            {part: OneOf(tuple(one[part] for one in experts), kept, place) for part in experts[0]}
            for place in range(count)
        ]
        for key in router_keys(symbolic, layer):
            symbolic.parts[key] = Pick(symbolic.parts[key], kept, count)
        if table is not None:
            symbolic.parts[TABLE, layer, None] = Renumbered(table, count, kept)
    else:
        made = [experts[number] for number in kept]
        for key in router_keys(symbolic, layer):
            symbolic.parts[key] = index(symbolic.parts[key], 0, kept)
        if table is not None:
            number_of = np.full(len(experts), -1, dtype=np.int64)
            number_of[kept] = np.arange(count)
            symbolic.parts[TABLE, layer, None] = Renumbered(table, count, number_of)
    put_experts(symbolic, layer, made, len(experts))


class MergeExpertsParameters(Measured):
    """Which experts become one.

    Attributes:
        to: experts after; neighbors become one, as many as fit, unless a text or `groups` say otherwise. With a text
            the most used ones are centers, every other one goes to the center that the router treats most alike, and
            the share of an expert in the mean is its load.
        groups: numbers of the experts of each new one, the first of each is the one that others are put beside.
        align: put units beside their like before they are averaged.
        top_k: experts of a token from now on, where it changes: of m copies each that are chosen together, k / m.
    """

    to: int = Field(ge=1)
    groups: tuple[tuple[int, ...], ...] | None = None
    align: bool = True
    top_k: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> MergeExpertsParameters:
        if self.groups is not None and self.text is not None:
            raise ValueError("either groups or a text say which experts become one")
        return self


def merge(symbolic: Symbolic, parameters: MergeExpertsParameters, step: Step) -> Exactness:
    """Make one of several experts, in every layer that has some."""
    model = model_of(symbolic, step)
    e = mixture_of(model, symbolic, step)
    after = _fewer(e, parameters.to, parameters.top_k, step)
    use = parameters.use(symbolic, step) if parameters.text is not None else {}
    for layer in sparse_layers(model):
        experts = experts_in(symbolic, layer, e.n_experts)
        if use:
            groups = _around_the_most_used(use[layer], parameters.to, e, step)
            told = "; ".join("+".join(map(str, group)) for group in groups)
            symbolic.notes.append(f"layer {layer}: experts {told}")
        else:
            groups = _groups(parameters, e, step)
        shares = [_shares(group, use.get(layer)) for group in groups]
        made = [
            averaged([experts[n] for n in group], share, step.seed if parameters.align else None)
            for group, share in zip(groups, shares, strict=True)
        ]
        _join_router(symbolic, layer, groups, shares)
        put_experts(symbolic, layer, made, e.n_experts)
    _tell_weights(symbolic, e)
    settle(symbolic, model, after, step)
    return Exactness.NFP if parameters.to < e.n_experts else Exactness.FP0


def _groups(parameters: MergeExpertsParameters, e: Experts, step: Step) -> list[list[int]]:
    """The experts of each new one, as given, or neighbors."""
    if parameters.groups is None:
        each, rest = divmod(e.n_experts, parameters.to)
        if rest or e.per_group % each:
            raise step.refuse("neighbors do not become that many", got=f"{e.n_experts} experts, to: {parameters.to}",
                              expected=f"a divisor of {e.n_experts}"
                              + (f" inside the {e.n_groups} groups of the router" if e.n_groups > 1 else ""),
                              fix="name groups, or a text")  # fmt: skip
        return [list(range(n, n + each)) for n in range(0, e.n_experts, each)]
    groups = [list(group) for group in parameters.groups]
    named = sorted(n for group in groups for n in group)
    if len(groups) != parameters.to or named != list(range(e.n_experts)):
        raise step.refuse("the groups do not hold every expert once", got=f"{len(groups)} groups of {named[:12]}",
                          expected=f"{parameters.to} groups of the numbers 0 to {e.n_experts - 1}")  # fmt: skip
    homes = [{n // e.per_group for n in group} for group in groups]
    placed = [home.pop() for home in homes if len(home) == 1]
    if len(placed) != len(groups) or placed != sorted(placed) or len({placed.count(g) for g in placed}) != 1:
        raise step.refuse("experts of different groups of the router become one, or unevenly many",
                          got=parameters.groups, expected=f"groups inside each of {e.n_groups}, in order")  # fmt: skip
    return groups


def _around_the_most_used(use: ExpertUse, count: int, e: Experts, step: Step) -> list[list[int]]:
    """Centers are the most used experts; others go where the router's numbers over the text go most alike."""
    import torch

    if e.n_groups > 1 or use.logits_NE is None:
        raise step.refuse("this router gives no numbers to group experts by", got=f"{e.router}, {e.n_groups} groups",
                          expected="softmax or sigmoid in one group", fix="name groups")  # fmt: skip
    centers = sorted(int(n) for n in (-use.load).argsort(stable=True)[:count])
    centered_NE = use.logits_NE - use.logits_NE.mean(dim=0)
    unit_NE = torch.nn.functional.normalize(centered_NE, dim=0)
    alike_EC = unit_NE.T @ unit_NE[:, centers]
    groups = {center: [center] for center in centers}
    for number in range(e.n_experts):
        if number not in groups:
            groups[centers[int(alike_EC[number].argmax())]].append(number)
    return [groups[center] for center in centers]


def _shares(group: Sequence[int], use: ExpertUse | None) -> list[float]:
    """What part each expert has in the mean: equal ones, or those of its load."""
    if use is None or float(use.load[list(group)].sum()) == 0:
        return [1 / len(group)] * len(group)
    load = use.load[list(group)]
    return [float(value) for value in load / load.sum()]


def averaged(group: Sequence[ExpertNodes], shares: Sequence[float], seed: int | None) -> ExpertNodes:
    """One expert with the weighted mean of several; units beside their like in the first, unless `seed` is None."""
    if len(group) == 1:
        return group[0]
    first = group[0]
    aligned = [first]
    for other in group[1:]:
        aligned.append(other if seed is None else _beside(first, other, seed))
    return {part: _mean([one[part] for one in aligned], shares) for part in first}


def _beside(first: ExpertNodes, other: ExpertNodes, seed: int) -> ExpertNodes:
    """An expert with its units in the order of those of another."""
    matrices = [part for part in MATRICES if part in first]
    order = Alignment({part: first[part] for part in matrices}, {part: other[part] for part in matrices}, seed)
    units = first["up"].shape[0]
    return {
        part: node if axis_of(part) < 0 else Pick(node, order, units, axis_of(part)) for part, node in other.items()
    }


def _mean(nodes: Sequence[Node], shares: Sequence[float]) -> Node:
    def mean(tiles: Sequence[Any], _at: object) -> Any:
        total = tiles[0] * shares[0]
        for tile, share in zip(tiles[1:], shares[1:], strict=True):
            total = total.add(tile, alpha=share)
        return total

    return Blend(tuple(nodes), mean)


def _join_router(
    symbolic: Symbolic, layer: int, groups: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]
) -> None:
    """Rows of the router for the new experts: the means of the old ones. A table names them by their new numbers."""
    from pedigree.surgery.nodes import Join

    for key in router_keys(symbolic, layer):
        node = symbolic.parts[key]
        rows = [
            index(node, 0, group) if len(group) == 1 else _mean([index(node, 0, [n]) for n in group], share)
            for group, share in zip(groups, shares, strict=True)
        ]
        symbolic.parts[key] = Join(tuple(rows))
    table = symbolic.part(TABLE, layer)
    if table is not None:
        number_of = np.empty(sum(len(group) for group in groups), dtype=np.int64)
        for number, group in enumerate(groups):
            number_of[list(group)] = number
        symbolic.parts[TABLE, layer, None] = Renumbered(table, len(groups), number_of)


MOE_PRUNE = Operator(
    name="moe.prune",
    summary="experts left out, with their rows of the router: named ones, or those with the smallest score",
    classes={"": Exactness.NFP},
    needs="for scores of use (load, gate, norm, reap) a text and the tokenizer beside the weights",
    source="2510.13999, 2606.15716",
    parameters=PruneExpertsParameters,
    apply=prune,
    verbs=("index",),
)
MOE_MERGE = Operator(
    name="moe.merge",
    summary="several experts become one: units beside their like, then the mean, of router rows too",
    classes={"": Exactness.NFP},
    needs="to group experts by use, a text and the tokenizer beside the weights",
    source="2310.01334, 2209.04836",
    parameters=MergeExpertsParameters,
    apply=merge,
    verbs=("rebase", "blend"),
)
