"""For each layer of B, the layer of A it came from.

A hidden Markov path over the layers of B: a state is a layer of A or NEW. Going on to the next layer of A is free;
staying (a duplicated layer), skipping (dropped layers) and jumping back (layers repeated as a block) cost something,
so that a map with insertions, duplications, drops and jumps is found where the evidence asks for it and nowhere else.
Neither a monotone alignment nor an unconstrained assignment can express all of these (forensics study, section 9.5).

Shapes: I = layers of A, J = layers of B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PathCosts:
    """Costs of the transitions, in the unit of the evidence (see `emission`).

    Attributes:
        duplicate: the same layer of A again.
        skip: leaving out layers of A, once, plus `skip_each` for each.
        back: jumping to an earlier layer of A.
        fresh: entering or leaving NEW.
    """

    duplicate: float = 4.0
    skip: float = 4.0
    skip_each: float = 0.5
    back: float = 6.0
    fresh: float = 3.0


NOISE_Z = 5.5
"""A layer pair whose standard score is below this explains a layer no better than NEW does."""


def emission(z_IJ: Floats) -> Floats:
    """Evidence of each layer pair from its standard score: 10 log(1 + z^2 / 2), zero for negative scores.

    The logarithm keeps one strong pair from outvoting a whole path, and still separates a true pair (z of dozens)
    from a resembling neighbor (z of a few).
    """
    return np.asarray(10.0 * np.log1p(np.maximum(z_IJ, 0.0) ** 2 / 2.0), dtype=np.float64)


def find_path(evidence_IJ: Floats, new_evidence: float, costs: PathCosts | None = None) -> list[int | None]:
    """Best path through the layers of A, one entry for each layer of B; None where no layer of A explains it.

    Args:
        evidence_IJ: evidence for layer j of B coming from layer i of A.
        new_evidence: evidence credited to NEW at each layer.
        costs: transition costs.
    """
    costs = costs or PathCosts()
    n_a, n_b = evidence_IJ.shape
    if n_b == 0:
        return []
    moves = _transition_costs(n_a, costs)
    gain = np.vstack([evidence_IJ, np.full((1, n_b), new_evidence)])
    score = gain[:, 0].copy()
    score[:n_a] -= costs.skip_each * np.arange(n_a)
    back = np.zeros((n_a + 1, n_b), dtype=np.int64)
    last = _LastSeen(n_a)
    for j in range(1, n_b):
        # From NEW the path goes on where it left off: the cost counts from the last layer of A before NEW.
        table = score[:, None] - moves
        table[n_a, :n_a] = score[n_a] - costs.fresh - last.resume_costs(costs)
        back[:, j] = table.argmax(axis=0)
        previous = last.copy()
        last.advance(int(back[n_a, j]), previous)
        score = table.max(axis=0) + gain[:, j]
    state = int(score.argmax())
    path = [state]
    for j in range(n_b - 1, 0, -1):
        state = int(back[state, j])
        path.append(state)
    path.reverse()
    return [None if s == n_a else s for s in path]


def _transition_costs(n_a: int, costs: PathCosts) -> Floats:
    """Cost from each state (row) to each state (column); the last state is NEW."""
    moves = np.zeros((n_a + 1, n_a + 1))
    source, target = np.meshgrid(np.arange(n_a), np.arange(n_a), indexing="ij")
    step = target - source
    inner = np.where(step > 1, costs.skip + costs.skip_each * (step - 1), 0.0)
    inner = np.where(step == 0, costs.duplicate, inner)
    moves[:n_a, :n_a] = np.where(step < 0, costs.back, inner)
    moves[:n_a, n_a] = costs.fresh
    return moves


class _LastSeen:
    """The layer of A where the best path into NEW left off."""

    def __init__(self, n_a: int) -> None:
        self.n_a = n_a
        self.layer = -1

    def copy(self) -> int:
        return self.layer

    def advance(self, source: int, previous: int) -> None:
        """NEW was entered from `source` (a layer of A, or NEW itself)."""
        self.layer = previous if source == self.n_a else source

    def resume_costs(self, costs: PathCosts) -> Floats:
        """Cost of going on at each layer of A after NEW; going on with the next, or after a replaced one, is free."""
        step = np.arange(self.n_a) - self.layer
        skipped = costs.skip_each * np.maximum(step - 1, 0)
        return np.where(step <= 0, costs.back, skipped)
