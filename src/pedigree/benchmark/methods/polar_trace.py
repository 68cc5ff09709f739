"""A polar-trace test after MDIR (2508.06309): the gauge from embeddings, then traces of matched orthogonal factors.

The residual map is the polar factor of E_A^T E_B over shared tokens. In each layer the map between the output sides of
Q, K, V and the up projection is the polar factor of W_A U W_B^T; under the null it is a random orthogonal matrix, and
the share of its trace that a signed permutation collects has the tail n! 2^n exp(-n^2 x^2 / 2) (union bound over the
signed permutations, Gaussian regime). The embedding's own factor is tested the same way. Written from descriptions of
the method: its code was not read, so it stands here as "style", not as the method itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.matching import assign, polar
from pedigree.benchmark.methods.model import Model, shared_rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PolarTrace(Described):
    """Mean over layers of minus log10 of the best bound, the mean matched trace added to part ties."""

    def ask(self, a: Model, b: Model) -> Answer:
        """Gauge first, then layer by layer in order."""
        one, two = shared_rows(a, b)
        if not len(one):
            return Answer(None, why_not="no shared tokens")
        turn = polar(one.double().T @ two.double())
        strengths, traces = [], []
        for layer in range(min(a.n_layers, b.n_layers)):
            first, second = outputs(a, layer), outputs(b, layer)
            found = [
                matched_trace(first[name].double() @ turn @ second[name].double().T)
                for name in sorted(first.keys() & second.keys())
            ]
            if found:
                # The best of so many roles is paid for.
                strengths.append(max(0.0, max(strength(x, n) for x, n in found) - math.log10(len(found))))
                traces += [x for x, _ in found]
        if not strengths:
            return Answer(None, why_not="no matrices of one role in both")
        return Answer(sum(strengths) / len(strengths) + sum(traces) / len(traces))


def outputs(model: Model, layer: int) -> dict[str, Tensor]:
    """Matrices [R, D] whose output side is compared."""
    found = {name: matrix for name, matrix in model.attention(layer).items() if name != "o"}
    networks = model.networks(layer)
    if len(networks) == 1 and "up" in networks[0]:
        found["up"] = networks[0]["up"]
    return found


def matched_trace(m_NM: Tensor) -> tuple[float, int]:
    """Trace of the polar factor under the best signed permutation, over n, and n, the rank that is there."""
    import torch

    values = torch.linalg.svdvals(m_NM)
    rank = max(1, int((values > 1e-9 * values[0].clamp_min(1e-30)).sum()))
    # Where the matrix has not full rank, the factor is taken on the range that is there.
    u, _, vh = torch.linalg.svd(m_NM, full_matrices=False)
    turn = (u[:, :rank] @ vh[:rank]).abs()
    rows, columns = assign(turn)
    return float(turn[rows, columns].sum()) / rank, rank


def strength(x: float, n: int) -> float:
    """Minus log10 of the bound, at least 0."""
    ln_p = math.lgamma(n + 1) + n * math.log(2) - n * n * x * x / 2
    return max(0.0, -ln_p / math.log(10))


METHOD = PolarTrace("polar_trace", "polar trace, MDIR style (2025)", "2508.06309")
