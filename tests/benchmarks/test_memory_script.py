"""The benchmark of memory writes models that every command reads, and a page that says which took too much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.benchmarks.test_compare_script import BENCHMARKS, run_script

PAGE = """
import memory
row = {"shape": "dense", "command": "tree", "model_bytes": 4e9, "private": 1e9, "processor": 3.0, "answer": "done"}
print(memory.page([{**row, "peak": 1.9e9, "done": True}, {**row, "peak": 2.1e9, "done": True},
                   {**row, "peak": 1.0e9, "done": False}], "--write"))
"""


def test_the_page_says_which_command_took_more_than_the_limit_or_did_not_end() -> None:
    done = subprocess.run([sys.executable, "-c", PAGE], capture_output=True, text=True, check=True, cwd=BENCHMARKS)
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| dense")]
    assert [row[5] for row in rows] == ["yes", "**no**", "**no**"]
    assert [row[3] for row in rows] == ["1.90 GB", "2.10 GB", "1.00 GB"]
    assert "- experts 256 experts" in done.stdout
    assert "Not measured in this run: compare, by default (dense), compare, standard (dense), fing" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["dense", "experts"])
def test_every_command_is_measured_on_small_models(tmp_path: Path, shape: str) -> None:
    printed = run_script("memory.py", "--size", "tiny", "--shape", shape, "--json", tmp_path / "rows.json")
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith(f"| {shape}")]
    assert {row[1] for row in rows} >= {"compare, standard", "fingerprint", "tree"}
    assert {row[5] for row in rows} == {"yes"}
    assert [row[7] for row in rows if row[1] == "compare, standard"] == ["related |"]
    assert len(json.loads((tmp_path / "rows.json").read_text())) == len(rows)
