"""Who has a part in an artifact: everybody who acted in any entry behind it.

A release carries the digest of that list. Whoever recomputes it from the ledger sees a name that was dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pedigree.ledger.entry import Entry
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.verdict import Problem
from pedigree.records.canonical import canonical_digest


@dataclass(frozen=True)
class Credit:
    """One contributor: id, roles, and the number of entries behind the artifact in which it acted."""

    person: str
    roles: tuple[str, ...]
    entries: int


def credits_of(entries: Iterable[Entry]) -> list[Credit]:
    """The contributors of some entries, most entries first."""
    roles: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for entry in entries:
        actors = entry.facts.get("actors")
        for actor in actors if isinstance(actors, Sequence) and not isinstance(actors, str) else ():
            if isinstance(actor, Mapping) and actor.get("id"):
                roles[str(actor["id"])].add(str(actor.get("role", "")))
                counts[str(actor["id"])] += 1
    order = sorted(counts, key=lambda person: (-counts[person], person))
    return [Credit(person, tuple(sorted(roles[person])), counts[person]) for person in order]


def credit_root(credits_: Iterable[Credit]) -> str:
    """The digest of who contributed in which role; counts are left out, later entries change them."""
    return canonical_digest(sorted([credit.person, list(credit.roles)] for credit in credits_))


def behind(entries: Sequence[Entry], graph: Lineage, digest: str, before: int | None = None) -> list[Entry]:
    """The entries behind an artifact, up to one of them."""
    wanted = {index for index in graph.closure(digest) if before is None or index < before}
    return [entry for entry in entries if entry.index in wanted]


def release_problems(entries: Sequence[Entry]) -> list[Problem]:
    """Releases that credit others than the entries behind them do."""
    if not any(entry.leaf.kind == "release" for entry in entries):
        return []
    graph, problems = Lineage.of_entries(entries), []
    for entry in entries:
        if entry.leaf.kind != "release" or entry.said is None or not entry.leaf.subjects:
            continue
        found = credits_of(behind(entries, graph, entry.leaf.subjects[0], entry.index))
        if entry.facts.get("credit_root") != credit_root(found):
            told = {str(item) for item in entry.facts.get("credits") or ()}
            missing = [credit.person for credit in found if credit.person not in told]
            sentence = f"release at entry {entry.index}: {len(missing)} of {len(found)} contributors are not credited"
            problems.append(Problem("CONTRADICTED", "credit-dropped", sentence, entry.index))
    return problems
