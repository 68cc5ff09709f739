"""A process that is watched while it works: it says how far it is, and ends when it is late, stuck or no longer wanted.

Rules
1. A sign of life is a byte of output or a tick of processor time. Without one for `stuck` seconds it is stuck:
   a wait that never ends, such as for a network that does not answer. Where the system tells no processor time, only
   `limit` ends it.
2. It leads a group of its own, and the group ends with it: asked first, killed `GRACE` seconds later. That holds for
   every way out of here, Ctrl-C included.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pedigree.errors import InputError

GRACE = 5.0  # seconds between asking and killing
PAUSE = 0.2  # seconds between looks
_TAIL = 4096  # bytes of output that are looked at for its last line


def run_watched(
    work: Callable[..., None],
    words: Sequence[Any],
    log: Path,
    *,
    environment: Mapping[str, str],
    limit: float | None = None,
    stuck: float = 600.0,
    beat: Callable[[float, str], None] | None = None,
) -> int:
    """Run a function in a fresh process, to its end.

    Args:
        work: function at the top of a module.
        words: its arguments; plain values.
        log: file that the output goes to, both streams.
        environment: variables that are set before the module of `work` is imported.
        limit: seconds that it may take; None takes any.
        stuck: seconds without a sign of life.
        beat: called now and then with the seconds since the start and the last line of the output.

    Returns:
        Its exit code; negative for the signal that ended it.

    Raises:
        InputError: it took too long, or was stuck; it is gone by then.
    """
    begin = alive = time.monotonic()
    sign: tuple[int, int | None] | None = None
    log.write_bytes(b"")
    process = multiprocessing.get_context("spawn").Process(
        target=lead_group, args=(str(log), dict(environment), os.getpid(), work.__module__, work.__name__, *words)
    )
    try:
        process.start()
        pid = int(process.pid or 0)
        while process.exitcode is None:
            now, ticks = time.monotonic(), processor_ticks(pid)
            if (found := (log.stat().st_size, ticks)) != sign:
                sign, alive = found, now
            if beat is not None:
                beat(now - begin, last_line(log))
            if limit is not None and now - begin > limit:
                raise _late("it took longer than it may", log, f"{limit:g} seconds")
            if ticks is not None and now - alive > stuck:
                raise _late("it is stuck: it neither computes nor speaks", log, f"{stuck:g} silent seconds")
            process.join(PAUSE)
        return process.exitcode
    finally:
        end_group(process)


def lead_group(log: str, environment: Mapping[str, str], parent: int, module: str, name: str, *words: Any) -> None:
    """What the fresh process does: a group of its own, its output into the log, then the work.

    It does not outlive `parent`, however that ended.
    """
    os.setsid()
    with open(log, "ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ.update(environment)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    getattr(importlib.import_module(module), name)(*words)


def end_group(process: BaseProcess) -> None:
    """End a process and all that it started; the group is asked, then killed."""
    if process.pid is None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _signalled(process, number):
            break
        until = time.monotonic() + GRACE
        while time.monotonic() < until and _signalled(process, 0):
            process.join(0.02)
    process.join()
    process.close()


def _signalled(process: BaseProcess, number: int) -> bool:
    """Send a signal to the group, or to a process that has not made its group yet; whether anybody was there."""
    alive = process.is_alive()
    try:
        os.killpg(int(process.pid or 0), number)
    except (ProcessLookupError, PermissionError):
        if alive and number:
            process.kill()
        return alive
    return True


def processor_ticks(pid: int) -> int | None:
    """Clock ticks that a process has computed for; None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return None


def last_line(log: Path) -> str:
    """The last line that says something; a line that was written over counts as its last state."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL))
        text = stream.read().decode("utf-8", "replace").replace("\r", "\n")
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def _late(what: str, log: Path, expected: str) -> InputError:
    return InputError(what, got=f"last heard: {last_line(log)[:200] or 'nothing'}", expected=f"at most {expected}")
