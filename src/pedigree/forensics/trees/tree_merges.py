"""Merges in a family tree: models between others, the merges of strangers that came first, their parents and weights.

Shapes  N = models, T = triples of models.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pedigree.errors import PedigreeError
from pedigree.forensics.merges.decomposition import Decomposition
from pedigree.forensics.merges.unmerge import CHANGED, unmerge
from pedigree.forensics.trees.strains import WHOLE, Pairs, kinship
from pedigree.forensics.trees.tree_odds import before_most
from pedigree.forensics.trees.ways import Ways

Floats = npt.NDArray[np.float64]

STRAIGHT = 0.05
"""Branch ratio (see `mixture`) below which a model lies between two others rather than on a branch of a tree."""

EXACT = 0.02
"""The same below which nothing but an average of the two explains it: training leaves the line."""

LEAST_WEIGHT = 0.1
"""Weight of a source below which a model is not said to lie between it and another."""

TRIANGLE = 0.95
"""Squared way over a third model, against the direct one, below which three distances do not belong together."""


LEFT_OF_NEAREST, LEAST_PART, MOST_ASKED = 0.8, 0.2, 3
"""A model is taken apart number by number beside three others where a mixture of these leaves at most the first part of
the way to the nearest one, at weights of two of them of the second part at least; that many triples are tried."""


NOTHING_LEFT = 0.9999
"""Part of the squared way from the nearest source that a mixture explains, on rows that took no part in the fit, from
which the sources are the parents themselves: one of them rounded to eight bits in its place leaves more than 0.001, and
angles that a merge took in single precision cost more than storing it does."""


@dataclass(frozen=True)
class Merge:
    """A model between others.

    Attributes:
        sources: two, or more where it was taken apart number by number.
        ratio: what is left of the way to the line between two, over what descent would leave.
        weights: of the sources, by where the model lies between them.
        told: whether the weights are those of its numbers, to the last digit.
    """

    sources: tuple[int, ...]
    ratio: float
    weights: tuple[float, ...]
    told: bool = False


def find_merges(ways: Ways) -> dict[int, Merge]:
    """Models that lie between two others in a straight line; what a merge inside a family looks like.

    A tree has no place for them, and would turn them into ancestors of what they were merged from. The straightest is
    taken out first: of three models in one line only the middle one is a merge, and with that out no model is taken for
    a merge of it.
    """
    found: dict[int, Merge] = {}
    while True:
        best: tuple[int, Merge] | None = None
        for x in range(len(ways)):
            others = [k for k in range(len(ways)) if k != x and k not in found]
            if x in found or len(others) < 2:
                continue
            merge = min((_between(ways, x, *pair) for pair in itertools.combinations(others, 2)), key=lambda m: m.ratio)
            if merge.ratio < STRAIGHT and (best is None or merge.ratio < best[1].ratio):
                best = (x, merge)
        if best is None:
            return found
        found[best[0]] = best[1]


def _between(ways: Ways, x: int, y: int, z: int) -> Merge:
    """How straight x lies between y and z: what is left of the way to their line, over what descent would leave;
    infinite beside it."""
    d = ways.between(x, y, z)
    apart = max(float(d[1, 2]), 1e-300)
    weight = float(d[0, 1] - d[0, 2] + apart) / (2 * apart)  # of the second
    # Distances of pairs may break the rule of the triangle; where they do, nothing is in between.
    fits = (d[0, 1] ** 0.5 + d[0, 2] ** 0.5) ** 2 >= TRIANGLE * apart
    far = min(d[0, 1], d[0, 2]) >= LEAST_WEIGHT**2 * apart
    ratio = math.inf
    if LEAST_WEIGHT <= weight <= 1 - LEAST_WEIGHT and fits and far:
        ratio = max(0.0, float(d[0, 1] - weight**2 * apart)) / (weight * (1 - weight) * apart)
    return Merge((y, z), ratio, (1 - weight, weight))


@dataclass(frozen=True)
class Mixed:
    """A model as a mixture of others, number by number.

    Attributes:
        weights: of each, zero of those that took no part.
        exact: whether rounding explains the rest, or next to nothing is left.
    """

    weights: tuple[float, ...]
    exact: bool


class Weigh(Protocol):
    """(merge, candidates, the model that their changes are counted from) -> what it is made of; None where they do not
    explain it number by number."""

    def __call__(self, child: int, sources: Sequence[int], base: int | None = None) -> Mixed | None:
        """See the class."""


def unmerged(names: Sequence[str], *, allow_pickle: bool = False) -> Weigh:
    """Weights as `unmerge` finds them, of models by their places."""

    def weigh(child: int, sources: Sequence[int], base: int | None = None) -> Mixed | None:
        over = None if base is None else names[base]
        try:
            places = [names[s] for s in sources]
            found, _, _ = unmerge(names[child], places, base=over, allow_pickle=allow_pickle, in_place=True)
        except PedigreeError:
            return None
        weights = tuple(source.weight for source in found.sources[: len(sources)])
        return Mixed(weights, _is_whole(found)) if found.verdict == "merge" else None

    return weigh


def find_joint_merges(ways: Ways, odds_NN: Floats, known: Collection[int], weigh: Weigh) -> dict[int, Merge]:
    """Models made of two or more others that do not lie on a line between two: sums of changes (task arithmetic), sums
    of a part of them (TIES, DARE), averages of three.

    Distances name candidates and decide nothing, since a model lies near to a mixture of its own children, too; what
    decides is that every number is explained, to the last digit (`unmerge`).

    Args:
        ways: of the family.
        odds_NN: log-odds that the first came before the second.
        known: merges that are known.
        weigh: takes a model apart.
    """
    found: dict[int, Merge] = {}
    for x in range(len(ways)):
        alike = [k for k in range(len(ways)) if k != x and k not in known and ways.shapes[k] == ways.shapes[x]]
        for triple in _triples_around(ways, x, alike) if x not in known else ():
            merge = _taken_apart(x, triple, odds_NN, weigh)
            if merge is not None:
                found[x] = merge
                break
    return found


def _taken_apart(x: int, triple: Sequence[int], odds_NN: Floats, weigh: Weigh) -> Merge | None:
    """A model as a merge of some of three others: of all of them (mixtures on a sphere, too), or of the changes of two
    since the third, if that came before both."""
    first = max(triple, key=lambda k: min(odds_NN[k, i] for i in triple if i != k))
    rest = [i for i in triple if i != first]
    asked: list[tuple[list[int], int | None]] = [(list(triple), None)]
    if min(odds_NN[first, i] for i in rest) > 0:
        asked.append((rest, first))
    for sources, over in asked:
        mixed = weigh(x, sources, over)
        if mixed is not None and mixed.exact and sum(weight > 0 for weight in mixed.weights) > 1:
            taken = [(s, w) for s, w in zip(sources, mixed.weights, strict=True) if w > 0]
            return Merge(tuple(s for s, _ in taken), 0.0, tuple(w for _, w in taken), told=True)
    return None


def _triples_around(ways: Ways, x: int, others: Sequence[int]) -> list[tuple[int, ...]]:
    """Triples of which a mixture lies nearer to x than any of them, the nearest mixture first."""
    d = ways.between(x, *others)
    near = np.array([k for k in range(1, len(d)) if d[0, k] > 0], dtype=np.int64)
    if len(near) < 3:
        return []
    gram = (d[0][:, None] + d[0][None, :] - d) / 2  # inner products of the ways from x
    at_T3 = np.array(list(itertools.combinations(near, 3)))
    gram_T33 = gram[at_T3[:, :, None], at_T3[:, None, :]]
    touch_T11 = (1e-9 * np.trace(gram_T33, axis1=1, axis2=2) + 1e-300)[:, None, None]
    solved_T3 = np.linalg.solve(gram_T33 + touch_T11 * np.eye(3), np.ones((len(at_T3), 3, 1)))[:, :, 0]
    total_T = solved_T3.sum(1)
    weights_T3, left_T = solved_T3 / total_T[:, None], 1.0 / total_T
    good_T = (left_T <= LEFT_OF_NEAREST * d[0, near].min()) & ((weights_T3 >= LEAST_PART).sum(1) > 1)
    best = [int(t) for t in np.argsort(left_T, kind="stable") if good_T[t]]
    return [tuple(others[k - 1] for k in at_T3[t]) for t in best[:MOST_ASKED]]


def _is_whole(found: Decomposition) -> bool:
    """Whether the sources are all that a merge was made of, and nothing came after it. Of masked changes most numbers
    are explained one by one, which strangers to them explain none of; the others lie between two values."""
    told = found.explained
    if told.exact or (told.over_best_source or 0.0) >= NOTHING_LEFT:
        return True
    return told.numbers_explained is not None and not any(words.startswith(CHANGED) for words in found.reasons)


def nearest_first(ways: Ways, x: int, merge: Merge) -> tuple[int, ...]:
    """The sources of a merge, the nearest one first."""
    return tuple(sorted(merge.sources, key=lambda s: ways.length(s, x)))


def first_hand(
    heads: Sequence[int], pure: Sequence[int], ways: Ways, odds: Floats, pairs: Pairs, exact: Sequence[int] = ()
) -> list[int]:
    """Which hybrids are merges themselves: those that models of the families explain number by number; else the one
    that came first; and those nearer to a model of a family than to any other hybrid that came before them.

    Args:
        heads: the hybrids.
        pure: models of the families.
        ways, odds: of the hybrids.
        pairs: of every two models.
        exact: hybrids that are explained so, by their places.
    """
    first = max(exact or range(len(heads)), key=lambda x: (before_most(odds, x), -x))
    found = sorted({first, *exact})
    for x in range(len(heads)):
        if x in found:
            continue
        there = [pair.cosine for k in pure if (pair := kinship(pairs, k, heads[x])).related]
        here = [kinship(pairs, heads[y], heads[x]).cosine for y in range(len(heads)) if y != x and odds[y, x] > 0]
        here.append(kinship(pairs, heads[first], heads[x]).cosine)
        if there and max((c for c in there if c is not None), default=-1.0) > max(
            (c for c in here if c is not None), default=-1.0
        ):
            found.append(x)
    return found


CANDIDATES = 4
"""Models of a family that are tried as a parent of a merge of strangers."""


def parents_of_hybrid(
    child: int, near: Sequence[Sequence[int]], pairs: Pairs, weigh: Weigh | None
) -> list[tuple[int, float | None, bool]]:
    """The parent of a merge of strangers in each family, its weight, and whether it is surely the parent.

    Where one model of each family explains the merge to the last digits those are the parents. Otherwise the likest
    ones are named; the parents may be relatives of theirs that are not among the models.

    Args:
        child: the merge.
        near: its relatives in each family.
        pairs: of every two models.
        weigh: takes mixtures apart; without it the likest ones count as sure.
    """
    ranked = [likest_first(ones, child, pairs)[:CANDIDATES] for ones in near]
    if weigh is None:
        return [(ones[0], None, True) for ones in ranked]
    all_of_them = [k for ones in ranked for k in ones]
    mixed = weigh(child, all_of_them)
    if mixed is not None and mixed.exact:
        part = {k: weight for k, weight in zip(all_of_them, mixed.weights, strict=True) if weight > 0}
        chosen = [[k for k in ones if k in part] for ones in ranked]
        if all(len(ones) == 1 for ones in chosen):
            return [(k, part[k], True) for (k,) in chosen]
    firsts = [ones[0] for ones in ranked]
    mixed = weigh(child, firsts)
    if mixed is None or min(mixed.weights) <= 0:
        return [(k, None, False) for k in firsts]
    return [(k, weight, mixed.exact) for k, weight in zip(firsts, mixed.weights, strict=True)]


def likest_first(near: Sequence[int], child: int, pairs: Pairs) -> list[int]:
    """The parent of a merge among relatives of one family, then others: a merge has the largest cosine with what went
    into it.

    Of those of its shape, which it has from both, the ones that match most widely come before others, of which only the
    parts that are nearest match.
    """
    there = [k for k in near if (pair := kinship(pairs, k, child)).shapes[0] == pair.shapes[1]] or list(near)
    most = max(kinship(pairs, k, child).matched for k in there)
    least = WHOLE * most
    both = {k: kinship(pairs, k, child) for k in there}
    return sorted(there, key=lambda k: (both[k].matched < least, -(both[k].cosine or -1.0), k))
