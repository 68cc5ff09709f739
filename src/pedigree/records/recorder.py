"""Who is told what happens: the protocol that training and surgery speak to.

Rules
1. Work that makes weights takes a recorder; there is no default. Who wants none names `NullRecorder`, and what is made
   then says `unrecorded` beside the weights.
2. A recorder never raises for what it is told: facts are plain JSON values.
3. `JsonlRecorder` writes one event a line, whole or not at all where the process dies, and forces it to disk: at once,
   or, where somebody else does that for it, when `force` is called. An event that was cut in two by a crash of the
   machine is removed when the file is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

Facts = Mapping[str, Any]
Event = Literal["run_start", "beat", "checkpoint", "decision", "derive", "run_end"]


class Recorder(Protocol):
    """Told about everything that happens to weights."""

    @property
    def stamp(self) -> dict[str, Any]:
        """What stands beside the weights: where their record is, or that there is none."""
        ...

    def run_start(self, facts: Facts) -> None:
        """A run begins, or goes on from a checkpoint: settings, digests of inputs, parents, machine."""
        ...

    def beat(self, facts: Facts) -> None:
        """The run is alive: step, tokens, loss."""
        ...

    def checkpoint(self, facts: Facts) -> None:
        """A state was saved: step, place, digests."""
        ...

    def decision(self, facts: Facts) -> None:
        """The guard did something else than applying a step."""
        ...

    def derive(self, facts: Facts) -> None:
        """Weights were made from weights without training."""
        ...

    def run_end(self, facts: Facts) -> None:
        """The run is over: how, after how much, with what result."""
        ...


class NullRecorder:
    """Keeps nothing, and says so."""

    stamp: dict[str, Any] = {"record": "unrecorded"}  # noqa: RUF012 - read by everybody, written by nobody

    def run_start(self, facts: Facts) -> None:
        """Nothing is kept."""

    def beat(self, facts: Facts) -> None:
        """Nothing is kept."""

    def checkpoint(self, facts: Facts) -> None:
        """Nothing is kept."""

    def decision(self, facts: Facts) -> None:
        """Nothing is kept."""

    def derive(self, facts: Facts) -> None:
        """Nothing is kept."""

    def run_end(self, facts: Facts) -> None:
        """Nothing is kept."""


class JsonlRecorder:
    """Appends events to a file, one JSON object a line.

    Args:
        path: the file; made with its folder when it is not there.
        at_once: whether the one who tells waits for the disk. Where not, an event is in the file when a call returns,
            and survives the process; it survives the machine after `force`.
    """

    def __init__(self, path: Path, *, at_once: bool = True) -> None:
        self.path, self.at_once = path, at_once
        self._waiting = False
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_line(path)

    @property
    def stamp(self) -> dict[str, Any]:
        """The name of the file."""
        return {"record": self.path.name}

    def run_start(self, facts: Facts) -> None:
        """Write the event."""
        self._write("run_start", facts)

    def beat(self, facts: Facts) -> None:
        """Write the event."""
        self._write("beat", facts)

    def checkpoint(self, facts: Facts) -> None:
        """Write the event."""
        self._write("checkpoint", facts)

    def decision(self, facts: Facts) -> None:
        """Write the event."""
        self._write("decision", facts)

    def derive(self, facts: Facts) -> None:
        """Write the event."""
        self._write("derive", facts)

    def run_end(self, facts: Facts) -> None:
        """Write the event."""
        self._write("run_end", facts)

    def _write(self, event: Event, facts: Facts) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "time": time, **facts}, ensure_ascii=False, default=str)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            self._waiting = True
            if self.at_once:
                self._force(stream.fileno())

    def force(self) -> None:
        """Wait until everything that was told is on disk."""
        if self._waiting:
            with self.path.open("rb") as stream:
                self._force(stream.fileno())

    def _force(self, descriptor: int) -> None:
        self._waiting = False  # before: what is written meanwhile has to wait for the next time
        os.fsync(descriptor)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The whole events of a file that `JsonlRecorder` wrote; half a last line is passed over."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _drop_half_line(path: Path) -> None:
    """Cut off what follows the last line break: the write that a crash interrupted."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)
