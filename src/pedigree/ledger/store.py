"""The tree in a database: leaves are added at its end, read, and proven.

entry  idx, leaf, hash      one row a leaf, numbered without a gap
node   level, idx, hash     complete subtrees above the leaves
body   digest, content      what was said, under the digest that the leaf holds
head   size, root, note     the newest signed checkpoint, written with the leaf it is for
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pedigree.errors import MalformedFile, MissingInput
from pedigree.ledger.database import Database
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.tree import EMPTY_ROOT, Place, completed, fold, inclusion_proof, kept_places
from pedigree.ledger.tree import consistency_proof as prove_consistency
from pedigree.ledger.tree import leaf_hash as hash_of

CHUNK = 4096  # rows read at once


@dataclass(frozen=True)
class Head:
    """Size and root of the stored tree, and the signed note over both; no note while it is empty."""

    size: int
    root: bytes
    note: str


@dataclass(slots=True)
class Row:
    """A stored leaf: its place, its bytes, and the hash that is stored beside it."""

    index: int
    leaf: bytes
    hash: bytes


class Store:
    """The tables of one ledger."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # -- reading ------------------------------------------------------------------------------------------------------

    def head(self) -> Head:
        """The newest checkpoint."""
        rows = self.database.run("SELECT size, root, note FROM ledger_head WHERE one = 1")
        if not rows:
            return Head(0, EMPTY_ROOT, "")
        size, root, note = rows[0]
        return Head(int(size), bytes(root), bytes(note).decode("utf-8", "replace"))

    def sound_head(self) -> tuple[Head, Checkpoint]:
        """The newest checkpoint, and the note in it as it was signed; who writes or hands it on begins here.

        Raises:
            MalformedFile: entries are there without a checkpoint, or it is not over the tree that is stored beside it.
        """
        head = self.head()
        if not head.note and not self.database.run("SELECT 1 FROM ledger_entry LIMIT 1"):
            raise MissingInput("the ledger has no entry yet", where=self.database.safe_place)
        try:
            note = Checkpoint.from_note(head.note)
            is_over_it = (note.size, note.root) == (head.size, head.root)
        except MalformedFile:
            is_over_it = False
        if not is_over_it:
            raise MalformedFile(
                "the newest checkpoint of this ledger is damaged", where=self.database.safe_place,
                expected="a signed note over the stored tree", fix="pedigree ledger verify says what was changed",
            )  # fmt: skip
        return head, note

    def row(self, index: int) -> Row:
        """One leaf.

        Raises:
            MissingInput: the ledger has no entry of this number.
        """
        rows = self.database.run("SELECT idx, leaf, hash FROM ledger_entry WHERE idx = ?", (index,))
        if not rows:
            raise MissingInput("the ledger has no such entry", where=self.database.safe_place, got=index)
        return Row(int(rows[0][0]), bytes(rows[0][1]), bytes(rows[0][2]))

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Leaves in order; what is stored behind `stop` is left alone."""
        while stop is None or start < stop:
            until = start + CHUNK if stop is None else min(stop, start + CHUNK)
            found = self.database.run(
                "SELECT idx, leaf, hash FROM ledger_entry WHERE idx >= ? AND idx < ? ORDER BY idx", (start, until)
            )
            if not found:
                return
            for index, leaf, value in found:
                yield Row(int(index), bytes(leaf), bytes(value))
            start = until

    def nodes(self, places: Sequence[Place]) -> dict[Place, bytes]:
        """Stored nodes, level 0 included; what is not stored is not in the answer."""
        found: dict[Place, bytes] = {}
        leaves = [index for level, index in places if level == 0]
        inner = [place for place in places if place[0]]
        if leaves:
            marks = ",".join("?" * len(leaves))
            for index, value in self.database.run(f"SELECT idx, hash FROM ledger_entry WHERE idx IN ({marks})", leaves):
                found[0, int(index)] = bytes(value)
        if inner:
            test = " OR ".join(["(level = ? AND idx = ?)"] * len(inner))
            flat = [number for place in inner for number in place]
            for level, index, value in self.database.run(
                f"SELECT level, idx, hash FROM ledger_node WHERE {test}", flat
            ):
                found[int(level), int(index)] = bytes(value)
        return found

    def node(self, level: int, index: int) -> bytes:
        """One stored node.

        Raises:
            MissingInput: it is not there; the database is damaged.
        """
        found = self.nodes([(level, index)])
        if (level, index) not in found:
            raise MissingInput(
                "a node of the tree is missing", where=self.database.safe_place, got=f"({level}, {index})"
            )
        return found[level, index]

    def bodies(self, digests: Sequence[str]) -> dict[str, bytes]:
        """What was said under some digests; what is not stored is not in the answer."""
        found = {}
        for start in range(0, len(digests), CHUNK // 8):
            part = [bytes.fromhex(digest) for digest in digests[start : start + CHUNK // 8]]
            marks = ",".join("?" * len(part))
            rows = self.database.run(f"SELECT digest, content FROM ledger_body WHERE digest IN ({marks})", part)
            found.update({bytes(digest).hex(): bytes(content) for digest, content in rows})
        return found

    def all_bodies(self) -> Iterator[tuple[bytes, bytes]]:
        """Everything that was said, with its digest; in the order in which it was written where that is kept."""
        # By number of row, SQLite reads its file from front to back; by digest it would jump about in it.
        order, last = ("digest", b"") if self.database.is_postgres else ("rowid", 0)
        while True:
            rows = self.database.run(
                f"SELECT {order}, digest, content FROM ledger_body WHERE {order} > ? ORDER BY {order} LIMIT {CHUNK}",
                (last,),
            )
            for _, digest, content in rows:
                yield bytes(digest), bytes(content)
            if len(rows) < CHUNK:
                return
            last = rows[-1][0]

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """See `pedigree.ledger.tree.inclusion_proof`."""
        return inclusion_proof(self.node, index, size)

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """See `pedigree.ledger.tree.consistency_proof`."""
        return prove_consistency(self.node, old, new)

    # -- writing, inside `database.write()` ---------------------------------------------------------------------------

    def add(self, head: Head, leaf: bytes, body: tuple[str, bytes] | None) -> tuple[int, bytes]:
        """Put one leaf behind the others; size and root of the tree with it.

        The checkpoint over it must be written in the same transaction.
        """
        index, value = head.size, hash_of(leaf)
        places = list(kept_places(0, index))
        known = self.nodes(places)
        if len(known) != len(places):
            raise MissingInput(
                "nodes of the tree are missing", where=self.database.safe_place, fix="pedigree ledger verify"
            )
        new = completed(index, value, lambda level, at: known[level, at])
        known.update(new)
        known[0, index] = value
        root = fold([known[place] for place in kept_places(0, index + 1)])
        self.database.run("INSERT INTO ledger_entry (idx, leaf, hash) VALUES (?, ?, ?)", (index, leaf, value))
        if new:
            self.database.run_many(
                "INSERT INTO ledger_node (level, idx, hash) VALUES (?, ?, ?)", [(*place, node) for place, node in new]
            )
        if body is not None:
            self.put_body(*body)
        return index + 1, root

    def put_body(self, digest: str, content: bytes) -> None:
        """Keep what was said; once is enough."""
        self.database.run(
            "INSERT INTO ledger_body (digest, content) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING",
            (bytes.fromhex(digest), content),
        )

    def put_head(self, checkpoint: Checkpoint) -> None:
        """Replace the newest checkpoint."""
        self.database.run(
            "INSERT INTO ledger_head (one, size, root, note) VALUES (1, ?, ?, ?) "
            "ON CONFLICT (one) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note",
            (checkpoint.size, checkpoint.root, checkpoint.to_note().encode()),
        )
