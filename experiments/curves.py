"""What a curve of training says in one number, and how sure a mean over seeds is; functions of lists of numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

PAST = 32  # steps that a value is held against
DEVIATIONS = 6.0  # robust standard deviations above their median
APART = 16  # spikes closer than this are one
_ROBUST = 1.4826  # median absolute deviation to standard deviation, for a normal law


def spikes(values: Sequence[float]) -> list[int]:
    """Where a curve jumps up: steps more than 6 robust deviations above the median of the 32 before.

    Jumps less than 16 steps after the last one belong to the same spike. A value that is not finite is a jump. The
    spread of the past is taken around its median, and never below 1 % of the median.
    """
    found: list[int] = []
    last = -APART
    for step in range(PAST, len(values)):
        past = [value for value in values[step - PAST : step] if math.isfinite(value)]
        middle = statistics.median(past) if past else 0.0
        spread = _ROBUST * statistics.median(abs(value - middle) for value in past) if past else 0.0
        high = not math.isfinite(values[step])
        if high or values[step] > middle + DEVIATIONS * max(spread, 0.01 * abs(middle)):
            if step - last >= APART:
                found.append(step)
            last = step
    return found


def surges(values: Sequence[float], factor: float = 3.0) -> list[int]:
    """Where a curve that is naturally ragged jumps up: steps above `factor` times the median of the 32 before.

    For gradient norms, whose single values scatter so widely that deviations say little. Counted as `spikes` are.
    """
    found: list[int] = []
    last = -APART
    for step in range(PAST, len(values)):
        past = [value for value in values[step - PAST : step] if math.isfinite(value)]
        if past and math.isfinite(values[step]) and values[step] <= factor * statistics.median(past):
            continue
        if step - last >= APART:
            found.append(step)
        last = step
    return found


def unevenness(values: Sequence[float]) -> float:
    """Standard deviation of the decimal logarithm: 0 for a flat curve, 1 where values scatter over a factor of ten."""
    logs = [math.log10(value) for value in values if math.isfinite(value) and value > 0]
    return statistics.stdev(logs) if len(logs) > 1 else math.nan


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Median over the last `window` values."""
    return [statistics.median(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]


def entropy(counts: Sequence[int]) -> float:
    """Entropy of a distribution given by counts, nats."""
    total = sum(counts)
    return -sum(n / total * math.log(n / total) for n in counts if n)


def cost(counts: Sequence[int], frequencies: Sequence[int]) -> float:
    """Nats per token of a text with these counts under fixed probabilities in proportion to frequencies plus one."""
    whole = sum(frequencies) + len(frequencies)
    total = sum(counts)
    return -sum(n / total * math.log((f + 1) / whole) for n, f in zip(counts, frequencies, strict=True) if n)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds; `half` is half the width of its 95 % interval by Student's t, NaN with one seed."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        digits = max(0, min(4, 2 - math.floor(math.log10(abs(self.half))))) if self.half > 0 else 3
        spread = f" ± {self.half:.{digits}f}" if math.isfinite(self.half) else ""
        return f"{self.mean:.{digits}f}{spread}"


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of independent values and its 95 % interval; assumes that they are about normal."""
    from scipy.special import stdtrit

    n = len(values)
    mean = statistics.fmean(values) if n else math.nan
    if n < 2:
        return Mean(mean, math.nan, n)
    return Mean(mean, float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n), n)
