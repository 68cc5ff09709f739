"""`pedigree.record`: what other programs load and save is noticed, declared or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import load_file, save_file

import pedigree
from pedigree.errors import MalformedFile, MissingInput
from pedigree.ledger.database import Database
from pedigree.ledger.log import LedgerPlace
from pedigree.ledger.store import Store
from pedigree.ledger.verification import Verification, verify
from pedigree.weights.artifact import artifact_id


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a base model, and its own ledger."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEDIGREE_LEDGER", str(tmp_path / ".pedigree" / "ledger.db"))
    for name in ("base", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        save_file({"w": np.full(4, len(name), dtype=np.float32)}, tmp_path / name / "model.safetensors")
    (tmp_path / "run.yaml").write_text("name: small\noperation: finetune\ninputs: [base]\nparameters: {lr: 0.1}\n")
    return tmp_path


def told(here: Path) -> Verification:
    return verify(Store(Database(LedgerPlace.find().database)))


def train(here: Path, base: str) -> None:
    weights = load_file(here / base / "model.safetensors")
    (here / "out").mkdir(exist_ok=True)
    (here / "out" / "config.json").write_text("{}")
    save_file({"w": weights["w"] + 1}, here / "out" / "model.safetensors")


def test_what_was_declared_is_recorded_without_gaps(here: Path) -> None:
    with pedigree.record("run.yaml") as recorder:
        train(here, "base")
        recorder.beat({"step": 1, "loss": 2.5})
    report = told(here)
    assert report.problems == []
    edge = report.edges[-1]
    assert (edge.child_name, edge.operation, edge.verdict) == ("out", "finetune", "DECLARED")
    assert ("sha256:" + edge.parent, "sha256:" + edge.child) == (artifact_id(here / "base"), artifact_id(here / "out"))
    (end,) = [entry for entry in report.entries if entry.leaf.kind == "run.end"]
    assert (end.facts["gaps"], end.facts["outcome"]) == ([], "finished")
    assert safetensors.numpy.load_file is load_file  # everything is as it was


def test_a_checkpoint_that_nobody_declared_shows(here: Path) -> None:
    with pedigree.record("run.yaml"):
        train(here, "other")
    report = told(here)
    (end,) = [entry for entry in report.entries if entry.leaf.kind == "run.end"]
    assert end.facts["gaps"] == ["read and not declared: other"]
    parents = {"sha256:" + edge.parent for edge in report.edges if edge.operation == "finetune"}
    assert parents == {artifact_id(here / "base"), artifact_id(here / "other")}


def test_weights_written_past_the_wrappers_show(here: Path) -> None:
    with pedigree.record():
        (here / "sly.safetensors").write_bytes((here / "base" / "model.safetensors").read_bytes())
    (end,) = [entry for entry in told(here).entries if entry.leaf.kind == "run.end"]
    assert end.facts["gaps"] == ["written past the wrappers: sly.safetensors"]


def test_an_error_passes_through_and_is_told(here: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="division"), pedigree.record("run.yaml"):
        _ = 1 / 0
    (end,) = [entry for entry in told(here).entries if entry.leaf.kind == "run.end"]
    assert end.facts["outcome"] == "stopped by an error"


def test_a_declaration_that_means_nothing_is_refused_first(here: Path) -> None:
    (here / "bad.yaml").write_text("nam: x\n")
    with pytest.raises(MalformedFile, match="something unknown"), pedigree.record("bad.yaml"):
        pass
    with pytest.raises(MissingInput, match="no such declaration"), pedigree.record("none.yaml"):
        pass
    assert not (here / ".pedigree").exists()
    with pytest.raises(AttributeError, match="no attribute"):
        _ = pedigree.recorded
