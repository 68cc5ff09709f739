"""The numbers of a run: each step once after a roll-back, TensorBoard only where asked for."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import pytest

from pedigree.errors import MissingInput
from pedigree.training.config import SourceConfig, TrainingConfig
from pedigree.training.metrics import BOARD, INSTALL, Metrics, read_metrics

has_board = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs the extra log")


def test_nothing_but_lines_is_written_unasked(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0)
    metrics.write(0, {"loss": 5.0})
    metrics.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_asked_for_and_absent_it_is_refused_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingInput, match="need the library tensorboard") as caught:
        Metrics(tmp_path / "run", 0, tensorboard=True)
    assert caught.value.fix == INSTALL
    assert not (tmp_path / "run").exists()


def test_it_changes_no_digest() -> None:
    config = TrainingConfig(sources=(SourceConfig(kind="arithmetic"),), tokens=10)
    assert config.model_copy(update={"tensorboard": True}).digest() == config.digest()


@has_board
@pytest.mark.filterwarnings("ignore")
def test_events_hold_each_step_once_after_a_roll_back(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        metrics = Metrics(tmp_path, 0, tensorboard=True)
        for step in range(4):
            metrics.write(step, {"loss": 5.0 - step, "action": "apply"})
        metrics.rewind(2)
        for step in (2, 3):
            metrics.write(step, {"loss": 1.0 / (step + 1), "action": "apply"})
        metrics.close()
        events = EventAccumulator(str(tmp_path / BOARD)).Reload().Scalars("loss")
    assert [event.step for event in events] == [0, 1, 2, 3]
    assert [event.value for event in events] == pytest.approx([row["loss"] for row in read_metrics(metrics.path)])
    assert events[2].value == pytest.approx(1 / 3)
