"""MoTHer (2405.18432): distance of weights in place, direction by kurtosis, tree by a minimum arborescence.

Distance: mean absolute difference of square attention matrices. Direction: the sum of their kurtosis grows in
general training (which the continued trainings of the zoo are), so the smaller one came first. Tree: Edmonds'
arborescence over distance + 0.3 x mean distance where kurtosis falls. The paper's sign is supplied by hand; the one
of its language models is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.model import Model

if TYPE_CHECKING:
    from torch import Tensor

LAMBDA = 0.3


@dataclass(frozen=True)
class Mother(Described):
    """Minus the distance over the size of the weights; direction by kurtosis."""

    def ask(self, a: Model, b: Model) -> Answer:
        """Distance where shapes agree; direction from both alone."""
        distance = weight_distance(a, b)
        if distance is None:
            return Answer(None, why_not="no square attention matrix of one shape in the same layer")
        return Answer(-distance, direction=kurtosis(b) - kurtosis(a))

    def edges(self, models: Sequence[Model]) -> list[tuple[int, int]]:
        """The minimum arborescence; pairs of positions (ancestor, descendant)."""
        import itertools

        import numpy as np

        n = len(models)
        found = {(i, j): weight_distance(models[i], models[j]) for i, j in itertools.combinations(range(n), 2)}
        known = [d for d in found.values() if d is not None]
        far = 10 * max(known, default=1.0)
        cost = np.full((n, n), np.inf)
        mean = sum(known) / max(1, len(known))
        heights = [kurtosis(model) for model in models]
        for (i, j), d in found.items():
            base = far if d is None else d
            cost[i, j] = base + LAMBDA * mean * (heights[i] > heights[j])
            cost[j, i] = base + LAMBDA * mean * (heights[j] > heights[i])
        return arborescence(cost.tolist())


def squares(model: Model) -> dict[int, Tensor]:
    """The output projection of attention, layer by layer, where it is square."""
    found = {layer: model.attention(layer).get("o") for layer in range(model.n_layers)}
    return {layer: o for layer, o in found.items() if o is not None and o.shape[0] == o.shape[1]}


def weight_distance(a: Model, b: Model) -> float | None:
    """Mean absolute difference over the mean absolute entry; None where no two matrices have one shape."""
    one, two = squares(a), squares(b)
    shared = [layer for layer in one if layer in two and one[layer].shape == two[layer].shape]
    if not shared:
        return None
    size = sum(float(one[i].abs().mean() + two[i].abs().mean()) for i in shared) / 2
    return sum(float((one[i] - two[i]).abs().mean()) for i in shared) / max(1e-30, size)


def kurtosis(model: Model) -> float:
    """Sum over the square matrices of the fourth standardized moment."""
    total = 0.0
    for matrix in squares(model).values():
        centered = matrix.double() - matrix.double().mean()
        total += float((centered**4).mean() / (centered**2).mean().clamp_min(1e-30) ** 2)
    return total


def arborescence(cost: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Spanning tree of least cost whose edges lead away from one root, the best root taken (Chu-Liu, Edmonds)."""
    n = len(cost)
    best: tuple[float, list[tuple[int, int]]] | None = None
    for root in range(n):
        edges = [(i, j, cost[i][j]) for i in range(n) for j in range(n) if i != j and j != root]
        picked = _edmonds(list(range(n)), edges, root)
        total = sum(cost[i][j] for i, j in picked)
        if best is None or total < best[0]:
            best = (total, picked)
    return sorted(best[1]) if best is not None else []


def _edmonds(nodes: list[int], edges: list[tuple[int, int, float]], root: int) -> list[tuple[int, int]]:
    """Chu-Liu and Edmonds for one root; a cycle of cheapest edges becomes one node, and the rest is solved again."""
    cheapest: dict[int, tuple[int, float]] = {}
    for i, j, weight in edges:
        if j != root and i != j and (j not in cheapest or weight < cheapest[j][1]):
            cheapest[j] = (i, weight)
    cycle = _cycle({j: i for j, (i, _) in cheapest.items()}, root)
    if not cycle:
        return [(i, j) for j, (i, _) in cheapest.items()]
    new = max(nodes) + 1
    inside = set(cycle)
    shrunk: dict[tuple[int, int], tuple[float, tuple[int, int]]] = {}
    for i, j, weight in edges:
        u, v = (new if i in inside else i), (new if j in inside else j)
        paid = weight - cheapest[j][1] if j in inside else weight
        if (u != v and (u, v) not in shrunk) or (u != v and paid < shrunk[u, v][0]):
            shrunk[u, v] = (paid, (i, j))
    rest = [node for node in nodes if node not in inside] + [new]
    inner = _edmonds(rest, [(u, v, weight) for (u, v), (weight, _) in shrunk.items()], root)
    picked = [shrunk[edge][1] for edge in inner]
    entered = next(j for _, j in picked if j in inside)
    return picked + [(cheapest[j][0], j) for j in cycle if j != entered]


def _cycle(parent: dict[int, int], root: int) -> list[int]:
    for start in parent:
        path: list[int] = []
        node = start
        while node != root and node in parent and node not in path:
            path.append(node)
            node = parent[node]
        if node in path:
            return path[path.index(node) :]
    return []


METHOD = Mother("mother", "MoTHer (2025)", "2405.18432")
