"""Signed checkpoints: who vouches for which tree (C2SP signed-note and tlog-checkpoint).

    origin
    size
    base64 of the root
    (empty line)
    -- origin base64(key hash, signature)

The first sign of the last line is U+2014. A copy of such a note held elsewhere is what a rewritten history cannot meet.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pedigree.errors import MalformedFile
from pedigree.ledger.keys import PrivateKey, PublicKey
from pedigree.ledger.tree import HASH_SIZE, MAX_SIZE

DASH = "\u2014"
MAX_NOTE = 16_384
_ED25519 = b"\x01"


def key_hash(name: str, key: PublicKey) -> bytes:
    """Four bytes that say which key a signature line is for."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:4]


def verifier_key(name: str, key: PublicKey) -> str:
    """The public key as tools for signed notes take it: `name+hash+base64`."""
    return f"{name}+{key_hash(name, key).hex()}+{base64.b64encode(_ED25519 + key.raw).decode()}"


@dataclass(frozen=True)
class Checkpoint:
    """A tree of `size` leaves with this root, and the signature lines under that."""

    origin: str
    size: int
    root: bytes
    signatures: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def signed(self, keys: Iterable[PrivateKey]) -> Checkpoint:
        """The same with a line for each key under it."""
        lines = tuple(
            f"{DASH} {self.origin} "
            + base64.b64encode(key_hash(self.origin, key.public) + key.sign(self.text.encode())).decode()
            for key in keys
        )
        return Checkpoint(self.origin, self.size, self.root, self.signatures + lines)

    def signers(self, keys: Sequence[PublicKey]) -> list[PublicKey]:
        """Those of some keys that signed it under its origin; lines of others are passed over."""
        found = []
        for key in keys:
            mark = key_hash(self.origin, key)
            for line in self.signatures:
                _, name, blob = line.split(" ")
                raw = base64.b64decode(blob)
                if name == self.origin and raw[:4] == mark and key.verifies(raw[4:], self.text.encode()):
                    found.append(key)
                    break
        return found

    def to_note(self) -> str:
        """The whole note."""
        return self.text + "\n" + "".join(line + "\n" for line in self.signatures)

    @classmethod
    def from_note(cls, note: str, where: str = "a checkpoint") -> Checkpoint:
        """Read a note; extension lines are refused: nothing here signs them.

        Raises:
            MalformedFile: it is none, or not in its one form.
        """
        problem = MalformedFile(
            "this is no signed checkpoint", where=where, got=f"{len(note):,} characters",
            expected="origin, size, root, an empty line, signature lines",
        )  # fmt: skip
        text, gap, tail = note.partition("\n\n")
        lines = text.split("\n")
        signatures = tail.split("\n")
        if len(note) > MAX_NOTE or not gap or len(lines) != 3 or signatures.pop() or not signatures:
            raise problem
        origin, size, root = lines
        try:
            value = base64.b64decode(root, validate=True)
            for line in signatures:
                mark, name, blob = line.split(" ")
                if mark != DASH or not name or len(base64.b64decode(blob, validate=True)) < 5:
                    raise problem
            if not origin or not size.isascii() or not size.isdecimal() or str(int(size)) != size:
                raise problem
        except (binascii.Error, ValueError) as error:
            raise problem from error
        if len(value) != HASH_SIZE or int(size) > MAX_SIZE or base64.b64encode(value).decode() != root:
            raise problem
        return cls(origin, int(size), value, tuple(signatures))


def read_notes(text: str, where: str) -> list[Checkpoint]:
    """The checkpoints of a file that holds notes one after the other, with or without empty lines between them.

    Raises:
        MalformedFile: there is something else in it.
    """
    found, lines = [], text.split("\n")
    at = 0
    while at < len(lines):
        if not lines[at]:
            at += 1
            continue
        stop = at + 4
        while stop < len(lines) and lines[stop].startswith(DASH):
            stop += 1
        found.append(Checkpoint.from_note("\n".join(lines[at:stop]) + "\n", where))
        at = stop
    return found
