"""The benchmarks of libraries, of the network and of costs run on small things; the guide holds what they computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.benchmarks.test_compare_script import BENCHMARKS, run_script


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=BENCHMARKS)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_costs_in_the_guide_are_those_that_the_script_computes() -> None:
    page = (BENCHMARKS.parent / "docs" / "guide" / "scanning.md").read_text(encoding="utf-8")
    block = python("import json, scan_cost as s; print(s.block(json.loads(s.MEASURED.read_text())), end='')")
    assert block in page


def test_a_cost_is_bytes_and_hours_times_prices() -> None:
    code = """
import scan_cost as s
row = {"like": "x", "bytes": 10**9, "fingerprint": {"sent": 2 * 10**8, "requests": 1, "core_s": 3.6, "file": 1},
       "glance": {"sent": 10**7, "requests": 1, "core_s": 7.2}}
big = {**row, "glance": {"sent": 3 * 10**7, "requests": 1, "core_s": 7.2}}
measured = {"sizes": {"a": row, "b": big}, "date": "today"}
print(*(f"{x:.3f}" for x in s.per_thousand(measured, {"a": 3, "b": 1}, "glance")))
print(s.table(measured, {"a": 1.0}, 0.5, 2.0))
"""
    printed = python(code)
    assert printed.startswith("15.000 2.000\n")
    assert "| a fingerprint of each | 200 GB | 1.0 | $100.00 | $2.00 | $102.00 |" in printed


def test_drawn_bytes_are_a_checkpoint_whose_ranges_agree() -> None:
    code = """
from drawn_checkpoint import *
import sys; sys.path.insert(0, "../src")
c = {kind: DrawnCheckpoint(SHAPES["tiny"], kind) for kind in KINDS}
import pathlib, tempfile, torch
from pedigree.weights.checkpoint import open_checkpoint
with tempfile.TemporaryDirectory() as place:
    tensors = {}
    for kind, checkpoint in c.items():
        folder = pathlib.Path(place, kind); folder.mkdir()
        for file, size in checkpoint.files.items():
            whole = checkpoint.read(file, 0, size)
            assert len(whole) == size and checkpoint.read(file, size // 3, size // 2) == whole[size // 3 : size // 2]
            (folder / file).write_bytes(whole)
        with open_checkpoint(folder) as opened:
            tensors[kind] = opened.read("model.layers.1.mlp.up_proj.weight").float().flatten()
cosine = torch.nn.functional.cosine_similarity
print(f"{cosine(tensors['parent'], tensors['child'], 0):.3f} {cosine(tensors['parent'], tensors['stranger'], 0):.3f}")
"""
    child, stranger = map(float, python(code).split())
    assert (child, abs(stranger) < 0.05) == (0.995, True)


def test_a_hub_that_changes_a_file_ends_the_comparison_and_an_honest_one_does_not(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    run_script("remote.py", "--size", "tiny", "--link", "breaks", "--link", "changed", "--json", numbers)
    breaks, changed = json.loads(numbers.read_text())["rows"]
    assert (breaks["answer"], breaks["exit_code"], breaks["leaks"]) == ("related", 0, 0)
    assert breaks["resets"] > 3
    assert changed["exit_code"] == 2
    assert changed["answer"].startswith("the file changed while it was read")


def test_drawn_vectors_are_as_alike_as_the_real_ones() -> None:
    code = """
import json, numpy as np, library as m
known = json.loads(m.CALIBRATION.read_text())
drawer, draw = m.Drawer(known), np.random.default_rng(5)
roots = drawer.strangers(400, draw)
for k in (0, 1):
    half = roots[:, k * drawer.half : (k + 1) * drawer.half] * 2**0.5
    cosine = (half @ half.T)[np.triu_indices(400, 1)]
    print(cosine.mean() - known["strangers_mean"][k], cosine.std() / known["strangers_deviation"][k])
for kind, pairs in known["related"].items():
    child = drawer.relatives(roots, kind, draw)
    got = [float((child[:, s] * roots[:, s]).sum(1).mean() * 2) for s in (slice(0, 512), slice(512, 1024))]
    print(kind, *(round(g - w, 1) + 0.0 for g, w in zip(got, np.clip(pairs, 0, 1).mean(0))))
"""
    lines = python(code).splitlines()
    for line in lines[:2]:
        mean, ratio = map(float, line.split())
        assert abs(mean) <= 0.02
        assert ratio == pytest.approx(1.0, abs=0.15)
    assert [line.split()[1:] for line in lines[2:]] == [["0.0", "0.0"]] * 3


def test_a_small_library_is_asked_and_found(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    run_script("library.py", "--fingerprints", "1500", "--queries", "5", "--workdir", tmp_path, "--json", numbers)
    found = json.loads(numbers.read_text())["found"]
    # So few are searched exactly: nothing may be missing.
    assert [line["recall"] for line in found["lines"]] == [1.0] * 4
    assert [line["lost"] for line in found["lines"]] == [0] * 4
    assert found["index_bytes"] == 0
