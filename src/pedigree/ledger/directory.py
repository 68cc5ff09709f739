"""A directory held against its record: are these the files that were registered?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedigree.errors import PedigreeError
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.sidecar import read_sidecar
from pedigree.ledger.statement import hex_digest
from pedigree.ledger.store import Store
from pedigree.ledger.verdict import Edge, Problem
from pedigree.records.artifact import Artifact, Manifest


@dataclass(frozen=True)
class Found:
    """What lies in a directory, and what its sidecar says of it.

    `digest` is computed from the files; `claimed` is what the sidecar names, `index` where it says the record is.
    """

    folder: Path
    artifact: Artifact
    sidecar: dict[str, Any]

    @property
    def digest(self) -> str:
        """64 digits of the artifact id of the files."""
        return hex_digest(self.artifact.id)

    @property
    def claimed(self) -> str | None:
        """64 digits that the sidecar names."""
        try:
            return hex_digest(str(self.sidecar["artifact"]))
        except (KeyError, PedigreeError):
            return None

    @property
    def proof(self) -> dict[str, Any] | None:
        """The proof in the sidecar."""
        proof = self.sidecar.get("proof")
        return proof if isinstance(proof, dict) else None

    @property
    def notes(self) -> list[Checkpoint]:
        """The checkpoint in the sidecar: a copy held by whoever has the directory."""
        ledger = self.sidecar.get("ledger")
        try:
            return [Checkpoint.from_note(str(ledger["checkpoint"]))] if isinstance(ledger, dict) else []
        except (KeyError, PedigreeError):
            return []


def look_at(folder: Path) -> Found:
    """Read a directory or file: every byte of it is hashed.

    Raises:
        PedigreeError: it is missing, or holds what no artifact may hold.
    """
    from pedigree.weights.artifact import read_artifact

    sidecar = read_sidecar(folder) if folder.is_dir() else {}
    return Found(folder, read_artifact(folder), sidecar)


def file_problems(found: Found, manifest: Manifest | None, registered: bool) -> list[Problem]:
    """What differs between the files and their record.

    Args:
        found: the directory.
        manifest: the files as they were registered, where that is kept.
        registered: whether an artifact of exactly these files is in the record.
    """
    if registered:
        return []
    if manifest is None and found.claimed is None:
        if found.sidecar.get("record") == "unrecorded":
            return [Problem("UNKNOWN", "unrecorded", "it was made with recording switched off")]
        return [Problem("UNKNOWN", "unregistered", "these files are in no record")]
    if manifest is None:
        return [Problem("CONTRADICTED", "files-changed", "the files are not those that the sidecar names")]
    told = differences(manifest, found.artifact.manifest)
    return [Problem("CONTRADICTED", "files-changed", sentence) for sentence in told]


def differences(before: Manifest, now: Manifest) -> list[str]:
    """What happened to the files of an artifact, a sentence for each."""
    old, new = ({file.path: file for file in manifest.files} for manifest in (before, now))
    told = []
    for path in sorted(old.keys() | new.keys()):
        if path not in new:
            told.append(f"{path} is gone")
        elif path not in old:
            told.append(f"{path} was added")
        elif old[path] != new[path]:
            told.append(f"{path} was changed: {old[path].size:,} bytes before, {new[path].size:,} now")
    return told


def registered_manifest(store: Store, digest: str) -> Manifest | None:
    """The manifest of a registered artifact, where it is still kept."""
    content = store.bodies([digest]).get(digest)
    try:
        return Manifest.from_bytes(content) if content is not None else None
    except PedigreeError:
        return None


def edges_behind(edges: Sequence[Edge], digest: str, graph: Lineage) -> list[Edge]:
    """The edges in the life of one artifact."""
    entries = set(graph.closure(digest))
    return [edge for edge in edges if edge.entry in entries]
