"""Lies about models, planted one by one in a copy of what is truly claimed of them: every edge, every lie that applies.

Weights and files stay as they are; what is said of them is edited. What is edited is one claim and, where the lie needs
it, the order in which the log has two models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pedigree.audit.claims import Claim
from pedigree.audit.operations import TRAINING
from pedigree.audit.relatives import Scene
from pedigree.ledger.verdict import Edge

STEPS_TOLD = 10  # a run is said to have had so many times fewer steps
ROLES = {"attention": "attn.", "feed-forward": "mlp.", "embed": "embed"}  # how labels of their parts are told
# What undoes an operator, for a parent and a child told the other way round.
INVERSE: Mapping[str, str] = {
    "grow.depth": "prune.depth", "grow.hidden": "prune.hidden", "grow.heads": "prune.heads", "prune.ffn": "grow.ffn",
    "prune.depth": "grow.depth", "moe.upcycle": "moe.densify", "moe.densify": "moe.upcycle",
}  # fmt: skip


@dataclass(frozen=True)
class Lie:
    """One lie: what was done to the claim, the name that it deserves, the claim as it is told."""

    what: str
    name: str
    claim: Claim
    other: str = ""  # whose own claim is another too: it is first in the log, and
    start: Claim | None = None  # this is said of it; nothing where there is none: it came from elsewhere

    def scene(self, scene: Scene) -> Scene:
        """Everything at hand, where this is claimed instead of the truth."""
        gone = {self.claim.child, self.other}
        claims = [one for one in scene.claims if one.child not in gone]
        claims += [self.claim, *([self.start] if self.start else [])]
        children: dict[str, list[str]] = {}
        for one in claims:
            for parent in one.parents:
                children.setdefault(parent, []).append(one.child)
        order, imported = dict(scene.order), scene.imported
        if self.other:
            order[self.other] = -1
            imported = imported if self.start else imported | {self.other}
        return replace(scene, claims=claims, children=children, order=order, imported=imported)


def lies(claims: Sequence[Claim], scene: Scene) -> Iterator[Lie]:
    """Every lie that can be told of the claims of one ledger."""
    said = {claim.child: claim for claim in claims}
    makers: tuple[Callable[[Claim, Mapping[str, Claim], Scene], Iterator[Lie]], ...] = (
        _undeclared, _swapped, _left_out, _from_scratch, _stranger, _other_work, _frozen, _backwards,
    )  # fmt: skip
    for claim in claims:
        if claim.parents:
            for make in makers:
                yield from make(claim, said, scene)


def _with_parent(claim: Claim, at: int, parent: str, scene: Scene) -> Claim:
    edges = list(claim.edges)
    edges[at] = replace(edges[at], parent=parent, parent_name=scene.name(parent))
    return replace(claim, edges=tuple(edges))


def _undeclared(claim: Claim, said: Mapping[str, Claim], scene: Scene) -> Iterator[Lie]:
    if len(claim.edges) > 1:
        for at in range(len(claim.edges)):
            left = claim.edges[:at] + claim.edges[at + 1 :]
            yield Lie("a parent of a merge is not named", "undeclared-parent", replace(claim, edges=left))


def _swapped(claim: Claim, said: Mapping[str, Claim], scene: Scene) -> Iterator[Lie]:
    if len(claim.edges) > 1:
        return
    parent = claim.parents[0]
    above = set(said[parent].parents)
    made_of_it = scene.descendants(claim.child)
    for other, theirs in said.items():
        is_sibling = above & set(theirs.parents) and other not in (parent, claim.child)
        if is_sibling and other not in made_of_it and scene.is_before(other, claim.child):
            told = _with_parent(claim, 0, other, scene)
            yield Lie("a sibling of the parent is named", "swapped-sibling", told)


def _left_out(claim: Claim, said: Mapping[str, Claim], scene: Scene) -> Iterator[Lie]:
    if len(claim.edges) == 1:
        for older in said[claim.parents[0]].parents:
            told = _with_parent(claim, 0, older, scene)
            yield Lie("the parent's parent is named", "hidden-step", told)


def _from_scratch(claim: Claim, said: Mapping[str, Claim], scene: Scene) -> Iterator[Lie]:
    yield Lie("said to be trained from nothing", "not-from-scratch", _started(claim))


def _started(claim: Claim) -> Claim:
    start = replace(claim.edges[0], parent="", parent_name="random weights", role="start", operation="train")
    return replace(claim, edges=(start,), operation="train", operators=(), modes=())


def _stranger(claim: Claim, said: Mapping[str, Claim], scene: Scene) -> Iterator[Lie]:
    for at in range(len(claim.edges)):
        for other, theirs in said.items():
            is_start = not theirs.parents
            if is_start and other not in _ancestors(claim.child, said) and scene.is_before(other, claim.child):
                told = _with_parent(claim, at, other, scene)
                yield Lie("a stranger is named", "not-the-parent", told)


def _ancestors(digest: str, said: Mapping[str, Claim]) -> set[str]:
    found: set[str] = set()
    waiting = [digest]
    while waiting:
        for parent in said[waiting.pop()].parents:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _other_work(claim: Claim, said: Mapping[str, Claim], scene: Scene) -> Iterator[Lie]:
    if claim.operation not in TRAINING:
        told = _worked(claim, "finetune", ())
        yield Lie("an operator is told as training", "hidden-step", told)
        return
    yield Lie("training is told as an operator", "hidden-step", _worked(claim, "cast", ("cast",)))
    steps = str(max(1, int(claim.parameters["steps"]) // STEPS_TOLD))
    fewer = replace(claim, parameters={**claim.parameters, "steps": steps})
    yield Lie("a tenth of the steps is told", "hidden-step", fewer)


def _worked(claim: Claim, operation: str, operators: tuple[str, ...]) -> Claim:
    edges = tuple(replace(edge, operation=operation) for edge in claim.edges)
    return replace(claim, operation=operation, operators=operators, modes=(), edges=edges)


def _frozen(claim: Claim, said: Mapping[str, Claim], scene: Scene) -> Iterator[Lie]:
    training = claim.settings.get("training")
    if claim.operation not in TRAINING or not isinstance(training, Mapping):
        return
    if training.get("freeze"):
        told = _freezing(claim, [])
        yield Lie("nothing is told of frozen parts", "frozen-undeclared", told)
        return
    pair = scene.pairs.of(claim.parents[0], claim.child)
    for role, word in ROLES.items():
        if pair is not None and any(word in label for label in pair.different):
            yield Lie("a part is told as frozen", "frozen-moved", _freezing(claim, [{"roles": [role]}]))


def _freezing(claim: Claim, rules: list[dict[str, Any]]) -> Claim:
    training = {**claim.settings["training"], "freeze": rules}
    return replace(claim, settings={**claim.settings, "training": training})


def _backwards(claim: Claim, said: Mapping[str, Claim], scene: Scene) -> Iterator[Lie]:
    """Parent and child exchanged: the log has the child first, as a model from nothing or from elsewhere."""
    if len(claim.edges) > 1:
        return
    child, parent = claim.parents[0], claim.child
    inverse = INVERSE.get(claim.operators[0]) if claim.operators else None
    if claim.operators and inverse is None:
        return
    word = inverse or claim.operation
    edge: Edge = replace(
        claim.edges[0], child=child, child_name=scene.name(child), parent=parent, parent_name=scene.name(parent),
        operation=word,
    )  # fmt: skip
    told = replace(
        claim, child=child, edges=(edge,), operation=word, operators=(inverse,) if inverse else (), modes=(), states={}
    )  # fmt: skip
    words = (
        "parent and child are exchanged, by an operator" if inverse else "parent and child are exchanged, by training"
    )
    yield Lie(f"{words}; the first from nothing", "backwards", told, parent, replace(_started(claim), states={}))
    yield Lie(f"{words}; the first from elsewhere", "backwards", told, parent)
