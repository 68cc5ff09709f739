"""A ledger that can be written: drafts become signed statements, leaves, and a new signed checkpoint.

    write lock -> head -> statement over it -> signature -> leaf, nodes, body, signed checkpoint -> commit

All of that is one transaction, so that the newest checkpoint always is the one over the newest leaf. Statements are
signed inside it: they name the tree before them.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib import metadata

from pedigree.errors import InputError
from pedigree.ledger.database import Database
from pedigree.ledger.envelope import Envelope
from pedigree.ledger.keys import KeyFolder, PrivateKey, Role
from pedigree.ledger.leaf import Leaf, now
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.place import FOLDER, LedgerPlace
from pedigree.ledger.statement import Draft
from pedigree.ledger.store import Head, Store

__all__ = ["FOLDER", "Ledger", "LedgerPlace", "Receipt"]


@dataclass(frozen=True)
class Receipt:
    """Where an event stands: it is on disk, under a signed checkpoint."""

    index: int
    leaf: bytes
    note: str


class Ledger:
    """A ledger with the keys to write it.

    Args:
        place: where it lies; made, with its keys, where it is not there.

    Raises:
        InputError: the database or a key cannot be opened.
    """

    def __init__(self, place: LedgerPlace) -> None:
        self.place = place
        self.folder = KeyFolder(place.keys)
        try:
            self.folder.make()
        except OSError as error:
            raise InputError("no keys can be kept here", where=str(place.keys), got=error.strerror) from error
        self.database = Database(place.database, create=True)
        self.store = Store(self.database)
        self._lock = threading.Lock()
        if not self.store.head().size:
            self._begin()

    @cached_property
    def version(self) -> str:
        """The version of this program that statements name."""
        try:
            return metadata.version("llm-pedigree")
        except metadata.PackageNotFoundError:
            return "unknown"

    @property
    def origin(self) -> str:
        """The name of the log, as its checkpoints have it."""
        return self.store.sound_head()[1].origin

    def key(self, role: Role) -> PrivateKey:
        """The private key of a role, as it lies in the folder now."""
        return self.folder.load(role)

    def append(self, draft: Draft, keys: Sequence[PrivateKey] | None = None) -> Receipt:
        """Record one event; it is on disk when this returns.

        Args:
            draft: the event.
            keys: who signs the statement; by default the actor of this project.

        Raises:
            InputError: it could not be written; nothing of it is kept.
        """
        return self.append_all([draft], keys)[0]

    def append_all(self, drafts: Sequence[Draft], keys: Sequence[PrivateKey] | None = None) -> list[Receipt]:
        """Record events in one transaction; all of them or none."""
        signers = list(keys) if keys is not None else [self.key("actor")]
        log_keys = [self.key("log")]
        with self._lock, self.database.write():
            head, note = self.store.sound_head()
            return self._add(head, drafts, signers, log_keys, note.origin)

    def rotate(self, draft: Draft, role: Role, old: PrivateKey, new: PrivateKey, more: Sequence[PrivateKey]) -> Receipt:
        """Record a rotation; a checkpoint over a rotated log key carries both signatures."""
        log_keys = [old, new] if role == "log" else [self.key("log")]
        with self._lock, self.database.write():
            head, note = self.store.sound_head()
            return self._add(head, [draft], [old, new, *more], log_keys, note.origin)[0]

    def _begin(self) -> None:
        """Write the genesis, unless another process did so meanwhile."""
        keys = {role: self.key(role) for role in ("root", "log", "actor")}
        origin = f"pedigree-ledger/{uuid.uuid4().hex}"
        facts = {
            "origin": origin,
            "threshold": "1",
            "keys": {role: [key.public.to_dict()] for role, key in keys.items()},
        }
        with self._lock, self.database.write():
            if self.database.run("SELECT 1 FROM ledger_entry LIMIT 1"):
                self.store.sound_head()  # says what is wrong where the entries have lost their checkpoint
            else:
                head = self.store.head()
                self._add(head, [Draft("genesis", facts)], [keys["root"]], [keys["log"]], origin)

    def _add(
        self,
        head: Head,
        drafts: Sequence[Draft],
        signers: Sequence[PrivateKey],
        log_keys: Sequence[PrivateKey],
        origin: str,
    ) -> list[Receipt]:
        placed: list[tuple[int, bytes]] = []
        for draft in drafts:
            time = now()
            payload = draft.payload(head.size, head.root, time, self.version)
            subjects = tuple(item.digest for item in draft.subjects)
            parents = tuple(dict.fromkeys(item.digest for item in draft.parents))
            if draft.signed:
                envelope = Envelope.sign(payload, signers)
                first = envelope.signatures[0]
                leaf = Leaf(
                    draft.kind, envelope.digest, time, first.key_id, sha256(first.signature).hexdigest(), draft.run,
                    head.size, head.root.hex(), subjects, parents,
                )  # fmt: skip
                body = (envelope.digest, envelope.to_bytes())
            else:
                digest = sha256(payload).hexdigest()
                leaf = Leaf(draft.kind, digest, time, run=draft.run, subjects=subjects, parents=parents)
                body = (digest, payload)
            data = leaf.to_bytes()
            size, root = self.store.add(head, data, body)
            for content in draft.attachments:
                self.store.put_body(sha256(content).hexdigest(), content)
            placed.append((head.size, data))
            head = Head(size, root, "")
        checkpoint = Checkpoint(origin, head.size, head.root).signed(log_keys)
        self.store.put_head(checkpoint)
        note = checkpoint.to_note()
        return [Receipt(index, leaf, note) for index, leaf in placed]

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()
