"""lm-evaluation-harness over a model directory, in a process of its own that is told to stay off the network.

The harness, `datasets` and `huggingface_hub` read their switches when they are imported; a fresh process is the only
place where they are sure to be read, and what the harness prints there never reaches our result.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pedigree.errors import InputError, MissingInput

OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
INSTALL = "pip install 'llm-pedigree[eval]'"


def check_harness() -> None:
    """Make sure, before any work, that the harness is installed.

    Raises:
        MissingInput: it is not.
    """
    for name in ("lm_eval", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise MissingInput(
                "tasks need lm-evaluation-harness", where="--tasks", got=f"no library {name}", fix=INSTALL
            )


def run_harness(
    folder: Path,
    tasks: Sequence[str],
    *,
    task_folder: Path | None = None,
    limit: int | None = None,
    device: str | None = None,
    network: bool = False,
) -> dict[str, dict[str, Any]]:
    """What the harness says of a model.

    Args:
        folder: the model; loaded with transformers, our classes registered, no code of the directory run.
        tasks: names of tasks.
        task_folder: where the YAML of further tasks lies.
        limit: documents of each task; None takes all.
        device: where to compute; None for cpu.
        network: whether tasks may fetch their data.

    Returns:
        For each task its metrics, named as the harness names them (`acc,none`).

    Raises:
        MissingInput: the harness is not installed, or there is no such task folder.
        InputError: the harness could not run the tasks.
    """
    check_harness()
    if task_folder is not None and not task_folder.is_dir():
        raise MissingInput("no such directory", where=str(task_folder), expected="a folder with task YAML")
    request = {
        "model": str(folder.resolve()), "tasks": list(tasks), "limit": limit, "device": device or "cpu",
        "task_folder": None if task_folder is None else str(task_folder.resolve()),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="pedigree-tasks-") as scratch:
        asked, answer = Path(scratch) / "asked.json", Path(scratch) / "answer.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        environment = os.environ if network else {**os.environ, **OFFLINE}
        done = subprocess.run(
            [sys.executable, "-m", "pedigree.training.harness_worker", str(asked), str(answer)],
            env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode or not answer.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise InputError(
                "lm-evaluation-harness could not run these tasks", where=", ".join(tasks),
                got=lines[-1].strip()[:300] if lines else f"exit code {done.returncode}",
                fix=None if network else "--task-network, if the data of the task is on the Hub",
            )  # fmt: skip
        found: dict[str, dict[str, Any]] = json.loads(answer.read_text(encoding="utf-8"))
        return found
