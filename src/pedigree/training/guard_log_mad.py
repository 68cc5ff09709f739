"""A rule for gradient norms on their own scale: the logarithm, against median and median absolute deviation.

Gradient norms are skewed and their past may hold spikes. Mean and deviation are moved by both; the median of the
logarithm and the median absolute deviation (MAD) about it are not, up to half of the window. The modified z-score

    z = (log g - median) / (1.4826 MAD)

(Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993) is a deviation for normal log g, whatever the scale of
g.

Null  log g of a healthy run is symmetric about a median that moves little within a window. What falls is never
an anomaly.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

from pedigree.training.config import GuardConfig
from pedigree.training.guard import Action, Decision, Signals

_TO_DEVIATION = 1.4826  # MAD of a normal variable to its deviation
_LEAST_DEVIATION = 0.01  # one percent of the norm: a window that hardly moves must not make noise an anomaly


class LogMad:
    """Clips a gradient norm with a high modified z-score of its logarithm, and skips the step where it is very high.

    Clipping brings the norm to the threshold; a clipped norm enters the memory as it was clipped, a skipped one never.
    """

    name, source = "log-mad", "modified z-score (Iglewicz and Hoaglin 1993)"

    def __init__(self, config: GuardConfig) -> None:
        self._clip, self._skip = config.mad_clip, config.mad_skip
        self._least = min(config.least, config.mad_window)
        self._logs: deque[float] = deque(maxlen=config.mad_window)

    def look(self, signals: Signals, so_far: Action) -> Decision | None:
        """Judge a step."""
        norm = signals.grad_norm
        if len(self._logs) < self._least or not math.isfinite(norm) or norm <= 0:
            return None
        median = statistics.median(self._logs)
        deviation = max(_LEAST_DEVIATION, _TO_DEVIATION * statistics.median(abs(x - median) for x in self._logs))
        z = (math.log(norm) - median) / deviation
        if z <= self._clip:
            return None
        skip = z > self._skip
        limit = self._skip if skip else self._clip
        numbers: dict[str, float | int | str] = {
            "grad_norm": norm, "median": math.exp(median), "log_deviation": deviation, "z": z, "limit": limit,
            "n": len(self._logs),
        }  # fmt: skip
        why = f"the logarithm of the gradient norm has z = {z:.1f} against its median, more than {limit:g}"
        clip_to = None if skip else math.exp(median + self._clip * deviation)
        return Decision(
            self.name, self.source, "skip-step" if skip else "clip", signals.step, signals.window, why, numbers,
            clip_to=clip_to,
        )  # fmt: skip

    def took(self, signals: Signals, action: Action, clip_to: float | None) -> None:
        """Learn what was done."""
        norm = signals.grad_norm if clip_to is None else min(clip_to, signals.grad_norm)
        if action in ("apply", "clip", "lower-rate") and norm > 0:
            self._logs.append(math.log(norm))

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers."""
        return {"logs": list(self._logs)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a remembered state."""
        self._logs = deque(state["logs"], maxlen=self._logs.maxlen)
