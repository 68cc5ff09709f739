"""Pairs of a family, and how verdicts stand to what was done and to what is said."""

from __future__ import annotations

import pytest

from pedigree.family.edges import Lineage, Pair, _finding, claim_of, pairs_of
from pedigree.records.comparison import Verdict
from pedigree.records.family_run import EdgeResult, Standing

LINEAGE = Lineage(
    {"old": [], "other": [], "grown": ["old"], "mixed": ["grown", "other"], "alone": []},
    {"grown": [], "mixed": ["other"]},
)


def edge(a: str, b: str, verdict: Verdict, *standing: Standing) -> EdgeResult:
    pair = Pair(a, b, standing or ("checked",), kin=False)
    return EdgeResult(
        a=a, b=b, standing=list(pair.standing), kin=False, verdict=verdict, direction="undetermined",
        finding=_finding(pair, verdict),
    )  # fmt: skip


def test_every_made_and_claimed_edge_and_every_pair_of_roots_once() -> None:
    pairs = pairs_of(LINEAGE, [("mixed", "grown"), ("old", "mixed")], roots=True)
    assert {(p.a, p.b): p.standing for p in pairs} == {
        ("old", "grown"): ("made",),
        ("grown", "mixed"): ("made", "checked"),
        ("other", "mixed"): ("made", "claimed"),
        ("old", "mixed"): ("checked",),
        ("old", "other"): ("checked",),
        ("old", "alone"): ("checked",),
        ("other", "alone"): ("checked",),
    }
    assert {(p.a, p.b) for p in pairs if not p.kin} == {("old", "other"), ("old", "alone"), ("other", "alone")}


@pytest.mark.parametrize(
    ("standing", "kin", "verdict", "finding"),
    [
        (("made",), True, "related", "corroborated"),
        (("made",), True, "partly-related", "corroborated"),
        (("made",), True, "unrelated", "contradicted"),
        (("made",), True, "shared-initialization", "contradicted"),
        (("claimed",), False, "unrelated", "contradicted"),
        (("checked",), False, "unrelated", "corroborated"),
        (("checked",), False, "related", "contradicted"),
        (("checked",), True, "inconclusive", "cannot-say"),
    ],
)
def test_a_verdict_is_held_against_what_was_done(
    standing: tuple[Standing, ...], kin: bool, verdict: Verdict, finding: str
) -> None:
    assert _finding(Pair("a", "b", standing, kin), verdict) == finding


@pytest.mark.parametrize(
    ("step", "finding"), [("related", "corroborated"), ("inconclusive", "contradicted"), ("unrelated", "contradicted")]
)
def test_what_stands_behind_a_named_parent_is_no_parent_that_was_left_out(step: Verdict, finding: str) -> None:
    """The parent was made in two steps; the comparison over both of them cannot say, those of each step can."""
    edges = [
        edge("old", "way", "related", "made"), edge("way", "named", step, "made"), edge("old", "named", "inconclusive"),
        edge("named", "child", "related", "made", "claimed"), edge("old", "child", "related"),
    ]  # fmt: skip
    assert claim_of("child", ["named"], edges)[0] == finding


def test_a_model_said_to_be_from_scratch_that_shares_ancestry_is_contradicted_by_name() -> None:
    finding, why = claim_of("grown", [], [edge("old", "grown", "related", "made"), edge("other", "grown", "unrelated")])
    assert finding == "contradicted"
    assert "old" in why
    assert "other" not in why


def test_an_honest_claim_stands_also_where_an_older_ancestor_is_related() -> None:
    pairs = [("grown", "mixed"), ("old", "mixed"), ("old", "grown")]
    edges = [edge(a, b, "related") for a, b in pairs]
    assert claim_of("mixed", ["grown"], edges)[0] == "corroborated"
    assert claim_of("alone", [], [edge("old", "alone", "unrelated")])[0] == "corroborated"


def test_a_parent_that_is_not_named_and_a_named_one_that_is_none_are_both_told() -> None:
    edges = [edge("grown", "mixed", "related", "made"), edge("other", "mixed", "related", "claimed")]
    finding, why = claim_of("mixed", ["other"], edges)
    assert (finding, "grown" in why) == ("contradicted", True)
    wrong = [edge("other", "grown", "unrelated", "claimed"), edge("old", "grown", "related", "made")]
    finding, why = claim_of("grown", ["other"], wrong)
    assert (finding, "no relation found to other" in why) == ("contradicted", True)


def test_what_cannot_be_said_is_said_so() -> None:
    assert claim_of("grown", [], [])[0] == "cannot-say"
    assert claim_of("grown", [], [edge("old", "grown", "inconclusive")])[0] == "cannot-say"


def test_a_later_relative_does_not_contradict_a_start_from_scratch() -> None:
    edges = [edge("old", "grown", "related", "checked"), edge("old", "alone", "unrelated")]
    assert claim_of("old", [], edges) == ("corroborated", "no relation found to alone")
    assert claim_of("grown", [], edges)[0] == "contradicted"
