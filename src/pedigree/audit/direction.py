"""Whether what is called the child was there before what is called its parent.

Five kinds of evidence, strongest first; none of them is asked for where the weights leave the direction open.

    record      a model that the log has before its parent was not trained from it
    operation   what makes a model larger cannot have made a smaller one, and the other way round
    structure   copies of layers and units, a coarser grid: only a child has them (forensics study, section 9.6)
    chain       K - child - parent on one line, where K was there before the child: the child descends from K, and the
                declared parent lies behind it. Squared ways add along a line, and a model in its middle has no branch
                of its own.
    nearness    followed from the child, the parent is it and something new. Of a pair of which nothing is known that
                is no evidence, since a sibling that drifted less looks like a parent. A claim of training says that
                one descends from the other: then whose the difference is decides
                (`pedigree.forensics.comparison.direction`).
                Where that cannot be measured, it counts where the child stands in the middle of a line between the
                declared parent and some third model, for then the two are no siblings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

from pedigree.audit.claims import Claim
from pedigree.audit.operations import is_training
from pedigree.audit.relatives import NEGLIGIBLE, ON_THE_WAY, OWN_BRANCH, Relative, Scene
from pedigree.records.audit import Answer, AuditCheck

if TYPE_CHECKING:
    from pedigree.forensics.pair import PairEvidence

DECIDED = math.log(20.0)
"""Log-odds from which structure decides; as `ABSTAIN_BELOW` of the comparison."""

PAST_THE_WAY = 1.2
"""Gain above which three models lie on no line: the one in the middle is a mixture of the other two."""

SHORTEST = 0.1
"""Share of the longer of two squared ways below which the shorter one is too short to say how they lie: ways that the
same data led have something in common, and a tenth of the product of their lengths is more than all of it."""

# Operator -> the dimension that it makes larger, or smaller.
_GROWS: Mapping[str, str] = {
    "grow.depth": "layers", "grow.ffn": "inner", "grow.hidden": "width", "grow.heads": "attention",
    "grow.kv": "attention", "grow.head_dim": "attention", "moe.upcycle": "experts",
}  # fmt: skip
_SHRINKS: Mapping[str, str] = {
    "prune.depth": "layers", "prune.ffn": "inner", "prune.hidden": "width", "prune.heads": "attention",
    "prune.kv": "attention", "moe.densify": "experts", "moe.prune": "experts", "moe.merge": "experts",
    "vocab.shrink": "vocabulary",
}  # fmt: skip
# Operators behind which a parent may have copies of its own, or numbers on a coarser grid, and the child not.
_EXPLAIN = ("grow.", "moe.upcycle", "merge", "cast", "quantize", "launder.", "convert.", "lora.")


def direction_check(
    claim: Claim, parent: str, pair: PairEvidence, relatives: Sequence[Relative], scene: Scene
) -> AuditCheck | None:
    """Whether the direction of an edge is the declared one; None where nothing tells."""
    if pair.verdict == "identical" or len(claim.edges) > 1:
        return None
    if claim.exact and is_training(claim.operation) and scene.is_before(claim.child, parent):
        return _backwards("disagrees", f"the record has it before {scene.name(parent)}, from which it was trained")
    if claim.exact and (told := _impossible(claim, pair)):
        return _backwards("disagrees", told)
    if pair.structural <= -DECIDED and not _explained(claim, parent, scene):
        reasons = [words for words in pair.comparison.result.direction.reasons if "(-" in words]
        return _backwards("doubtful", f"the child was there first: {'; '.join(reasons[:2]) or 'by its structure'}")
    direction = pair.comparison.result.direction
    word = direction.verdict
    if word == "b-to-a" and (not claim.exact or is_training(claim.operation)) and not _explained(claim, parent, scene):
        return _backwards("doubtful", "related, and the weights say that the child was there first")
    between = _chain(claim, parent, pair, relatives, scene)
    if between is not None:
        name = scene.name(between)
        told = f"it lies on the way from {name}, which was there before it, to {scene.name(parent)}"
        return _backwards("doubtful", told)
    # What is claimed is descent, so that the answer that takes it for granted is the one to hold against it.
    odds = direction.log_odds_if_descent
    trained = claim.exact and is_training(claim.operation) and not pair.reshaped
    if trained and odds is not None and odds - pair.structural <= -DECIDED:
        return _backwards("doubtful", "the difference of the two is the parent's own: the child was there first")
    if is_training(claim.operation) and pair.unless_siblings <= -DECIDED and not _explained(claim, parent, scene):
        third = _third(claim.child, parent, pair, scene)
        if third is not None:
            told = f"the weights say that it was there first: {scene.name(parent)} is it and something more"
            return _backwards("doubtful", f"{told}, and {scene.name(third)} shows that they are no siblings")
    if word == "a-to-b":
        return AuditCheck(check="direction", answer="note", sentence="the weights say that the parent was there first")
    return None


def _backwards(answer: Answer, sentence: str) -> AuditCheck:
    return AuditCheck(check="direction", answer=answer, lie="backwards", sentence=sentence)


def _impossible(claim: Claim, pair: PairEvidence) -> str:
    """What the operators of a claim cannot have done to the size of the parent, "" where they can."""
    operators = claim.operators or (claim.operation,)
    for table, word, odd in ((_GROWS, "more", False), (_SHRINKS, "fewer", True)):
        if not all(operator in table for operator in operators):
            continue
        turned = [
            (operator, table[operator]) for operator in operators
            if table[operator] in pair.reshaped and (table[operator] in pair.larger) == odd
        ]  # fmt: skip
        # Layers can be taken in an order of one's own, by an operator that mostly adds some.
        if turned and not (turned[0][0] == "grow.depth" and _takes_an_order(claim)):
            other = "fewer" if word == "more" else "more"
            return f"{turned[0][0]} makes {word} of {turned[0][1]}, and the child has {other} than the parent"
    return ""


def _takes_an_order(claim: Claim) -> bool:
    return "order" in claim.modes


def _explained(claim: Claim, parent: str, scene: Scene) -> bool:
    """Whether the parent may have copies or a grid of its own by what is recorded of it.

    A ledger that says nothing of it leaves that open too; where there is none, weights are all there is.
    """
    waiting, seen = [parent], {parent}
    while waiting:
        digest = waiting.pop()
        said = [one for one in scene.claims if one.child == digest and one.source == "ledger"]
        if not said:
            return claim.source == "ledger"
        for one in said:
            if one.origin_outside or any(operator.startswith(_EXPLAIN) for operator in (*one.operators, one.operation)):
                return True
            for edge in one.edges:
                if edge.role != "start" and not edge.parent:
                    return True
                if edge.parent and edge.parent not in seen:
                    seen.add(edge.parent)
                    waiting.append(edge.parent)
    return False


def _chain(
    claim: Claim, parent: str, pair: PairEvidence, relatives: Sequence[Relative], scene: Scene
) -> str | None:  # fmt: skip
    """A model before the child, from which the declared parent lies behind it; None where there is none."""
    if pair.distance2 is None or pair.reshaped:
        return None
    made_of_parent = scene.descendants(parent)
    for one in relatives:
        if not one.before or one.digest in made_of_parent or one.pair.reshaped:
            continue
        whole = scene.pairs.apart(one.digest, parent)
        if _measured(whole) and is_between(first=one.pair, second=pair, whole=whole):
            return one.digest
    return None


def _third(child: str, parent: str, pair: PairEvidence, scene: Scene) -> str | None:
    """A model between which and the declared parent the child stands in the middle of a line."""
    if pair.distance2 is None or pair.reshaped:
        return None
    for digest in scene.models:
        if digest in (child, parent):
            continue
        first, whole = scene.pairs.apart(digest, child), scene.pairs.apart(digest, parent)
        if _measured(first) and _measured(whole) and is_between(first=first, second=pair, whole=whole):
            return digest
    return None


def _measured(pair: PairEvidence | None) -> TypeGuard[PairEvidence]:
    return pair is not None and pair.related and not pair.reshaped and pair.distance2 is not None


def is_between(first: PairEvidence, second: PairEvidence, whole: PairEvidence) -> bool:
    """Whether a model lies in the middle of a line.

    Args:
        first: one end and the model.
        second: the model and the other end.
        whole: both ends.
    """
    a, b, c = ((pair.moved or 0.0) ** 2 for pair in (first, second, whole))
    if min(first.distance2 or 0.0, second.distance2 or 0.0) <= NEGLIGIBLE:
        return False
    if min(a, b) < SHORTEST * max(a, b):
        return False
    gain = (c - b) / a
    return ON_THE_WAY <= gain <= PAST_THE_WAY and abs(a + b - c) / 2 < OWN_BRANCH * min(a, b)
