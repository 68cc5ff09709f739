"""The whole ledger, checked: every leaf, every node, every body, every signature, and old checkpoints held elsewhere.

Order: leaves and nodes -> root and its signed checkpoint -> key events in the order of the log -> all other statements
-> consistency with checkpoints from outside -> edges.

Law  what is told is what was checked; `not_checked` names the rest, and a verdict on an edge is never better than the
     evidence for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from pedigree.errors import InputError, MalformedFile
from pedigree.ledger.collector import uncollected
from pedigree.ledger.credits import release_problems
from pedigree.ledger.edges import edges_of
from pedigree.ledger.entry import Entry, apply_key_event, check_entry
from pedigree.ledger.freshness import age_in_days, stale_problem
from pedigree.ledger.key_ring import KEY_KINDS, KeyRing
from pedigree.ledger.leaf import Leaf
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.runs import run_problems
from pedigree.ledger.statement import UNSIGNED
from pedigree.ledger.store import Head, Store
from pedigree.ledger.tree import fold, kept_places, leaf_hash, node_hash
from pedigree.ledger.verdict import Edge, EdgeVerdict, Problem, worst

NOT_CHECKED = (
    "that nothing was left out: a ledger shows what was recorded",
    "that what was recorded is true: pedigree audit asks the weights",
)


@dataclass
class Verification:
    """What was found.

    `anchored` is the largest tree that a checkpoint from outside vouches for; `tier` says what the ledger protects
    against: T0 accidents, T1 a rewriting of everything older than the last copy held outside.
    """

    origin: str
    size: int
    root: str
    problems: list[Problem] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    signatures: int = 0
    bodies: int = 0
    anchored: int = 0
    outside: int = 0
    age_days: float | None = None
    root_keys: list[str] = field(default_factory=list)
    ring: KeyRing = field(default_factory=KeyRing)
    not_checked: list[str] = field(default_factory=lambda: list(NOT_CHECKED))

    @property
    def tier(self) -> str:
        """T0 or T1."""
        return "T1" if self.anchored else "T0"

    @property
    def verdict(self) -> EdgeVerdict:
        """The gravest word of problems and edges; of a ledger without either, what stands for its entries."""
        words = [item.verdict for item in self.problems] + [edge.verdict for edge in self.edges]
        return worst(words) or ("VERIFIED" if self.anchored >= self.size else "DECLARED")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        counts: dict[str, int] = defaultdict(int)
        for edge in self.edges:
            counts[edge.verdict] += 1
        return {
            "origin": self.origin, "size": self.size, "root": self.root, "verdict": self.verdict, "tier": self.tier,
            "checked": {
                "leaves": self.size, "signatures": self.signatures, "bodies": self.bodies, "outside": self.outside,
            },
            "anchored": self.anchored, "age_days": self.age_days, "root_keys": self.root_keys, "verdicts": dict(counts),
            "problems": [item.to_dict() for item in self.problems], "edges": [edge.to_dict() for edge in self.edges],
            "not_checked": self.not_checked,
        }  # fmt: skip


class Regrown:
    """The tree, grown again from the stored leaves, level by level.

    Args:
        hashes: those of the leaves, in order.
    """

    def __init__(self, hashes: list[bytes]) -> None:
        self.levels = [hashes]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels.append([node_hash(*pair) for pair in zip(below[::2], below[1::2], strict=False)])

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self.levels[0])

    def root(self, size: int) -> bytes:
        """The root of the first `size` leaves."""
        return fold([self.levels[level][index] for level, index in kept_places(0, size)])


def verify(
    store: Store,
    outside: Sequence[Checkpoint] = (),
    *,
    seen: Sequence[Checkpoint] = (),
    max_age_days: float | None = None,
    pinned: Sequence[str] = (),
) -> Verification:
    """Check a ledger.

    Args:
        store: where it lies.
        outside: checkpoints that were kept elsewhere; what they cover counts as anchored.
        seen: checkpoints met before, which the ledger must be consistent with; they anchor nothing.
        max_age_days: how old the newest entry may be.
        pinned: ids of the root keys that are known for this origin from before; none where it is new.
    """
    with uncollected(), store.database.snapshot():
        head = store.head()
        tree, leaves, problems = _regrow(store, head)
        ring = KeyRing()
        entries: dict[int, Entry] = {}
        for index in [index for index, leaf in leaves.items() if leaf.kind in KEY_KINDS]:
            digest = leaves[index].body
            body = store.bodies([digest]).get(digest)
            entries[index], found = check_entry(index, leaves[index], body, ring, index)
            problems += found or apply_key_event(entries[index], ring)
        n_bodies = _check_bodies(store, leaves, ring, entries, problems)
    problems += _seen_problems(entries, tree)
    report = opened_report(ring, head.size, head.root, problems, entries.values(), n_bodies)
    problems += _head_problems(head, tree, ring) + root_problems(ring, pinned)
    report.anchored = _hold_against(outside, tree, ring, report)
    report.problems += foreign_problems(outside, ring)
    _hold_against([note for note in seen if note.origin == ring.origin], tree, ring, report)
    _judge_edges(report, entries, outside, max_age_days)
    return report


def opened_report(
    ring: KeyRing, size: int, root: bytes, problems: list[Problem], entries: Iterable[Entry], n_bodies: int
) -> Verification:  # fmt: skip
    """The report on so many entries of a tree: what was counted in them, and the root keys that stand at its end."""
    report = Verification(ring.origin, size, root.hex(), problems, ring=ring)
    report.signatures = sum(entry.said is not None for entry in entries)
    report.bodies = n_bodies
    report.root_keys = sorted(key.id for key in ring.good("root", max(0, size - 1)))
    return report


def root_problems(ring: KeyRing, pinned: Sequence[str]) -> list[Problem]:
    """Whether any root key that was known for this origin from before is among its root keys."""
    if not pinned or set(pinned) & {life.key.id for life in ring.lives.values() if life.role == "root"}:
        return []
    return [Problem("CONTRADICTED", "other-root-keys", f"{ring.origin} was known with other root keys than it has now")]


def foreign_problems(outside: Sequence[Checkpoint], ring: KeyRing) -> list[Problem]:
    """Whether checkpoints were held against a ledger that none of them is of: it may stand in the place of theirs."""
    if not outside or any(note.origin == ring.origin for note in outside):
        return []
    others = ", ".join(dict.fromkeys(note.origin for note in outside))[:200]
    sentence = f"the checkpoints held outside are of {others}, and none is of this ledger, {ring.origin or 'unnamed'}"
    return [Problem("SUSPECT", "other-ledger", sentence)]


def signer_problems(note: Checkpoint, ring: KeyRing) -> list[Problem]:
    """Whether a checkpoint is one of this log, signed by the key that it had at that size."""
    if note.origin == ring.origin and note.signers(ring.log_keys(note.size)):
        return []
    return [Problem("CONTRADICTED", "checkpoint", "the checkpoint is not signed by the key of the log")]


def judge_order(report: Verification, ordered: list[Entry], last: Entry | None, max_age_days: float | None) -> None:
    """Order of runs and of releases, and age; the entries become those of the report.

    Args:
        report: where it goes.
        ordered: the entries, in the order of the log.
        last: the newest of the log, None where it is not shown.
        max_age_days: how old that may be.
    """
    report.entries = ordered
    report.problems += run_problems(ordered) + release_problems(ordered)
    report.age_days = age_in_days(last.leaf.time) if last else None
    stale = stale_problem(report.age_days, max_age_days)
    report.problems += [stale] if stale else []


def _judge_edges(
    report: Verification, entries: dict[int, Entry], outside: Sequence[Checkpoint], max_age_days: float | None
) -> None:
    ordered = [entries[index] for index in sorted(entries)]
    judge_order(report, ordered, ordered[-1] if ordered else None, max_age_days)
    report.problems.sort(key=lambda item: -1 if item.entry is None else item.entry)
    sizes = [c.size for c in outside if c.origin == report.origin and c.size <= report.anchored]
    report.edges = edges_of(ordered, report.problems, report.ring, sizes)


def _regrow(store: Store, head: Head) -> tuple[Regrown, dict[int, Leaf], list[Problem]]:
    """Hash every stored leaf, and hold the stored nodes against what comes out."""
    hashes: list[bytes] = []
    leaves: dict[int, Leaf] = {}
    problems: list[Problem] = []
    for row in store.rows():
        if row.index != len(hashes):
            problems.append(Problem("CONTRADICTED", "gap", f"entry {len(hashes)} is missing", len(hashes)))
            break
        value = leaf_hash(row.leaf)
        if value != row.hash:
            problems.append(Problem("CONTRADICTED", "entry-changed", f"entry {row.index} was changed", row.index))
        try:
            leaves[row.index] = Leaf.from_bytes(row.leaf, f"entry {row.index}")
        except MalformedFile as error:
            problems.append(Problem("CONTRADICTED", "leaf-malformed", error.sentence(), row.index))
        hashes.append(value)
    tree = Regrown(hashes)
    if tree.size != head.size:
        sentence = f"{tree.size} entries are stored, the checkpoint is over {head.size}"
        problems.append(Problem("CONTRADICTED", "size", sentence))
    stored = store.database.run("SELECT level, idx, hash FROM ledger_node")
    expected = sum(len(level) for level in tree.levels[1:])
    differing = sum(
        level >= len(tree.levels) or index >= len(tree.levels[level]) or tree.levels[level][index] != bytes(value)
        for level, index, value in stored
    )
    if differing or len(stored) != expected:
        problems.append(
            Problem(
                "CONTRADICTED", "nodes", f"{differing} of {len(stored)} stored nodes differ, {expected} belong there"
            )
        )
    return tree, leaves, problems


def _check_bodies(
    store: Store, leaves: dict[int, Leaf], ring: KeyRing, entries: dict[int, Entry], problems: list[Problem]
) -> int:
    """Hold what was said against the leaves, in one pass over all of it; how many bodies are there.

    Args:
        store: where they lie.
        leaves: by number.
        ring: the keys.
        entries: those that were checked already; the others are added.
        problems: what is found is added.
    """
    waiting: dict[str, list[int]] = {}
    for index, leaf in leaves.items():
        waiting.setdefault(leaf.body, []).append(index)
    n_bodies = 0
    for digest, content in store.all_bodies():
        name = digest.hex()
        indices = waiting.pop(name, ())
        n_bodies += len(indices)
        for index in indices:
            leaf = leaves[index]
            # Most of a ledger are signs of life: their body is what its name says, and there is no more to check.
            if leaf.key is None and leaf.kind in UNSIGNED and sha256(content).hexdigest() == name:
                entries[index] = Entry(index, leaf, None, None, content)
            elif index not in entries:
                entries[index], found = check_entry(index, leaf, content, ring, index)
                problems += found
    for indices in waiting.values():
        for index in indices:
            if index not in entries:
                entries[index], found = check_entry(index, leaves[index], None, ring, index)
                problems += found
    return n_bodies


def _seen_problems(entries: dict[int, Entry], tree: Regrown) -> list[Problem]:
    """Statements that name a tree which never was."""
    return [
        Problem("CONTRADICTED", "other-history", f"entry {index} was signed over another history", index)
        for index, entry in entries.items()
        if entry.said is not None and entry.leaf.seen_size is not None and entry.leaf.seen_size <= tree.size
        and tree.root(entry.leaf.seen_size).hex() != entry.leaf.seen_root
    ]  # fmt: skip


def _head_problems(head: Head, tree: Regrown, ring: KeyRing) -> list[Problem]:
    """Whether the newest checkpoint is over these leaves and signed by the key of the log."""
    try:
        note = Checkpoint.from_note(head.note)
    except (MalformedFile, InputError) as error:
        return [Problem("CONTRADICTED", "checkpoint", error.sentence())]
    problems = []
    same = (note.size, note.root) == (head.size, head.root)
    if not same or tree.size < head.size or tree.root(head.size) != head.root:
        problems.append(Problem("CONTRADICTED", "root", "the checkpoint is over other entries than those stored"))
    return problems + signer_problems(note, ring)


def _hold_against(outside: Sequence[Checkpoint], tree: Regrown, ring: KeyRing, report: Verification) -> int:
    """Consistency with every checkpoint from outside; the size of the largest that holds."""
    anchored = 0
    for note in outside:
        if note.origin != ring.origin:
            report.not_checked.append(f"a checkpoint of another ledger, {note.origin}")
            continue
        report.outside += 1
        known = [life.key for life in ring.lives.values() if life.role == "log"]
        if not note.signers(known):
            report.problems.append(
                Problem(
                    "CONTRADICTED",
                    "outside-signature",
                    f"a checkpoint over {note.size} entries is signed by no log key",
                )
            )
        elif note.size > tree.size:
            sentence = f"a checkpoint over {note.size} entries is held outside, {tree.size} are stored"
            report.problems.append(Problem("CONTRADICTED", "rolled-back", sentence))
        elif tree.root(note.size) != note.root:
            sentence = f"the first {note.size} entries are not those of a checkpoint held outside"
            report.problems.append(Problem("CONTRADICTED", "history-rewritten", sentence))
        else:
            anchored = max(anchored, note.size)
    return anchored
