"""The tree of a family whose first model is among the given ones: for each other model, which one it continues.

Pairs say who came first if one descends from the other (`forensics.direction`), distances say who lies on the way.
Model i lies on the way from the root r to j if going over i is hardly a detour. With squared distances, which add up
along branches, that is the *gain*

    gain = (d(r, j) - d(i, j)) / d(r, i)

one where i is an ancestor of j, above one where training went on in the same direction, minus one where i and j parted
at r and have nothing in common. Children of one model that are trained on like texts change alike, which lifts the
gain of the one that drifted less; below `ON_THE_WAY` it counts as that and as nothing more.

For the same reason children of one model go a part of their way together, (d(r, j) + d(r, k) - d(j, k)) / 2: by the
cosine of their ways, 0.2 to 0.7 in small models trained on like texts. Only above `IN_COMMON`, or where many share
one and the same way, does an ancestor that is not among the models stand between them and their parent.

Shapes  N = models of the family.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pedigree.forensics.direction import ABSTAIN_BELOW

ON_THE_WAY = 0.8
"""Gain from which a model is taken for an ancestor."""

PART_OF_THE_WAY, EXACT = 0.3, 0.1
"""A long training passes every short one on like texts at some distance: where going over a model saves less than the
first part of the way from the root, the gain has to be one to within the second."""

LIKELY = 1.0
"""Log-odds that an ancestor has at the least; of the first model over most others they are a decision."""

IN_COMMON = 0.75
"""Cosine of the ways of two children from which they have an ancestor that is not among the models."""

ALIKE, MEAN = 0.1, 0.5
"""Three or more children with such an ancestor share one and the same way, to this part of it, however far each went
on; then a mean cosine of the second is enough. What like texts teach grows with the length of both ways."""

AT_POINT = 0.1
"""A child is the ancestor of the others where its own way is at most this part of the way that all share."""

Floats = npt.NDArray[np.float64]


@dataclass
class Rooted:
    """A rooted tree; vertices 0..n-1 are the models, those from n on are hidden.

    Attributes:
        root: the model that came first.
        edges: (parent, child, length).
        hidden: how many hidden vertices there are.
    """

    root: int
    edges: list[tuple[int, int, float]] = field(default_factory=list)
    hidden: int = 0


def rooted_tree(distance_NN: Floats, odds_NN: Floats) -> Rooted | None:
    """The tree, or None where no model came before all others.

    Args:
        distance_NN: squared distances on one scale.
        odds_NN: log-odds that the first came before the second, if one descends from the other.
    """
    root = _first(distance_NN, odds_NN)
    if root is None:
        return None
    n = len(distance_NN)
    parents = {j: _parent(root, j, distance_NN, odds_NN) for j in range(n) if j != root}
    tree = Rooted(root)
    for parent in range(n):
        children = [j for j in parents if parents[j] == parent]
        _hang(tree, n, parent, children, distance_NN)
    return tree


def _first(distance_NN: Floats, odds_NN: Floats) -> int | None:
    """The model that came before every other one by clear odds, and is not itself a branch of its own."""
    n = len(odds_NN)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        odds = odds_NN[i, others]
        if odds.min() >= LIKELY and float(np.median(odds)) >= ABSTAIN_BELOW:
            shared = [_common(i, j, k, distance_NN) for j in others for k in others if j < k]
            return i if not shared or float(np.median(shared)) < IN_COMMON else None
    return None


def _common(parent: int, j: int, k: int, distance_NN: Floats) -> float:
    """Cosine of the ways from the parent to two models."""
    shared = (distance_NN[parent, j] + distance_NN[parent, k] - distance_NN[j, k]) / 2
    return float(shared / max(distance_NN[parent, j] * distance_NN[parent, k], 1e-300) ** 0.5)


def _parent(root: int, j: int, distance_NN: Floats, odds_NN: Floats) -> int:
    """The nearest of those that came before j and lie on its way; the root where there is none."""
    found = root
    for i in range(len(distance_NN)):
        if i in (root, j) or odds_NN[i, j] < LIKELY or distance_NN[i, j] >= distance_NN[found, j]:
            continue
        saved = distance_NN[root, j] - distance_NN[i, j]
        gain = saved / max(distance_NN[root, i], 1e-300)
        is_long = saved >= PART_OF_THE_WAY * distance_NN[root, j]
        if gain >= ON_THE_WAY if is_long else abs(gain - 1.0) <= EXACT:
            found = i
    return found


def _is_one_way(parent: int, children: list[int], distance_NN: Floats) -> bool:
    """Whether three or more children share a way of one length."""
    pairs = [(j, k) for j in children for k in children if j < k]
    if len(children) < 3:
        return False
    shared = [distance_NN[parent, j] + distance_NN[parent, k] - distance_NN[j, k] for j, k in pairs]
    even = float(np.ptp(shared)) <= ALIKE * float(np.mean(shared))
    return even and float(np.mean([_common(parent, j, k, distance_NN) for j, k in pairs])) >= MEAN


def _hang(tree: Rooted, n: int, parent: int, children: list[int], distance_NN: Floats) -> None:
    """Children below their parent; those that share most of their way, below a hidden vertex between."""
    groups: list[list[int]] = [children] if _is_one_way(parent, children, distance_NN) else []
    for j in children if not groups else ():
        near = [g for g in groups if all(_common(parent, j, k, distance_NN) >= IN_COMMON for k in g)]
        if near:
            near[0].append(j)
        else:
            groups.append([j])
    for group in groups:
        if len(group) == 1:
            tree.edges.append((parent, group[0], float(distance_NN[parent, group[0]])))
            continue
        ways = [
            distance_NN[parent, j] + distance_NN[parent, k] - distance_NN[j, k] for j in group for k in group if j < k
        ]
        shared = min(float(np.mean(ways)) / 2, *(float(distance_NN[parent, j]) for j in group))
        nearest = min(group, key=lambda j: distance_NN[parent, j])
        if distance_NN[parent, nearest] - shared <= AT_POINT * shared:
            tree.edges.append((parent, nearest, float(distance_NN[parent, nearest])))
            tree.edges += [(nearest, j, float(distance_NN[nearest, j])) for j in group if j != nearest]
            continue
        hidden = n + tree.hidden
        tree.hidden += 1
        tree.edges.append((parent, hidden, shared))
        tree.edges += [(hidden, j, float(distance_NN[parent, j]) - shared) for j in group]
