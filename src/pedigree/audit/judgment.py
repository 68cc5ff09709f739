"""From the checks of a claim to one word for each of its edges.

signature, tree, key say no        SUSPECT or CONTRADICTED stay what they are
a check disagrees                  CONTRADICTED
a check is in doubt                SUSPECT
other files changed                STALE
the weights agree                  CORROBORATED; REPLAYED stays
nothing could be asked             DECLARED where it is signed, UNKNOWN where it is not
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pedigree.audit.claims import Claim
from pedigree.audit.direction import direction_check
from pedigree.audit.operations import all_copied, frozen_check, is_training, operation_check, steps_check
from pedigree.audit.relatives import Relative, Scene, nearest_check, parents_check, relatives_of, start_check
from pedigree.audit.states import states_check
from pedigree.ledger.verdict import Edge, worst
from pedigree.records.audit import Answer, AuditCheck, AuditEdge, EdgeVerdict
from pedigree.records.comparison import Decoy

if TYPE_CHECKING:
    from pedigree.forensics.pair import PairEvidence

_WORST_ANSWER: tuple[Answer, ...] = ("note", "cannot-say", "agrees", "doubtful", "disagrees")
MOST_DECOYS = 6


def judge_claim(claim: Claim, scene: Scene) -> list[AuditEdge]:
    """The edges of one claim with their verdicts."""
    files = _files_check(claim, scene)
    relatives = relatives_of(claim, scene) if _wants_relatives(claim, scene) else []
    shared = [check for check in (files, parents_check(claim, relatives, scene)) if check is not None]
    mixed = any(check.lie == "undeclared-parent" for check in shared)
    edges = []
    for edge in claim.edges:
        pair = scene.pairs.of(edge.parent, claim.child) if edge.parent else None
        checks = [*shared, *_edge_checks(claim, edge, pair, relatives, scene, mixed=mixed)]
        near = relatives[0] if edge.role == "start" and relatives else None
        made = _edge(claim, edge, near.pair if near else pair, checks, scene)
        edges.append(_beside(made, scene.name(near.digest)) if near else made)
    return edges


def _beside(edge: AuditEdge, name: str) -> AuditEdge:
    """The same edge, whose comparison is with a relative rather than with the parent."""
    return edge.model_copy(update={"beside": name, "decoys": [one for one in edge.decoys if one.location != name]})


def _wants_relatives(claim: Claim, scene: Scene) -> bool:
    """Not where the child is not at hand, and not where every part is a copy of the parent's."""
    if claim.child not in scene.models:
        return False
    pairs = [scene.pairs.of(parent, claim.child) for parent in claim.parents]
    return not (pairs and any(pair is not None and all_copied(claim, pair) for pair in pairs))


def _files_check(claim: Claim, scene: Scene) -> AuditCheck | None:
    model = scene.models.get(claim.child)
    if model is None:
        return AuditCheck(check="files", answer="cannot-say", sentence="the files of the model are not here")
    if model.state == "changed":
        lie = "wrong-upload" if model.twin else "changed-files"
        return AuditCheck.model_validate(
            {"check": "files", "answer": "disagrees", "lie": lie, "sentence": model.note}
        )  # fmt: skip
    if model.state == "weights-as-recorded":
        return AuditCheck(check="files", answer="note", sentence=model.note)
    return None


def _edge_checks(
    claim: Claim, edge: Edge, pair: PairEvidence | None, relatives: Sequence[Relative], scene: Scene, *, mixed: bool
) -> list[AuditCheck]:
    if claim.child not in scene.models:
        return []
    if edge.role == "start":
        found = [start_check(claim, relatives, scene), _states(claim, edge, scene)]
        return [check for check in found if check is not None]
    if edge.role == "origin":
        return [_origin_check(relatives, scene)]
    if not edge.parent:
        return [
            AuditCheck(check="relation", answer="cannot-say", sentence=f"no model named {edge.parent_name} is at hand")
        ]
    if pair is None:
        failed = scene.pairs.failed.get((edge.parent, claim.child))
        told = f"the two could not be compared: {failed}" if failed else "the files of the parent are not here"
        return [AuditCheck(check="relation", answer="cannot-say", sentence=told)]
    checks: list[AuditCheck | None] = [relation_check(claim, pair)]
    if pair.related:
        checks += [operation_check(claim, pair), steps_check(claim, pair), frozen_check(claim, pair)]
        checks += [_states(claim, edge, scene), nearest_check(claim, edge.parent, relatives, scene)]
        if not mixed:
            # A mixture lies between its parents: seen from one of them it looks like what both came from.
            checks.append(direction_check(claim, edge.parent, pair, relatives, scene))
    return [check for check in checks if check is not None]


def _states(claim: Claim, edge: Edge, scene: Scene) -> AuditCheck | None:
    return states_check(claim, scene.models.get(edge.parent), scene.models.get(claim.child), scene.prints)


def relation_check(claim: Claim, pair: PairEvidence) -> AuditCheck:
    """Whether the child shares trained weights with the declared parent at all."""
    word, told = pair.verdict, pair.comparison.result.strength or ""
    more = f" ({told})" if told else ""
    if word in ("inconclusive", "not-testable"):
        return AuditCheck(check="relation", answer="cannot-say", sentence=f"the comparison says {word}")
    if pair.related and not pair.strong:
        told = f"{word} in a few layers only, without an exact test: too little to count among many comparisons"
        return AuditCheck(check="relation", answer="cannot-say", sentence=told)
    if word == "unrelated":
        return AuditCheck(
            check="relation", answer="disagrees", lie="not-the-parent",
            sentence="no relation to the declared parent was found",
        )  # fmt: skip
    if word == "shared-initialization":
        return AuditCheck(
            check="relation", answer="doubtful", lie="swapped-sibling",
            sentence="the two share a random start only: the child does not go on from what the parent had learned",
        )  # fmt: skip
    if word == "partly-related":
        return _partly(claim, pair)
    return AuditCheck(check="relation", answer="agrees", sentence=f"{word}{more}")


def _partly(claim: Claim, pair: PairEvidence) -> AuditCheck:
    parts = pair.comparison.result.components
    alike = [name for name, part in parts.items() if part.verdict in ("related", "identical")]
    body = [name for name in alike if name in ("attn", "mlp", "experts", "tensors")]
    if not body and any(parts[name].verdict == "inconclusive" for name in ("attn", "mlp", "experts") if name in parts):
        told = f"{', '.join(alike)} came from the declared parent; whether the layers did is not told"
        return AuditCheck(check="relation", answer="cannot-say", sentence=told)
    if not body:
        return AuditCheck(
            check="relation", answer="disagrees" if is_training(claim.operation) else "doubtful", lie="not-the-parent",
            sentence=f"no layer is shared with the declared parent, only {', '.join(alike) or 'some rows'}",
        )  # fmt: skip
    return AuditCheck(check="relation", answer="agrees", sentence=f"partly related: {', '.join(alike)}")


def _origin_check(relatives: Sequence[Relative], scene: Scene) -> AuditCheck:
    if not relatives:
        return AuditCheck(check="start", answer="cannot-say", sentence="came from elsewhere: unverified origin")
    names = ", ".join(scene.name(one.digest) for one in relatives[:4])
    return AuditCheck(
        check="start", answer="cannot-say",
        sentence=f"came from elsewhere; shares trained weights with {names}, nearest first",
    )  # fmt: skip


def _edge(
    claim: Claim, edge: Edge, pair: PairEvidence | None, checks: Sequence[AuditCheck], scene: Scene
) -> AuditEdge:  # fmt: skip
    recorded: EdgeVerdict = edge.verdict
    verdict, why = _verdict(recorded, edge, checks, scene.models.get(claim.child))
    return AuditEdge(
        child=_id(edge.child), child_name=scene.name(edge.child), parent=_id(edge.parent),
        parent_name=scene.name(edge.parent) if edge.parent else edge.parent_name, role=edge.role,
        operation=_operation(claim), source=claim.source, entry=claim.entry, recorded=recorded, verdict=verdict,
        why=why,
        lies=list(dict.fromkeys(check.lie for check in checks if check.lie is not None)), checks=list(checks),
        distance2=pair.distance2 if pair else None, comparison=pair.comparison if pair else None,
        decoys=_decoys(claim, edge, scene),
    )  # fmt: skip


def _id(digest: str) -> str:
    return f"sha256:{digest}" if digest else ""


def _operation(claim: Claim) -> str:
    return ", ".join(claim.operators) or claim.operation


def _verdict(
    recorded: EdgeVerdict, edge: Edge, checks: Sequence[AuditCheck], model: object
) -> tuple[EdgeVerdict, str]:  # fmt: skip
    gravest = max(checks, key=lambda check: _WORST_ANSWER.index(check.answer), default=None)
    answer = gravest.answer if gravest else "cannot-say"
    told = "; ".join(check.sentence for check in checks if check.answer == answer)
    if recorded in ("SUSPECT", "CONTRADICTED") and answer not in ("doubtful", "disagrees"):
        return recorded, edge.why
    if answer == "disagrees":
        return worst(["CONTRADICTED", recorded]) or "CONTRADICTED", told
    if answer == "doubtful":
        return worst(["SUSPECT", recorded]) or "SUSPECT", told
    if getattr(model, "state", "") == "weights-as-recorded":
        return "STALE", "; ".join(check.sentence for check in checks if check.check in ("files", "relation", "start"))
    if answer == "agrees":
        return ("REPLAYED" if recorded == "REPLAYED" else "CORROBORATED"), told
    if recorded in ("VERIFIED", "REPLAYED", "CORROBORATED", "DECLARED"):
        return "DECLARED", f"recorded; {told or 'the weights were not asked'}"
    return recorded, told or edge.why


def _decoys(claim: Claim, edge: Edge, scene: Scene) -> list[Decoy]:
    """Other models put to the same test, of those that were compared anyway; strangers of the same shape first."""
    found = []
    for digest, model in scene.models.items():
        if digest in (claim.child, edge.parent) or digest in claim.parents:
            continue
        pair = scene.pairs.seen(digest, claim.child)
        if pair is None:
            continue
        z = pair.comparison.evidence_map.z if pair.comparison.evidence_map is not None else []
        found.append(
            Decoy(
                location=model.name, verdict=pair.comparison.result.verdict, log10_p=pair.comparison.result.log10_p,
                score=max((value for row in z for value in row if value is not None), default=None),
                strength=pair.comparison.result.strength, architecture=pair.comparison.inputs.a.architecture,
            )
        )  # fmt: skip
    return sorted(found, key=lambda decoy: (decoy.verdict != "unrelated", decoy.location))[:MOST_DECOYS]
