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
                strengths.append(max(0.0, max(strength(trace) for trace in found) - math.log10(len(found))))
                traces += [trace.share for trace in found]
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


@dataclass(frozen=True)
class Trace:
    """What a signed permutation collects of a partial isometry.

    Args:
        total: sum of the matched entries, at most `rank`.
        rows, columns: of the matrix, the smaller one first.
        rank: of the isometry.
    """

    total: float
    rows: int
    columns: int
    rank: int

    @property
    def share(self) -> float:
        """Of the largest trace there could be."""
        return self.total / self.rank


def matched_trace(m_NM: Tensor) -> Trace:
    """The trace of the polar factor under the best signed permutation; of a singular matrix, on the range it has."""
    import torch

    u, values, vh = torch.linalg.svd(m_NM, full_matrices=False)
    rank = max(1, int((values > 1e-9 * values[0].clamp_min(1e-30)).sum()))
    turn = (u[:, :rank] @ vh[:rank]).abs()
    rows, columns = assign(turn)
    return Trace(float(turn[rows, columns].sum()), min(turn.shape), max(turn.shape), rank)


def strength(trace: Trace) -> float:
    """Minus log10 of the bound, at least 0.

    A fixed signed matching of N rows to M columns collects a sum of variance rank / M from a random partial isometry;
    there are 2^N M! / (M - N)! of them. Square and of full rank, this is the published bound.
    """
    n, m = trace.rows, trace.columns
    matchings = math.lgamma(m + 1) - math.lgamma(m - n + 1) + n * math.log(2)
    ln_p = matchings - trace.total**2 * m / (2 * trace.rank)
    return max(0.0, -ln_p / math.log(10))


METHOD = PolarTrace("polar_trace", "polar trace, MDIR style (2025)", "2508.06309")
