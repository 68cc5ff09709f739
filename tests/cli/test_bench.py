"""`pedigree bench`: eight tiny models from beginning to end, and what is said where something is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.cli.conftest import Ran

from pedigree.benchmark.families import foundry
from pedigree.benchmark.families.members import members
from pedigree.benchmark.families.sizes import scale_of

Pedigree = Callable[..., Ran]
TABLE = "model.embed_tokens.weight"
MODELS = ("llama-c1", "llama-c2", "llama-t3", "llama-t4", "llama-t1.bf16", "llama-t1.int8")
METHODS = ("pedigree_standard", "csu", "sigma_curves")
NAMED = tuple(word for name in METHODS for word in ("--method", name))
ONLY = tuple(word for name in MODELS for word in ("--only", name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("bench") / "benchmark"
    everyone = members("pico")
    made = foundry.make(place, everyone, foundry.wanted(everyone, MODELS), scale_of("pico"))
    assert made.failures == {}
    assert len(made.names) == 8
    return place


def test_what_is_made_is_not_made_again(pedigree: Pedigree, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "models").rglob("*.safetensors")}
    ran = pedigree("bench", "make", str(folder), "--size", "pico", *ONLY, "--json")
    record = json.loads(ran.out)
    assert (ran.code, record["schema"], record["asked"], record["done"]) == (0, "pedigree/benchmark-step", 8, 8)
    assert "0 of 8 models are to be made" in ran.err
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "models").rglob("*.safetensors")}


def test_a_benchmark_is_run_scored_and_drawn(pedigree: Pedigree, folder: Path, tmp_path: Path) -> None:
    ran = pedigree("bench", "run", str(folder), "--size", "pico", *NAMED, "--json")
    asked = json.loads(ran.out)
    assert ran.code == 0
    assert set(asked["answers"]) == set(METHODS)
    again = json.loads(pedigree("bench", "run", str(folder), "--size", "pico", *NAMED, "--json").out)
    assert again["done"] == 0
    scores = tmp_path / "scores.json"
    told = pedigree("bench", "score", str(folder), "--size", "pico", *NAMED, "-o", str(scores))
    assert told.code == 0
    assert "8 of 342 models" in told.out
    assert "scores are over the" in told.err
    record = json.loads(scores.read_text())["result"]
    by_name = {method["name"]: method for method in record["methods"]}
    ours = by_name["pedigree_standard"]
    assert ours["by_verdict"] == {"found": 3, "of": 3}
    assert ours["verdict_alarms"]["wrong"] == 0
    assert ours["layers"]["found"] == ours["layers"]["of"] == 9
    assert ours["bytes"] > 0
    assert record["coverage"]["calibration_strangers"] == 1
    page = tmp_path / "page.html"
    drawn = pedigree("bench", "report", str(scores), "-o", str(page))
    assert drawn.code == 0
    text = page.read_text()
    assert "pedigree compare" in text
    assert "standard-deviation curves" in text
    assert text.count("<svg") >= 2
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert pedigree("bench", "report", str(scores), "-o", str(page)).code == 2
    assert pedigree("bench", "report", str(scores), "-o", str(page), "--force").code == 0
    assert page.read_text() == text
    table = tmp_path / "table.md"
    assert pedigree("bench", "report", str(scores), "-o", str(table)).code == 0
    assert "| surgery: storage (3) | 100 |" in table.read_text()


def test_answers_are_lines_that_say_what_they_cost(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "results" / "csu.jsonl").read_text().splitlines()]
    assert all({"task", "models", "score", "seconds", "bytes", "code"} <= line.keys() for line in lines)


def test_a_model_that_cannot_be_made_stops_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pedigree.benchmark.zoo.workshop import Workshop

    def broken(self: Workshop, names: list[str]) -> list[Path]:
        if names == ["llama-t5"]:
            raise RuntimeError("no room")
        return []

    monkeypatch.setattr(Workshop, "make", broken)
    everyone = members("pico")
    asked = foundry.wanted(everyone, ["llama-t5", "llama-t6"])
    made = foundry.make(folder, everyone, asked, scale_of("pico"))
    assert made.failures == {"llama-t5": "RuntimeError: no room"}
    assert made.names == ["llama-t6"]
    assert foundry.read_failures(folder) == made.failures


def test_another_seed_is_another_benchmark(
    pedigree: Pedigree, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again"
    made = pedigree("bench", "make", str(again), "--size", "pico", "--seed", "1", "--only", "llama-t4", "--json")
    assert json.loads(made.out)["done"] == 1
    one, two = (load_file(place / "models" / "llama-t4" / "model.safetensors") for place in (folder, again))
    assert one.keys() == two.keys()
    cosine = np.corrcoef(one[TABLE].ravel(), two[TABLE].ravel())[0, 1]
    assert abs(cosine) < 0.1
    monkeypatch.setenv("PEDIGREE_SEED", "1")
    kept = pedigree("bench", "make", str(again), "--size", "pico", "--only", "llama-t4")
    assert "0 of 1 models are to be made" in kept.err
    monkeypatch.setenv("PEDIGREE_SEED", "0")
    other = pedigree("bench", "make", str(again), "--size", "pico", "--only", "llama-t4")
    assert "1 of 1 models are to be made" in other.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("make", "FOLDER", "--size", "giga"), "no such size"),
        (("make", "FOLDER", "--only", "no-such-model"), "no model of that name"),
        (("run", "FOLDER"), "there is no benchmark"),
        (("run", "FOLDER", "--method", "astrology"), "no such method"),
        (("score", "FOLDER"), "there is no benchmark"),
        (("report", "FOLDER"), "where the page goes is missing"),
        (("report", "FOLDER", "-o", "FOLDER.html"), "there is no record of scores"),
    ],
)
def test_what_is_missing_is_said(pedigree: Pedigree, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    ran = pedigree("bench", *(word.replace("FOLDER", str(tmp_path / "nowhere")) for word in words))
    assert ran.code == 2
    assert told in ran.err


def test_another_record_is_no_leaderboard(pedigree: Pedigree, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text('{"schema": "pedigree/comparison"}')
    ran = pedigree("bench", "report", str(tmp_path / "scores.json"), "-o", str(tmp_path / "page.html"))
    assert ran.code == 2
    assert "this is not the record of a benchmark" in ran.err


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("PEDIGREE_SIZE", "giga", "no such size"),
        ("PEDIGREE_ONLY", "no-such-model", "no model of that name"),
        ("PEDIGREE_WORKERS", "none", "--workers"),
    ],
)
def test_settings_come_from_the_environment(
    pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    ran = pedigree("bench", "make", str(tmp_path / "new"))
    assert ran.code == 2
    assert told in ran.err


def test_the_method_comes_from_the_environment(
    pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PEDIGREE_METHOD", "astrology")
    assert "no such method" in pedigree("bench", "run", str(tmp_path)).err
