"""Which key could sign what, and from which entry to which: read from the log alone, never from a clock.

    genesis      root keys and their threshold, the first log key, the first actor key; signed by the root keys
    key.add      another key for a role; signed by the root keys
    key.rotate   one key replaced by another; signed by both, a root key by the root keys as well
    key.revoke   a key that is trusted up to an entry only; signed by the root keys

Law  a key is good for the entries [since, until): a retired key signs nothing new, however its clock is set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pedigree.errors import MalformedFile
from pedigree.ledger.keys import ROLES, PublicKey, Role

KEY_KINDS = ("genesis", "key.add", "key.rotate", "key.revoke")


@dataclass
class KeyLife:
    """A key in the log: its role, the entries it is good for, whether it was revoked and from where on, and the name
    that the root keys gave it when they admitted it, "" where they gave none; `before` is the first key of its holder.
    """

    key: PublicKey
    role: Role
    since: int
    until: int | None = None
    last_trusted: int | None = None
    revoked_at: int | None = None
    reason: str = ""
    name: str = ""
    before: str = ""

    @property
    def first(self) -> str:
        """Id of the first key of its holder: a rotation changes the key, not who holds it."""
        return self.before or self.key.id

    def good_at(self, index: int) -> bool:
        """Whether it may sign the entry of this number."""
        return self.since <= index and (self.until is None or index < self.until)


class KeyRing:
    """The keys of a ledger, entry by entry."""

    def __init__(self) -> None:
        self.lives: dict[str, KeyLife] = {}
        self.origin = ""
        self.threshold = 1

    def good(self, role: Role, index: int) -> list[PublicKey]:
        """The keys of a role that may sign the entry of this number."""
        return [life.key for life in self.lives.values() if life.role == role and life.good_at(index)]

    def log_keys(self, size: int) -> list[PublicKey]:
        """The keys that may sign the checkpoint of `size` leaves: good at its last entry."""
        return self.good("log", max(0, size - 1))

    def life(self, key_id: str | None) -> KeyLife | None:
        """The key of this id, if it ever was one."""
        return self.lives.get(key_id or "")

    def apply(self, kind: str, facts: Mapping[str, Any], signers: Sequence[PublicKey], index: int) -> None:
        """Take in one key event.

        Args:
            kind: one of `KEY_KINDS`.
            facts: what it says.
            signers: the keys, among all that it names and all that are known, that signed it.
            index: its entry.

        Raises:
            MalformedFile: it is not allowed; nothing is changed then.
        """
        where = f"entry {index}"
        ids = {key.id for key in signers}
        try:
            if kind == "genesis":
                self._genesis(facts, ids, index, where)
            elif kind == "key.add":
                self._by_roots(ids, index, where)
                self._admit(facts["key"], _role(facts, where), index, where, name=str(facts.get("name") or ""))
            elif kind == "key.rotate":
                self._rotate(facts, ids, index, where)
            else:
                self._revoke(facts, ids, index, where)
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedFile("a key event lacks what it must say", where=where, got=f"{error}") from error

    def _genesis(self, facts: Mapping[str, Any], ids: set[str], index: int, where: str) -> None:
        if index or self.lives:
            raise MalformedFile("a second genesis", where=where, expected="one, as the first entry")
        keys = [(role, PublicKey.from_dict(item, where)) for role in ROLES for item in facts["keys"][role]]
        roots = {key.id for role, key in keys if role == "root"}
        threshold = int(facts["threshold"])
        if (
            not 1 <= threshold <= len(roots)
            or len(roots & ids) < threshold
            or len({k.id for _, k in keys}) != len(keys)
        ):
            raise MalformedFile("the genesis is not signed by its own root keys", where=where)
        self.origin, self.threshold = str(facts["origin"]), threshold
        self.lives = {key.id: KeyLife(key, role, 0) for role, key in keys}

    def _by_roots(self, ids: set[str], index: int, where: str) -> None:
        found = len(ids & {key.id for key in self.good("root", index)})
        if found < self.threshold:
            raise MalformedFile(
                "a key event without the root keys", where=where, got=f"{found} of them", expected=self.threshold
            )

    def _admit(self, key: Any, role: Role, index: int, where: str, *, name: str, before: str = "") -> None:
        new = PublicKey.from_dict(key, where)
        if new.id in self.lives:
            raise MalformedFile("a key enters twice", where=where, got=new.id)
        self.lives[new.id] = KeyLife(new, role, index, name=name, before=before)

    def _rotate(self, facts: Mapping[str, Any], ids: set[str], index: int, where: str) -> None:
        old = self.lives.get(str(facts["old"]))
        if old is None or not old.good_at(index) or old.last_trusted is not None:
            raise MalformedFile("a rotation of a key that is not good", where=where, got=facts["old"])
        new = PublicKey.from_dict(facts["new"], where)
        if not {old.key.id, new.id} <= ids:
            raise MalformedFile("a rotation is signed by the old and the new key", where=where)
        if old.role == "root":
            self._by_roots(ids, index, where)
        self._admit(facts["new"], old.role, index, where, name=old.name, before=old.first)
        # Both are good at the entry itself: its checkpoint carries both signatures.
        old.until = index + 1

    def _revoke(self, facts: Mapping[str, Any], ids: set[str], index: int, where: str) -> None:
        self._by_roots(ids, index, where)
        life = self.lives.get(str(facts["key"]))
        last = int(facts["last_trusted"])
        if life is None or not -1 <= last < index or life.last_trusted is not None:
            raise MalformedFile("a revocation of nothing", where=where, got=facts["key"])
        life.last_trusted, life.revoked_at, life.reason = last, index, str(facts.get("reason", ""))
        life.until = min(index, life.until) if life.until is not None else index


def _role(facts: Mapping[str, Any], where: str) -> Role:
    for role in ROLES:
        if facts["role"] == role:
            return role
    raise MalformedFile("a key for no known role", where=where, got=facts["role"], expected=" or ".join(ROLES))
