"""lm-evaluation-harness over a model directory, in a process of its own that is told to stay off the network.

The harness, `datasets` and `huggingface_hub` read their switches when they are imported; a fresh process is the only
place where they are sure to be read, and what the harness prints there never reaches our result.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pedigree.errors import InputError, MissingInput
from pedigree.training import harness_worker
from pedigree.training.watched_process import last_line, run_watched

OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
INSTALL = "pip install 'llm-pedigree[eval]'"


def check_harness(task_folder: Path | None = None) -> None:
    """Make sure, before any work, that the harness is installed and the folder of further tasks is there.

    Raises:
        MissingInput: one of them is not.
    """
    if task_folder is not None and not task_folder.is_dir():
        raise MissingInput(
            "no such directory", where="--task-folder", got=str(task_folder), expected="a folder with task YAML",
            fix="leave it out for the tasks that the harness brings",
        )  # fmt: skip
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
    timeout: float | None = None,
    beat: Callable[[float, str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """What the harness says of a model.

    Args:
        folder: the model; loaded with transformers, our classes registered, no code of the directory run.
        tasks: names of tasks.
        task_folder: where the YAML of further tasks lies.
        limit: documents of each task; None takes all.
        device: where to compute; None for cpu.
        network: whether tasks may fetch their data.
        timeout: seconds that all the tasks may take; None takes any.
        beat: called now and then with the seconds since the start and the last line of the harness.

    Returns:
        For each task its metrics, named as the harness names them (`acc,none`).

    Raises:
        MissingInput: the harness is not installed, or there is no such task folder.
        InputError: the harness could not run the tasks, took too long or was stuck.
    """
    check_harness(task_folder)
    request = {
        "model": str(folder.resolve()), "tasks": list(tasks), "limit": limit, "device": device or "cpu",
        "task_folder": None if task_folder is None else str(task_folder.resolve()),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="pedigree-tasks-") as scratch:
        asked, answer = Path(scratch) / "asked.json", Path(scratch) / "answer.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        log = Path(scratch) / "log.txt"
        try:
            code = run_watched(
                harness_worker.work,
                (asked, answer),
                log,
                environment={} if network else OFFLINE,
                limit=timeout,
                beat=beat,
            )
        except InputError as late:
            raise InputError(
                f"lm-evaluation-harness was ended: {late.what}", where=", ".join(tasks), got=late.got,
                expected=late.expected, fix="--limit for fewer documents, or a longer --task-timeout",
            ) from late  # fmt: skip
        if code or not answer.is_file():
            raise InputError(
                "lm-evaluation-harness could not run these tasks", where=", ".join(tasks),
                got=last_line(log)[:300] or f"exit code {code}",
                fix=None if network else "--task-network, if the data of the task is on the Hub",
            )  # fmt: skip
        found: dict[str, dict[str, Any]] = json.loads(answer.read_text(encoding="utf-8"))
        return found
