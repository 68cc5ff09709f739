"""`pedigree demo` around a zoo that is made in no time; the real one is made by an integration test."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Engine, Ran

Pedigree = Callable[..., Ran]


@dataclass
class Zoo:
    """Three models; every two are said to be related."""

    directory: Path
    relation: str = "related"
    losses: dict[str, tuple[float, float]] = field(default_factory=lambda: {"original": (7.3, 4.1)})

    @property
    def models(self) -> dict[str, Path]:
        return {name: self.directory / name for name in ("original", "stranger", "disguised")}

    def pair(self, a: str, b: str) -> Any:
        return types.SimpleNamespace(a=a, b=b, relation=self.relation)


@pytest.fixture(autouse=True)
def reports_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is tested elsewhere."""
    monkeypatch.setattr("pedigree.report.page.render_comparison", lambda comparison: comparison.result.verdict)


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Zoo:
    made = Zoo(tmp_path / "demo")
    module = types.ModuleType("pedigree.benchmark.zoo.orders")

    def make_demo(directory: Path, progress: Any = None) -> Zoo:
        progress("original", 10, 200, 6.9)
        made.directory = directory
        return made

    module.make_demo = make_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pedigree.benchmark.zoo.orders", module)
    return made


def test_every_pair_is_compared_answered_and_reported(
    pedigree: Pedigree, engine: Engine, zoo: Zoo, tmp_path: Path
) -> None:
    ran = pedigree("demo", "--dir", str(tmp_path / "demo"), "--no-open")
    assert ran.code == 0
    assert len(engine.calls) == 3
    reports = sorted(path.name for path in (tmp_path / "demo" / "reports").iterdir())
    assert reports == ["original--disguised.html", "original--stranger.html", "stranger--disguised.html"]
    assert ran.out.count("related  (true)") == 3
    assert "trained here: original (loss 7.30 to 4.10)" in ran.out
    assert "3 of 3 answers agree with how the models were made" in ran.out
    assert ran.out.rstrip().endswith(str(tmp_path / "demo" / "reports" / "original--stranger.html"))


def test_an_answer_that_is_wrong_is_told_and_counted(
    pedigree: Pedigree, engine: Engine, zoo: Zoo, tmp_path: Path
) -> None:
    zoo.relation = "unrelated"
    ran = pedigree("demo", "--dir", str(tmp_path / "demo"))
    assert ran.code == 1
    assert "(in truth unrelated)" in ran.out
    assert "0 of 3 answers agree" in ran.out


def test_it_runs_again_in_its_own_folder_and_refuses_others(
    pedigree: Pedigree, engine: Engine, zoo: Zoo, tmp_path: Path
) -> None:
    assert pedigree("demo", "--dir", str(tmp_path / "demo")).code == 0
    assert pedigree("demo", "--dir", str(tmp_path / "demo")).code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    ran = pedigree("demo", "--dir", str(tmp_path / "mine"))
    assert ran.code == 2
    assert "not its own" in ran.err


def test_settings_come_from_the_environment(
    pedigree: Pedigree, engine: Engine, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("PEDIGREE_DEMO_DIR", str(tmp_path / "demo"))
    assert pedigree("demo").code == 0
    assert opened == [(tmp_path / "demo" / "reports" / "original--stranger.html").as_uri()]
    monkeypatch.setenv("PEDIGREE_OPEN", "0")
    assert pedigree("demo").code == 0
    assert len(opened) == 1
    monkeypatch.setenv("PEDIGREE_JSON", "1")
    record = json.loads(pedigree("demo").out)
    assert [pair["verdict"] for pair in record["result"]] == ["related"] * 3
