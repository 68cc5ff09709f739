"""Parent and child told the other way round: found where something tells, and never where the direction is open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from audited_family import Family
from tests.audit.test_checks import claim, pair
from tests.comparison_examples import EXAMPLES

from pedigree.audit.claims import Claim
from pedigree.audit.direction import direction_check, is_between
from pedigree.audit.pairs import Pairs
from pedigree.audit.relatives import Scene
from pedigree.forensics.pair import PairEvidence
from pedigree.ledger.verdict import Edge

PARENT, CHILD = "a" * 64, "c" * 64


def scene(order: dict[str, int] | None = None, *claims: Claim) -> Scene:
    return Scene({}, Pairs({}, None, False, lambda *_: None), order or {}, frozenset(), claims=claims)


def started(digest: str, operation: str = "train", *operators: str) -> Claim:
    start = Edge(digest, "", "", "random weights", "start", operation, 1, "DECLARED", "")
    return Claim(digest, "ledger", operation, (start,), operators)


def judged(said: Claim, seen: PairEvidence, at: Scene | None = None) -> tuple[str, str] | None:
    found = direction_check(said, PARENT, seen, [], at or scene({}, started(PARENT)))
    return (found.answer, found.lie or "") if found is not None else None


def word(verdict: str, **more: Any) -> PairEvidence:
    record = EXAMPLES["related"]
    told = record.result.direction.model_copy(update={"verdict": verdict, "reasons": ["why (-4.0)"]})
    result = record.result.model_copy(update={"direction": told})
    return PairEvidence(record.model_copy(update={"result": result}), distance2=0.1, **more)


def test_an_open_direction_is_no_finding() -> None:
    assert judged(claim(), word("undetermined")) is None
    assert judged(claim(), word("a-to-b")) == ("note", "")


def test_the_weights_say_that_the_child_was_first() -> None:
    assert judged(claim(), word("b-to-a")) == ("doubtful", "backwards")
    assert judged(claim("surgery", "prune.ffn"), word("b-to-a")) is None  # nearness: a cut model is the nearer one
    copies = word("b-to-a", structural=-5.0)
    assert judged(claim("surgery", "prune.ffn"), copies) == ("doubtful", "backwards")
    grown = scene({}, started(PARENT, "surgery", "grow.depth"))
    assert judged(claim("surgery", "prune.depth"), copies, grown) is None  # its parent has copies by its own record
    assert judged(claim("surgery", "prune.depth"), copies, scene()) is None  # or may have: nothing is recorded of it


def test_a_claim_of_training_is_held_against_the_answer_that_takes_descent_for_granted() -> None:
    record = EXAMPLES["related"]
    for odds, found in ((-4.0, ("doubtful", "backwards")), (-2.0, None), (4.0, None), (None, None)):
        told = record.result.direction.model_copy(update={"verdict": "undetermined", "log_odds_if_descent": odds})
        result = record.result.model_copy(update={"direction": told})
        seen = PairEvidence(record.model_copy(update={"result": result}), distance2=0.1)
        assert judged(claim(), seen) == found
        assert judged(claim(), seen, scene()) == found  # copies that the parent may have do not come in here
        assert judged(claim(), replace(seen, structural=-2.0)) is None  # without them it would not be decided
        assert judged(claim("surgery", "prune.ffn"), seen) is None  # what a cut model lost is no drift
        assert judged(claim(), replace(seen, reshaped=("inner",))) is None


def test_a_model_that_the_record_has_first_was_not_trained_from_a_later_one() -> None:
    later = scene({CHILD: 3, PARENT: 8}, started(PARENT))
    assert judged(claim(), word("undetermined"), later) == ("disagrees", "backwards")
    assert judged(claim("surgery", "grow.ffn"), word("undetermined"), later) is None  # bits can come back
    assert judged(claim(), word("undetermined"), scene({CHILD: 8, PARENT: 3}, started(PARENT))) is None


@pytest.mark.parametrize(
    ("operator", "reshaped", "larger", "found"),
    [
        ("grow.depth", ("layers",), ("layers",), False), ("grow.depth", ("layers",), (), True),
        ("prune.ffn", ("inner",), (), False), ("prune.ffn", ("inner",), ("inner",), True),
        ("moe.densify", ("experts", "inner"), ("inner",), False), ("moe.upcycle", ("experts",), (), True),
        ("merge", ("layers",), ("layers",), False),
    ],
)  # fmt: skip
def test_what_makes_larger_has_not_made_smaller(
    operator: str, reshaped: tuple[str, ...], larger: tuple[str, ...], found: bool
) -> None:
    seen = word("undetermined", reshaped=reshaped, larger=larger)
    assert judged(claim("surgery", operator), seen) == (("disagrees", "backwards") if found else None)
    if operator == "grow.depth":
        assert judged(claim("surgery", operator, modes=("order",)), seen) is None  # layers in an order of one's own


def between(*points: torch.Tensor) -> bool:
    first, model, last = points
    a, b, c = (
        pair(float((x - y).square().mean())) for x, y in ((first, model), (model, last), (first, last))
    )  # fmt: skip
    return is_between(a, b, c)


def test_the_middle_of_a_line_is_told_from_siblings_twins_and_mixtures() -> None:
    draw = torch.Generator().manual_seed(5)
    k, one, two, shared = torch.randn(4, 100_000, generator=draw)
    assert between(k, k + one, k + one + two)
    assert between(k, k + 0.4 * one, k + 0.4 * one + two)
    assert not between(k, k + 0.1 * one, k + 0.1 * one + two)  # too short to say
    assert not between(k + one, k + two, k)  # siblings of k
    assert not between(k, k + one, k + two)
    for weight in (0.1, 0.3, 0.5, 0.9):
        assert not between(k, (1 - weight) * k + weight * one, one)  # a mixture of both ends
    for own in (0.1, 0.5, 1.0):  # twins that the same data moved the same way
        assert not between(k + shared + own * one, k + shared + own * two, k)
    assert not between(k, k, k + one)


class Known(Pairs):
    """Pairs whose distances are those of points."""

    def __init__(self, points: dict[str, torch.Tensor]) -> None:
        super().__init__({}, None, False, lambda *_: None)
        self.points = points

    def apart(self, one: str, other: str) -> PairEvidence:
        return pair(float((self.points[one] - self.points[other]).square().mean()))


def test_nearness_counts_where_a_third_model_shows_that_the_two_are_no_siblings() -> None:
    draw = torch.Generator().manual_seed(6)
    root, one, two = torch.randn(3, 100_000, generator=draw)
    third = "e" * 64
    # What is told: root (the child) made from root + one. A sibling of the latter shows root in the middle.
    seen = word("undetermined", unless_siblings=-5.0, mean_square=1.0)
    seen = replace(seen, distance2=float(one.square().mean()))
    for points, found in (
        ({CHILD: root, PARENT: root + one, third: root + two}, True),
        ({CHILD: root, PARENT: root + one, third: root + one + two}, False),  # a child of the declared parent
    ):
        models: dict[str, Any] = dict.fromkeys(points)
        at = Scene(models, Known(points), {}, frozenset(), names={third: "third"}, claims=[started(PARENT)])
        assert judged(claim(), seen, at) == (("doubtful", "backwards") if found else None)
        assert judged(claim(), replace(seen, unless_siblings=5.0), at) is None
        assert judged(claim("surgery", "grow.ffn"), seen, at) is None


def test_a_trained_model_told_as_the_parent_of_its_own_parent_is_found(family: Family, tmp_path: Path) -> None:
    """base -> left -> left-more, told as left made from left-more: the pair itself tells, or the way from base."""
    ledger = family.said(
        tmp_path, family.draft("base", [], "train"), family.draft("left-more", [], "train"),
        family.draft("left", ["left-more"]),
    )  # fmt: skip
    found = family.by(ledger, [family.model(name) for name in ("left", "left-more", "base")])
    edge = next(edge for edge in found.result.edges if edge.child == family.artifact("left").id and edge.parent)
    assert (edge.verdict, edge.lies) == ("SUSPECT", ["backwards"]), edge.why
    assert "the child was there first" in edge.why or "on the way from base" in edge.why


def test_a_grown_model_told_as_the_parent_is_found(family: Family, tmp_path: Path) -> None:
    ledger = family.said(
        tmp_path, family.draft("grown", [], "train"), family.draft("base", ["grown"], operation="grow.depth")
    )
    found = family.by(ledger, [family.model(name) for name in ("base", "grown")])
    edge = next(edge for edge in found.result.edges if edge.child == family.artifact("base").id)
    assert edge.verdict == "CONTRADICTED"
    assert "backwards" in edge.lies
    pruned = family.draft("base", ["grown"], operation="prune.depth")
    (tmp_path / "pruned").mkdir()
    ledger = family.said(tmp_path / "pruned", family.draft("grown", [], "train"), pruned)
    found = family.by(ledger, [family.model(name) for name in ("base", "grown")])
    edge = next(edge for edge in found.result.edges if edge.child == family.artifact("base").id)
    assert (edge.verdict, edge.lies) == ("SUSPECT", ["backwards"]), edge.why
    assert "repeat" in edge.why
