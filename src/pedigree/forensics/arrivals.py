"""Progress that goes on while bytes come in: the last stage is told again with what has arrived since."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pedigree.weights.meter import ByteMeter

Progress = Callable[[str, float, str], None]


class ArrivalProgress:
    """A progress function that adds the bytes that have come in over a network.

    Args:
        tell: where it goes, called with (stage, fraction done, message); from one thread at a time.
        meters: of the checkpoints that are read; more may be watched later.
    """

    def __init__(self, tell: Progress, meters: Sequence[ByteMeter] = ()) -> None:
        self._tell = tell
        self._meters: list[ByteMeter] = []
        self._last: tuple[str, float, str] = ("opening", 0.0, "")
        self._lock = threading.Lock()
        for meter in meters:
            self.watch(meter)

    def watch(self, meter: ByteMeter) -> None:
        """Tell of what arrives for this meter too."""
        self._meters.append(meter)
        meter.on_arrival = self._again

    def __call__(self, stage: str, fraction: float, message: str) -> None:
        """Tell a stage."""
        self._last = (stage, fraction, message)
        with self._lock:
            self._say()

    def _again(self) -> None:
        # Whoever is telling tells of these bytes too.
        if self._lock.acquire(blocking=False):
            try:
                self._say()
            finally:
                self._lock.release()

    def _say(self) -> None:
        stage, fraction, message = self._last
        arrived = sum(meter.arrived for meter in self._meters)
        come = f"{arrived / 1e6:,.1f} MB in; " if arrived else ""
        self._tell(stage, fraction, come + message)
