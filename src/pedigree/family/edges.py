"""Which pairs of a family are compared, and how a verdict stands to what was done and to what is said.

Pairs: every parent with its child, every claimed parent with its child, the pairs that the recipe names, and, where it
asks, all models that were trained from random weights, which must be strangers to each other.

Nothing of the recipe reaches the comparison: it gets two folders of weights. What it says is held against the recipe
here, afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from pedigree.records.comparison import Comparison, Verdict
from pedigree.records.family_run import EdgeResult, Finding, Standing

SHARED: frozenset[Verdict] = frozenset({"identical", "related", "partly-related"})


@dataclass(frozen=True)
class Pair:
    """Two members to compare: the one that is, or would be, older, the other, and why."""

    a: str
    b: str
    standing: tuple[Standing, ...]
    kin: bool


@dataclass(frozen=True)
class Lineage:
    """What was done: parents of each member by name, in the order in which members are made.

    `claims` is what members are said to descend from; empty for those said to be trained from scratch.
    """

    parents: Mapping[str, Sequence[str]]
    claims: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def ancestors(self, name: str) -> set[str]:
        """The member, and everything that it was made from."""
        found, waiting = set(), [name]
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                waiting += self.parents.get(one, ())
        return found

    def kin(self, a: str, b: str) -> bool:
        """Whether two members have an ancestor in common, each counting as its own."""
        return not self.ancestors(a).isdisjoint(self.ancestors(b))

    def roots(self) -> list[str]:
        """Members without parents."""
        return [name for name, parents in self.parents.items() if not parents]


def pairs_of(lineage: Lineage, named: Sequence[tuple[str, str]], *, roots: bool) -> list[Pair]:
    """The pairs to compare, each once, in the order of the members."""
    why: dict[tuple[str, str], list[Standing]] = {}

    def add(a: str, b: str, standing: Standing) -> None:
        key = (b, a) if (b, a) in why else (a, b)
        if standing not in why.setdefault(key, []):
            why[key].append(standing)

    for name, parents in lineage.parents.items():
        for parent in parents:
            add(parent, name, "made")
        for parent in lineage.claims.get(name, ()):
            add(parent, name, "claimed")
    for a, b in named:
        add(a, b, "checked")
    for a, b in combinations(lineage.roots(), 2) if roots else ():
        add(a, b, "checked")
    return [Pair(a, b, tuple(standing), lineage.kin(a, b)) for (a, b), standing in why.items()]


def edge_of(pair: Pair, comparison: Comparison, seconds: float, report: str | None) -> EdgeResult:
    """A comparison as an edge of the family."""
    result = comparison.result
    return EdgeResult(
        a=pair.a, b=pair.b, standing=list(pair.standing), kin=pair.kin, verdict=result.verdict,
        log10_p=result.log10_p, direction=result.direction.verdict,
        components={name: part.verdict for name, part in result.components.items()},
        layer_map=result.layer_map, transformations=result.transformations,
        finding=_finding(pair, result.verdict), seconds=round(seconds, 1), report=report,
    )  # fmt: skip


def _finding(pair: Pair, verdict: Verdict) -> Finding:
    """A made or claimed edge wants shared ancestry; a checked pair wants what the recipe did."""
    if verdict in ("inconclusive", "not-testable"):
        return "cannot-say"
    wanted = True if {"made", "claimed"} & set(pair.standing) else pair.kin
    return "corroborated" if (verdict in SHARED) == wanted else "contradicted"


def claim_of(name: str, claims: Sequence[str], edges: Sequence[EdgeResult]) -> tuple[Finding, str]:
    """How a claim stands to the weights: the finding, and the reason in one sentence.

    Said to be trained from scratch: contradicted by shared ancestry with any model that was made earlier; a later one
    cannot be its ancestor.
    Said to descend from others: contradicted where one of them shares nothing, or where a model that is not named
    shares ancestry and is no descendant or ancestor of those that are.
    """
    mine = [edge for edge in edges if edge.b == name or (edge.a == name and edge.standing == ["checked"])]
    others = {(edge.a if edge.b == name else edge.b): edge for edge in mine}
    if not others:
        return "cannot-say", "compared with no other model"
    alike = [other for other, edge in others.items() if edge.verdict in SHARED and edge.b == name]
    strangers = [other for other, edge in others.items() if edge.verdict not in SHARED]
    unsure = [other for other, edge in others.items() if edge.finding == "cannot-say"]
    if not claims:
        if alike:
            return "contradicted", f"shares ancestry with {', '.join(alike)}"
        if unsure:
            return "cannot-say", f"the comparison with {', '.join(unsure)} cannot say"
        if not strangers:
            return "cannot-say", "compared with nothing older"
        return "corroborated", f"no relation found to {', '.join(strangers)}"
    missing = [parent for parent in claims if parent in others and others[parent].verdict not in SHARED]
    if missing and not set(missing) & set(unsure):
        more = f"; shares ancestry with {', '.join(alike)}" if alike else ""
        return "contradicted", f"no relation found to {', '.join(missing)}{more}"
    undeclared = [other for other in alike if other not in claims and not _linked(other, claims, edges)]
    if undeclared:
        return "contradicted", f"shares ancestry with {', '.join(undeclared)} too, which is not named"
    if missing:
        return "cannot-say", f"the comparison with {', '.join(missing)} cannot say"
    return "corroborated", f"shares ancestry with {', '.join(parent for parent in claims if parent in others)}"


def _linked(other: str, claims: Sequence[str], edges: Sequence[EdgeResult]) -> bool:
    """Whether the weights tie another model to one of the claimed parents, so that both explain the same kinship: by
    their comparison, or step by step, where one was made from the other and every step is borne out."""
    ends = [{edge.a, edge.b} for edge in edges if edge.verdict in SHARED]
    return any({other, claim} in ends or other in _made_from(claim, edges) for claim in claims)


def _made_from(model: str, edges: Sequence[EdgeResult]) -> set[str]:
    """The models behind one, as far back as the weights bear out every step that was made."""
    steps = [(edge.b, edge.a) for edge in edges if "made" in edge.standing and edge.verdict in SHARED]
    found, todo = set[str](), [model]
    while todo:
        child = todo.pop()
        new = {parent for one, parent in steps if one == child} - found
        found |= new
        todo += new
    return found
