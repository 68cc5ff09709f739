"""A comparison engine that answers from a hand-made record, and a way to run the command line in this process."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.comparison_examples import EXAMPLES

from pedigree.cli import files
from pedigree.cli.main import main
from pedigree.records.comparison import Comparison
from pedigree.records.schemas import json_schema


@dataclass
class Engine:
    """Stands where `pedigree.forensics.compare` stands; remembers how it was called."""

    answer: Comparison | BaseException = field(default_factory=lambda: EXAMPLES["related"])
    calls: list[dict[str, Any]] = field(default_factory=list)

    def compare(self, a: str, b: str, **options: Any) -> Comparison:
        self.calls.append({"a": a, "b": b, **options})
        if options["progress"] is not None:
            options["progress"]("reading", 0.5, "layer 3")
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine reaches a test, and nothing is recorded outside of its folder."""
    for name in [name for name in os.environ if name.startswith("PEDIGREE_")] + ["NO_COLOR", "TERM"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("PEDIGREE_LEDGER", str(tmp_path / "project" / ".pedigree" / "ledger.db"))
    monkeypatch.setenv("PEDIGREE_SEEN", str(tmp_path / "project" / "memory.json"))
    monkeypatch.setattr(files, "WRITTEN", [])
    monkeypatch.setattr("pedigree.cli.errors.WRITTEN", files.WRITTEN)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The stand-in, in place."""
    stand_in = Engine()
    module = types.ModuleType("pedigree.forensics.compare")
    module.compare = stand_in.compare  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pedigree.forensics.compare", module)
    return stand_in


@dataclass(frozen=True)
class Ran:
    """What one command line said and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def pedigree(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`pedigree("compare", "a", "b")` runs the command line in this process."""

    def run(*arguments: str) -> Ran:
        code = main(arguments)
        captured = capsys.readouterr()
        _hold_to_schema(captured.out)
        return Ran(code, captured.out, captured.err)

    return run


def _hold_to_schema(out: str) -> None:
    """Every record that a command prints is one of those that have a schema, and keeps to it."""
    try:
        record = json.loads(out) if out.startswith("{") else None
    except json.JSONDecodeError:
        return
    if isinstance(record, dict) and "schema" in record and "result" in record:
        Draft202012Validator(json_schema(record["schema"].removeprefix("pedigree/"))).validate(record)
