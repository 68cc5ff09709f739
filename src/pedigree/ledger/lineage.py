"""The graph of artifacts in a ledger, read from its leaves: who was made from what, by which entry.

Leaves alone are enough for it, so that it is fast and does not depend on what lies beside the tree.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pedigree.errors import MalformedFile, MissingInput, UsageError
from pedigree.ledger.entry import Entry
from pedigree.ledger.leaf import Leaf
from pedigree.ledger.statement import MAKING
from pedigree.ledger.store import Store


@dataclass
class Lineage:
    """Makers of artifacts and their parents.

    `makers` maps every digest to the entries that made or imported it, oldest first; `runs` a run to its entries.
    """

    makers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    leaves: dict[int, Leaf] = field(default_factory=dict)
    runs: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, leaves: Iterable[tuple[int, Leaf]]) -> Lineage:
        """The graph of some leaves."""
        graph = cls()
        for index, leaf in leaves:
            if leaf.run is not None and leaf.kind != "run.beat":
                graph.runs[leaf.run].append(index)
            if leaf.kind != "run.beat":
                graph.leaves[index] = leaf
            if leaf.kind in MAKING:
                for digest in leaf.subjects:
                    graph.makers[digest].append(index)
        return graph

    @classmethod
    def read(cls, store: Store) -> Lineage:
        """The graph of a ledger; leaves that are none are passed over: verification tells of them."""

        def readable() -> Iterable[tuple[int, Leaf]]:
            for row in store.rows():
                if b'"kind":"run.beat"' in row.leaf:
                    continue
                try:
                    yield row.index, Leaf.from_bytes(row.leaf)
                except MalformedFile:
                    continue

        return cls.of(readable())

    @classmethod
    def of_entries(cls, entries: Iterable[Entry]) -> Lineage:
        """The graph of entries that were checked."""
        return cls.of((entry.index, entry.leaf) for entry in entries)

    def maker(self, digest: str) -> int | None:
        """The newest entry about an artifact or a file of one; None where there is none."""
        found = self.makers.get(digest)
        return found[-1] if found else None

    def resolve(self, word: str) -> str:
        """The whole digest that begins with some digits, with or without `sha256:`.

        Raises:
            UsageError: too few digits, or several begin so.
            MissingInput: none does.
        """
        digits = word.removeprefix("sha256:").lower()
        if len(digits) < 4 or any(sign not in "0123456789abcdef" for sign in digits):
            raise UsageError(
                "this is no artifact id", got=repr(word), expected="sha256: and at least four hexadecimal digits"
            )
        first = {leaf.subjects[0] for leaf in self.leaves.values() if leaf.kind in MAKING and leaf.subjects}
        found = sorted(digest for digest in self.makers if digest.startswith(digits))
        if len(found) > 1:
            found = [digest for digest in found if digest in first] or found
        if not found:
            raise MissingInput(
                "the ledger knows no such artifact", got=word, fix="pedigree ledger log lists what it knows"
            )
        if len(found) > 1:
            raise UsageError(
                "several artifacts begin so", got=word, expected=", ".join(item[:16] for item in found[:4])
            )
        return found[0]

    def closure(self, digest: str) -> list[int]:
        """The entries behind an artifact: its makers, those of its parents, and so on; in the order of the log."""
        found: set[int] = set()
        waiting, seen = deque([digest]), {digest}
        while waiting:
            for index in self.makers.get(waiting.popleft(), ()):
                leaf = self.leaves[index]
                behind = [index, *self.runs.get(leaf.run or "", ())]
                found.update(behind)
                for parent in (parent for at in behind for parent in self.leaves[at].parents):
                    if parent not in seen:
                        seen.add(parent)
                        waiting.append(parent)
        return sorted(found)

    def descendants(self, digest: str) -> list[str]:
        """The artifacts that were made from one, nearest first."""
        children: dict[str, list[str]] = defaultdict(list)
        for leaf in self.leaves.values():
            if leaf.kind in MAKING and leaf.subjects:
                for parent in leaf.parents:
                    children[parent].append(leaf.subjects[0])
        found: dict[str, None] = {}
        waiting = deque([digest])
        while waiting:
            for child in children.get(waiting.popleft(), ()):
                if child not in found and child != digest:
                    found[child] = None
                    waiting.append(child)
        return list(found)
