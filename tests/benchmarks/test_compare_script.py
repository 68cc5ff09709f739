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
