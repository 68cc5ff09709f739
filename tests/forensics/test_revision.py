"""What a kept comparison depends on: another bank, table or library gives another revision."""

from __future__ import annotations

from pathlib import Path

import pytest

from pedigree.forensics import revision as module


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for room in module.ROOMS:
        (tmp_path / room / "data").mkdir(parents=True)
        (tmp_path / room / "code.py").write_text("one = 1\n")
        (tmp_path / room / "data" / "bank.json").write_text("{}")
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "comparison.py").write_text("")
    monkeypatch.setattr(module, "files", lambda name: tmp_path)
    return tmp_path


def fresh() -> str:
    module.revision.cache_clear()
    found = module.revision()
    module.revision.cache_clear()
    return found


def test_code_data_and_libraries_count_and_nothing_else(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fresh()
    (package / "forensics" / "notes.txt").write_text("of no account")
    assert fresh() == before
    (package / "weights" / "data" / "bank.json").write_text('{"pairs": 3}')
    data = fresh()
    (package / "forensics" / "code.py").write_text("one = 2\n")
    code = fresh()
    monkeypatch.setattr(module, "version", lambda name: "9" if name == "torch" else "1")
    assert len({before, data, code, fresh()}) == 4


def test_this_program_has_one() -> None:
    assert len(fresh()) == 64
