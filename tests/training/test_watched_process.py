"""A watched process: its end, its last words, and every way in which it is ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pedigree.errors import InputError
from pedigree.training.watched_process import last_line, processor_ticks, run_watched

needs_proc = pytest.mark.skipif(processor_ticks(os.getpid()) is None, reason="the system tells no processor time")
# Starts a child that would stay, says its number, then does what is asked.
PARENT = "import subprocess,sys,time; p=subprocess.Popen(['sleep','300']); print(p.pid, flush=True); "


def gone(log: Path) -> bool:
    """Whether the child that a program of `PARENT` started has ended."""
    pid = int(log.read_text(encoding="utf-8").split()[0])
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if " Z " in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8"):  # ended, and nobody asked how
            return True
        time.sleep(0.02)
    return False


def test_the_end_and_the_last_words_are_told(tmp_path: Path) -> None:
    code = "import sys; print('10 %\\r20 %', file=sys.stderr); sys.exit(3)"
    assert run_watched(exec, (code,), tmp_path / "log", environment={}) == 3
    assert last_line(tmp_path / "log") == "20 %"


def test_signs_of_life_reach_the_watcher(tmp_path: Path) -> None:
    heard: list[tuple[float, str]] = []
    code = "import time; print('half', flush=True); time.sleep(0.8)"
    run_watched(
        exec, (code,), tmp_path / "log", environment={},
        beat=lambda seconds, line: heard.append((seconds, line)),
    )  # fmt: skip
    assert heard[-1][1] == "half"
    assert heard[-1][0] > heard[0][0]


@needs_proc
@pytest.mark.parametrize(
    ("does", "limits", "what"),
    [
        ("time.sleep(300)", {"stuck": 2.0}, "stuck: it neither computes nor speaks"),
        ("[print('on', flush=True) or time.sleep(.1) for _ in range(3000)]", {"limit": 3.0}, "took longer"),
    ],
)
def test_what_is_stuck_or_late_is_ended_with_its_children(
    tmp_path: Path, does: str, limits: dict[str, float], what: str
) -> None:
    log = tmp_path / "log"
    with pytest.raises(InputError, match=what) as caught:
        run_watched(exec, (PARENT + does,), log, environment={}, **limits)
    assert "last heard: " in str(caught.value.got)
    assert gone(log)


@needs_proc
def test_a_process_that_computes_silently_is_not_stuck(tmp_path: Path) -> None:
    code = "import time\nend = time.monotonic() + 2.5\nwhile time.monotonic() < end: pass"
    assert run_watched(exec, (code,), tmp_path / "log", environment={}, stuck=2.0) == 0


@needs_proc
def test_ctrl_c_ends_the_process_and_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def interrupt() -> None:
        while not (log.exists() and log.stat().st_size):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        run_watched(exec, (PARENT + "time.sleep(300)",), log, environment={})
    assert gone(log)


@needs_proc
def test_the_worker_does_not_outlive_who_asked(tmp_path: Path) -> None:
    """Its parent is killed, so that nothing can tell it to end."""
    log = tmp_path / "log"
    parent = "from pathlib import Path; from pedigree.training.watched_process import run_watched; "
    waits = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
    parent += f"run_watched(exec, ({waits!r},), Path({str(log)!r}), environment={{}})"
    source = Path(__file__).resolve().parents[2] / "src"
    running = subprocess.Popen([sys.executable, "-c", parent], env={**os.environ, "PYTHONPATH": str(source)})
    patience = time.monotonic() + 60
    while time.monotonic() < patience and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    running.kill()
    running.wait()
    assert gone(log)


def test_variables_are_set_before_the_work_and_only_there(tmp_path: Path) -> None:
    code = "import os; print(os.environ['HF_HUB_OFFLINE'], os.getpgid(0) == os.getpid())"
    assert run_watched(exec, (code,), tmp_path / "log", environment={"HF_HUB_OFFLINE": "yes"}) == 0
    assert last_line(tmp_path / "log") == "yes True"
    assert os.environ.get("HF_HUB_OFFLINE") != "yes"
