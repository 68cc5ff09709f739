"""Ed25519 keys: identity, signatures, and the folder in which a project keeps its own.

A key is named by the sha256 of its DER public key. Roles: `root` keys allow other keys, the `log` key signs
checkpoints, `actor` keys sign statements. Files are PKCS #8 in PEM, readable by their owner alone; with
PEDIGREE_KEY_PASSPHRASE set when they are made, they are encrypted with it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pedigree.errors import MalformedFile, MissingInput

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

Role = Literal["root", "log", "actor"]
ROLES: tuple[Role, ...] = ("root", "log", "actor")
ALGORITHM = "ed25519"
_DER_PREFIX = bytes.fromhex("302a300506032b6570032100")  # RFC 8410: SubjectPublicKeyInfo of Ed25519, the key follows


@dataclass(frozen=True)
class PublicKey:
    """A public key: 32 raw bytes."""

    raw: bytes

    @cached_property
    def id(self) -> str:
        """Hexadecimal sha256 of the DER form."""
        return hashlib.sha256(_DER_PREFIX + self.raw).hexdigest()

    @cached_property
    def _key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.raw)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made the signature."""
        try:
            self._key.verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    @classmethod
    def load(cls, path: Path) -> PublicKey:
        """Read a public key in PEM; of a private key its public half is taken.

        Raises:
            MissingInput: there is no such file.
            MalformedFile: it holds no Ed25519 key.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MissingInput("the key cannot be read", where=str(path), got=error.strerror) from error
        if b"PRIVATE KEY" in data:
            return PrivateKey.load(path).public
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise MalformedFile("this is no public key", where=str(path), expected="Ed25519 in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise MalformedFile("a key of another kind", where=str(path), expected="an Ed25519 key")
        return cls(key.public_bytes_raw())

    def to_pem(self) -> bytes:
        """The key as it is handed out."""
        return self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def to_dict(self) -> dict[str, str]:
        """How a statement names the key."""
        return {"algorithm": ALGORITHM, "id": self.id, "public": base64.b64encode(self.raw).decode()}

    @classmethod
    def from_dict(cls, value: Any, where: str) -> PublicKey:
        """Read what `to_dict` wrote.

        Raises:
            MalformedFile: it is no key, or its id is that of another.
        """
        try:
            key = cls(base64.b64decode(value["public"], validate=True))
            if value["algorithm"] == ALGORITHM and len(key.raw) == 32 and value["id"] == key.id:
                return key
        except (KeyError, TypeError, ValueError):
            pass
        raise MalformedFile("this is no public key", where=where, expected="an Ed25519 key with its own id")


@dataclass(frozen=True)
class PrivateKey:
    """A private key."""

    secret: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new key."""
        return cls(Ed25519PrivateKey.generate())

    @cached_property
    def public(self) -> PublicKey:
        """Its public half."""
        return PublicKey(self.secret.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of a signature."""
        return self.secret.sign(message)

    def to_pem(self) -> bytes:
        """PKCS #8 in PEM, encrypted where PEDIGREE_KEY_PASSPHRASE is set."""
        phrase = os.environ.get("PEDIGREE_KEY_PASSPHRASE")
        how: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if phrase:
            how = serialization.BestAvailableEncryption(phrase.encode())
        return self.secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)

    @classmethod
    def load(cls, path: Path) -> PrivateKey:
        """Read a key file.

        Raises:
            MissingInput: there is none.
            MalformedFile: it holds no Ed25519 key, or is encrypted with another passphrase.
        """
        key = read_private(path)
        if not isinstance(key, Ed25519PrivateKey):
            raise MalformedFile("a key of another kind", where=str(path), expected="an Ed25519 key")
        return cls(key)


class KeyFolder:
    """The private keys of a project: `ROLE.pem`, made on first use all at once.

    Args:
        path: the folder; a `.gitignore` beside the keys keeps them out of repositories.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Make one key for each role, where there is no folder; of many processes one wins, and all use its keys."""
        if self.path.is_dir():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".keys-", dir=self.path.parent))  # 0700
        try:
            for role in ROLES:
                write_private(new / f"{role}.pem", PrivateKey.generate().to_pem())
            write_private(new / ".gitignore", b"*\n")
            with contextlib.suppress(OSError):  # another process was faster
                new.rename(self.path)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def load(self, role: Role) -> PrivateKey:
        """The key of a role.

        Raises:
            MissingInput, MalformedFile: as `PrivateKey.load`.
        """
        return PrivateKey.load(self.path / f"{role}.pem")

    def prepare(self, role: Role, key: PrivateKey) -> None:
        """Put a key on disk, under its own name, before anything speaks of it."""
        write_private(self.path / f"{role}-{key.public.id[:16]}.pem", key.to_pem())

    def replace(self, role: Role, key: PrivateKey) -> None:
        """Keep another key for a role; the file of the old one is renamed after its id, never removed."""
        path = self.path / f"{role}.pem"
        new = self.path / f".{role}.new"
        write_private(new, key.to_pem())
        with contextlib.suppress(FileExistsError):  # `prepare` put it there
            os.link(path, self.path / f"{role}-{self.load(role).public.id[:16]}.pem")
        new.replace(path)


def read_private(path: Path) -> PrivateKeyTypes:
    """The private key in a PEM file, of whatever kind; opened with PEDIGREE_KEY_PASSPHRASE where it is encrypted.

    Raises:
        MissingInput: there is none.
        MalformedFile: it is no key, or is encrypted with another passphrase.
    """
    phrase = os.environ.get("PEDIGREE_KEY_PASSPHRASE")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingInput("the key cannot be read", where=str(path), got=error.strerror) from error
    encrypted = b"ENCRYPTED" in data
    try:
        return serialization.load_pem_private_key(data, phrase.encode() if phrase and encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        fix = "set PEDIGREE_KEY_PASSPHRASE to its passphrase" if encrypted else None
        raise MalformedFile("this is no key that can be opened", where=str(path), fix=fix) from error


def write_private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone can read, and force it to disk."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
