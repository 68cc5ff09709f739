"""The claims of ancestry in a ledger, and what each is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from pedigree.ledger.entry import Entry
from pedigree.ledger.key_ring import KeyRing
from pedigree.ledger.statement import MAKING, MATERIALS, Parent
from pedigree.ledger.verdict import Edge, EdgeVerdict, Problem, worst

_FINDINGS = ("REPLAYED", "CORROBORATED", "CONTRADICTED")


def edges_of(
    entries: Sequence[Entry], problems: Iterable[Problem], ring: KeyRing, anchors: Sequence[int]
) -> list[Edge]:
    """One edge for each parent of each artifact, in the order of the log.

    Args:
        entries: all of them, in order.
        problems: what the checks of entries found.
        ring: the keys.
        anchors: sizes of the checkpoints held outside that are good.
    """
    spoiled: dict[int, Problem] = {}
    for problem in problems:
        if problem.entry is not None and problem.verdict not in ("VERIFIED", "STALE"):
            known = spoiled.get(problem.entry)
            if known is None or worst([known.verdict, problem.verdict]) == problem.verdict:
                spoiled[problem.entry] = problem
    names: dict[str, str] = {}
    registered: dict[str, int] = {}
    for entry in entries:
        if entry.leaf.kind in MAKING and entry.leaf.subjects:
            for digest in entry.leaf.subjects:
                registered.setdefault(digest, entry.index)
            names.setdefault(entry.leaf.subjects[0], name_of(entry))
    findings = _findings(entries, spoiled)
    found = []
    for entry in entries:
        if entry.leaf.kind not in ("derive", "artifact.import") or not entry.leaf.subjects:
            continue
        child = entry.leaf.subjects[0]
        operation = entry.said.operation if entry.said and entry.said.operation else entry.leaf.kind
        base = _worth(entry, spoiled, ring, anchors)
        for parent in _weights(entry):
            verdict, why = base
            name = parent.name or names.get(parent.digest, "")
            if verdict in ("VERIFIED", "DECLARED"):
                if entry.leaf.kind == "artifact.import":
                    verdict, why = "UNKNOWN", "came from elsewhere: unverified origin"
                elif parent.digest and registered.get(parent.digest, entry.index) >= entry.index:
                    verdict, why = "UNKNOWN", "the parent was never registered before it"
                elif (child, parent.digest) in findings:
                    verdict, why = findings[child, parent.digest]
            found.append(
                Edge(
                    child, names.get(child, ""), parent.digest, name, parent.role, operation, entry.index, verdict, why
                )
            )
    return found


def name_of(entry: Entry) -> str:
    """What an artifact was called where it was recorded; a hint."""
    if entry.said is None:
        return ""
    name = entry.said.facts.get("name")
    return str(name) if name else ""


def _weights(entry: Entry) -> list[Parent]:
    """The parents of an artifact that are weights; one that says where it came from where there is none."""
    if entry.said is None:
        return [Parent(digest, "", "") for digest in entry.leaf.parents] or [Parent("", "", "")]
    weights = [parent for parent in entry.said.parents if parent.role not in MATERIALS]
    if weights:
        return weights
    if entry.leaf.kind == "artifact.import":
        return [Parent("", "origin", str(entry.said.facts.get("origin") or "not told"))]
    return [Parent("", "start", "texts" if (entry.said.operation or "").startswith("tokenizer") else "random weights")]


def _worth(entry: Entry, spoiled: dict[int, Problem], ring: KeyRing, anchors: Sequence[int]) -> tuple[EdgeVerdict, str]:
    """What stands behind an entry itself."""
    if entry.index in spoiled:
        return spoiled[entry.index].verdict, spoiled[entry.index].sentence
    if entry.said is None:
        return "UNKNOWN", "what it said is gone"
    life = ring.life(entry.leaf.key)
    if life is not None and life.last_trusted is not None:
        limit = life.revoked_at or 0
        if not any(entry.index < size <= limit for size in anchors):
            return "SUSPECT", "its key was revoked later, and no checkpoint from outside shows it stood there before"
    if any(entry.index < size for size in anchors):
        return "VERIFIED", "signed, in the tree, and under a checkpoint held outside"
    return "DECLARED", "signed and in the tree; no checkpoint held outside covers it"


def _findings(entries: Sequence[Entry], spoiled: dict[int, Problem]) -> dict[tuple[str, str], tuple[EdgeVerdict, str]]:
    """What signed comparisons and replays in the ledger say about edges; the newest counts."""
    found: dict[tuple[str, str], tuple[EdgeVerdict, str]] = {}
    for entry in entries:
        if entry.leaf.kind not in ("forensic", "replay") or entry.said is None or entry.index in spoiled:
            continue
        facts = entry.said.facts
        if facts.get("verdict") in _FINDINGS:
            why = f"entry {entry.index}: {facts.get('why', entry.leaf.kind)}"
            found[str(facts.get("child")), str(facts.get("parent"))] = cast(EdgeVerdict, facts["verdict"]), why
    return found
