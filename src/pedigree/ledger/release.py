"""A release: the artifact is credited, entered, and made to carry its proof."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pedigree.ledger.credits import behind, credit_root, credits_of
from pedigree.ledger.directory import Found, file_problems
from pedigree.ledger.edges import name_of
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.log import Ledger
from pedigree.ledger.proof import make_proof
from pedigree.ledger.sidecar import write_sidecar
from pedigree.ledger.statement import MANIFEST, Draft, Subject
from pedigree.ledger.verdict import SAYS_NO, Problem
from pedigree.ledger.verification import verify


@dataclass
class Release:
    """What was released, or why not."""

    artifact: str
    problems: list[Problem] = field(default_factory=list)
    entry: int | None = None
    entries: int = 0
    size: int = 0
    credit_root: str = ""
    unknown: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "artifact": self.artifact, "entry": self.entry, "entries": self.entries, "bytes": self.size,
            "credit_root": self.credit_root, "unknown": self.unknown,
        }  # fmt: skip


def release(ledger: Ledger, found: Found, policy: str = "") -> Release:
    """Enter a release of an artifact, and put its proof into its sidecar.

    Args:
        ledger: where.
        found: the artifact.
        policy: digest of the rules that it was held against, "" where there were none.

    Nothing is written where the files are not registered, or a check of the life of the artifact says no.
    """
    report = verify(ledger.store)
    graph = Lineage.of_entries(report.entries)
    maker = graph.maker(found.digest)
    made = Release(found.artifact.id)
    made.problems = file_problems(found, None, maker is not None)
    life = set(graph.closure(found.digest))
    made.problems += [
        item for item in report.problems if item.verdict in SAYS_NO and (item.entry is None or item.entry in life)
    ]
    if made.problems or maker is None:
        return made
    people = credits_of(behind(report.entries, graph, found.digest))
    made.credit_root = credit_root(people)
    edges = [edge for edge in report.edges if edge.entry in life]
    made.unknown = [f"{edge.child_name}: {edge.why}" for edge in edges if edge.verdict == "UNKNOWN"]
    name = next((name_of(entry) for entry in report.entries if entry.index == maker), "")
    facts = {
        "name": name, "credits": [credit.person for credit in people], "credit_root": made.credit_root,
        "unknown": made.unknown, **({"policy": policy} if policy else {}),
    }  # fmt: skip
    receipt = ledger.append(Draft("release", facts, subjects=(Subject(MANIFEST, found.digest),)))
    proof = make_proof(ledger.store, found.digest)
    place = {"origin": ledger.origin, "index": receipt.index, "checkpoint": receipt.note}
    write_sidecar(found.folder, {"artifact": found.artifact.id, "ledger": place, "proof": proof})
    made.entry, made.entries, made.size = receipt.index, len(proof["entries"]), len(json.dumps(proof))
    return made
