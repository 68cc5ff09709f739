"""Cost of a command in a process of its own: seconds, memory, bytes that came from the disk.

Import nothing heavy here: a child's peak memory, as the kernel counts it, starts at that of the process that forked it.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

POLL_SECONDS = 0.01
BLOCK_BYTES = 512  # of ru_inblock


@dataclass(frozen=True)
class Cost:
    """What a command cost, and what it said.

    Attributes:
        seconds: from its start to its end, imports included.
        processor_seconds: time on processors, its own and the kernel's for it, all threads together.
        peak_bytes: most resident memory, pages of mapped files included.
        private_bytes: most anonymous memory, sampled every 10 ms.
        disk_bytes: bytes that were not in the page cache and came from storage, read-ahead included.
        exit_code: None where it was stopped at the time limit.
        stdout, stderr: what it printed.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int
    private_bytes: int
    disk_bytes: int
    exit_code: int | None
    stdout: str
    stderr: str

    def failure(self) -> str:
        """Why there is no answer: the last line it printed on stderr, or on stdout."""
        if self.exit_code is None:
            return f"stopped after {self.seconds:.0f} s"
        if self.exit_code < 0:
            return f"ended by {signal.Signals(-self.exit_code).name}"
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return f"exit code {self.exit_code}: {lines[-1].strip()[:200] if lines else 'nothing was printed'}"


def drop_from_cache(folders: Iterable[Path]) -> None:
    """Make the kernel forget the pages of all files of these folders, so that reading them means the disk."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)  # pages still to be written are not dropped
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(handle)


def run_cold(
    command: Sequence[str | Path], folders: Iterable[Path], *, environment: Mapping[str, str], limit_s: float
) -> Cost:
    """Run a command after the files of `folders` were dropped from the page cache."""
    drop_from_cache(folders)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=dict(environment),
        )  # fmt: skip
        private, stopped = 0, False
        while True:
            # wait4 and not Popen.wait: only it tells what this one child used.
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            private = max(private, _anonymous_bytes(process.pid))
            if not stopped and time.monotonic() - start > limit_s:
                process.kill()
                stopped = True
            time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Cost(
            seconds=seconds,
            processor_seconds=usage.ru_utime + usage.ru_stime,
            peak_bytes=usage.ru_maxrss * 1024,
            private_bytes=private,
            disk_bytes=usage.ru_inblock * BLOCK_BYTES,
            exit_code=None if stopped else process.returncode,
            stdout=out.read().decode(errors="replace"),
            stderr=err.read().decode(errors="replace"),
        )


def median_run(
    command: Sequence[str | Path],
    folders: Sequence[Path],
    *,
    environment: Mapping[str, str],
    limit_s: float,
    repeats: int,
) -> Cost:
    """The median of each number over several cold runs; a failure ends the series and is returned."""
    runs: list[Cost] = []
    for _ in range(repeats):
        runs.append(run_cold(command, folders, environment=environment, limit_s=limit_s))
        if runs[-1].exit_code is None or runs[-1].exit_code < 0:
            return runs[-1]
    return replace(
        runs[-1],
        seconds=statistics.median(run.seconds for run in runs),
        processor_seconds=statistics.median(run.processor_seconds for run in runs),
        peak_bytes=round(statistics.median(run.peak_bytes for run in runs)),
        private_bytes=round(statistics.median(run.private_bytes for run in runs)),
        disk_bytes=round(statistics.median(run.disk_bytes for run in runs)),
    )


def _anonymous_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has just ended
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
