"""What an audit found, signed into the ledger: one event for each edge of it that the weights decided.

`pedigree why` and `pedigree ledger verify` read them as they read a replay. A finding that says the same as the newest
one is not entered again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.ledger.entry import Entry
from pedigree.ledger.people import person_here
from pedigree.ledger.statement import Draft, Parent, Subject
from pedigree.records.audit import Audit, AuditEdge

if TYPE_CHECKING:
    from pedigree.ledger.log import Ledger

KIND = "forensic"


def record_findings(found: Audit, place: str | None) -> int:
    """Sign the findings of an audit into the ledger it was held against; how many were new.

    Args:
        found: the audit.
        place: the ledger, as `LedgerPlace.find` takes it.

    Raises:
        InputError: the ledger cannot be written.
    """
    from pedigree.ledger.log import Ledger, LedgerPlace
    from pedigree.ledger.verification import verify

    ledger = Ledger(LedgerPlace.find(place))
    try:
        newest = _newest(verify(ledger.store).entries)
        drafts = [
            _draft(edge, found, ledger) for edge in found.result.edges
            if edge.source == "ledger" and edge.decided and newest.get(_key(edge)) != (edge.verdict, edge.why)
        ]  # fmt: skip
        if drafts:
            ledger.append_all(drafts)
        return len(drafts)
    finally:
        ledger.close()


def _key(edge: AuditEdge) -> tuple[str, str]:
    return edge.child.removeprefix("sha256:"), edge.parent.removeprefix("sha256:")


def _newest(entries: list[Entry]) -> dict[tuple[str, str], tuple[str, str]]:
    """Verdict and reason of the newest finding on each edge."""
    found = {}
    for entry in entries:
        if entry.leaf.kind == KIND:
            facts = entry.facts
            key = (str(facts.get("child")), str(facts.get("parent")))
            found[key] = (str(facts.get("verdict")), str(facts.get("why")))
    return found


def _draft(edge: AuditEdge, found: Audit, ledger: Ledger) -> Draft:
    child, parent = _key(edge)
    facts: dict[str, Any] = {
        "name": edge.child_name, "child": child, "parent": parent, "verdict": edge.verdict, "why": edge.why,
        "lies": list(edge.lies), "audit": found.content_digest(), "audited_entry": edge.entry,
        "comparison": edge.comparison.content_digest() if edge.comparison else None,
        "actors": [{"id": person_here(ledger.database, Path.cwd()).id, "role": "auditor"}],
    }  # fmt: skip
    parents = (Parent(parent, "audited-parent", edge.parent_name),) if parent else ()
    return Draft(KIND, facts, subjects=(Subject("audited", child),), parents=parents)
