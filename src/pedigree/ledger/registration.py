"""Artifacts that came from elsewhere: entered with what is known of them, which is not much.

Law  an import says `unverified origin`, whatever its origin is said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.ledger.log import Ledger, Receipt
from pedigree.ledger.materials import Material
from pedigree.ledger.statement import MANIFEST, Draft, Subject, hex_digest

if TYPE_CHECKING:
    from pedigree.records.artifact import Artifact


def entry_of(ledger: Ledger, digest: str) -> int | None:
    """The newest entry that makes or imports an artifact, None where the ledger knows nothing of it."""
    from pedigree.ledger.lineage import Lineage

    return Lineage.read(ledger.store).maker(digest)


def register(
    ledger: Ledger,
    artifact: Artifact,
    *,
    origin: str = "",
    note: str = "",
    actors: Sequence[Mapping[str, str]] = (),
    run: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Receipt:
    """Enter an artifact of unverified origin.

    Args:
        ledger: where.
        artifact: what was found on disk.
        origin: where it is said to come from, such as `hf://owner/name@commit`.
        note: what somebody wants to add.
        actors: who enters it.
        run: the run that loaded it.
        more: what else is known, such as the claims of a model card.
    """
    subjects = [Subject(MANIFEST, hex_digest(artifact.id))]
    subjects += [Subject(file.path, file.sha256) for file in artifact.manifest.files][:64]
    facts: dict[str, Any] = {
        "name": Path(artifact.location).name, "origin": origin, "note": note, "status": "unverified origin",
        "actors": list(actors), "bytes": artifact.bytes, **(more or {}),
    }  # fmt: skip
    draft = Draft("artifact.import", facts, run, tuple(subjects), operation="import")
    return ledger.append(draft.with_attachment(artifact.manifest.to_bytes()))


def register_unknown(ledger: Ledger, material: Material, actors: Sequence[Mapping[str, str]], run: str | None) -> str:
    """The artifact id of an input that lies on disk; entered where the ledger does not know it."""
    from pedigree.weights.artifact import read_artifact

    artifact = read_artifact(str(material.path))
    digest = hex_digest(artifact.id)
    if entry_of(ledger, digest) is None:
        register(ledger, artifact, actors=actors, run=run, note="loaded by a run that did not declare its origin")
    return digest
