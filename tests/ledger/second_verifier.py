"""A second reading of RFC 9162, written from its pseudocode alone: recursion for roots, bit tests for proofs.

It shares no line with `pedigree.ledger.tree`, and imports nothing of pedigree.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH of section 2.1.1."""
    n = len(leaves)
    if n == 0:
        return hashlib.sha256().digest()
    if n == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < n:
        k *= 2
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


naive_root = tree_hash


def includes(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Section 2.1.3.2."""
    if index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = hashlib.sha256(b"\x01" + p + r).digest()
            if not fn & 1:
                while fn and not fn & 1:
                    fn, sn = fn >> 1, sn >> 1
        else:
            r = hashlib.sha256(b"\x01" + r + p).digest()
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def extends(old: int, new: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Section 2.1.4.2, for 0 < old < new."""
    path = list(path)
    if not path:
        return False
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr = hashlib.sha256(b"\x01" + c + fr).digest()
            sr = hashlib.sha256(b"\x01" + c + sr).digest()
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = hashlib.sha256(b"\x01" + sr + c).digest()
        fn, sn = fn >> 1, sn >> 1
    return fr == old_root and sr == new_root and sn == 0


def note_holds(note: str, name: str, public: bytes) -> tuple[int, bytes] | None:
    """Size and root of a C2SP checkpoint, where the key signed it under this name."""
    text, _, signatures = note.partition("\n\n")
    text += "\n"
    want = hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    for line in signatures.splitlines():
        mark, who, blob = line.split(" ")
        raw = base64.b64decode(blob)
        if mark == "\u2014" and who == name and raw[:4] == want:
            try:
                Ed25519PublicKey.from_public_bytes(public).verify(raw[4:], text.encode())
            except InvalidSignature:
                return None
            _, size, root = text.splitlines()[:3]
            return int(size), base64.b64decode(root)
    return None


def envelope_holds(envelope: dict[str, Any], public: bytes) -> dict[str, Any] | None:
    """The payload of a DSSE envelope, where the key signed it."""
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    for signature in envelope["signatures"]:
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(signature["sig"]), pae)
        except InvalidSignature:
            continue
        return dict(json.loads(payload))
    return None


def proof_holds(proof: dict[str, Any]) -> dict[str, list[str]] | None:
    """A proof that travels with a model: digests of what each proven artifact was made of; None where it does not hold.

    Keys are those of the genesis, which its own root key signed.
    """
    entries = {int(entry["index"]): entry for entry in proof["entries"]}
    genesis = json.loads(base64.b64decode(json.loads(entries[0]["envelope"])["payload"]))
    told = genesis["predicate"]["facts"]["keys"]
    keys = {role: [base64.b64decode(key["public"]) for key in listed] for role, listed in told.items()}
    head = note_holds(proof["checkpoint"], proof["origin"], keys["log"][0])
    if head is None or genesis["predicate"]["facts"]["origin"] != proof["origin"]:
        return None
    made: dict[str, list[str]] = {}
    for index, entry in entries.items():
        leaf = entry["leaf"].encode()
        path = [base64.b64decode(value) for value in entry["inclusion"]]
        if not includes(tree_hash([leaf]), index, head[0], path, head[1]):
            return None
        said = json.loads(leaf)
        if "envelope" not in entry:
            if "body" in entry and hashlib.sha256(entry["body"].encode()).hexdigest() != said["body"]:
                return None
            continue
        statement = _signed_as_said(json.loads(entry["envelope"]), said, keys["root" if index == 0 else "actor"])
        if statement is None:
            return None
        if said["kind"] == "derive":
            listed = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
            made[statement["subject"][0]["digest"]["sha256"]] = [one["digest"]["sha256"] for one in listed]
    return made


def _signed_as_said(
    envelope: dict[str, Any], said: dict[str, Any], keys: Sequence[bytes]
) -> dict[str, Any] | None:  # fmt: skip
    """The statement of an envelope, where the leaf names it and its signature, and one of the keys made that."""
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    first = base64.b64decode(envelope["signatures"][0]["sig"])
    if (hashlib.sha256(pae).hexdigest(), hashlib.sha256(first).hexdigest()) != (said["body"], said["sig"]):
        return None
    return next((found for key in keys if (found := envelope_holds(envelope, key)) is not None), None)
