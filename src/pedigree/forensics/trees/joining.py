"""Neighbor joining: the unrooted tree whose path lengths come nearest to given distances.

Source  Saitou and Nei 1987; branch lengths below zero are set to zero.
Shapes  N = leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass
class Graph:
    """An undirected tree; vertices 0..n-1 are observed, the others hidden.

    Attributes:
        n: observed vertices.
        edges: {vertex: {neighbor: length}}.
    """

    n: int
    edges: dict[int, dict[int, float]] = field(default_factory=dict)

    def join(self, u: int, v: int, length: float) -> None:
        """Add an edge."""
        self.edges.setdefault(u, {})[v] = length
        self.edges.setdefault(v, {})[u] = length

    def contract(self, gone: int, kept: int) -> None:
        """Merge a vertex into its neighbor."""
        del self.edges[kept][gone]
        for neighbor, length in self.edges.pop(gone).items():
            if neighbor != kept:
                del self.edges[neighbor][gone]
                self.join(kept, neighbor, length)


def neighbor_joining(distance_NN: npt.NDArray[np.float64]) -> Graph:
    """The tree of N leaves; two leaves give one edge."""
    n = len(distance_NN)
    graph = Graph(n, {k: {} for k in range(n)})
    names, d, fresh = list(range(n)), distance_NN.astype(float).copy(), n
    while len(names) > 2:
        m = len(names)
        total = d.sum(1)
        q = (m - 2) * d - total[:, None] - total[None, :]
        np.fill_diagonal(q, np.inf)
        i, j = sorted(int(k) for k in np.unravel_index(np.argmin(q), q.shape))
        to_i = 0.5 * d[i, j] + (total[i] - total[j]) / (2 * (m - 2))
        to_i = min(max(to_i, 0.0), float(d[i, j]))
        graph.join(names[i], fresh, to_i)
        graph.join(names[j], fresh, float(d[i, j]) - to_i)
        others = [k for k in range(m) if k not in (i, j)]
        row = np.maximum(0.0, 0.5 * (d[i, others] + d[j, others] - d[i, j]))
        d = np.block([[d[np.ix_(others, others)], row[:, None]], [row[None, :], np.zeros((1, 1))]])
        names, fresh = [*(names[k] for k in others), fresh], fresh + 1
    if len(names) == 2:
        graph.join(names[0], names[1], float(d[0, 1]))
    return graph


AT_VERTEX = 0.3
"""A leaf is the branch point itself where its own branch is below this share of the shortest other one there."""

AT_ANCESTOR = 1.0
"""The same for a leaf that came before what hangs from the branch point, by evidence of its own: children of one model
that are trained on like texts change alike, which moves the point where they part away from it."""

CameBefore = Callable[[int, int], bool]
"""Whether the leaf (first) came before the models on the other branches of a hidden vertex (second)."""


def collapse(graph: Graph, came_before: CameBefore | None = None) -> None:
    """Observed models that stand at a branch point take its place, and branch points without distance are one.

    Changes along branches are never quite orthogonal, so an ancestor shows as a leaf on a short branch.

    Args:
        graph: changed in place.
        came_before: evidence on who came first; none where there is none.
    """
    scale = max((length for row in graph.edges.values() for length in row.values()), default=0.0)
    while True:
        best: tuple[float, int, int] | None = None
        for hidden in [v for v in graph.edges if v >= graph.n]:
            around = graph.edges[hidden]
            for v, length in around.items():
                if v >= graph.n:
                    share = length / scale if scale > 0 else 0.0
                    limit = 0.02
                else:
                    rest = [other for u, other in around.items() if u != v]
                    share = length / min(rest) if rest and min(rest) > 0 else (0.0 if length <= 0.02 * scale else 1.0)
                    limit = AT_VERTEX
                    if AT_VERTEX < share <= AT_ANCESTOR and came_before is not None and came_before(v, hidden):
                        limit = AT_ANCESTOR
                if share <= limit and (best is None or share / limit < best[0]):
                    best = (share / limit, hidden, v)
        if best is None:
            return
        graph.contract(best[1], best[2])
