"""What is known about each pair of zoo models, from how they were made.

Truth lines use the words of the comparison contract: identical, related, partly-related, shared-initialization,
unrelated. `kind` names the last operation for a parent and its child, and the tie otherwise ("siblings", "merged
with", "strangers", "twins").

Rules   related: more than half of the blocks of one model descend, attention and FFN, from the trained weights the
        other one carries; partly-related: less than that, or embeddings alone; shared-initialization: nothing
        trained is shared, but both started from the same numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pedigree.benchmark.zoo.catalog import operator_of
from pedigree.benchmark.zoo.lineage import Block, Lineage
from pedigree.benchmark.zoo.recipe import Recipe

FULL = 0.5
"""Share of blocks above which two models are related as wholes."""


@dataclass(frozen=True)
class Pair:
    """The truth about two models.

    Args:
        layer_map: for each block of b the block of a it shares trained weights with, None where there is none.
        direction: "a-to-b", "b-to-a" or "undetermined" (neither descends from the other).
        kind: what was done, or how the two are tied.
        details: parts shared, operations with their arguments, steps trained on the way.
    """

    a: str
    b: str
    relation: str
    layer_map: tuple[int | None, ...]
    kind: str
    direction: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The pair as one line of JSON."""
        content = {
            "a": self.a,
            "b": self.b,
            "relation": self.relation,
            "layer_map": list(self.layer_map),
            "kind": self.kind,
            "direction": self.direction,
            "details": dict(self.details),
        }
        return json.dumps(content, sort_keys=True)


class Registry:
    """The lineages of a catalog."""

    def __init__(self, recipes: Mapping[str, Recipe]) -> None:
        self._recipes = recipes
        self._lineages: dict[str, Lineage] = {}

    def lineage(self, name: str) -> Lineage:
        """The lineage of a model, computed from its recipe and its parents."""
        if name not in self._lineages:
            self._lineages[name] = self._compute(self._recipes[name])
        return self._lineages[name]

    def ancestors(self, name: str) -> set[str]:
        """Models whose trained weights went into this one on the way, itself excluded."""
        recipe = self._recipes[name]
        direct = {*recipe.parents, *([recipe.follows] if recipe.follows else [])}
        return direct.union(*(self.ancestors(parent) for parent in direct)) if direct else set()

    def pair(self, a: str, b: str) -> Pair:
        """The truth about two models."""
        one, two = self.lineage(a), self.lineage(b)
        up, down = self._leads_to(a, b), self._leads_to(b, a)
        layer_map, shared = _shared(one, two)
        relation = self._relation(a, b, one, two, shared)
        related = relation in ("related", "partly-related")
        if relation == "identical" or not (related and (up or down)):
            direction = "undetermined"
        else:
            direction = "a-to-b" if up else "b-to-a"
        details: dict[str, Any] = {"shared": shared}
        if related or relation == "identical":
            for side, name in (("a", a), ("b", b)):
                details[f"made_{side}"] = self._history(name, a if side == "b" else b)
        return Pair(a, b, relation, layer_map, self._kind(a, b, relation), direction, details)

    def pairs(self, names: Sequence[str]) -> Iterable[Pair]:
        """The truth about all pairs of a list of models within one group, each pair once."""
        told = [name for name in names if self._recipes[name].compared]
        for i, a in enumerate(told):
            for b in told[i + 1 :]:
                if self._recipes[a].group == self._recipes[b].group:
                    yield self.pair(a, b)

    def _compute(self, recipe: Recipe) -> Lineage:
        if not recipe.parents:
            if recipe.sizes is None:
                raise KeyError(recipe.name)
            start = f"{recipe.architecture}/{json.dumps(recipe.sizes.to_dict(), sort_keys=True)}/{recipe.seed}"
            return Lineage.of_root(recipe.root or recipe.name, start, recipe.sizes.n_layers)
        parents = [self.lineage(parent) for parent in recipe.parents]
        lineage = parents[0]
        if recipe.operator is not None:
            lineage = operator_of(recipe).lineage(*parents, **recipe.arguments)
        return lineage.trained_as(recipe.name) if recipe.training else lineage

    def _storage_root(self, name: str) -> str:
        recipe = self._recipes[name]
        if recipe.training is None and recipe.operator is not None and operator_of(recipe).identical:
            return self._storage_root(recipe.parents[0])
        return name

    def _leads_to(self, a: str, b: str) -> bool:
        """Whether b was made from the weights of a: from a itself, or from a file that holds the same ones."""
        return self._storage_root(a) in {self._storage_root(ancestor) for ancestor in self.ancestors(b)}

    def _relation(self, a: str, b: str, one: Lineage, two: Lineage, shared: Mapping[str, Any]) -> str:
        if self._storage_root(a) == self._storage_root(b):
            return "identical"
        if min(shared["attn"], shared["mlp"]) > FULL:
            return "related"
        if shared["attn"] or shared["mlp"] or shared["embed"]:
            return "partly-related"
        return "shared-initialization" if one.start == two.start and one.start else "unrelated"

    def _kind(self, a: str, b: str, relation: str) -> str:
        if relation == "unrelated":
            distilled = {self._recipes[a].teacher, self._recipes[b].teacher} & {a, b}
            return "distill" if distilled else "strangers"
        if relation == "shared-initialization":
            return "twins"
        if a in self._recipes[b].parents or b in self._recipes[a].parents:
            child = self._recipes[b] if a in self._recipes[b].parents else self._recipes[a]
            return child.operator or "continue"
        if relation != "identical" and (self._leads_to(a, b) or self._leads_to(b, a)):
            return "descendant"
        return "siblings"

    def _history(self, name: str, other: str) -> list[dict[str, Any]]:
        """Operations from the other model, or from the root, down to this one."""
        steps: list[dict[str, Any]] = []
        current: str | None = name
        while current is not None and current != other:
            recipe = self._recipes[current]
            step: dict[str, Any] = {"model": current, "operator": recipe.operator, "arguments": dict(recipe.arguments)}
            if recipe.training is not None:
                training = recipe.training
                step |= {"steps": training.stop or training.steps, "lr": training.lr, "part": training.part}
                step["frozen"] = list(training.frozen)
            steps.append(step)
            current = recipe.parents[0] if recipe.parents else None
        return steps[::-1]


def _shared(one: Lineage, two: Lineage) -> tuple[tuple[int | None, ...], dict[str, Any]]:
    def match(block: Block, others: Sequence[Block], branch: str) -> list[int]:
        origin = getattr(block, branch)
        return [i for i, other in enumerate(others) if origin & getattr(other, branch)]

    layer_map: list[int | None] = []
    for j, block in enumerate(two.blocks):
        found = match(block, one.blocks, "attn") or match(block, one.blocks, "mlp")
        layer_map.append(_nearest(found, j, two, one))
    shares: dict[str, Any] = {}
    for branch in ("attn", "mlp"):
        of_two = sum(bool(match(block, one.blocks, branch)) for block in two.blocks) / len(two.blocks)
        of_one = sum(bool(match(block, two.blocks, branch)) for block in one.blocks) / len(one.blocks)
        shares[branch] = round(max(of_one, of_two), 4)
    shares["embed"] = bool(one.embed & two.embed)
    return tuple(layer_map), shares


def _nearest(found: Sequence[int], j: int, two: Lineage, one: Lineage) -> int | None:
    """Among several blocks of one origin: the n-th occurrence in b belongs to the n-th in a, as far as there are."""
    if not found:
        return None
    origin = two.blocks[j].attn | two.blocks[j].mlp
    earlier = sum(bool(origin & (block.attn | block.mlp)) for block in two.blocks[:j])
    return found[min(earlier, len(found) - 1)]


def write_truth(path: Path, pairs: Iterable[Pair]) -> int:
    """Write pairs as JSON lines in one rename; returns their number."""
    lines = [pair.to_json() for pair in pairs]
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text("".join(line + "\n" for line in lines))
    part.rename(path)
    return len(lines)
