"""`pedigree compare`: what it passes on, what it prints, how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from tests.cli.conftest import Engine, Ran
from tests.comparison_examples import EXAMPLES, simple

from pedigree.cli.compare import DEPTH_WORDS, VERDICT_WORDS
from pedigree.errors import BudgetExceeded, InternalError, MalformedFile
from pedigree.records.comparison import Comparison, Depth, Verdict

Pedigree = Callable[..., Ran]


def test_the_words_of_the_command_are_those_of_the_record() -> None:
    assert get_args(Verdict) == VERDICT_WORDS
    assert ("auto", *get_args(Depth)) == DEPTH_WORDS


def test_everything_asked_for_reaches_the_engine(pedigree: Pedigree, engine: Engine) -> None:
    ran = pedigree(
        "compare", "x", "hf://org/name@main", "--decoy", "hf://d/1", "--decoy", "hf://d/2", "--budget", "300MB",
        "--depth", "full", "--allow-pickle",
    )  # fmt: skip
    assert ran.code == 0
    assert engine.calls == [
        {
            "a": "x", "b": "hf://org/name@main", "depth": "full", "budget_bytes": 300_000_000,
            "decoys": ("hf://d/1", "hf://d/2"), "allow_pickle": True, "progress": None,
        }
    ]  # fmt: skip


def test_a_decoy_that_is_not_there_stops_the_run_before_it_starts(pedigree: Pedigree, engine: Engine) -> None:
    ran = pedigree("compare", "x", "y", "--decoy", "hf://org/name", "--decoy", "no such decoy")
    assert (ran.code, ran.err) == (2, "error: no such file or directory for --decoy\n  in: no such decoy\n")
    assert engine.calls == []


def test_defaults_leave_the_choice_to_the_engine(pedigree: Pedigree, engine: Engine) -> None:
    pedigree("compare", "x", "y")
    call = engine.calls[0]
    assert (call["depth"], call["budget_bytes"], call["decoys"], call["allow_pickle"]) == (None, None, (), False)


def test_the_answer_is_the_result_and_warnings_are_talk(
    pedigree: Pedigree, engine: Engine, golden: Callable[[str, str], None]
) -> None:
    ran = pedigree("compare", "x", "y")
    assert ran.err == "warning: B: tokenizer.json is absent\n"
    golden("answer-related.txt", ran.out)


def test_json_is_the_record_and_nothing_else(pedigree: Pedigree, engine: Engine) -> None:
    ran = pedigree("compare", "x", "y", "--json")
    assert ran.out == EXAMPLES["related"].to_json() + "\n"
    assert json.loads(ran.out)["schema"] == "pedigree/comparison"


def test_quiet_prints_the_word_alone(pedigree: Pedigree, engine: Engine) -> None:
    assert pedigree("compare", "x", "y", "--quiet") == Ran(0, "related\n", "")


def test_quiet_json_prints_the_record_without_talk(pedigree: Pedigree, engine: Engine) -> None:
    ran = pedigree("compare", "x", "y", "--quiet", "--json")
    assert Comparison.from_json(ran.out)
    assert ran.err == ""


@pytest.mark.parametrize(
    ("verdict", "fail_on", "code"),
    [
        ("related", [], 0),
        ("unrelated", [], 0),
        ("identical", ["related"], 0),
        ("related", ["related"], 1),
        ("partly-related", ["related", "partly_related"], 1),
        ("inconclusive", [], 3),
        ("not-testable", [], 3),
        ("inconclusive", ["related"], 3),
        ("inconclusive", ["inconclusive"], 1),
    ],
)
def test_the_verdict_decides_the_exit_code(
    pedigree: Pedigree, engine: Engine, verdict: Verdict, fail_on: list[str], code: int
) -> None:
    engine.answer = simple(verdict)
    assert pedigree("compare", "x", "y", *(f"--fail-on={word}" for word in fail_on)).code == code


def test_an_unknown_word_is_refused_before_any_work_with_a_suggestion(pedigree: Pedigree, engine: Engine) -> None:
    ran = pedigree("compare", "x", "y", "--fail-on", "relatd")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("error: unknown word - got 'relatd', expected one of identical, related")
    assert ran.err.endswith("  in: --fail-on\n  fix: did you mean --fail-on related?\n")
    assert engine.calls == []


@pytest.mark.parametrize("bad", ["12 parsecs", "-1", "0", "MB", "1e9"])
def test_a_budget_that_is_no_size_is_refused(pedigree: Pedigree, engine: Engine, bad: str) -> None:
    ran = pedigree("compare", "x", "y", f"--budget={bad}")
    assert ran.code == 2
    assert "not a size in bytes" in ran.err
    assert engine.calls == []


def test_a_depth_that_does_not_exist_is_refused(pedigree: Pedigree, engine: Engine) -> None:
    ran = pedigree("compare", "x", "y", "--depth", "fulll")
    assert ran.code == 2
    assert "did you mean --depth full?" in ran.err


def test_a_report_is_one_file_and_said_to_be_written(pedigree: Pedigree, engine: Engine, tmp_path: Path) -> None:
    report = tmp_path / "out.html"
    ran = pedigree("compare", "x", "y", "--report", str(report))
    assert ran.code == 0
    assert f"wrote {report}" in ran.err
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]


def test_a_report_in_the_way_stops_the_run_before_it_starts(pedigree: Pedigree, engine: Engine, tmp_path: Path) -> None:
    report = tmp_path / "out.html"
    report.write_text("mine")
    ran = pedigree("compare", "x", "y", "--report", str(report))
    assert ran.code == 2
    assert "fix: --force" in ran.err
    assert (report.read_text(), engine.calls) == ("mine", [])
    assert pedigree("compare", "x", "y", "--report", str(report), "--force").code == 0
    assert report.read_text() != "mine"


def test_a_report_in_a_folder_that_is_not_there_stops_the_run_before_it_starts(
    pedigree: Pedigree, engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "not there"
    ran = pedigree("compare", "x", "y", "--report", str(folder / "out.html"))
    assert ran.code == 2
    assert ran.err == f"error: the folder of the output does not exist\n  in: {folder}\n  fix: mkdir -p '{folder}'\n"
    assert engine.calls == []


def test_short_and_long_help_are_one(pedigree: Pedigree) -> None:
    assert pedigree("compare", "-h").out == pedigree("compare", "--help").out
    assert pedigree("-h").out == pedigree("--help").out


def test_errors_of_the_engine_become_words(pedigree: Pedigree, engine: Engine) -> None:
    engine.answer = MalformedFile("header is cut off", where="a.safetensors", got=12, expected="4096 bytes", fix="copy")
    ran = pedigree("compare", "x", "y")
    assert ran == Ran(
        2, "", "error: header is cut off - got 12, expected 4096 bytes\n  in: a.safetensors\n  fix: copy\n"
    )
    engine.answer = BudgetExceeded("the budget is spent")
    assert pedigree("compare", "x", "y").code == 2


@pytest.mark.parametrize("bug", [KeyError("role"), InternalError("a map has a hole")])
def test_a_bug_is_ours_and_leaves_a_crash_file(pedigree: Pedigree, engine: Engine, bug: Exception) -> None:
    engine.answer = bug
    ran = pedigree("compare", "x", "y")
    assert ran.code == 70
    assert "this is a bug in pedigree" in ran.err
    assert "Traceback" not in ran.err
    found = re.search(r"report it with (\S+)", ran.err)
    assert found
    crash = Path(found.group(1))
    content = crash.read_text(encoding="utf-8")
    crash.unlink()
    assert "Traceback" in content
    assert "'compare', 'x', 'y'" in content


def test_a_traceback_is_shown_when_asked(
    pedigree: Pedigree, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PEDIGREE_DEBUG", "1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine.answer = KeyError("role")
    assert "Traceback" in pedigree("compare", "x", "y").err
    engine.answer = MalformedFile("cut off")
    assert "Traceback" in pedigree("compare", "x", "y").err


def test_an_interruption_says_what_is_on_disk(pedigree: Pedigree, engine: Engine) -> None:
    engine.answer = KeyboardInterrupt()
    ran = pedigree("compare", "x", "y")
    assert ran.code == 130
    assert "interrupted: nothing was written" in ran.err


def test_what_the_system_refuses_is_no_bug_of_ours(pedigree: Pedigree, engine: Engine) -> None:
    engine.answer = PermissionError(13, "Permission denied", "model.safetensors")
    ran = pedigree("compare", "x", "y")
    assert ran.code == 2
    assert ran.err == ("error: the system refused to read or write - got permission denied\n  in: model.safetensors\n")


def test_running_out_of_memory_is_told_with_a_way_out(pedigree: Pedigree, engine: Engine) -> None:
    engine.answer = MemoryError()
    ran = pedigree("compare", "x", "y")
    assert ran.code == 2
    assert "--depth glance" in ran.err


# -- environment variables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "option", "expected"),
    [
        ("PEDIGREE_DECOY", "hf://d/1 hf://d/2", "decoys", ("hf://d/1", "hf://d/2")),
        ("PEDIGREE_BUDGET", "1.5 GiB", "budget_bytes", 1_610_612_736),
        ("PEDIGREE_DEPTH", "glance", "depth", "glance"),
        ("PEDIGREE_ALLOW_PICKLE", "1", "allow_pickle", True),
    ],
)
def test_inputs_can_be_set_by_environment(
    pedigree: Pedigree,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    option: str,
    expected: object,
) -> None:
    monkeypatch.setenv(name, value)
    assert pedigree("compare", "x", "y").code == 0
    assert engine.calls[0][option] == expected


def test_outputs_can_be_set_by_environment(
    pedigree: Pedigree, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = tmp_path / "out.html"
    report.write_text("old")
    monkeypatch.setenv("PEDIGREE_REPORT", str(report))
    assert pedigree("compare", "x", "y").code == 2
    monkeypatch.setenv("PEDIGREE_FORCE", "1")
    monkeypatch.setenv("PEDIGREE_FAIL_ON", "identical related")
    monkeypatch.setenv("PEDIGREE_COLOR", "1")
    ran = pedigree("compare", "x", "y")
    assert ran.code == 1
    assert "\x1b[" in ran.out
    assert report.read_text() != "old"
    monkeypatch.setenv("PEDIGREE_QUIET", "1")
    assert pedigree("compare", "x", "y").out == "related\n"
    monkeypatch.setenv("PEDIGREE_JSON", "1")
    assert Comparison.from_json(pedigree("compare", "x", "y").out)


def test_color_repeats_what_the_words_say(pedigree: Pedigree, engine: Engine) -> None:
    plain, colored = pedigree("compare", "x", "y"), pedigree("compare", "x", "y", "--color")
    assert "\x1b[" not in plain.out
    assert "\x1b[" in colored.out
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored.out) == plain.out
