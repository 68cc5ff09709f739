"""The benchmark of the ledger on a few events: no number of it is judged here."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.test_compare_script import run_script


def test_every_part_is_measured(tmp_path: Path) -> None:
    page = tmp_path / "ledger.md"
    said = run_script("ledger.py", "--events", "300", "--appends", "20", "--out", page)
    assert page.read_text(encoding="utf-8").strip() == said.strip()
    rows = [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("| ")]
    assert rows[:9] == [
        "what", "append, median", "append, p99", "append, processor time", "full verification",
        "full verification, processor time", "proof, p99", "database", "events / signatures",
    ]  # fmt: skip
