"""Where a run stands and how it ended, in numbers."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pedigree.training.evaluation import Score
from pedigree.training.guard import Decision

Outcome = Literal["finished", "interrupted", "stopped"]


@dataclass(frozen=True)
class Beat:
    """A sign of life of a run.

    Attributes:
        tokens_per_second: since the last one.
        utilization: share of the measured rate of matrix products; None where the work of a token is unknown.
        seconds_left: at this speed.
    """

    step: int
    steps: int
    tokens: int
    loss: float
    grad_norm: float
    tokens_per_second: float
    utilization: float | None
    seconds_left: float


@dataclass
class Summary:
    """How a run ended.

    Attributes:
        loss: mean cross entropy of the last steps, nats per token.
        scores, arithmetic: the last evaluation.
        first_step: where this process began.
        checkpoint: the newest state.
    """

    outcome: Outcome
    step: int
    tokens: int
    loss: float
    first_step: int
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    utilization: float | None = None
    scores: list[Score] = field(default_factory=list)
    arithmetic: dict[str, float] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    checkpoint: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        values = asdict(self)
        values["decisions"] = [decision.to_dict() for decision in self.decisions]
        values["checkpoint"] = str(self.checkpoint) if self.checkpoint else None
        return values


@dataclass
class Place:
    """Where a run stands: steps done, the next window, windows that are not read (first, last)."""

    step: int = 0
    window: int = 0
    dropped: list[tuple[int, int]] = field(default_factory=list)

    def past_dropped(self) -> int:
        """The next window that may be read."""
        window = self.window
        for first, last in sorted(self.dropped):
            if first <= window <= last:
                window = last + 1
        return window


class Clock:
    """Tokens per second of the last steps, without checkpoints and evaluations."""

    _kept = 50

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._seconds: list[float] = []
        self._begin = math.nan

    def start(self) -> None:
        """A step begins."""
        self._begin = time.perf_counter()

    def stop(self) -> None:
        """A step is done."""
        self._seconds = [*self._seconds[-self._kept :], time.perf_counter() - self._begin]

    def rate(self) -> float:
        """Tokens per second; the first step, which warms up, does not count where there are others."""
        counted = self._seconds[1:] or self._seconds
        return self._tokens * len(counted) / sum(counted) if counted else 0.0
