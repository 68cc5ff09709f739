"""Admission, rotation and revocation, as the owner of the keys does them."""

from __future__ import annotations

from typing import Any

from pedigree.errors import UsageError
from pedigree.ledger.keys import PrivateKey, PublicKey, Role
from pedigree.ledger.log import Ledger
from pedigree.ledger.statement import Draft
from pedigree.ledger.verification import verify


def rotate(ledger: Ledger, role: Role) -> dict[str, Any]:
    """Replace the key of a role; the ledger says so first, then the folder."""
    old, new = ledger.key(role), PrivateKey.generate()
    facts = {"old": old.public.id, "new": new.public.to_dict(), "role": role}
    # The new key is on disk before the ledger names it: a crash between the two loses nothing.
    ledger.folder.prepare(role, new)
    receipt = ledger.rotate(Draft("key.rotate", facts), role, old, new, [])
    ledger.folder.replace(role, new)
    return {"old": old.public.id, "new": new.public.id, "role": role, "entry": receipt.index}


def add(ledger: Ledger, key: PublicKey, role: Role, name: str) -> dict[str, Any]:
    """Admit another key; the root keys say so.

    Raises:
        UsageError: the ledger knows the key already, or another one under this name.
    """
    for life in verify(ledger.store).ring.lives.values():
        if life.key.id == key.id:
            raise UsageError("the ledger knows this key already", where=key.id, got=life.role)
        if name and life.name == name and life.until is None:
            raise UsageError("another key has this name", where="--name", got=name, expected="a name of its own")
    facts = {"key": key.to_dict(), "role": role, "name": name}
    receipt = ledger.append(Draft("key.add", facts), [ledger.key("root")])
    return {"key": key.id, "role": role, "name": name, "entry": receipt.index}


def revoke(ledger: Ledger, key: str, last_trusted: int, reason: str) -> dict[str, Any]:
    """Revoke a key; where it was the one in use for its role, a new one is admitted and takes its place.

    Raises:
        UsageError: no key or several begin so, or the entry is not one that was written already.
    """
    ring = verify(ledger.store).ring
    found = [life for life in ring.lives.values() if life.key.id.startswith(key)]
    size = ledger.store.head().size
    if len(found) != 1 or len(key) < 4:
        raise UsageError(
            "no key of the ledger is meant, or several are", where="KEY", got=key, fix="pedigree ledger key list"
        )
    life = found[0]
    if not -1 <= last_trusted < size or life.last_trusted is not None:
        raise UsageError(
            "a key is revoked once, from an entry that is written", where="--last-trusted", got=last_trusted,
            expected=f"-1 to {size - 1}",
        )  # fmt: skip
    if life.role == "root":
        raise UsageError("the root key is replaced, not revoked", where="KEY", fix="pedigree ledger key rotate root")
    root = ledger.key("root")
    facts = {"key": life.key.id, "last_trusted": str(last_trusted), "reason": reason}
    in_use = ledger.key(life.role).public.id == life.key.id
    new = PrivateKey.generate() if in_use else None
    if new is not None:
        ledger.folder.prepare(life.role, new)
        ledger.append(Draft("key.add", {"key": new.public.to_dict(), "role": life.role}), [root])
        ledger.folder.replace(life.role, new)
    receipt = ledger.append(Draft("key.revoke", facts), [root])
    return {
        "key": life.key.id, "role": life.role, "last_trusted": last_trusted, "entry": receipt.index,
        "new": new.public.id if new else None,
    }  # fmt: skip
