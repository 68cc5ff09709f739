"""Standard deviation of Q, K, V and O by layer (HonestAGI, 2507.03014): row 20 of the mission, an illustration only.

A shorter curve is interpolated to the length of the longer one, as LeaFBench (2508.19843) does.
"""

from __future__ import annotations

from dataclasses import dataclass

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.matching import pearson
from pedigree.benchmark.methods.model import ATTENTION, Model


@dataclass(frozen=True)
class SigmaCurves(Described):
    """Mean correlation of the four curves."""

    def ask(self, a: Model, b: Model) -> Answer:
        """Pearson's correlation of each pair of curves, averaged."""
        one, two = curves(a), curves(b)
        shared = [name for name in ATTENTION if len(one[name]) > 1 and len(two[name]) > 1]
        if not shared:
            return Answer(None, why_not="no attention matrices in two layers of both")
        return Answer(sum(correlation(one[name], two[name]) for name in shared) / len(shared))


def curves(model: Model) -> dict[str, list[float]]:
    """For each matrix kind the standard deviation of its entries in every layer."""
    found: dict[str, list[float]] = {name: [] for name in ATTENTION}
    for layer in range(model.n_layers):
        for name, matrix in model.attention(layer).items():
            found[name].append(float(matrix.std(correction=0)))
    return found


def correlation(first: list[float], second: list[float]) -> float:
    """Pearson's correlation, the shorter curve interpolated linearly."""
    import numpy as np

    n = max(len(first), len(second))
    grid = np.linspace(0, 1, n)
    stretched = [np.interp(grid, np.linspace(0, 1, len(curve)), curve) for curve in (first, second)]
    return pearson(list(stretched[0]), list(stretched[1]))


METHOD = SigmaCurves("sigma_curves", "standard-deviation curves (2025)", "2507.03014; 2508.19843")
