"""Sharded over processes a run takes the steps that one process takes, and reads its checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.training.tiny import settings, write_tokenizer
from tests.training.tiny_run import losses

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def train(place: Path, output: Path, ranks: int, changes: dict[str, Any]) -> None:
    words = ["-m", "tests.training.tiny_run", str(place), str(output), json.dumps(changes)]
    if ranks > 1:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *words]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def compare(one: Path, many: Path, norm: float = 1e-4) -> None:
    a, b = losses(one), losses(many)
    assert a.keys() == b.keys()
    assert a
    for step in a:
        assert b[step][0] == pytest.approx(a[step][0], rel=1e-5)
        assert b[step][1] == pytest.approx(a[step][1], rel=norm)


@pytest.mark.parametrize(("ranks", "more"), [(2, {}), (4, {}), (2, {"optimizer": {"name": "muon"}, "accumulation": 2})])
def test_many_ranks_take_the_steps_of_one(tmp_path: Path, ranks: int, more: dict[str, Any]) -> None:
    settings(tmp_path)
    write_tokenizer(tmp_path)
    changes = {"log_every": 1, "batch_sequences": 8, "tokens": 32 * 8 * 12, "checkpoint": {"every": 5}, **more}
    train(tmp_path, tmp_path / "one", 1, changes)
    train(tmp_path, tmp_path / "many", ranks, changes)
    compare(tmp_path / "one", tmp_path / "many")


@pytest.mark.parametrize("member", ["llama-3-8b", "deepseek-v3"])
def test_members_of_the_family_can_be_sharded(tmp_path: Path, member: str) -> None:
    settings(tmp_path)
    write_tokenizer(tmp_path)
    changes = {"log_every": 1, "batch_sequences": 4, "tokens": 32 * 4 * 6, "checkpoint": {"every": 3}, "member": member}
    train(tmp_path, tmp_path / "one", 1, changes)
    train(tmp_path, tmp_path / "two", 2, changes)
    compare(tmp_path / "one", tmp_path / "two")


def test_what_two_ranks_saved_one_goes_on_from(tmp_path: Path) -> None:
    settings(tmp_path)
    write_tokenizer(tmp_path)
    changes = {"log_every": 1, "batch_sequences": 8, "tokens": 32 * 8 * 12, "checkpoint": {"every": 5, "keep": 9}}
    train(tmp_path, tmp_path / "one", 1, changes)
    train(tmp_path, tmp_path / "moved", 2, changes)
    for step in (10, 12):  # what is left is the state of step 5
        saved = tmp_path / "moved" / "checkpoints" / f"step-{step:08d}"
        saved.rename(saved.with_name(f".gone-{step}"))
    train(tmp_path, tmp_path / "moved", 1, changes)
    assert json.loads((tmp_path / "moved" / "summary.json").read_text(encoding="utf-8"))["first_step"] == 5
    compare(tmp_path / "one", tmp_path / "moved")
