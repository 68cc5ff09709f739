"""Lies are planted where they apply and nowhere else, and rates are told with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.experiments.scripts import script

from pedigree.audit.claims import Claim
from pedigree.audit.pairs import Pairs
from pedigree.audit.relatives import Scene
from pedigree.ledger.verdict import Edge

audits, lies = script("audits"), script("lies")


def claim(
    child: str, *parents: str, operation: str = "finetune", operators: tuple[str, ...] = (), **more: Any
) -> Claim:
    edges = [Edge(child, child, parent, parent, "init", operation, 1, "DECLARED", "") for parent in parents]
    start = [Edge(child, child, "", "random weights", "start", operation, 1, "DECLARED", "")]
    told = {"parameters": {"steps": "40"}, "settings": {"training": {}}, **more}
    return Claim(child, "ledger", operation, tuple(edges or start), operators, **told)


CLAIMS = [
    claim("base", operation="train"), claim("other", operation="train"), claim("left", "base"),
    claim("right", "base", settings={"training": {"freeze": [{"roles": ["embed"]}]}}), claim("more", "left"),
    claim("deep", "left", operation="surgery", operators=("grow.depth",)),
    claim("mixed", "left", "right", operation="surgery", operators=("merge",)),
]  # fmt: skip


@pytest.fixture
def scene() -> Scene:
    order = {one.child: at for at, one in enumerate(CLAIMS)}
    children: dict[str, list[str]] = {}
    for one in CLAIMS:
        for parent in one.parents:
            children.setdefault(parent, []).append(one.child)
    pairs = Pairs({}, None, False, lambda *_: None)
    return Scene({}, pairs, order, frozenset(), children, {name: name for name in order}, CLAIMS)


def test_every_lie_is_planted_where_it_applies(scene: Scene) -> None:
    planted = list(lies.lies(CLAIMS, scene))
    told = {(lie.name, lie.claim.child, *lie.claim.parents) for lie in planted}
    assert ("undeclared-parent", "mixed", "left") in told
    assert ("swapped-sibling", "more", "right") in told
    assert ("hidden-step", "more", "base") in told
    assert ("not-from-scratch", "deep") in told
    assert ("not-the-parent", "left", "other") in told
    assert ("frozen-undeclared", "right", "base") in told
    assert ("backwards", "base", "left") in told
    assert not [one for one in told if one[1] == "base" and one[0] != "backwards"]  # nothing else is said of a start
    assert not [one for one in told if one[0] == "swapped-sibling" and one[1] == "mixed"]
    assert {lie.claim.operators for lie in planted if lie.name == "backwards" and "deep" in lie.claim.parents} == {
        ("prune.depth",)
    }


def test_a_lie_stands_in_the_place_of_the_truth(scene: Scene) -> None:
    for lie in lies.lies(CLAIMS, scene):
        at = lie.scene(scene)
        assert [one for one in at.claims if one.child == lie.claim.child] == [lie.claim]
        if lie.other:
            assert at.is_before(lie.other, lie.claim.child) is True
            said = [one for one in at.claims if one.child == lie.other]
            assert said == ([lie.start] if lie.start else [])
        else:
            assert at.order == scene.order
    assert [one.child for one in scene.claims] == [one.child for one in CLAIMS]


def test_a_rate_is_told_with_its_interval() -> None:
    low, high = audits.wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert audits.wilson(0, 10)[0] == 0.0
    assert audits.wilson(10, 10)[1] == 1.0


def test_the_page_tells_false_findings_and_misses(tmp_path: Path) -> None:
    edge = {"child_name": "a", "parent_name": "b", "operation": "finetune", "source": "ledger", "role": "init",
            "verdict": "CORROBORATED", "lies": [], "why": ""}  # fmt: skip
    wrong = {**edge, "verdict": "SUSPECT", "why": "in doubt"}
    lie = {"what": "told otherwise", "name": "hidden-step", "child": "a", "parents": ["b"], "operation": "finetune",
           "kept": "CONTRADICTED", "bare": "not found", "names": [], "why": ""}  # fmt: skip
    seed = {
        "honest": [edge, wrong],
        "planted": [lie, {**lie, "bare": "SUSPECT", "names": ["hidden-step"]}],
        "exchanged": [],
    }
    audits.report({1: seed}, tmp_path)
    page = (tmp_path / "audits.md").read_text(encoding="utf-8")
    assert "1 false findings on 2 claims" in page
    assert "a from b (ledger): SUSPECT, in doubt" in page
    assert "| hidden-step | told otherwise | 2 | 1 (50%) | 9% to 91% | 0 | 1 | 2 |" in page
    assert "- told otherwise: a from b (1 of 1)" in page
    audits.report({1: {**seed, "honest": [edge]}}, tmp_path)
    assert "0 false findings on 1 claims" in (tmp_path / "audits.md").read_text(encoding="utf-8")
    audits.report({0: seed, 1: {**seed, "honest": [edge]}}, tmp_path)  # seeds that rules were mended by stand apart
    page = (tmp_path / "audits.md").read_text(encoding="utf-8")
    assert page.index("0 false findings on 1 claims") < page.index("1 false findings on 2 claims")
