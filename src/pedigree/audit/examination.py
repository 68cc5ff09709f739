"""The audit: gather what is said and what lies there, hold one against the other, write the record.

    ledger, cards, family records --claims--> edges
    folders --hashed--> models --compared--> pairs          edges + pairs --judged--> record

The witness never reads the confession: a comparison gets two folders of weights and nothing that is said of them. What
is said is held against its answer here, afterwards.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pedigree.audit.claims import Claim, card_claim, family_claims, ledger_claims
from pedigree.audit.judgment import judge_claim
from pedigree.audit.pairs import Pairs
from pedigree.audit.places import Model, Tell, look_at_models, model_folders
from pedigree.audit.relatives import Scene
from pedigree.errors import MissingInput
from pedigree.ledger.directory import registered_manifest
from pedigree.ledger.edges import edges_of, name_of
from pedigree.ledger.entry import Entry
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.store import Store
from pedigree.ledger.verdict import worst
from pedigree.ledger.verification import Verification, verify
from pedigree.records.artifact import Manifest, name_of_folder
from pedigree.records.audit import Audit, AuditEdge, AuditModel, AuditResult, EdgeVerdict

NOT_CHECKED = (
    "that nothing was left out: models that are neither recorded nor here were not compared",
    "distillation and training on another model's outputs leave no trace in weights",
    "data, tokens, compute and people, which weights do not show",
)


@dataclass(frozen=True)
class Request:
    """What is to be audited.

    Attributes:
        place: a model, or a folder of models.
        others: further folders of models to hold it against.
        project: the folder that recorded places are relative to; what still lies there is held against it too.
        unreadable: how many models of a library could not be held against it, being fingerprints or elsewhere.
        store: the ledger; None where there is none.
        outside: checkpoints of the ledger that were kept elsewhere.
        kept: folder of earlier comparisons; None: nothing is kept.
        allow_pickle: read torch files (weights only).
    """

    place: Path
    others: Sequence[Path] = ()
    project: Path | None = None
    unreadable: int = 0
    store: Store | None = None
    outside: Sequence[Checkpoint] = ()
    kept: Path | None = None
    allow_pickle: bool = False


@dataclass
class _Known:
    """What the ledger knows of artifacts."""

    report: Verification | None = None
    manifests: dict[str, Manifest | None] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)


@dataclass
class Gathered:
    """What is said and what lies there, before one is held against the other.

    Attributes:
        known: what the ledger knows.
        models: those at hand.
        unread: a sentence for each that could not be read.
        claims: in the order in which they are judged.
        scene: what they are held against.
    """

    known: _Known
    models: list[Model]
    unread: list[str]
    claims: list[Claim]
    scene: Scene


def examine(request: Request, tell: Tell = lambda stage, fraction, message: None) -> Audit:
    """Hold every claim about some models against their weights.

    Args:
        request: what, and against what.
        tell: called with (stage, fraction, message).

    Raises:
        MissingInput: no model is there.
    """
    begun = time.monotonic()
    found = gather(request, tell)
    edges = [edge for claim in found.claims for edge in judge_claim(claim, found.scene)]
    return _record(request, found.known, found.models, found.scene, edges, found.unread, time.monotonic() - begun)


def gather(request: Request, tell: Tell = lambda stage, fraction, message: None) -> Gathered:
    """Read the ledger, look for models, hash them, and list what is claimed of them; nothing is compared yet.

    Raises:
        MissingInput: no model is there.
    """
    known = _read_ledger(request)
    others = [*request.others, *_recorded_places(request, known)]
    folders = _without_twins(model_folders([request.place, *others], allow_pickle=request.allow_pickle))
    asked_for = set(model_folders([request.place], allow_pickle=request.allow_pickle))
    if not asked_for:
        raise MissingInput(
            "no model is here",
            where=str(request.place),
            expected="a folder with .safetensors or .gguf files in or below it",
        )
    models, unread = look_at_models(folders, known.manifests, known.names, tell)
    subjects = [model for model in models if model.folder in asked_for]
    by_digest = {model.digest: model for model in reversed(models)}
    claims = _claims(request, known, models, subjects)
    pairs = Pairs(by_digest, request.kept, request.allow_pickle, tell)
    scene = _scene(by_digest, pairs, known, claims)
    pairs.expected = sum(
        len(scene.candidates(claim)) + len(claim.parents) for claim in claims if claim.child in by_digest
    )
    return Gathered(known, models, unread, claims, scene)


def _recorded_places(request: Request, known: _Known) -> list[Path]:
    """Where recorded models were written to, as far as that is inside the project and something is there."""
    if request.project is None or known.report is None:
        return []
    root = request.project.absolute()
    found: dict[Path, None] = {}
    for entry in known.report.entries:
        if entry.leaf.kind in ("derive", "artifact.import"):
            for text in _outputs(entry):
                path = Path(os.path.normpath(root / text))
                if path.is_relative_to(root) and path.is_dir():
                    found[path] = None
    return list(found)


def _outputs(entry: Entry) -> list[str]:
    """The places that an entry says its result was written to; hints, since files are known by their digests."""
    facts = entry.facts
    output = facts.get("output")
    places = facts.get("outputs") or ([output.get("location")] if isinstance(output, Mapping) else [])
    return [place for place in places if isinstance(place, str)] if isinstance(places, list) else []


def _without_twins(folders: Sequence[Path]) -> list[Path]:
    """Each place once, by the first of its spellings."""
    found: dict[Path, Path] = {}
    for folder in folders:
        found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _read_ledger(request: Request) -> _Known:
    if request.store is None:
        return _Known()
    report = verify(request.store, request.outside)
    sizes = [c.size for c in request.outside if c.origin == report.origin and c.size <= report.anchored]
    # What earlier audits found is not what was recorded: the weights are asked anew.
    entries = [entry for entry in report.entries if entry.leaf.kind != "forensic"]
    report.edges = edges_of(entries, report.problems, report.ring, sizes)
    known = _Known(report)
    for entry in entries:
        if entry.leaf.kind not in ("derive", "artifact.import") or not entry.leaf.subjects:
            continue
        digest = entry.leaf.subjects[0]
        known.manifests[digest] = registered_manifest(request.store, digest)
        known.names.setdefault(digest, _recorded_name(entry))
        known.order.setdefault(digest, entry.index)
        made = entry.leaf.kind == "derive"
        if made and digest in known.imported:
            known.order[digest] = entry.index
        known.imported = known.imported - {digest} if made else known.imported | ({digest} - _made(known, digest))
    return known


def _made(known: _Known, digest: str) -> set[str]:
    """The digest, where an earlier entry says that it was made here."""
    return {digest} if digest in known.order and digest not in known.imported else set()


def _recorded_name(entry: Entry) -> str:
    """What a recorded model is called: by the folder it was written to, where the entry names one."""
    places = _outputs(entry)
    return name_of_folder(Path(places[0])) if len(places) == 1 else name_of(entry)


def _claims(
    request: Request, known: _Known, models: Sequence[Model], subjects: Sequence[Model]
) -> list[Claim]:  # fmt: skip
    """Of the ledger, then of family records, then of cards; about the models asked for and what is behind them."""
    claims: list[Claim] = []
    if known.report is not None:
        claims += ledger_claims(known.report, [model.digest for model in subjects])
    family = family_claims(request.place, models) if request.place.is_dir() else []
    claims += family
    for model in subjects:
        card = card_claim(model, models)
        if card is not None:
            claims.append(card)
    return claims


def _scene(by_digest: dict[str, Model], pairs: Pairs, known: _Known, claims: Sequence[Claim]) -> Scene:
    children: dict[str, list[str]] = {}
    for claim in claims:
        for parent in claim.parents:
            children.setdefault(parent, []).append(claim.child)
    if known.report is not None:
        for leaf in Lineage.of_entries(known.report.entries).leaves.values():
            if leaf.kind == "derive" and leaf.subjects:
                for parent in leaf.parents:
                    children.setdefault(parent, []).append(leaf.subjects[0])
    order = dict(known.order)
    if known.report is None:
        order = {claim.child: int(claim.parameters["at"]) for claim in claims if claim.source == "family"}
    return Scene(by_digest, pairs, order, frozenset(known.imported), children, known.names, claims)


def _record(
    request: Request, known: _Known, models: Sequence[Model], scene: Scene, edges: Sequence[AuditEdge],
    unread: Sequence[str], seconds: float,
) -> Audit:  # fmt: skip
    from pedigree.forensics.comparison.bank import error_rate, false_positives, load_bank
    from pedigree.forensics.comparison.record import producer

    bank = load_bank() or {}
    rate, compared = error_rate(), scene.pairs.compared
    counts: dict[EdgeVerdict, int] = {}
    for edge in edges:
        counts[edge.verdict] = counts.get(edge.verdict, 0) + 1
    report = known.report
    failed = [
        f"{scene.name(a)} and {scene.name(b)} were not compared: {why}" for (a, b), why in scene.pairs.failed.items()
    ]
    not_checked = [*NOT_CHECKED]
    if report is None:
        not_checked.append(
            "a ledger: there is none here, so only cards and family records were held against the weights"
        )
    missing = sum(
        1 for edge in edges if any(check.check == "files" and check.answer == "cannot-say" for check in edge.checks)
    )
    if request.unreadable:
        not_checked.append(f"{request.unreadable} models of the library, whose weights are not on this machine")
    if missing:
        not_checked.append(f"{missing} recorded edges whose files are not here")
    return Audit(
        producer=producer(),
        created=datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z"),
        inputs={
            "place": str(request.place), "others": [str(place) for place in request.others],
            "ledger": report.origin if report else None, "entries": report.size if report else 0,
            "root": report.root if report else None,
        },
        options={"allow_pickle": request.allow_pickle},
        result=AuditResult(
            verdict=worst(edge.verdict for edge in edges) or "UNKNOWN",
            counts=counts,
            edges=list(edges),
            models=_models(models, known, edges),
            pairs=compared,
            pairs_from_before=scene.pairs.reused,
            any_false_upper_95=1 - math.exp(compared * math.log1p(-rate.false_positive_upper_95)) if rate else None,
            error_rate=rate,
            false_positives=false_positives(),
            bank_scores=[float(score) for score in bank.get("scores", {}).get("best_z", [])],
            not_checked=not_checked,
            seconds=round(seconds, 3),
        ),
        warnings=[*unread, *failed, *_ledger_warnings(report)],
    )  # fmt: skip


def _ledger_warnings(report: Verification | None) -> list[str]:
    if report is None:
        return []
    return [f"the ledger: {problem.sentence}" for problem in report.problems if problem.entry is None]


def _models(models: Sequence[Model], known: _Known, edges: Sequence[AuditEdge]) -> list[AuditModel]:
    """The models at hand, and those that edges name and nobody has."""
    found = {
        model.digest: AuditModel(
            name=model.name, artifact=model.found.artifact.id, state=model.state, location=str(model.folder),
            recorded_as=f"sha256:{model.digest}" if model.digest != model.found.digest else None, note=model.note,
        )
        for model in reversed(models)
    }  # fmt: skip
    for edge in edges:
        for digest, name in ((edge.child, edge.child_name), (edge.parent, edge.parent_name)):
            bare = digest.removeprefix("sha256:")
            if bare and bare not in found:
                found[bare] = AuditModel(name=name, artifact=digest, state="missing")
    order = sorted(found, key=lambda digest: (known.order.get(digest, math.inf), found[digest].name))
    return [found[digest] for digest in order]
