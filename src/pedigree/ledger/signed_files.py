"""A model signature held against the files that lie here, and against the key that is known for its signer.

VERIFIED      made by the key that was given, and every file is as it was signed
DECLARED      the files are as they were signed; who holds the key of the certificate was not asked
UNKNOWN       no key to hold it against, or files that it does not cover
SUSPECT       weights or code that the signature passes over
CONTRADICTED  a file differs, is missing or was added; or the signature is not that of the key
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pedigree.ledger.elliptic_keys import SignerKey
from pedigree.ledger.model_signature import Resource, SignedModel, read_bundle, read_signed, signer_of
from pedigree.ledger.verdict import EdgeVerdict, Problem, worst
from pedigree.records.artifact import SIDECAR, Artifact, FileDigest

CHUNK = 8 << 20
NOT_CHECKED = "when it was signed, and whether its key was revoked since: such a signature says neither"
MATTERS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz", ".h5", ".msgpack", ".onnx", ".pkl", ".py")


@dataclass
class SignatureReport:
    """What a signature is worth here.

    `signer` names the key that it was held against, `covered` counts the files that are as they were signed.
    """

    artifact: str
    signed_name: str
    material: str
    signer: str = ""
    names: str = ""
    issuer: str = ""
    given: bool = False
    good: bool = False
    covered: int = 0
    ignored: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> EdgeVerdict:
        """The gravest of its problems; without any, how much is known of the signer."""
        return worst(item.verdict for item in self.problems) or ("VERIFIED" if self.given else "DECLARED")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "artifact": self.artifact, "verdict": self.verdict, "signed_name": self.signed_name,
            "material": self.material, "signature_good": self.good,
            "signer": {"key": self.signer, "names": self.names, "issuer": self.issuer, "given": self.given},
            "files_covered": self.covered, "ignored": self.ignored,
            "problems": [item.to_dict() for item in self.problems], "not_checked": self.not_checked,
        }  # fmt: skip


def check_signature(
    folder: Path, artifact: Artifact, data: bytes, key: SignerKey | None, *, own: str | None = None
) -> SignatureReport:
    """Hold a signature against a model.

    Args:
        folder: the model.
        artifact: its files, hashed.
        data: the bundle.
        key: the key of the signer, from elsewhere; None where it is not known.
        own: path of the signature inside the model, which it cannot be over.

    Raises:
        MalformedFile: the bundle cannot be read.
    """
    bundle = read_bundle(data, "the signature")
    signed = read_signed(bundle.payload, "the signature")
    signer, good = signer_of(bundle, key)
    report = SignatureReport(artifact.id, signed.name, bundle.material, given=key is not None, good=good)
    report.ignored, report.not_checked = list(signed.ignored), [NOT_CHECKED, *bundle.notes]
    if signer is None:
        sentence = "no key to hold the signature against" if bundle.material == "key" else "a key of another kind"
        report.problems.append(Problem("UNKNOWN", "no-key", f"{sentence}: name it with --public-key"))
    else:
        report.signer, report.names, report.issuer = signer.id, signer.subject, signer.issuer
        if bundle.hint and key is not None and bundle.hint != key.hint:
            report.problems.append(Problem("CONTRADICTED", "other-key", "the signature names another key"))
        if not good:
            report.problems.append(Problem("CONTRADICTED", "signature", "the signature is not that of the key"))
    files = {file.path: file for file in artifact.manifest.files}
    report.problems += _differences(folder, files, signed, own)
    changed = sum(problem.word == "file-changed" for problem in report.problems)
    report.covered = len({item.name for item in signed.resources} & files.keys()) - changed
    return report


def _differences(
    folder: Path, files: dict[str, FileDigest], signed: SignedModel, own: str | None
) -> Iterator[Problem]:  # fmt: skip
    """What lies here and what was signed, file by file."""
    parts: dict[str, list[Resource]] = {}
    for resource in signed.resources:
        parts.setdefault(resource.name, []).append(resource)
    for name in sorted(parts.keys() - files.keys() - {SIDECAR}):
        yield Problem("CONTRADICTED", "file-gone", f"{name} was signed and is not here")
    for name in sorted(parts.keys() & files.keys()):
        if not _agrees(folder, files[name], parts[name], signed):
            yield Problem("CONTRADICTED", "file-changed", f"{name} is not as it was signed")
    for name in sorted(files.keys() - parts.keys()):
        if name == own:
            continue
        passed_over = any(name == path or name.startswith(path.rstrip("/") + "/") for path in signed.ignored)
        if passed_over and name.lower().endswith(MATTERS):
            yield Problem("SUSPECT", "file-ignored", f"{name} holds weights or code, and the signature passes over it")
        elif passed_over:
            yield Problem("UNKNOWN", "file-ignored", f"the signature passes over {name}")
        elif signed.method == "shards" and not files[name].size:
            yield Problem("UNKNOWN", "file-empty", f"{name} is empty; a signature over shards covers no empty file")
        else:
            yield Problem("CONTRADICTED", "file-added", f"{name} was not signed")


def _agrees(folder: Path, file: FileDigest, parts: list[Resource], signed: SignedModel) -> bool:
    """Whether a file is as it was signed, as a whole or part by part without a gap."""
    if signed.method == "files":
        known = {"sha256": file.sha256, "blake3": file.blake3}.get(signed.hash_name)
        path = folder / file.path if folder.is_dir() else folder
        return parts[0].digest == (known or _hash_part(path, signed.hash_name, 0, file.size))
    at = 0
    for part in sorted(parts, key=lambda part: part.start):
        stop = -1 if part.stop is None else part.stop
        if part.start != at or not at < stop <= file.size:
            return False
        if part.digest != _hash_part(folder / file.path, signed.hash_name, part.start, stop):
            return False
        at = stop
    return at == file.size


def _hash_part(path: Path, name: str, start: int, stop: int) -> str:
    """The digest of the bytes [start, stop) of a file."""
    from blake3 import blake3

    hasher: Any = blake3() if name == "blake3" else hashlib.new(name)
    with path.open("rb") as stream:
        stream.seek(start)
        left = stop - start
        while left > 0 and (data := stream.read(min(CHUNK, left))):
            hasher.update(data)
            left -= len(data)
    return str(hasher.hexdigest())
