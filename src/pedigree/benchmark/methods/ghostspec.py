"""GhostSpec (2511.06390): singular values of Wq Wk^T and Wv Wo by layer, aligned by a monotone path.

Per layer both spectra are cut at the smaller effective rank and scaled to [0, 1]; the distance is the mean squared
difference. Layers of the shallower model keep their order among those of the deeper one. The published similarity is a
decreasing function of the distance with constants of 7 B models, so minus the distance is the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.model import Model

if TYPE_CHECKING:
    from torch import Tensor

SKIP_COST = 0.0
"""For each layer of the deeper model that is jumped over; the paper's constant is empirical and not given."""


@dataclass(frozen=True)
class GhostSpec(Described):
    """Minus the mean distance of spectra along the best path."""

    def ask(self, a: Model, b: Model) -> Answer:
        """Spectra of all layers, then the path."""
        import torch

        one, two = (spectra(model) for model in (a, b))
        if not one or not two:
            return Answer(None, why_not="no products of attention matrices")
        distance = torch.tensor([[layer_distance(x, y) for y in two] for x in one], dtype=torch.float64)
        swapped = len(one) > len(two)
        path = monotone_path(distance.T if swapped else distance)
        if swapped:
            mean = sum(float(distance[i, j]) for j, i in enumerate(path)) / len(path)
            return Answer(-mean, layer_map=list(path))
        mean = sum(float(distance[i, j]) for i, j in enumerate(path)) / len(path)
        sources = {j: i for i, j in enumerate(path)}
        return Answer(-mean, layer_map=[sources.get(j) for j in range(len(two))])


def spectra(model: Model) -> list[tuple[Tensor, Tensor]]:
    """Singular values of the two products, layer by layer; empty where a layer cannot form them."""
    import torch

    found = []
    for layer in range(model.n_layers):
        parts = {name: matrix.double() for name, matrix in model.grouped(layer).items()}
        fits = {"q", "k", "v", "o"} <= parts.keys() and parts["q"].shape == parts["k"].shape
        if not fits or parts["v"].shape[0] != parts["o"].shape[1]:
            return []
        found.append((torch.linalg.svdvals(parts["q"].T @ parts["k"]), torch.linalg.svdvals(parts["o"] @ parts["v"])))
    return found


def effective_rank(values: Tensor) -> int:
    """Exponential of the entropy of the normalized singular values (Roy and Vetterli 2007), rounded, at least 2."""
    import torch

    share = values / values.sum().clamp_min(1e-30)
    return max(2, round(float(torch.exp(-(share * share.clamp_min(1e-30).log()).sum()))))


def layer_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Mean over the two products of the mean squared difference of scaled, cut spectra."""
    total = 0.0
    for x, y in zip(first, second, strict=True):
        rank = min(effective_rank(x), effective_rank(y), len(x), len(y))
        total += float(((_scaled(x[:rank]) - _scaled(y[:rank])) ** 2).mean())
    return total / 2


def _scaled(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    scaled: Tensor = (values - low) / (high - low).clamp_min(1e-30)
    return scaled


def monotone_path(distance_NM: Tensor) -> list[int]:
    """For each row a column, strictly increasing, of least total distance; rows are not more than columns."""
    n, m = distance_NM.shape
    cost = [[float(distance_NM[0, j]) for j in range(m)]]
    came: list[list[int]] = [[-1] * m]
    for i in range(1, n):
        row, back = [], []
        for j in range(m):
            before = [(cost[i - 1][k] + (j - k - 1) * SKIP_COST, k) for k in range(i - 1, j)]
            best, k = min(before, default=(float("inf"), -1))
            row.append(best + float(distance_NM[i, j]))
            back.append(k)
        cost.append(row)
        came.append(back)
    j = min(range(n - 1, m), key=lambda column: cost[-1][column])
    path = [j]
    for i in range(n - 1, 0, -1):
        j = came[i][j]
        path.append(j)
    return path[::-1]


METHOD = GhostSpec("ghostspec", "GhostSpec (2026)", "2511.06390")
