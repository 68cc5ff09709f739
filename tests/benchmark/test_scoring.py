"""Scores from made-up answers, the truth behind them, and the wall between calibration and test."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pedigree.benchmark.exam import Exam, Merge
from pedigree.benchmark.families.foundry import estimate, wanted
from pedigree.benchmark.families.members import Member, families, members
from pedigree.benchmark.families.questions import questions, tree, unmerging
from pedigree.benchmark.families.rungs import NOT_IN_THE_TABLE
from pedigree.benchmark.families.sizes import SCALES, scale_of
from pedigree.benchmark.families.split import Split, SplitScores
from pedigree.benchmark.families.truth import TruthBook
from pedigree.benchmark.methods import all_methods
from pedigree.benchmark.runs import Line, Task, latest
from pedigree.benchmark.scoring import score_method, score_screen
from pedigree.benchmark.statistics import Scored, above_all, area, by_families, curve, upper_95
from pedigree.errors import UsageError


@pytest.fixture(scope="module")
def everyone() -> list[Member]:
    return members("nano")


@pytest.fixture(scope="module")
def book(everyone: list[Member]) -> TruthBook:
    return TruthBook(everyone)


# -- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_is_as_large_as_promised_and_cheap_enough(everyone: list[Member]) -> None:
    told = [member for member in everyone if not member.step]
    assert len(told) >= 150
    assert estimate(everyone, scale_of("nano")) < 3 * 3600 / 2
    assert len({member.name for member in everyone}) == len(everyone)
    roots = [member for member in told if member.row == "root"]
    assert {"llama", "qwen2", "gpt2", "gpt_neox", "gemma2", "mixtral", "deepseek_v3"} == {
        root.family.architecture for root in roots
    }


def test_every_surgery_operator_has_its_model_or_a_reason(everyone: list[Member]) -> None:
    from pedigree.surgery.catalog import BY_NAME

    used = {
        name for member in everyone if member.recipe.operator == "surgery" for name in member.recipe.arguments["step"]
    }
    assert used.isdisjoint(NOT_IN_THE_TABLE)
    assert used | set(NOT_IN_THE_TABLE) == set(BY_NAME)


def test_families_of_two_splits_share_no_seed_and_no_donor() -> None:
    seeds = Counter(family.seed for family in families())
    assert max(seeds.values()) == 1
    by_name = {family.name: family for family in families()}
    assert all(by_name[f.donor].split == f.split for f in by_name.values() if f.donor)


def test_parents_stand_before_their_children(everyone: list[Member]) -> None:
    seen: set[str] = set()
    for member in everyone:
        assert seen.issuperset(member.recipe.parents), member.name
        seen.add(member.name)


def test_what_is_asked_for_brings_its_ancestors(everyone: list[Member]) -> None:
    names = [member.name for member in wanted(everyone, ["llama-t0.hidden.x1"])]
    assert names == ["llama-t0", "llama-t0.hidden.step0", "llama-t0.hidden.x0", "llama-t0.hidden.x1"]


# -- the truth --------------------------------------------------------------------------------------------------------


def test_the_truth_tells_maps_weights_and_directions(book: TruthBook) -> None:
    solar = book.known("llama-t0", "llama-t0.solar.x1")
    assert (solar.pair.relation, solar.pair.layer_map) == ("related", (0, 1, 2, 1, 2, 3))
    assert (solar.row, solar.distance, solar.pair.direction) == ("SOLAR-like layout", 1.0, "a-to-b")
    turned = book.known("llama-t0.solar.x1", "llama-t0")
    assert (turned.pair.direction, turned.row) == ("b-to-a", "SOLAR-like layout")
    merge = book.known("llama-t7", "llama-t0.merged-20.x0")
    assert merge.weights == {"llama-t0": 0.2, "llama-t7": 0.8}
    assert book.known("llama-t7", "llama-t0.merged-20.x1").weights is None
    slices = book.known("llama-t1", "llama-t1.passthrough.x0")
    assert (slices.pair.relation, slices.pair.layer_map) == ("partly-related", (0, 1, None, None))
    assert book.known("llama-t2", "llama-t2.survivors.x0").pair.relation == "partly-related"
    assert book.known("llama-t0", "llama-t0.twin").row == "twins of one start"
    assert book.known("llama-t0", "llama-t0.student").is_stranger
    assert book.known("llama-t0", "llama-t3").is_stranger


def test_questions_hold_enough_strangers_and_no_pair_twice(everyone: list[Member], book: TruthBook) -> None:
    asked = questions(book, Split.of("test", everyone))
    assert sum(q.known.is_stranger for q in asked) >= 300
    pairs = Counter(frozenset((q.a, q.b)) for q in asked)
    assert max(pairs.values()) == 1
    ways = Counter(q.known.pair.direction for q in asked if q.known.is_relative)
    assert min(ways["a-to-b"], ways["b-to-a"]) > 100
    assert all(merge[0].rung is not None for merge in unmerging(book, Split.of("test", everyone)))
    names, edges = tree(book, Split.of("test", everyone))
    assert ("llama-t0", "llama-t0.noisy.x0") in [(names[i], names[j]) for i, j in edges]


# -- the wall ---------------------------------------------------------------------------------------------------------


def test_a_threshold_of_the_test_split_is_refused() -> None:
    assert SplitScores("calibration", (0.1, 0.7, 0.3)).threshold() == 0.7
    with pytest.raises(UsageError, match="threshold was asked of the test split"):
        SplitScores("test", (0.1, 0.7)).threshold()
    with pytest.raises(UsageError, match="no stranger of the calibration split"):
        SplitScores("calibration", ()).threshold()


def test_a_split_holds_no_model_of_another(everyone: list[Member]) -> None:
    calibration, test = (Split.of(name, everyone) for name in ("calibration", "test"))
    assert not {m.family.name for m in calibration.members} & {m.family.name for m in test.members}
    with pytest.raises(UsageError, match="model of another split"):
        Split("calibration", (*calibration.members, test.members[0]))


# -- statistics -------------------------------------------------------------------------------------------------------


def test_areas_and_shares_are_those_of_the_textbook() -> None:
    strangers, relatives = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.35, 0.5, 0.4])
    assert area(relatives, strangers) == pytest.approx((3 + 4 + 3.5) / 12)
    assert area(relatives, strangers, np.array([0.0, 1.0, 0.0])) == 1.0
    assert above_all(relatives, strangers) == pytest.approx(1 / 3)
    points = curve(relatives, strangers)
    assert points[0] == [0.0, 0.0]
    assert points[-1] == [1.0, 1.0]


def test_no_false_alarm_among_three_hundred_is_worth_one_percent() -> None:
    bound = upper_95(0, 300)
    assert bound is not None
    assert bound == pytest.approx(3 / 300, rel=0.01)
    assert upper_95(0, 0) is None
    assert upper_95(5, 5) == 1.0


def test_bounds_by_family_are_wider_where_one_family_speaks_for_all() -> None:
    strangers = Scored([0.1 * i for i in range(10)], [(f"f{i}", f"f{i + 1}") for i in range(10)])
    scores = [1.0] * 10 + [0.0] * 10
    halves, spread = ([(f"f{i // 10}",) * 2 for i in range(20)], [(f"f{i % 10}",) * 2 for i in range(20)])
    one, many = (by_families(Scored(scores, homes), strangers, area) for homes in (halves, spread))
    assert None not in (one.low, one.high, many.low, many.high)
    assert (one.high or 0) - (one.low or 0) > (many.high or 0) - (many.low or 0)


# -- scores -----------------------------------------------------------------------------------------------------------


def made_up(everyone: list[Member], book: TruthBook, scores: dict[str, float]) -> tuple[Exam, dict[str, Line]]:
    """An examination in which all pairs of a kind have one score; every layer map is right but that of a merge."""
    asked, pairs, lines = {}, [], {}
    for name in ("calibration", "test"):
        for question in questions(book, Split.of(name, everyone)):
            task = Task("pair", name, (question.a, question.b), ("k", "k"))
            kind = "relative" if question.known.is_relative else "stranger" if question.known.is_stranger else "twin"
            asked[task.address] = question
            pairs.append(task)
            wrong = question.known.row == "merge 20/80"
            lines[task.address] = Line(
                "m", "c", task.address, "pair", name, task.models, 0.1, score=scores[kind], bytes=10,
                verdict="relative" if scores[kind] > 0.5 else "stranger", direction=1.0,
                layer_map=[None] if wrong else list(question.known.pair.layer_map),
            )  # fmt: skip
    merge = next(m for m in unmerging(book, Split.of("test", everyone)) if m[0].name == "llama-t0.merged-20.x0")
    task = Task("merge", "test", (merge[0].name, *merge[1], *merge[2]), ("k",))
    values = [0.22, 0.79, 0.0, 0.01]
    lines[task.address] = Line("m", "c", task.address, "merge", "test", task.models, 0.1, values=values)
    exam = Exam(
        "nano", tuple(everyone), frozenset(), asked, tuple(pairs), (Merge(task, (0.2, 0.8, 0.0, 0.0)),), (), len(pairs)
    )
    return exam, lines


def test_a_perfect_method_gets_a_perfect_score(everyone: list[Member], book: TruthBook) -> None:
    exam, lines = made_up(everyone, book, {"relative": 0.9, "stranger": 0.1, "twin": 0.7})
    found = score_method(all_methods()["pedigree_standard"], exam, lines)
    assert (found.area.value, found.zero_false.value, found.threshold) == (1.0, 1.0, 0.1)
    assert found.by_threshold.found == found.by_threshold.of > 200
    assert found.threshold_alarms.wrong == 0
    assert found.threshold_alarms.upper_95 == pytest.approx(3 / found.threshold_alarms.strangers, rel=0.02)
    assert found.twins_called_relatives is not None
    assert found.twins_called_relatives.found == found.twins_called_relatives.of > 0
    assert found.directions is not None
    # It always says that the first one is the ancestor, which half of the pairs punish.
    assert min(found.directions.right, found.directions.wrong) > 100
    assert found.directions.siblings_told == found.directions.siblings > 0  # whoever always points, points at siblings
    assert found.merges is not None
    assert (found.merges.largest_error, found.merges.largest_decoy) == (0.02, 0.01)
    assert found.layers is not None
    assert 0.9 < found.layers.found / found.layers.of < 1
    assert found.missed == []


def test_a_method_that_calls_everything_related_pays_for_it(everyone: list[Member], book: TruthBook) -> None:
    exam, lines = made_up(everyone, book, {"relative": 0.9, "stranger": 0.9, "twin": 0.9})
    found = score_method(all_methods()["pedigree_standard"], exam, lines)
    assert found.area.value == 0.5
    assert found.zero_false.value == 0.0
    assert found.verdict_alarms is not None
    assert found.verdict_alarms.wrong == found.verdict_alarms.strangers > 300
    assert found.by_threshold.found == 0


def test_a_line_that_a_crash_cut_short_is_passed_over(tmp_path: Path) -> None:
    task = Task("pair", "test", ("a", "b"), ("1", "2"))
    whole = {
        "method": "awm", "code": "c", "task": task.address, "kind": "pair", "split": "test", "models": ["a", "b"],
        "seconds": 0.1, "score": 0.5,
    }  # fmt: skip
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "awm.jsonl").write_text(json.dumps(whole) + "\n" + json.dumps(whole)[:40] + "\n")
    assert latest(tmp_path, "awm", [task])[task.address].score == 0.5
    assert latest(tmp_path, "awm", [Task("pair", "test", ("a", "b"), ("1", "changed"))]) == {}


def test_scales_are_named_and_finite() -> None:
    assert set(SCALES) == {"nano", "pico", "micro"}
    assert all(math.isfinite(scale.seconds) for scale in SCALES.values())
    with pytest.raises(UsageError, match="no such size"):
        scale_of("giga")


def test_the_screen_of_the_same_answers_is_a_line_of_its_own(everyone: list[Member], book: TruthBook) -> None:
    exam, lines = made_up(everyone, book, {"relative": 0.9, "stranger": 0.1, "twin": 0.7})
    method = all_methods()["pedigree_standard"]
    for address, line in list(lines.items()):
        if line.kind == "pair":
            unsure = replace(line, verdict="unsure", flagged=exam.asked[address].known.is_relative)
            lines[address] = unsure
    plain, screen = score_method(method, exam, lines), score_screen(method, exam, lines)
    assert plain.by_verdict is not None
    assert screen.by_verdict is not None
    assert plain.by_verdict.found == 0
    assert screen.by_verdict.found == screen.by_verdict.of > 200
    assert screen.verdict_alarms is not None
    assert screen.verdict_alarms.wrong == 0
    assert (screen.name, screen.directions, screen.merges, screen.tree) == (
        "pedigree_standard:screen",
        None,
        None,
        None,
    )
