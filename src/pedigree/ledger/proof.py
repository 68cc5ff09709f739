"""A proof that travels with a model: the statements behind it, their places in the tree, one signed checkpoint.

It stands in the sidecar `pedigree.json` under `proof`, and is checked without a database and without a network.

    origin, checkpoint     the log and the signed note over all entries
    entries                index, leaf, envelope (or body), inclusion proof: the life of the artifact, every key event,
                           and the last entry, whose time says how fresh the proof is

Law  every hash has 32 bytes, every path at most 64 of them, and what is not shown is named in `not_checked`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from pedigree.errors import MalformedFile
from pedigree.ledger.edges import edges_of
from pedigree.ledger.entry import Entry, apply_key_event, check_entry
from pedigree.ledger.key_ring import KEY_KINDS, KeyRing
from pedigree.ledger.leaf import Leaf
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.statement import MAKING
from pedigree.ledger.store import Store
from pedigree.ledger.tree import leaf_hash, verify_inclusion
from pedigree.ledger.verdict import Problem
from pedigree.ledger.verification import (
    Verification,
    foreign_problems,
    judge_order,
    opened_report,
    root_problems,
    signer_problems,
)

MAX_ENTRIES = 100_000
ABOUT = ("forensic", "replay", "release", "retract", "approval", "waiver", "attach", "export")
"""Kinds of entries that say something of an artifact without making it."""
NOT_SHOWN = (
    "that no later key event or finding was left out of the proof: ask for a newer one, or for the ledger",
    "that what was recorded is true: pedigree audit asks the weights",
)


def make_proof(store: Store, digest: str) -> dict[str, Any]:
    """The proof of an artifact: see the module.

    Raises:
        MissingInput: the ledger is damaged.
    """
    with store.database.snapshot():
        head, graph = store.head(), Lineage.read(store)
        closure = graph.closure(digest)
        about = {subject for index in closure for subject in graph.leaves[index].subjects}
        keys = [index for index, leaf in graph.leaves.items() if leaf.kind in KEY_KINDS]
        findings = [
            index for index, leaf in graph.leaves.items()
            if leaf.kind in ABOUT and about & set(leaf.subjects)
        ]  # fmt: skip
        wanted = sorted({*closure, *keys, *findings, head.size - 1})
        rows = {index: store.row(index) for index in wanted}
        leaves = {index: Leaf.from_bytes(row.leaf) for index, row in rows.items()}
        bodies = store.bodies([leaf.body for leaf in leaves.values()])
        entries = []
        for index, row in rows.items():
            body = bodies.get(leaves[index].body)
            path = [base64.b64encode(value).decode() for value in store.inclusion_proof(index, head.size)]
            entry: dict[str, Any] = {"index": str(index), "leaf": row.leaf.decode(), "inclusion": path}
            if body is not None:
                entry["envelope" if leaves[index].key else "body"] = body.decode()
            entries.append(entry)
    origin = Checkpoint.from_note(head.note).origin
    return {
        "schema": "pedigree/proof", "version": "1", "origin": origin, "artifact": "sha256:" + digest,
        "checkpoint": head.note, "entries": entries,
    }  # fmt: skip


def verify_proof(
    proof: Mapping[str, Any],
    artifact: str,
    outside: Sequence[Checkpoint] = (),
    *,
    seen: Sequence[Checkpoint] = (),
    max_age_days: float | None = None,
    pinned: Sequence[str] = (),
) -> Verification:
    """Check a proof.

    Args:
        proof: what `make_proof` made, from whoever.
        artifact: 64 digits of the artifact id that was computed from the files.
        outside: checkpoints that were kept elsewhere; one over the same tree anchors it.
        seen: checkpoints met before; they anchor nothing.
        max_age_days: how old the newest entry of the proof may be.
        pinned: root keys that are known for this origin.

    Raises:
        MalformedFile: it is no proof.
    """
    try:
        note = Checkpoint.from_note(str(proof["checkpoint"]), "the proof")
        listed = list(proof["entries"])
        if proof["schema"] != "pedigree/proof" or not 1 <= len(listed) <= MAX_ENTRIES:
            raise MalformedFile("this is no proof", where="the sidecar", got=f"{len(listed):,} entries")
        parts = [_part(item) for item in listed]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedFile("this is no proof", where="the sidecar", got=f"{type(error).__name__} {error}") from error
    problems: list[Problem] = []
    ring = KeyRing()
    entries: list[Entry] = []
    parts.sort(key=lambda part: (part[0], part[1].kind not in KEY_KINDS))
    for index, leaf, data, body, path in parts:
        if not verify_inclusion(leaf_hash(data), index, note.size, path, note.root):
            problems.append(Problem("CONTRADICTED", "inclusion", f"entry {index} is not in the tree", index))
            continue
        entry, found = check_entry(index, leaf, body, ring, index)
        problems += found or (apply_key_event(entry, ring) if leaf.kind in KEY_KINDS else [])
        entries.append(entry)
    n_bodies = sum(part[3] is not None for part in parts)
    report = opened_report(ring, note.size, note.root, problems, entries, n_bodies)
    report.not_checked = list(NOT_SHOWN)
    problems += signer_problems(note, ring) + root_problems(ring, pinned)
    _judge(report, note, artifact, entries, max_age_days)
    _hold_against(report, note, outside, seen)
    report.problems += foreign_problems(outside, ring)
    anchors = [note.size] if report.anchored else []
    report.edges = edges_of(report.entries, problems, ring, anchors)
    return report


def _judge(
    report: Verification, note: Checkpoint, artifact: str, entries: Sequence[Entry], max_age_days: float | None
) -> None:  # fmt: skip
    """The artifact it is about, order of runs, age."""
    if not any(e.leaf.kind in MAKING and artifact in e.leaf.subjects[:1] for e in entries):
        sentence = "the proof is about another artifact than the one that lies here"
        report.problems.append(Problem("CONTRADICTED", "other-artifact", sentence))
    last = next((entry for entry in entries if entry.index == note.size - 1), None)
    judge_order(report, sorted(entries, key=lambda entry: entry.index), last, max_age_days)
    if max_age_days is not None and report.age_days is None:
        sentence = "the proof does not show its last entry, so its age is not known"
        report.problems.append(Problem("STALE", "stale", sentence))


def _hold_against(
    report: Verification, note: Checkpoint, outside: Sequence[Checkpoint], seen: Sequence[Checkpoint]
) -> None:
    """Other checkpoints of the same log: a proof holds no path to those of other sizes."""
    log_keys = [life.key for life in report.ring.lives.values() if life.role == "log"]
    for other in (*outside, *seen):
        if other.origin != report.ring.origin:
            continue
        report.outside += 1
        given = other in outside
        if other.size == note.size and other.root != note.root and other.signers(log_keys):
            sentence = f"two trees of {note.size} entries were signed"
            report.problems.append(Problem("CONTRADICTED", "split-view", sentence))
        elif other.size > note.size and given:
            sentence = f"a checkpoint over {other.size} entries is there, the proof ends at {note.size}"
            report.problems.append(Problem("STALE", "older-than-known", sentence))
        elif other.size > note.size:
            report.not_checked.append(
                f"entries {note.size} to {other.size - 1}, of which this machine has seen a checkpoint"
            )
        elif other.size == note.size and given and other.signers(log_keys):
            report.anchored = note.size
        else:
            report.not_checked.append(f"that the proof goes on from the checkpoint over {other.size} entries")


Part = tuple[int, Leaf, bytes, bytes | None, list[bytes]]


def _part(item: Mapping[str, Any]) -> Part:
    """One entry of a proof.

    Raises:
        MalformedFile: a leaf that is none.
        ValueError, KeyError, TypeError: something else is missing or malformed.
    """
    data = item["leaf"].encode()
    path = [base64.b64decode(value, validate=True) for value in item["inclusion"]]
    body = item.get("envelope", item.get("body"))
    index = int(item["index"])
    if str(index) != item["index"]:
        raise ValueError("an index that is no plain number")
    return index, Leaf.from_bytes(data, f"entry {index}"), data, None if body is None else body.encode(), path
