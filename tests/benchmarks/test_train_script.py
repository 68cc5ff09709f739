"""The benchmark of training runs from end to end on its smallest model: no number of it is judged here."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.test_compare_script import run_script


def test_every_loop_has_its_line(tmp_path: Path) -> None:
    page = tmp_path / "train.md"
    said = run_script(
        "train.py", "--rounds", "1", "--steps", "1", "--sizes", "narrow", "--precisions", "fp32", "--write", page
    )
    assert page.read_text(encoding="utf-8").strip() == said.strip()
    lines = [line for line in said.splitlines() if line.startswith("| narrow, fp32 |")]
    assert [line.split("|")[2].strip() for line in lines] == [
        "pedigree",
        "pedigree, documents not masked",
        "plain loop",
    ]
