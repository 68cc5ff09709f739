"""The other models: is one nearer than the declared parent, a parent that nobody named, the source of a random start?

Squared ways of relatives add along branches (forensics study, section 9.6); they are taken for each number, on one
scale. Where the child C is said to come from P and another model K is at hand,

    gain    (m(P, C) - m(K, C)) / m(P, K)            1: K lies on the way; -1: K is a plain sibling
    branch  (m(P, K) + m(K, C) - m(P, C)) / 2        what K has for itself, beside what it shares with C

Siblings that the same data moved the same way have a gain near 1 too, but each has a branch of its own. Only a gain
above `ON_THE_WAY` with a branch below `OWN_BRANCH` of m(K, C) counts.

A later model is no parent of an earlier one. Where nothing tells which was first, the weights are asked for the
direction, and where they do not tell, the finding is a doubt and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pedigree.audit.claims import Claim
from pedigree.audit.operations import is_training
from pedigree.audit.pairs import Pairs
from pedigree.audit.places import Model
from pedigree.audit.states import Prints
from pedigree.errors import PedigreeError
from pedigree.records.audit import Answer, AuditCheck, Lie

if TYPE_CHECKING:
    from pedigree.forensics.merges.decomposition import Decomposition
    from pedigree.forensics.pair import PairEvidence

ON_THE_WAY = 0.8
"""Share of the way between declared parent and candidate by which the candidate must be nearer to the child."""

OWN_BRANCH = 0.3
"""Share of the way from the candidate to the child that the candidate may have for itself; half of it for a twin."""

NEGLIGIBLE = 1e-6
"""Squared distance below which two models are the same but for rounding."""

LEAST_WEIGHT = 0.05
"""Share in a mixture below which a source is not called a parent."""

OWN_REST = 1e-3
"""Share of its squared way to the nearest source that a mixture may have for itself; rounding is far below."""


@dataclass
class Scene:
    """Everything at hand.

    Attributes:
        models: by the digest under which claims know them.
        pairs: their comparisons.
        order: place in time of models that were made here; `imported` came from elsewhere, at an unknown time before
            their entry.
        children: digests of what is recorded to have been made of a model, by its digest.
        names: what recorded models are called.
        claims: all that are judged.
        prints: digests of the tensors of models and states that were read.
        mixtures: what taking a model apart into others gave, by its digest and theirs.
    """

    models: Mapping[str, Model]
    pairs: Pairs
    order: Mapping[str, int]
    imported: frozenset[str]
    children: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    claims: Sequence[Claim] = ()
    prints: Prints = field(default_factory=dict)
    mixtures: dict[tuple[str, ...], Decomposition | None] = field(default_factory=dict)

    def name(self, digest: str) -> str:
        """What a model is called."""
        model = self.models.get(digest)
        return model.name if model else self.names.get(digest) or digest[:12]

    def descendants(self, digest: str) -> set[str]:
        """Everything that is recorded to have been made of a model."""
        found: set[str] = set()
        waiting = [digest]
        while waiting:
            for child in self.children.get(waiting.pop(), ()):
                if child not in found:
                    found.add(child)
                    waiting.append(child)
        return found

    def is_before(self, one: str, other: str) -> bool | None:
        """Whether a model was there before another; None where nothing recorded tells."""
        if one not in self.order or other not in self.order or other in self.imported:
            return None
        if self.order[one] < self.order[other]:
            return True
        return None if one in self.imported else False

    def candidates(self, claim: Claim) -> list[str]:
        """Models that may have had a part in the child of a claim and are not named by it."""
        made_of_it = self.descendants(claim.child)
        return [
            digest
            for digest in self.models
            if digest != claim.child and digest not in claim.parents and digest not in claim.through
            and digest not in made_of_it and self.is_before(digest, claim.child) is not False
        ]  # fmt: skip


@dataclass(frozen=True)
class Relative:
    """A model that shares trained weights with the child, and whether it was there before it."""

    digest: str
    pair: PairEvidence
    before: bool | None


def relatives_of(claim: Claim, scene: Scene) -> list[Relative]:
    """The candidates that are related to the child and may have come before it, nearest first."""
    found = []
    for digest in scene.candidates(claim):
        pair = scene.pairs.of(digest, claim.child)
        if pair is None or not pair.strong:
            continue
        before = scene.is_before(digest, claim.child)
        if before is None:
            direction = pair.comparison.result.direction.verdict
            if direction == "b-to-a":
                continue
            before = True if direction == "a-to-b" else None
        found.append(Relative(digest, pair, before))
    return sorted(found, key=lambda r: (r.pair.distance2 is None, r.pair.distance2 or 0.0, r.digest))


def start_check(claim: Claim, relatives: Sequence[Relative], scene: Scene) -> AuditCheck:
    """Whether a model that is said to begin with random weights shares trained ones with a model before it."""
    asked = [digest for digest in scene.candidates(claim) if scene.pairs.of(digest, claim.child) is not None]
    sure = [one for one in relatives if one.before]
    if sure:
        names = _names((one.digest for one in sure), scene)
        return AuditCheck(
            check="start", answer="disagrees", lie="not-from-scratch",
            sentence=f"said to begin with random weights, and shares trained weights with {names}",
        )  # fmt: skip
    if relatives:
        names = _names((one.digest for one in relatives), scene)
        return AuditCheck(
            check="start", answer="doubtful", lie="not-from-scratch",
            sentence=f"shares trained weights with {names}, and nothing tells which of them was first",
        )  # fmt: skip
    if not asked:
        return AuditCheck(check="start", answer="cannot-say", sentence="no model that was there before is at hand")
    open_ones = [d for d in asked if _is_open(scene.pairs.of(d, claim.child))]
    if len(open_ones) == len(asked):
        names = _names(open_ones, scene)
        return AuditCheck(check="start", answer="cannot-say", sentence=f"the comparison with {names} cannot say")
    twins = [d for d in asked if _word(scene.pairs.of(d, claim.child)) == "shared-initialization"]
    count = len(asked) - len(open_ones)
    told = f"no trained weights shared with {count} {'model' if count == 1 else 'models'} that it was compared with"
    told += f"; the random start is that of {_names(twins, scene)}" if twins else ""
    told += f"; the comparison with {_names(open_ones, scene)} cannot say" if open_ones else ""
    return AuditCheck(check="start", answer="agrees", sentence=told)


def _word(pair: PairEvidence | None) -> str:
    return pair.verdict if pair is not None else ""


def _is_open(pair: PairEvidence | None) -> bool:
    """Whether the comparison leaves the question open: it says so, or what it found is too little to count."""
    return pair is not None and (pair.verdict in ("inconclusive", "not-testable") or pair.related != pair.strong)


def nearest_check(claim: Claim, parent: str, relatives: Sequence[Relative], scene: Scene) -> AuditCheck | None:
    """Whether another model is the nearer relative: on the way between the declared parent and the child."""
    own = scene.pairs.of(parent, claim.child)
    if own is None or own.distance2 is None or not claim.exact or len(claim.edges) > 1:
        return None
    made_of_parent = scene.descendants(parent)
    asked, moved_alike = 0, ""
    for one in relatives:
        if one.pair.verdict == "identical":
            return _same_weights(one, scene)
        between = scene.pairs.of(parent, one.digest)
        if one.pair.distance2 is None or between is None or not between.related or between.distance2 is None:
            continue
        asked += 1
        if between.distance2 <= NEGLIGIBLE:
            continue
        if not lies_on_the_way(own, one.pair, between):
            moved_alike = moved_alike or (scene.name(one.digest) if one.pair.distance2 < own.distance2 else "")
            continue
        name = scene.name(one.digest)
        told = (
            f"{name} is nearer: distance {one.pair.distance2:.3g}, that of the declared parent is {own.distance2:.3g}"
        )
        if one.digest in made_of_parent:
            return _found("nearest", one, "hidden-step", f"{told}, and it lies on the way: a step was left out")
        return _found("nearest", one, "swapped-sibling", f"{told}, which does not lie on the way")
    if not asked:
        return None
    if moved_alike:
        told = f"{moved_alike} is as near or nearer and has a way of its own, as siblings of one recipe have"
        return AuditCheck(check="nearest", answer="note", sentence=told)
    return AuditCheck(
        check="nearest",
        answer="agrees",
        sentence=f"no nearer relative among {asked} other models that are related to it",
    )


def lies_on_the_way(own: PairEvidence, near: PairEvidence, between: PairEvidence) -> bool:
    """Whether a candidate lies on the way from the declared parent to the child.

    Args:
        own: declared parent and child.
        near: candidate and child.
        between: declared parent and candidate.
    """
    whole, rest, first = (pair.moved or 0.0 for pair in (own, near, between))
    whole, rest, first = whole**2, rest**2, first**2
    if first == 0.0:
        return False
    return (whole - rest) / first >= ON_THE_WAY and (first + rest - whole) / 2 < OWN_BRANCH * rest


def _same_weights(one: Relative, scene: Scene) -> AuditCheck:
    return _found(
        "nearest", one, "wrong-upload", f"the weights are those of {scene.name(one.digest)}, number for number"
    )


def _found(check: str, one: Relative, lie: Lie, sentence: str) -> AuditCheck:
    answer: Answer = "disagrees" if one.before else "doubtful"
    told = sentence if one.before else f"{sentence}; nothing tells which of the two was first"
    return AuditCheck.model_validate({"check": check, "answer": answer, "lie": lie, "sentence": told})


def parents_check(claim: Claim, relatives: Sequence[Relative], scene: Scene) -> AuditCheck | None:
    """Whether a model that is not named had a part: a stranger to all named parents, or a source of a mixture."""
    if claim.from_nothing or claim.origin_outside or not claim.parents:
        return None
    for one in relatives:
        apart = [scene.pairs.of(parent, one.digest) for parent in claim.parents]
        if apart and all(pair is not None and pair.verdict == "unrelated" for pair in apart):
            name = scene.name(one.digest)
            told = f"shares trained weights with {name} too, which is not named and no relative of what is"
            return _found("parents", one, "undeclared-parent", told)
    return _mixture_check(claim, relatives, scene)


def _mixture_check(claim: Claim, relatives: Sequence[Relative], scene: Scene) -> AuditCheck | None:
    """Take the child apart into its named parents and its other relatives of the same shape.

    Only a mixture and nothing else is a finding: siblings that the same data moved the same way lie between their
    parent and each other too, each with something of its own besides.
    """
    known = [digest for digest in claim.parents if digest in scene.models]
    more = [one for one in relatives if not one.pair.reshaped and one.pair.distance2 is not None][:6]
    own = [scene.pairs.of(digest, claim.child) for digest in known]
    if len(known) + len(more) < 2 or not known or any(pair is None or pair.reshaped for pair in own):
        return None
    named = _taken_apart(claim.child, known, scene) if len(known) > 1 else None
    if named is not None and named.verdict == "merge" and _is_nothing_else(named):
        more = []  # what is named is all there is; a mixture of it can be written as one of its relatives as well
    found = _taken_apart(claim.child, [*known, *(one.digest for one in more)], scene)
    if found is None or found.verdict != "merge":
        return None
    shares = _shares(found, scene)
    for one in more:
        if abs(share := shares.get(one.digest, 0.0)) < LEAST_WEIGHT:
            continue
        told = f"{share:.2f} of the weights come from {scene.name(one.digest)}, which is not named"
        if _is_nothing_else(found):
            return _found("parents", one, "undeclared-parent", f"{told} (method {found.method})")
        name = scene.name(one.digest)
        told = f"what moved {name} moved it too ({share:.2f}), as the same data does; no mixture is shown"
        return AuditCheck(check="parents", answer="note", sentence=told)
    told = ", ".join(f"{abs(shares[digest]):.2f} of {scene.name(digest)}" for digest in known)
    if _is_nothing_else(found) and is_training(claim.operation):
        return AuditCheck(
            check="parents", answer="disagrees", lie="hidden-step",
            sentence=f"{claim.operation} was recorded, and the weights are a mixture ({found.method}): {told}",
        )  # fmt: skip
    if len(known) > 1 and min(abs(shares[digest]) for digest in known) < LEAST_WEIGHT:
        return AuditCheck(
            check="parents", answer="doubtful", lie="not-the-parent",
            sentence=f"a named parent has no part in the mixture ({found.method}): {told}",
        )  # fmt: skip
    return AuditCheck(check="parents", answer="note", sentence=f"the weights are a mixture ({found.method}): {told}")


def _taken_apart(child: str, sources: Sequence[str], scene: Scene) -> Decomposition | None:
    """The child as a mixture of some models, worked out once; None where they cannot be read."""
    from pedigree.forensics.merges.unmerge import unmerge

    key = (child, *sorted(set(sources)))
    if key not in scene.mixtures:
        places = [scene.models[digest].folder for digest in key[1:]]
        try:
            found, _, _ = unmerge(scene.models[child].folder, places, allow_pickle=scene.pairs.allow_pickle)
            scene.mixtures[key] = found
        except PedigreeError:
            scene.mixtures[key] = None
    return scene.mixtures[key]


def _is_nothing_else(found: Decomposition) -> bool:
    """Whether what is left beside the mixture is rounding. (In float32 it is as small as the rounding of the sums.)"""
    over = found.explained.over_best_source
    return found.explained.exact or (over is not None and 1.0 - over <= OWN_REST)


def _shares(found: Decomposition, scene: Scene) -> dict[str, float]:
    """Weights of a mixture by the digests of its sources."""
    places = {str(model.folder): digest for digest, model in scene.models.items()}
    return {places[source.location]: source.weight for source in found.sources}


def _names(digests: Iterable[str], scene: Scene) -> str:
    names = [scene.name(digest) for digest in digests]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
