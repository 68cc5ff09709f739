"""The tree of a family whose first model is among the given ones.

Pairs say who came first if one descends from the other (`forensics.direction`), `placement` who continues whom. What is
left is who the first one is, and where an ancestor is missing: children of one model go a part of their way together,
by a cosine of up to 0.6 in small models trained on like texts. Only above `IN_COMMON`, or where many share one and the
same way, does an ancestor that is not among the models stand between them and their parent.

Shapes  N = models of the family.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pedigree.forensics.comparison.direction import ABSTAIN_BELOW
from pedigree.forensics.trees.first_model import first_model_of
from pedigree.forensics.trees.placement import LEAST_BULK, Placed, common, place
from pedigree.forensics.trees.tree_odds import before_most
from pedigree.forensics.trees.ways import Ways

AGAINST = -1.0
"""The first model has no pair that says more than this against it, and a decision over most others."""

HALF = ABSTAIN_BELOW / 2
"""Log-odds over most others that do for lines, not for arrows, where its children have nothing in common."""

NOTHING_IN_COMMON = 0.1
"""Cosine of the ways to its children, in the bulk, up to which a model has no way of its own to speak of: where it were
a child itself, the ways from it to all others would begin with the one back to where they part."""

IN_COMMON = 0.65
"""Cosine of the ways of two children from which they have an ancestor that is not among the models."""

IN_BULK = 0.65
"""The same in the bulk (`family_bulk`): children of one model have up to 0.36, or 0.52 where they were trained on one
text; those of one that is not among them 0.7 and more."""

WITH_TABLE, BELOW_TABLE = 0.35, 0.08
"""The same where it is not much less than the cosine in the input table. What like texts teach alike shows in a table
most, in the rows of their tokens; an ancestor is in both."""

MOST_IN_COMMON = 1.1
"""Part of either way that may be common to both; trainings on one text in one order go one way without an ancestor, and
the longer or faster one goes further."""

ALIKE, MEAN, EVENER = 0.15, 0.5, 0.6
"""Three or more children with such an ancestor share one and the same way however far each went on: its standard
deviation over pairs is at most the first part of it, and at most the last part of what it is if cosines are compared
(like texts teach the longer the more); then a mean cosine of the second is enough."""

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
        sure, order, exact: log-odds that a model is below its parent and not beside it, and not above it, and which
            models are there by chance alone; see `Placed`.
        is_first: whether arrows may begin at the root; see `first_model`.
    """

    root: int
    edges: list[tuple[int, int, float]] = field(default_factory=list)
    hidden: int = 0
    sure: dict[int, float] = field(default_factory=dict)
    order: dict[int, float] = field(default_factory=dict)
    exact: set[int] = field(default_factory=set)
    is_first: bool = True


def rooted_tree(
    ways: Ways, odds_NN: Floats, drift_NN: Floats | None = None, merges: Mapping[int, tuple[int, ...]] | None = None
) -> Rooted | None:
    """The tree; None where no model came before all others, and no rows prove a point at which they part.

    Args:
        ways: squared distances on one scale.
        odds_NN: log-odds that the first came before the second, if one descends from the other.
        drift_NN: the same without structural evidence, see `placement.place`; None where there is none of that.
        merges: models that lie between others, see `placement.place`.
    """
    known = merges or {}
    root = first_model(odds_NN, known)
    likest = max((k for k in range(len(ways)) if k not in known), key=lambda k: before_most(odds_NN, k), default=0)
    drift_NN = odds_NN if drift_NN is None else drift_NN
    tree = tree_below(likest if root is None else root, ways, drift_NN, merges)
    if root is None:
        # Seen from one of the others rows show the same points at which ways part, and nobody is the first.
        tree.is_first = False
        if any(_is_proven(likest, group, ways) for group in _groups_below(tree, known, len(ways))):
            return tree
        likely = first_model(odds_NN, known, HALF)
        if likely is None:
            return None
        return _hung(tree if likely == likest else tree_below(likely, ways, drift_NN, merges), ways, odds_NN, known)
    return _doubted(tree, ways, odds_NN, known)


def _hung(tree: Rooted, ways: Ways, odds_NN: Floats, merges: Mapping[int, tuple[int, ...]]) -> Rooted | None:
    """The tree below a model that came before most others by half a decision; None where ways from it to the others
    have something in common, as those from a child of a model that is missing have."""
    first = first_model_of(tree.root, _groups_below(tree, merges, len(ways)), ways, odds_NN)
    tree.is_first = first.holds
    return tree if first.is_asked and first.cosine <= NOTHING_IN_COMMON else None


def tree_below(root: int, ways: Ways, drift_NN: Floats, merges: Mapping[int, tuple[int, ...]] | None = None) -> Rooted:
    """The tree below a first model that is known; see `rooted_tree`."""
    placed = place(ways, drift_NN, root, merges)
    tree = Rooted(root, sure=placed.sure, order=placed.order, exact=placed.exact)
    for parent in range(len(ways)):
        _hang(tree, placed, parent, ways, set(merges or ()))
    return tree


def _doubted(tree: Rooted, ways: Ways, odds_NN: Floats, merges: Mapping[int, tuple[int, ...]]) -> Rooted:
    """The same with a hidden vertex above a first model that is none, and its siblings below that."""
    n, root = len(ways), tree.root
    groups = _groups_below(tree, merges, n)
    if len(groups) == 1 and len(groups[0]) > 1:
        # All others part at one point that it is not: either may have come first.
        tree.is_first = False
        return tree
    first = first_model_of(root, groups, ways, odds_NN)
    tree.is_first = first.holds and not any(_is_proven(root, group, ways) for group in groups)
    if not first.siblings:
        return tree
    hidden = n + tree.hidden
    tree.hidden += 1
    shared = [common(root, j, k, ways) * (ways.length(root, j) * ways.length(root, k)) ** 0.5
              for j, k in itertools.combinations(first.siblings, 2)]  # fmt: skip
    own = max(0.0, min([float(np.mean(shared or [0.0])), *(ways.length(root, j) for j in first.siblings)]))
    moved = [(hidden if u == root and v in first.siblings else u, v, length) for u, v, length in tree.edges]
    tree.edges = [(hidden, root, own)]
    tree.edges += [(u, v, max(0.0, length - own) if u == hidden else length) for u, v, length in moved]
    tree.root, tree.is_first = hidden, False
    return tree


def _groups_below(tree: Rooted, merges: Mapping[int, tuple[int, ...]], n: int) -> list[list[int]]:
    """Models right below the root, merges left out: each alone, those below one hidden ancestor together."""
    children = [v for u, v, _ in tree.edges if u == tree.root and v not in merges]
    return [[w for u, w, _ in tree.edges if u == v] if v >= n else [v] for v in children]


def _is_proven(root: int, group: list[int], ways: Ways) -> bool:
    """Whether rows that were handed down show that two models part at a point below or beside the first one. Which of
    the two it is they do not tell: either has rows that the other has not."""
    return any(ways.handed(root, j, k).shares for j, k in itertools.combinations(group, 2))


def first_model(odds_NN: Floats, merges: Mapping[int, tuple[int, ...]], least: float = ABSTAIN_BELOW) -> int | None:
    """The model that came before most others by log-odds of `least`; None where there is none. Merges come after their
    parents, whatever a pair says."""
    own = [k for k in range(len(odds_NN)) if k not in merges]
    told = []
    for i in own:
        odds = odds_NN[i, [j for j in own if j != i]]
        if odds.size and odds.min() >= AGAINST and float(np.median(odds)) >= least:
            told.append((before_most(odds_NN[:, own], i), i))
    return max(told)[1] if told else None


def _groups(parent: int, children: list[int], ways: Ways) -> list[list[int]]:
    """Children by the hidden ancestor that they have in common; most stand alone."""
    # A child without a way of its own has none in common with anybody.
    out = [[j] for j in children if ways.reshaped(parent, j)]
    left = [j for j in children if [j] not in out]
    while left:
        group = _one_way(parent, left, ways) or _near(parent, left, ways)
        out.append(group)
        left = [j for j in left if j not in group]
    return out


def _near(parent: int, children: list[int], ways: Ways) -> list[int]:
    """The first of the children, with those that share most of its way."""
    group = [children[0]]
    for j in children[1:]:
        if all(_have_common(parent, j, k, ways) for k in group):
            group.append(j)
    return group


def _have_common(parent: int, j: int, k: int, ways: Ways) -> bool:
    """Whether two children have an ancestor that is not among the models."""
    if ways.handed(parent, j, k).shares:
        return True
    if _never_met(parent, j, k, ways):
        return False
    bulk = ways.in_the_bulk(parent, j, k)
    if bulk is None or bulk.part < LEAST_BULK:
        return common(parent, j, k, ways) >= IN_COMMON
    if _is_text(parent, j, k, ways):
        return False
    table = ways.in_the_table(parent, j, k)
    if table is not None and bulk.cosine >= max(WITH_TABLE, table - BELOW_TABLE):
        return True
    more = bulk.both > MOST_IN_COMMON * min(bulk.one, bulk.two)
    return not more and (common(parent, j, k, ways) >= IN_COMMON or bulk.cosine >= IN_BULK)


def _never_met(parent: int, j: int, k: int, ways: Ways) -> bool:
    """Whether rows that no step touched show that no training of the one is in the other."""
    marks = ways.marks(parent, j, k)
    return marks is not None and marks.apart


def _is_text(parent: int, j: int, k: int, ways: Ways) -> bool:
    """Whether what two models have in common is in the input table more than in the bulk, as what like texts teach."""
    bulk, table = ways.in_the_bulk(parent, j, k), ways.in_the_table(parent, j, k)
    if bulk is None or table is None or not bulk.part >= LEAST_BULK or bulk.cosine >= IN_BULK:
        return False
    return bulk.cosine < table - BELOW_TABLE


def _one_way(parent: int, children: list[int], ways: Ways) -> list[int]:
    """Three or more children that share one and the same way, grown from the pair with the largest cosine."""
    pairs = [(common(parent, j, k, ways), j, k) for j in children for k in children if j < k]
    best: list[int] = []
    for _, j, k in sorted(pairs, reverse=True)[: len(children)]:
        group = [j, k]
        for x in sorted((x for x in children if x not in group), key=lambda x: -common(parent, j, x, ways)):
            if _is_one_way(parent, [*group, x], ways):
                group.append(x)
        if len(group) > max(2, len(best)):
            best = group
    return sorted(best)


def _is_one_way(parent: int, group: list[int], ways: Ways) -> bool:
    pairs = [(j, k) for j in group for k in group if j < k]
    if any(_never_met(parent, j, k, ways) or _is_text(parent, j, k, ways) for j, k in pairs):
        return False
    cosines = np.array([common(parent, j, k, ways) for j, k in pairs])
    lengths = np.array([(ways.length(parent, j) * ways.length(parent, k)) ** 0.5 for j, k in pairs])
    shared = cosines * lengths
    if cosines.mean() < MEAN or shared.mean() <= 0:
        return False
    uneven = float(shared.std() / shared.mean())
    return uneven <= ALIKE and uneven <= EVENER * float(cosines.std() / cosines.mean())


def _hang(tree: Rooted, placed: Placed, parent: int, ways: Ways, known: set[int]) -> None:
    """Children below their parent; those that share most of their way, below a hidden vertex between."""
    n, everyone = len(ways), placed.children(parent)
    tree.edges += [(parent, j, ways.length(parent, j)) for j in everyone if j in known]
    children = [j for j in everyone if j not in known]
    for group in _groups(parent, children, ways):
        if len(group) == 1:
            tree.edges.append((parent, group[0], ways.length(parent, group[0])))
            continue
        pairs = [(j, k) for j in group for k in group if j < k]
        mean = sum((ways.length(parent, j) + ways.length(parent, k) - ways.length(j, k)) / 2 for j, k in pairs) / len(
            pairs
        )
        shared = min(mean, *(ways.length(parent, j) for j in group))
        nearest = min(group, key=lambda j: ways.length(parent, j))
        is_apart = any(ways.handed(parent, nearest, j).excludes for j in group if j != nearest)
        if not is_apart and ways.length(parent, nearest) - shared <= AT_POINT * shared:
            tree.edges.append((parent, nearest, ways.length(parent, nearest)))
            tree.edges += [(nearest, j, ways.length(nearest, j)) for j in group if j != nearest]
            continue
        hidden = n + tree.hidden
        tree.hidden += 1
        tree.edges.append((parent, hidden, shared))
        tree.edges += [(hidden, j, ways.length(parent, j) - shared) for j in group]
