"""The OpenSSF model signature (OMS 1.0): made for our models, checked for those of others.

    bundle (Sigstore 0.3) -> DSSE envelope -> in-toto Statement -> resources: name, algorithm, digest of every file

What such a signature leaves open is told, not guessed: its root digest binds no names, so names and digests are
compared one by one; files that it passes over (`ignore_paths`) are listed; a certificate is not traced to an authority.

Source  github.com/ossf/model-signing-spec, version 1.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pedigree.errors import MalformedFile, UsageError
from pedigree.ledger.elliptic_keys import ReleaseKey, SignerKey
from pedigree.ledger.envelope import STATEMENT_TYPE, pre_authentication_encoding
from pedigree.ledger.statement import STATEMENT
from pedigree.ledger.strict_json import strict_object
from pedigree.records.artifact import SIDECAR, FileDigest

PREDICATE = "https://model_signing/signature/v1.0"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BUNDLE = 64 << 20  # bytes; one million shards of a large model stay below
HASHES = {"sha256": "sha256", "blake2b": "blake2b", "blake2": "blake2b", "blake3": "blake3"}
Material = Literal["key", "certificate", "sigstore"]


@dataclass(frozen=True)
class Resource:
    """One file, or the part of one from `start` up to `stop`, and its digest in hexadecimal."""

    name: str
    digest: str
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class SignedModel:
    """What a signature is over.

    `hash_name` is one of sha256, blake2b, blake3; `ignored` are paths that it passes over, with all that is below them.
    """

    name: str
    root: str
    method: str
    hash_name: str
    ignored: tuple[str, ...]
    resources: tuple[Resource, ...]


@dataclass(frozen=True)
class SignatureBundle:
    """A bundle as it was read; nothing in it is believed yet."""

    payload: bytes
    signatures: tuple[bytes, ...]
    material: Material
    hint: str = ""
    certificates: tuple[bytes, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        return pre_authentication_encoding(STATEMENT_TYPE, self.payload)


def sign_files(name: str, files: Sequence[FileDigest], key: ReleaseKey, ignored: Sequence[str] = (SIDECAR,)) -> bytes:
    """The bundle over the files of a model; nothing is hashed again.

    Args:
        name: of the model.
        files: its manifest, which leaves out the sidecar.
        key: on the curve P-256, P-384 or P-521.
        ignored: what verifiers must pass over: the sidecar, whose proof is signed by itself.

    Raises:
        UsageError: there is nothing to sign.
    """
    listed = sorted((file for file in files if file.path not in ignored), key=lambda file: file.path)
    if not listed:
        raise UsageError("there is no file to sign", where=name)
    root = hashlib.sha256(b"".join(bytes.fromhex(file.sha256) for file in listed)).hexdigest()
    statement = {
        "_type": STATEMENT, "subject": [{"name": name, "digest": {"sha256": root}}], "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": sorted(ignored),
            },
            "resources": [{"name": file.path, "algorithm": "sha256", "digest": file.sha256} for file in listed],
        },
    }  # fmt: skip
    payload = json.dumps(statement, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    signature = key.sign(pre_authentication_encoding(STATEMENT_TYPE, payload))
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key.public.hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(), "payloadType": STATEMENT_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }  # fmt: skip
    return (json.dumps(bundle, indent=1) + "\n").encode("utf-8")


def read_bundle(data: bytes, where: str) -> SignatureBundle:
    """Take a bundle apart.

    Raises:
        MalformedFile: it is none, or lacks what a verifier needs.
    """
    bundle = strict_object(data, where, limit=MAX_BUNDLE, numbers=True)
    if not str(bundle.get("mediaType", "")).startswith("application/vnd.dev.sigstore.bundle"):
        raise _refused(where, bundle.get("mediaType"), BUNDLE)
    envelope, material = bundle.get("dsseEnvelope"), bundle.get("verificationMaterial")
    if not isinstance(envelope, dict) or not isinstance(material, dict):
        raise _refused(where, sorted(bundle), "dsseEnvelope and verificationMaterial")
    if envelope.get("payloadType") != STATEMENT_TYPE:
        raise _refused(where, envelope.get("payloadType"), STATEMENT_TYPE)
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = tuple(base64.b64decode(item["sig"], validate=True) for item in envelope["signatures"])
        kind, hint, certificates = _material(material, where)
    except (KeyError, TypeError, AttributeError, binascii.Error, ValueError) as error:
        raise _refused(where, f"{type(error).__name__} {error}", "the fields of a DSSE envelope") from error
    if not signatures or not all(signatures):
        raise _refused(where, "no signature", "one")
    notes = [f"{len(signatures) - 1} further signatures, which were not looked at"] if len(signatures) > 1 else []
    if kind != "key":
        notes.append("that the certificate goes back to an authority, and when it was signed")
    return SignatureBundle(payload, signatures, kind, hint, certificates, tuple(notes))


def _material(material: dict[str, Any], where: str) -> tuple[Material, str, tuple[bytes, ...]]:
    """How the signer is named: a key, certificates, or the certificate of a transparency log."""
    if isinstance(material.get("publicKey"), dict):
        return "key", str(material["publicKey"].get("hint") or ""), ()
    if isinstance(material.get("x509CertificateChain"), dict):
        chain = tuple(base64.b64decode(item["rawBytes"]) for item in material["x509CertificateChain"]["certificates"])
        if chain:
            return "certificate", "", chain
    if isinstance(material.get("certificate"), dict):
        if not material.get("tlogEntries"):
            raise _refused(where, "a certificate of Sigstore without a log entry", "tlogEntries")
        return "sigstore", "", (base64.b64decode(material["certificate"]["rawBytes"]),)
    raise _refused(where, sorted(material), "publicKey, x509CertificateChain or certificate")


def read_signed(payload: bytes, where: str) -> SignedModel:
    """What the statement in a bundle lists.

    Raises:
        MalformedFile: it is of another kind, or its root is not that of its own resources.
    """
    value = strict_object(payload, where, limit=MAX_BUNDLE, numbers=True, fractions=True)
    if value.get("_type") != STATEMENT or value.get("predicateType") != PREDICATE:
        raise _refused(where, value.get("predicateType"), PREDICATE)
    try:
        (subject,) = value["subject"]
        how, resources = value["predicate"]["serialization"], value["predicate"]["resources"]
        method, hash_name = str(how["method"]), HASHES[str(how["hash_type"])]
        listed = tuple(_resource(item, method, hash_name) for item in resources)
        root = hashlib.sha256(b"".join(bytes.fromhex(item.digest) for item in listed)).hexdigest()
        ignored = tuple(str(item) for item in how.get("ignore_paths") or ())
        model = SignedModel(str(subject["name"]), str(subject["digest"]["sha256"]), method, hash_name, ignored, listed)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refused(where, f"{type(error).__name__} {error}", "subject, serialization and resources") from error
    if method not in ("files", "shards") or not listed:
        raise _refused(where, f"{method}, {len(listed)} resources", "files or shards, and at least one")
    if root != model.root:
        raise _refused(where, model.root, f"{root}, the digest over its own resources")
    if len({(item.name, item.start) for item in listed}) != len(listed):
        raise _refused(where, "a resource twice", "each once")
    return model


def _resource(item: dict[str, Any], method: str, hash_name: str) -> Resource:
    # The reference implementation names the hash of a shard `sha256-sharded-SIZE`, which its own schema does not know.
    algorithm = HASHES[str(item["algorithm"]).partition("-sharded-")[0]]
    name, digest = str(item["name"]), str(item["digest"]).lower()
    bytes.fromhex(digest)
    if algorithm != hash_name:
        raise ValueError(f"{name}: {algorithm} among {hash_name}")
    if method == "files":
        return Resource(name, digest)
    path, start, stop = name.rsplit(":", 2)
    return Resource(path, digest, int(start), int(stop))


def signer_of(bundle: SignatureBundle, key: SignerKey | None) -> tuple[SignerKey | None, bool]:
    """Who signed a bundle, and whether the signature is good.

    Args:
        bundle: as it was read.
        key: a key that is known from elsewhere; without it that of the certificate is taken, and of a bare key nobody.

    Returns:
        The key that the signature was held against, None where there is none; and whether it made the signature.
    """
    used = key or (SignerKey.from_certificate(bundle.certificates[0]) if bundle.certificates else None)
    return used, used is not None and used.verifies(bundle.signatures[0], bundle.signed_bytes)


def _refused(where: str, got: object, expected: str) -> MalformedFile:
    return MalformedFile("this is no model signature that can be read", where=where, got=got, expected=expected)
