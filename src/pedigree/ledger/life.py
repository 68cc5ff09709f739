"""The life of an artifact in ten lines: parents, operators, data, tokens, compute, people, gaps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pedigree.ledger.credits import credits_of
from pedigree.ledger.edges import name_of
from pedigree.ledger.entry import Entry
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.verdict import Edge, EdgeVerdict, Problem, worst
from pedigree.ledger.verification import Verification


@dataclass
class Life:
    """What a ledger knows of an artifact.

    `tokens` and `operations` are sums over every training in its life, as declared; None where none was recorded.
    `audited` is what the newest signed audit found of each of its edges.
    """

    artifact: str
    name: str
    verdict: EdgeVerdict
    edges: list[Edge] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    tokens: int | None = None
    operations: float | None = None
    people: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    audited: list[str] = field(default_factory=list)
    first: str = ""
    last: str = ""
    entries: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "artifact": "sha256:" + self.artifact, "name": self.name, "verdict": self.verdict,
            "edges": [edge.to_dict() for edge in self.edges], "data": self.data, "tokens": self.tokens,
            "floating_point_operations": self.operations, "people": self.people, "code": self.code, "gaps": self.gaps,
            "audited": self.audited,
            "first": self.first, "last": self.last, "entries": self.entries,
        }  # fmt: skip


def life_of(report: Verification, digest: str, files: Sequence[Problem] = ()) -> Life:
    """The life of an artifact.

    Args:
        report: a verification that has its entries.
        digest: 64 digits of its id.
        files: what its files on disk say against it.
    """
    graph = Lineage.of_entries(report.entries)
    wanted = set(graph.closure(digest))
    entries = [entry for entry in report.entries if entry.index in wanted]
    edges = [edge for edge in report.edges if edge.entry in wanted]
    problems = [*files, *(item for item in report.problems if item.entry is None or item.entry in wanted)]
    verdict = worst([*(edge.verdict for edge in edges), *(item.verdict for item in problems)]) or "UNKNOWN"
    made = [entry for entry in entries if digest in entry.leaf.subjects]
    life = Life(digest, name_of(made[-1]) if made else "", verdict, edges, entries=len(entries))
    if entries:
        life.first, life.last = entries[0].leaf.time, entries[-1].leaf.time
    parents = [parent for entry in entries if entry.said for parent in entry.said.parents]
    life.data = _unique(parent.name or parent.digest[:12] for parent in parents if parent.role == "dataset")
    life.code = _unique(parent.name for parent in parents if parent.role == "code")
    life.tokens, life.operations = _sums(entries)
    life.people = [credit.person for credit in credits_of(entries)]
    life.gaps = _unique([*_gaps(edges), *(item.sentence for item in problems)])
    life.audited = _audited(report.entries, edges)
    if not made:
        life.gaps.insert(0, "no entry of the ledger makes this artifact")
    return life


def _gaps(edges: Iterable[Edge]) -> list[str]:
    return [f"{edge.child_name or edge.child[:12]}: {edge.why}" for edge in edges if edge.verdict == "UNKNOWN"]


def _audited(entries: Iterable[Entry], edges: Iterable[Edge]) -> list[str]:
    """A sentence for the newest finding of an audit on each edge, the last edge first."""
    found: dict[tuple[str, str], str] = {}
    for entry in entries:
        facts = entry.facts
        if entry.leaf.kind == "forensic" and entry.said is not None and facts.get("audit"):
            lies = facts.get("lies")
            named = f" ({', '.join(str(lie) for lie in lies)})" if isinstance(lies, list) and lies else ""
            word = f"{facts.get('verdict')}{named} in entry {entry.index}"
            found[str(facts.get("child")), str(facts.get("parent"))] = f"{facts.get('name') or 'unnamed'} {word}"
    mine = dict.fromkeys((edge.child, edge.parent) for edge in edges)
    return [found[key] for key in reversed(mine) if key in found]


def _sums(entries: Iterable[Entry]) -> tuple[int | None, float | None]:
    """Tokens and operations over all training, each result counted once."""
    tokens, operations = None, None
    for entry in entries:
        parameters = entry.facts.get("parameters") if entry.leaf.kind == "derive" else None
        if isinstance(parameters, Mapping):
            tokens = _plus(tokens, parameters.get("tokens"))
            operations = _plus(operations, parameters.get("floating_point_operations"))
    return None if tokens is None else int(tokens), operations


def _plus(total: float | None, text: Any) -> float | None:
    try:
        return (total or 0) + float(text)
    except (TypeError, ValueError):
        return total


def _unique(words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word]
