"""Keys on the curves P-256, P-384 and P-521: what model signatures are made with (OMS 1.0, section on algorithms).

The release key of a project is `release.pem` beside its other keys. It signs files for others and nothing in the
ledger; the ledger says of each signature which key made it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pedigree.errors import MalformedFile, MissingInput
from pedigree.ledger.keys import read_private, write_private

CURVES = ("secp256r1", "secp384r1", "secp521r1")
FILE = "release.pem"


@dataclass(frozen=True)
class SignerKey:
    """A public key, and the names on the certificate it came from."""

    key: ec.EllipticCurvePublicKey
    subject: str = ""
    issuer: str = ""

    @classmethod
    def from_certificate(cls, data: bytes) -> SignerKey | None:
        """The key in a certificate (DER); None where it holds none of these curves."""
        try:
            found = x509.load_der_x509_certificate(data)
            key = found.public_key()
            names = [found.subject.rfc4514_string(), *_alternative_names(found)]
            issuer = found.issuer.rfc4514_string()
        except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension):
            return None
        subject = ", ".join(name for name in names if name)
        return cls(key, subject[:300], issuer[:300]) if _is_ours(key) else None  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> SignerKey:
        """A public key or a certificate in PEM.

        Raises:
            MissingInput: there is no such file.
            MalformedFile: it holds something else.
        """
        try:
            data = path.read_bytes()[: 1 << 20]
        except OSError as error:
            raise MissingInput("the public key cannot be read", where=str(path), got=error.strerror) from error
        try:
            if b"CERTIFICATE" in data:
                found = cls.from_certificate(
                    x509.load_pem_x509_certificate(data).public_bytes(serialization.Encoding.DER)
                )
                if found is not None:
                    return found
            else:
                key = serialization.load_pem_public_key(data)
                if _is_ours(key):
                    return cls(key)  # type: ignore[arg-type]
        except (ValueError, UnsupportedAlgorithm):
            pass
        raise MalformedFile(
            "this is no public key of a model signature", where=str(path),
            expected="PEM of an elliptic curve key (P-256, P-384, P-521) or of its certificate",
        )  # fmt: skip

    @cached_property
    def pem(self) -> bytes:
        """The key as it is handed out."""
        return self.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @cached_property
    def id(self) -> str:
        """Hexadecimal sha256 of the DER form, as of every other key."""
        der = self.key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(der).hexdigest()

    @property
    def hint(self) -> str:
        """How a bundle names the key: the sha256 of its PEM form."""
        return hashlib.sha256(self.pem).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made the signature."""
        try:
            self.key.verify(signature, message, ec.ECDSA(_hash(self.key.curve)))
        except (InvalidSignature, ValueError):
            return False
        return True

    def to_dict(self) -> dict[str, str]:
        """How a statement names it."""
        return {"algorithm": self.key.curve.name, "id": self.id, "public": base64.b64encode(self.pem).decode()}


@dataclass(frozen=True)
class ReleaseKey:
    """A private key that signs models."""

    secret: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, path: Path) -> ReleaseKey:
        """Read a key file (PKCS #8 or SEC 1 in PEM).

        Raises:
            MissingInput: there is none.
            MalformedFile: it holds another kind of key, or is encrypted with another passphrase.
        """
        key = read_private(path)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
            raise MalformedFile(
                "a key of another kind", where=str(path), expected="an elliptic curve key: P-256, P-384 or P-521"
            )
        return cls(key)

    @classmethod
    def of_project(cls, folder: Path) -> ReleaseKey:
        """The release key in a folder of keys; made, on P-256, on first use."""
        path = folder / FILE
        if not path.is_file():
            phrase = os.environ.get("PEDIGREE_KEY_PASSPHRASE")
            how: serialization.KeySerializationEncryption = serialization.NoEncryption()
            if phrase:
                how = serialization.BestAvailableEncryption(phrase.encode())
            made = ec.generate_private_key(ec.SECP256R1())
            write_private(path, made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
        return cls.load(path)

    @cached_property
    def public(self) -> SignerKey:
        """Its public half."""
        return SignerKey(self.secret.public_key())

    def sign(self, message: bytes) -> bytes:
        """A signature (ECDSA, DER)."""
        return self.secret.sign(message, ec.ECDSA(_hash(self.secret.curve)))


def _is_ours(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES


def _hash(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    """The hash that goes with a curve."""
    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[curve.key_size]


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]
