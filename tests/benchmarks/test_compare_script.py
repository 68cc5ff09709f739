"""The benchmark script runs from end to end on checkpoints of a few megabytes: no number of it is judged here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import torch
from safetensors import safe_open

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run_script(name: str, *words: str | Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARKS / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def load_checkpoints() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_checkpoints", BENCHMARKS / "checkpoints.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_measures_every_way_to_compare_and_leaves_no_checkpoint_behind(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    words = ["--size", "tiny", "--pair", "child", "--depth", "http-glance"]
    printed = run_script(
        "compare.py", *words, "--peer", "torch-cosine", "--workdir", tmp_path / "work", "--json", numbers
    )
    rows = {row["what"]: row for row in json.loads(numbers.read_text())["rows"]}
    assert list(rows) == [
        "reading both once",
        "pedigree, glance over HTTP",
        "full-tensor cosine in torch",
    ]
    for what, row in rows.items():
        assert f"| {what} |" in printed
        assert row["seconds"] > 0
        assert row["peak_bytes"] > 1_000_000
    assert rows["pedigree, glance over HTTP"]["asked_bytes"] > 0
    assert not list((tmp_path / "work").rglob("*.safetensors"))


def test_the_page_holds_each_promise_against_its_worst_number() -> None:
    row = {"size": "7b", "pair": "child", "seconds": 4.0, "private_bytes": 1, "disk_bytes": 1, "total_bytes": 1000}
    rows = [
        {**row, "what": "reading both once", "peak_bytes": 1, "asked_bytes": None, "answer": "", "repeats": 1},
        {**row, "what": "pedigree, standard", "peak_bytes": 3_000_000_000, "asked_bytes": 90, "answer": "related",
         "seconds": 2.0, "repeats": 1},
        {**row, "what": "pedigree, glance over HTTP", "peak_bytes": 1, "asked_bytes": 20, "answer": "related",
         "repeats": 1},
    ]  # fmt: skip
    context = {
        "commit": "abc", "date": "2026-01-01", "cpu": "a processor", "cores": 2, "memory_bytes": 1_000_000_000,
        "system": "Linux", "python": "3.11", "versions": {"torch": "2"}, "load": [0.1, 0.9],
        "command": "python x --write",
    }  # fmt: skip
    code = "import json,sys; from page import render_page; print(render_page(*json.load(sys.stdin)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([context, rows]), capture_output=True, text=True, check=True, cwd=BENCHMARKS,
    )  # fmt: skip
    assert "| standard: peak memory, GB | 3.00 | < 2 | **not kept** |" in done.stdout
    assert "| standard: share of the bytes read, % | 9.00 | < 10 | kept |" in done.stdout
    assert "| standard: seconds as a multiple of reading both once | 0.50 | < 1 | kept |" in done.stdout
    assert "| glance over HTTP: share of the bytes sent, % | 2.000 | < 1 | **not kept** |" in done.stdout


def test_checkpoints_are_the_same_every_time_and_children_are_their_parents_plus_noise(tmp_path: Path) -> None:
    checkpoints = load_checkpoints()
    for folder, kind in (("first", "parent"), ("second", "parent"), ("child", "child")):
        checkpoints.main([str(tmp_path / folder), "--size", "tiny", "--kind", kind])
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert len([name for name in files if name.endswith(".safetensors")]) > 1
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    tensors = []
    for folder in ("first", "child"):
        index = json.loads((tmp_path / folder / "model.safetensors.index.json").read_text())
        name = "model.layers.3.mlp.up_proj.weight"
        with safe_open(tmp_path / folder / index["weight_map"][name], framework="pt") as file:
            tensors.append(file.get_tensor(name).float().flatten())
    assert 0.98 < float(torch.nn.functional.cosine_similarity(*tensors, dim=0)) < 0.999


def test_the_claim_names_the_fastest_peer_that_is_right_by_pair_and_over_all_pairs() -> None:
    def row(pair: str, what: str, seconds: float, right: bool) -> dict[str, object]:
        return {"size": "1.5b", "pair": pair, "what": what, "seconds": seconds, "right": right}

    rows = [
        row("child", "pedigree, auto", 2.0, True), row("child", "quick", 1.0, True), row("child", "slow", 20.0, True),
        row("disguised", "pedigree, auto", 3.0, True), row("disguised", "quick", 1.0, False),
        row("disguised", "slow", 30.0, True), row("stranger", "pedigree, auto", 3.0, True),
        row("stranger", "quick", 1.0, False), row("stranger", "slow", 30.0, False),
    ]  # fmt: skip
    code = "import json,sys; from page import _claim; print(_claim(json.load(sys.stdin)))"
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(rows), capture_output=True, text=True, check=True, cwd=BENCHMARKS
    )
    assert "| 1.5b | child | 2.0 | quick | 1.0 | 0.5 | **not kept** |" in done.stdout
    assert "| 1.5b | disguised | 3.0 | slow | 30.0 | 10.0 | kept |" in done.stdout
    assert "| 1.5b | stranger | 3.0 | none | - | - | no peer is right |" in done.stdout
    assert "| 1.5b | all 3 | 8.0 | none | - | - | no peer is right |" in done.stdout


def test_a_run_goes_on_where_it_was_and_refuses_numbers_of_another_commit(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    words = ["--size", "tiny", "--pair", "child", "--depth", "glance", "--peer", "none", "--repeats", "1"]
    run_script("compare.py", *words, "--json", numbers)
    first = numbers.read_text()
    again = run_script("compare.py", *words, "--json", numbers, "--resume")
    assert "pedigree" not in again
    assert json.loads(numbers.read_text())["rows"] == json.loads(first)["rows"]
    numbers.write_text(first.replace('"commit": "', '"commit": "x'))
    command = [sys.executable, str(BENCHMARKS / "compare.py"), *words, "--json", str(numbers), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "of another commit" in done.stderr
