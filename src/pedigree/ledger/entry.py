"""One entry held against its leaf: the body is what the leaf says, the signature is good, the statement agrees.

The same checks serve the whole ledger and a proof that travels with a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pedigree.errors import PedigreeError
from pedigree.ledger.envelope import STATEMENT_TYPE, Envelope
from pedigree.ledger.key_ring import KEY_KINDS, KeyRing
from pedigree.ledger.keys import ROLES, PublicKey
from pedigree.ledger.leaf import Leaf
from pedigree.ledger.statement import STATEMENT, UNSIGNED, Said
from pedigree.ledger.strict_json import canonical_object, strict_object
from pedigree.ledger.verdict import Problem


@dataclass(slots=True)  # not frozen: there are as many of them as entries, and freezing doubles the cost of each
class Entry:
    """An entry of a ledger: its place, its leaf, and what it says where that could be read and believed."""

    index: int
    leaf: Leaf
    said: Said | None = None
    envelope: Envelope | None = None
    told: bytes | None = None

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it says; nothing where it could not be believed. An unsigned body is read when it is asked for."""
        if self.said is not None:
            return self.said.facts
        try:
            return read_told(self.told, f"entry {self.index}") if self.told is not None else {}
        except PedigreeError:
            return {}


def read_told(body: bytes, where: str) -> dict[str, Any]:
    """The facts of an unsigned event.

    Raises:
        MalformedFile: it is no strict JSON.
    """
    value = canonical_object(body) or strict_object(body, where)
    facts = value.get("facts")
    return facts if isinstance(facts, dict) else {}


def read_statement(envelope: Envelope, where: str) -> dict[str, Any]:
    """The statement in an envelope; bytes in the one canonical form are read the fast way.

    Raises:
        MalformedFile: see `Envelope.statement`.
    """
    value = canonical_object(envelope.payload)
    if value is not None and (value.get("_type"), envelope.payload_type) == (STATEMENT, STATEMENT_TYPE):
        return value
    return envelope.statement(where)


def check_entry(index: int, leaf: Leaf, body: bytes | None, ring: KeyRing, seen: int) -> tuple[Entry, list[Problem]]:
    """Hold what was said against the leaf.

    Args:
        index: place of the entry.
        leaf: the leaf, already known to be in the tree.
        body: envelope or unsigned bytes, None where they are gone.
        ring: the keys; key events up to this one were applied or are applied by `apply_key_event`.
        seen: leaves before it, which the statement must not exceed.

    Returns:
        The entry, with `said` only where body, leaf and signature agree, and what was found.
    """
    if body is not None and leaf.key is None and leaf.kind in UNSIGNED and sha256(body).hexdigest() == leaf.body:
        return Entry(index, leaf, told=body), []  # most entries of a ledger are signs of life
    where, bare = f"entry {index}", Entry(index, leaf)
    if body is None:
        return bare, [Problem("UNKNOWN", "evidence-missing", f"what {where} ({leaf.kind}) said is gone", index)]
    if leaf.key is None:
        if leaf.kind not in UNSIGNED:
            return bare, [Problem("CONTRADICTED", "unsigned", f"{where} ({leaf.kind}) has no signature", index)]
        return bare, [Problem("CONTRADICTED", "body-changed", f"what {where} said was changed", index)]
    try:
        envelope = Envelope.from_bytes(body, where)
        said = Said.of(read_statement(envelope, where), where)
    except PedigreeError as error:
        return bare, [Problem("CONTRADICTED", "body-malformed", f"{where}: {error.sentence()}", index)]
    first = envelope.signatures[0]
    if envelope.digest != leaf.body or (first.key_id, sha256(first.signature).hexdigest()) != (
        leaf.key,
        leaf.signature,
    ):
        return bare, [Problem("CONTRADICTED", "body-changed", f"what {where} said was changed", index)]
    problem = _signature_problem(index, leaf, envelope, ring)
    if problem is not None and problem.verdict == "CONTRADICTED":
        return bare, [problem]
    found = [problem] if problem else []
    subjects = tuple(item.digest for item in said.subjects)
    parents = tuple(dict.fromkeys(item.digest for item in said.parents))
    if said.kind != leaf.kind or (leaf.subjects and leaf.subjects != subjects) or leaf.parents != parents:
        return bare, [Problem("CONTRADICTED", "leaf-differs", f"leaf and statement of {where} differ", index)]
    if (said.seen_size, said.seen_root) != (leaf.seen_size, leaf.seen_root) or said.seen_size is None:
        return bare, [Problem("CONTRADICTED", "leaf-differs", f"leaf and statement of {where} differ", index)]
    if said.seen_size > seen:
        return bare, [Problem("CONTRADICTED", "from-the-future", f"{where} names a tree that came after it", index)]
    return Entry(index, leaf, said, envelope), found


def _signature_problem(index: int, leaf: Leaf, envelope: Envelope, ring: KeyRing) -> Problem | None:
    """Whether the first signer was allowed to sign this entry; key events are judged by `apply_key_event`."""
    if leaf.kind in KEY_KINDS:
        return None
    life = ring.life(leaf.key)
    if life is None or life.role not in ("actor", "root"):
        return Problem(
            "CONTRADICTED",
            "key-unknown",
            f"entry {index} is signed by a key that the ledger never admitted for it",
            index,
        )
    if not envelope.signers([life.key]):
        return Problem("CONTRADICTED", "signature", f"the signature of entry {index} is not that of its key", index)
    if life.since > index:
        return Problem("CONTRADICTED", "key-unknown", f"entry {index} is signed by a key admitted later", index)
    if life.last_trusted is not None and index > life.last_trusted:
        return Problem(
            "SUSPECT", "key-revoked",
            f"entry {index} is signed by a key that is trusted up to entry {life.last_trusted} only", index,
        )  # fmt: skip
    if life.until is not None and index >= life.until:
        return Problem(
            "SUSPECT", "key-retired", f"entry {index} is signed by a key retired at entry {life.until}", index
        )
    return None


def apply_key_event(entry: Entry, ring: KeyRing) -> list[Problem]:
    """Take a key event into the ring, where enough of the right keys signed it."""
    if entry.said is None or entry.envelope is None:
        return []
    try:
        named = _named_keys(entry.said.facts, f"entry {entry.index}")
        keys = [*named, *(life.key for life in ring.lives.values())]
        ring.apply(entry.said.kind, entry.said.facts, entry.envelope.signers(keys), entry.index)
    except PedigreeError as error:
        return [Problem("CONTRADICTED", "key-event", f"entry {entry.index}: {error.sentence()}", entry.index)]
    return []


def _named_keys(facts: dict[str, Any], where: str) -> list[PublicKey]:
    """The keys that a key event brings along."""
    listed = [facts[name] for name in ("key", "new") if isinstance(facts.get(name), dict)]
    keys = facts.get("keys")
    if isinstance(keys, dict):
        listed += [item for role in ROLES if isinstance(keys.get(role), list) for item in keys[role]]
    return [PublicKey.from_dict(item, where) for item in listed]
