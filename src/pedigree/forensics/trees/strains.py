"""Which models are of one family, and which are hybrids: merges of strangers, and what descends from such merges.

Two models that are both related to a third one and unrelated to each other are strangers with a hybrid between them.
Hybrids are taken out until no two strangers have one in common; what is left falls into families. Whether two models
are strangers is a verdict, and a verdict can miss a relation: so strangers have to be at right angles, too. The squared
cosines of any third model with two models at right angles sum to one at the most.

A group that is strange to no family, but was only not found to be of one, belongs to the hybrids it is related to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pedigree.forensics.trees.kinship import Kinship

Pairs = Mapping[tuple[int, int], Kinship]

RIGHT_ANGLE = 1.1
"""Sum of squared cosines with a third model above which two are not at right angles."""

WHOLE = 0.9
"""Share of the numbers that match at the most, from which a cosine is one of whole models."""

STRANGE = 0.5
"""Share of pairs between two groups that are unrelated, from which the groups are strangers."""


@dataclass
class Strains:
    """Families and hybrids, by the numbers of models.

    Attributes:
        families: groups of relatives, each in order.
        hybrids: groups of hybrids that are related to each other.
    """

    families: list[list[int]] = field(default_factory=list)
    hybrids: list[list[int]] = field(default_factory=list)


def kinship(pairs: Pairs, i: int, j: int) -> Kinship:
    """Kinship of i and j, in that order."""
    return pairs[i, j] if i < j else pairs[j, i].turned()


def split(n: int, pairs: Pairs) -> Strains:
    """Families and hybrids of n models."""
    hybrids = find_hybrids(n, pairs)
    while more := {k for k in range(n) if k not in hybrids and _is_hidden(k, n, hybrids, pairs)}:
        hybrids |= more
    while True:
        families = groups([k for k in range(n) if k not in hybrids], pairs)
        families, loose = _loose(families, hybrids, pairs)
        back = {x for x in hybrids if sum(_touches(x, members, pairs) for members in families) < 2}
        alone = back - {x for x in back if any(kinship(pairs, x, y).related for y in (hybrids - back) | loose)}
        if not alone:
            break
        hybrids -= alone
    together = groups(sorted(hybrids | loose), pairs)
    return Strains(families, together)


def _is_hidden(k: int, n: int, hybrids: set[int], pairs: Pairs) -> bool:
    """Whether a model is a hybrid whose relation to one of its families does not show through a disguise: it has the
    weights of one, or is nearer to one than to any other model that may have come before it, and strange to the other
    family by too little to be called so."""
    mine = [x for x in hybrids if kinship(pairs, x, k).related]
    near = [kinship(pairs, x, k) for x in mine]
    if any(pair.is_same for pair in near):
        return True
    pure = [j for j in range(n) if j != k and j not in hybrids]
    above = [pair for j in pure if (pair := kinship(pairs, j, k)).related and pair.log_odds > 0]
    if not near or not above or _nearest(near) <= _nearest(above):
        return False
    kin = {j for j in pure if kinship(pairs, j, k).related}
    other = [j for j in pure if j not in kin and any(kinship(pairs, x, j).related for x in mine)]
    return 2 * sum(kinship(pairs, j, k).is_untold for j in other) > len(other)


def _nearest(to: Sequence[Kinship]) -> float:
    return max((pair.cosine for pair in to if pair.cosine is not None), default=-1.0)


def _touches(x: int, members: Sequence[int], pairs: Pairs) -> bool:
    return any(kinship(pairs, x, k).related for k in members)


def _loose(families: list[list[int]], hybrids: set[int], pairs: Pairs) -> tuple[list[list[int]], set[int]]:
    """Families that are strange to another one, or related to no hybrid; and the models of all others."""
    kept, loose = [], set()
    for members in families:
        others = [other for other in families if other is not members]
        strange = any(_are_strange(members, other, pairs) for other in others)
        bound = any(_touches(x, members, pairs) for x in hybrids)
        if strange or not bound or not others:
            kept.append(members)
        else:
            loose |= set(members)
    return kept, loose


def _are_strange(one: Sequence[int], two: Sequence[int], pairs: Pairs) -> bool:
    apart = sum(kinship(pairs, i, j).verdict == "unrelated" for i in one for j in two)
    return apart > STRANGE * len(one) * len(two)


def find_hybrids(n: int, pairs: Pairs) -> set[int]:
    """Models with strangers among their relatives, those with most of them first."""
    most = max((pair.matched for pair in pairs.values()), default=0)
    found: set[int] = set()
    while True:
        counts = {}
        for x in range(n):
            if x in found:
                continue
            near = [k for k in range(n) if k != x and k not in found and kinship(pairs, x, k).related]
            apart = sum(_are_apart(x, y, z, pairs, most) for y in near for z in near if y < z)
            if apart:
                counts[x] = apart
        if not counts:
            return found
        found.add(max(counts, key=lambda x: (counts[x], -x)))


def _are_apart(x: int, y: int, z: int, pairs: Pairs, most: int) -> bool:
    """Whether y and z are strangers, as far as the third model knows."""
    if kinship(pairs, y, z).verdict != "unrelated":
        return False
    both = [kinship(pairs, x, y), kinship(pairs, x, z)]
    if any(pair.matched < WHOLE * most for pair in both):
        return True
    cosines = [pair.cosine for pair in both]
    return sum(c * c for c in cosines if c is not None) <= RIGHT_ANGLE


def groups(members: Sequence[int], pairs: Pairs) -> list[list[int]]:
    """Models with any relation between them, directly or over others."""
    found: list[list[int]] = []
    for k in members:
        mine = [f for f in found if any(kinship(pairs, k, other).related for other in f)]
        found = [f for f in found if f not in mine] + [sorted([k, *(m for f in mine for m in f)])]
    return sorted(found)
