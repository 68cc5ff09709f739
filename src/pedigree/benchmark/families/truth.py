"""What is known of two models, beyond relation and layer map: experts, merge weights, what was done.

Lineages and relation words are those of `pedigree.benchmark.zoo.truth`; everything here follows from the tables too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pedigree.benchmark.families.members import Member, recipes
from pedigree.benchmark.zoo.truth import Pair, Registry


@dataclass(frozen=True)
class Known:
    """The truth about two models, B seen from A.

    Args:
        pair: relation, layer map, direction and history.
        row: row of the leaderboard.
        distance: training since the derivation, in units of the root's own.
        experts: "copies" or "slices" where every expert of B comes from the layer of A that the map gives.
        weights: parent -> weight in B, where B is a merge that was not trained afterwards.
        says: transformations of which one should be named.
        families: of A and B; equal or joined by a donor where they are related.
    """

    pair: Pair
    row: str
    distance: float
    experts: str = ""
    weights: Mapping[str, float] | None = None
    says: tuple[str, ...] = ()
    families: tuple[str, str] = ("", "")

    @property
    def is_relative(self) -> bool:
        """Whether trained weights are shared, wholly or in part."""
        return self.pair.relation in ("identical", "related", "partly-related")

    @property
    def is_stranger(self) -> bool:
        """Whether nothing is shared, the random start included."""
        return self.pair.relation == "unrelated"


class TruthBook:
    """The truth about every pair of a list of members."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = {member.name: member for member in members}
        self.registry = Registry(recipes(members))

    def known(self, a: str, b: str) -> Known:
        """The truth about two members, in this order."""
        one, two = self.members[a], self.members[b]
        pair = self.registry.pair(a, b)
        families = (one.family.name, two.family.name)
        if pair.relation == "unrelated":
            row = "student of a teacher" if "student" in (one.row, two.row) else "strangers"
            return Known(pair, row, max(one.distance, two.distance), families=families)
        if pair.relation == "shared-initialization":
            return Known(pair, "twins of one start", 0.0, families=families)
        child = two if a in self.registry.ancestors(b) else one
        if child.rung is None or not ({a, b} & self._roots_of(child)):
            return Known(pair, "siblings", max(one.distance, two.distance), families=families)
        rung = child.rung
        weights = None
        if rung.weights and child.distance == 0.0:
            weights = dict(zip(child.recipe.parents, rung.weights, strict=True))
        experts = rung.experts if child is two else ""
        return Known(pair, child.row, child.distance, experts, weights, rung.says, families)

    def _roots_of(self, child: Member) -> set[str]:
        """The root of the family and, for merges, the donor's."""
        return {child.family.name, child.family.donor or child.family.name}

    def joined(self, a: str, b: str) -> bool:
        """Whether weights of one family may lie in the other: nothing about strangers is asked of such pairs."""
        return self.registry.pair(a, b).relation != "unrelated"


def parents_of(book: TruthBook, name: str) -> tuple[str, ...]:
    """Named members a model was made from, unnamed steps skipped."""
    found: list[str] = []
    for parent in book.members[name].recipe.parents:
        found += parents_of(book, parent) if book.members[parent].step else [parent]
    return tuple(dict.fromkeys(found))
