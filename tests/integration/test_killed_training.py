"""Killing the process at any moment loses steps, never the run: what follows is equal bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.training.tiny import settings, write_tokenizer
from tests.training.tiny_run import losses

ROOT = Path(__file__).resolve().parents[2]
STEPS = 150


def process(place: Path, output: Path, changes: dict[str, Any]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.training.tiny_run", str(place), str(output), json.dumps(changes)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=env)


def lines(output: Path) -> int:
    path = output / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, precision: str) -> None:
    settings(tmp_path)
    write_tokenizer(tmp_path)
    changes = {"tokens": 32 * 4 * STEPS, "precision": precision, "log_every": 1, "checkpoint": {"every": 4}}
    whole = process(tmp_path, tmp_path / "whole", changes)
    assert whole.wait(120) == 0
    moments = random.Random(precision)
    kills = 0
    for target in (15, 60, 110):
        running = process(tmp_path, tmp_path / "killed", changes)
        while lines(tmp_path / "killed") < target and running.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.random() * 0.02)
        running.send_signal(signal.SIGKILL)
        kills += running.wait(120) == -signal.SIGKILL
    assert kills >= 2, "the process was too fast to be killed"
    assert len(losses(tmp_path / "killed")) < STEPS
    assert process(tmp_path, tmp_path / "killed", changes).wait(120) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == STEPS
