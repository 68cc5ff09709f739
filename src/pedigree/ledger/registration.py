"""Artifacts that came from elsewhere: entered with what is known of them, which is not much.

Law  an import says `unverified origin`, whatever its origin is said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.ledger.log import Ledger, Receipt
from pedigree.ledger.materials import Material
from pedigree.ledger.statement import MANIFEST, Draft, Parent, Subject, hex_digest

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


def card_facts(folder: Path) -> dict[str, Any]:
    """What the card of a model claims: its parents by name, and its license."""
    from pedigree.ledger.card import card_claims, card_license

    claims, word = card_claims(folder), card_license(folder)
    return {**({"claims": claims} if claims else {}), **({"license": word} if word else {})}


def register_unknown(ledger: Ledger, material: Material, actors: Sequence[Mapping[str, str]], run: str | None) -> str:
    """The artifact id of an input that lies on disk; entered where the ledger does not know it."""
    from pedigree.weights.artifact import read_artifact

    artifact = read_artifact(str(material.path))
    digest = hex_digest(artifact.id)
    if entry_of(ledger, digest) is None:
        note, more = "loaded by a run that did not declare its origin", card_facts(Path(str(material.path)))
        register(ledger, artifact, actors=actors, run=run, note=note, more=more)
    return digest


def register_documented(ledger: Ledger, before: str, name: str, artifact: Artifact, what: str) -> Receipt:
    """Enter an artifact that differs from another in what is written beside its weights alone.

    Args:
        ledger: where.
        before: 64 digits of the artifact as it was.
        name: what it is called.
        artifact: as it is now.
        what: which file was written.
    """
    from pedigree.ledger.passport import DOCUMENT

    subjects = [Subject(MANIFEST, hex_digest(artifact.id))]
    subjects += [Subject(file.path, file.sha256) for file in artifact.manifest.files][:64]
    facts = {"name": name, "parameters": {"file": what}}
    draft = Draft("derive", facts, None, tuple(subjects), (Parent(before, "init", name),), DOCUMENT)
    return ledger.append(draft.with_attachment(artifact.manifest.to_bytes()))
