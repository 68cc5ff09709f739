"""The rules of the guard, each named after its source.

| rule        | source                       | answer                                                        |
|-------------|------------------------------|---------------------------------------------------------------|
| non-finite  | Megatron-LM                  | skip the step and name the blocks; stop after several in a row|
| skip-step   | OLMo-core SkipStepOptimizer  | skip a step whose loss or gradient norm leaves its window     |
| spiky-loss  | Megatron-LM                  | skip a loss ten times the largest of the first hundred        |
| zclip       | ZClip (Kumar et al. 2025)    | clip a gradient norm whose z-score is high                    |
| log-mad     | Hampel (1974), on logarithms | clip, further out skip, a norm that leaves the usual factors  |
| rewind      | PaLM (Chowdhery et al. 2022) | roll back and skip the data after clustered skips or a rise   |
| update-size | OPT-175B (Zhang et al. 2022) | lower the rate when updates are large against the weights     |
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from typing import Any

from pedigree.errors import UsageError
from pedigree.training.config import GuardConfig
from pedigree.training.guard import Action, Decision, Guard, Rule, Signals

_KEPT: frozenset[Action] = frozenset({"apply", "clip", "lower-rate"})  # actions after which the step counts


class NonFinite:
    """Skips a step whose loss or gradient is not finite; too many in a row stop the run.

    In fp16 an overflow while the loss is scaled is the work of the scaler: it is skipped, and counts as well.
    """

    name, source = "non-finite", "Megatron-LM"

    def __init__(self, config: GuardConfig) -> None:
        self._limit = config.nonfinite_limit
        self._in_a_row = 0

    def look(self, signals: Signals, so_far: Action) -> Decision | None:
        """Judge a step."""
        if math.isfinite(signals.loss) and not signals.overflow:
            return None
        blocks = [str(i) for i, norm in enumerate(signals.block_norms) if not math.isfinite(norm)]
        scaled = signals.scale > 1 and math.isfinite(signals.loss)
        what = "the scaled loss overflowed" if scaled else "the loss or a gradient is not finite"
        numbers: dict[str, float | int | str] = {
            "loss": repr(signals.loss), "grad_norm": repr(signals.grad_norm), "in_a_row": self._in_a_row + 1,
            "scale": signals.scale, "blocks": ", ".join(blocks),
        }  # fmt: skip
        action: Action = "stop" if self._in_a_row + 1 >= self._limit else "skip-step"
        return Decision(self.name, self.source, action, signals.step, signals.window, what, numbers)

    def took(self, signals: Signals, action: Action, clip_to: float | None) -> None:
        """Learn what was done."""
        self._in_a_row = self._in_a_row + 1 if signals.overflow or not math.isfinite(signals.loss) else 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers."""
        return {"in_a_row": self._in_a_row}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a remembered state."""
        self._in_a_row = int(state["in_a_row"])


class SkipStep:
    """Skips a step whose loss or gradient norm lies `sigma` deviations above the mean of the accepted steps."""

    name, source = "skip-step", "OLMo-core SkipStepOptimizer"

    def __init__(self, config: GuardConfig) -> None:
        self._sigma, self._least = config.sigma, min(config.least, config.window)
        self._losses: deque[float] = deque(maxlen=config.window)
        self._norms: deque[float] = deque(maxlen=config.window)

    def look(self, signals: Signals, so_far: Action) -> Decision | None:
        """Judge a step."""
        for what, value, past in (
            ("loss", signals.loss, self._losses),
            ("gradient norm", signals.grad_norm, self._norms),
        ):
            if len(past) < self._least or not math.isfinite(value):
                continue
            mean, deviation = statistics.fmean(past), statistics.stdev(past)
            if value - mean > self._sigma * deviation:
                sigmas = (value - mean) / deviation if deviation else math.inf
                why = f"the {what} lies {sigmas:.1f} deviations above its mean, more than {self._sigma:g}"
                numbers: dict[str, float | int | str] = {
                    "value": value, "mean": mean, "deviation": deviation, "limit": self._sigma, "n": len(past)
                }  # fmt: skip
                return Decision(self.name, self.source, "skip-step", signals.step, signals.window, why, numbers)
        return None

    def took(self, signals: Signals, action: Action, clip_to: float | None) -> None:
        """Learn what was done."""
        if action in _KEPT:
            self._losses.append(signals.loss)
            self._norms.append(signals.grad_norm)

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers."""
        return {"losses": list(self._losses), "norms": list(self._norms)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a remembered state."""
        self._losses = deque(state["losses"], maxlen=self._losses.maxlen)
        self._norms = deque(state["norms"], maxlen=self._norms.maxlen)


class SpikyLoss:
    """Skips a loss that is `spiky_factor` times the largest of the first hundred."""

    name, source = "spiky-loss", "Megatron-LM"
    _first = 100

    def __init__(self, config: GuardConfig) -> None:
        self._factor = config.spiky_factor
        self._n, self._largest = 0, 0.0

    def look(self, signals: Signals, so_far: Action) -> Decision | None:
        """Judge a step."""
        if self._n < self._first or signals.loss < self._factor * self._largest:
            return None
        numbers: dict[str, float | int | str] = {"loss": signals.loss, "largest": self._largest, "factor": self._factor}
        why = f"the loss is {signals.loss / self._largest:.1f} times the largest of the first {self._first}"
        return Decision(self.name, self.source, "skip-step", signals.step, signals.window, why, numbers)

    def took(self, signals: Signals, action: Action, clip_to: float | None) -> None:
        """Learn what was done."""
        if self._n < self._first and action in _KEPT:
            self._n += 1
            self._largest = max(self._largest, signals.loss)

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers."""
        return {"n": self._n, "largest": self._largest}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a remembered state."""
        self._n, self._largest = int(state["n"]), float(state["largest"])


class ZClip:
    """Clips a gradient norm whose z-score against its moving mean is above `z`, the further out the harder."""

    name, source = "zclip", "ZClip (Kumar et al. 2025)"

    def __init__(self, config: GuardConfig) -> None:
        self._alpha, self._z, self._warmup = config.zclip_alpha, config.zclip_z, config.zclip_warmup
        self._first: list[float] = []
        self._mean = self._variance = 0.0

    def look(self, signals: Signals, so_far: Action) -> Decision | None:
        """Judge a step."""
        norm = signals.grad_norm
        if len(self._first) < self._warmup or not math.isfinite(norm):
            return None
        deviation = math.sqrt(self._variance)
        z = (norm - self._mean) / (deviation + 1e-6)
        if z <= self._z:
            return None
        clip_to = self._mean + self._z * deviation * self._z / z
        numbers: dict[str, float | int | str] = {
            "grad_norm": norm, "mean": self._mean, "deviation": deviation, "z": z, "limit": self._z
        }  # fmt: skip
        why = f"the gradient norm has z = {z:.1f}, more than {self._z:g}"
        return Decision(
            self.name, self.source, "clip", signals.step, signals.window, why, numbers, clip_to=clip_to
        )  # fmt: skip

    def took(self, signals: Signals, action: Action, clip_to: float | None) -> None:
        """Learn what was done; the clipped norm enters the moving mean, not the raw one."""
        if action not in _KEPT:
            return
        norm = signals.grad_norm if clip_to is None else min(clip_to, signals.grad_norm)
        if len(self._first) < self._warmup:
            self._first.append(norm)
            if len(self._first) == self._warmup:
                self._mean, self._variance = statistics.fmean(self._first), statistics.pvariance(self._first)
            return
        self._mean = self._alpha * self._mean + (1 - self._alpha) * norm
        self._variance = self._alpha * self._variance + (1 - self._alpha) * (norm - self._mean) ** 2

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers."""
        return {"first": list(self._first), "mean": self._mean, "variance": self._variance}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a remembered state."""
        self._first = list(state["first"])
        self._mean, self._variance = float(state["mean"]), float(state["variance"])


class LogMad:
    """Clips a gradient norm whose logarithm is far above its median in robust deviations, and skips one further out.

    Norms scatter by factors, so their logarithms are compared; median and median absolute deviation are not moved by
    the outliers that they are asked about (Hampel 1974, doi 10.1080/01621459.1974.10482962). The deviation is never
    taken below `_least_spread`, so that a norm that hardly moves may still move by a few percent.
    """

    name, source = "log-mad", "Hampel (1974), on logarithms"
    _to_deviation = 1.4826  # median absolute deviation to standard deviation, for a normal law
    _least_spread = 0.02

    def __init__(self, config: GuardConfig) -> None:
        self._clip, self._skip = config.mad_clip, config.mad_skip
        self._least = min(config.least, config.mad_window)
        self._logs: deque[float] = deque(maxlen=config.mad_window)

    def look(self, signals: Signals, so_far: Action) -> Decision | None:
        """Judge a step."""
        norm = signals.grad_norm
        if len(self._logs) < self._least or not math.isfinite(norm) or norm <= 0:
            return None
        middle = statistics.median(self._logs)
        spread = self._to_deviation * statistics.median(abs(value - middle) for value in self._logs)
        spread = max(spread, self._least_spread)
        z = (math.log(norm) - middle) / spread
        if z <= self._clip:
            return None
        skip = z > self._skip
        limit = self._skip if skip else self._clip
        numbers: dict[str, float | int | str] = {
            "grad_norm": norm, "median": math.exp(middle), "z": z, "limit": limit, "n": len(self._logs)
        }  # fmt: skip
        why = f"the logarithm of the gradient norm lies {z:.1f} robust deviations above its median, more than {limit:g}"
        return Decision(
            self.name, self.source, "skip-step" if skip else "clip", signals.step, signals.window, why, numbers,
            clip_to=None if skip else math.exp(middle + self._clip * spread),
        )  # fmt: skip

    def took(self, signals: Signals, action: Action, clip_to: float | None) -> None:
        """Learn what was done; the clipped norm is remembered, not the raw one."""
        norm = signals.grad_norm if clip_to is None else min(clip_to, signals.grad_norm)
        if action in _KEPT and norm > 0 and math.isfinite(norm):
            self._logs.append(math.log(norm))

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers."""
        return {"logs": list(self._logs)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a remembered state."""
        self._logs = deque(state["logs"], maxlen=self._logs.maxlen)


class Rewind:
    """Rolls back when skips cluster, or when the smoothed loss stays well above the lowest it has been."""

    name, source = "rewind", "PaLM (Chowdhery et al. 2022)"
    _smoothing = 2 / 21  # moving mean over 20 steps

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._skips: list[tuple[int, int]] = []  # step and window of each skip
        self._smooth: float | None = None
        self._lowest = math.inf
        self._above: list[tuple[int, int]] = []  # steps in a row whose smoothed loss is too high

    def look(self, signals: Signals, so_far: Action) -> Decision | None:
        """Judge a step."""
        here = (signals.step, signals.window)
        if so_far == "skip-step":
            recent = self._recent([*self._skips, here])
            if len(recent) < self._config.rewind_skips:
                return None
            why = f"{len(recent)} steps were skipped within {self._config.rewind_within}"
            return self._decision(signals, recent[0], why, {"skips": len(recent)})
        if len(self._above) >= self._config.patience:
            smooth = self._smooth or 0.0
            above = f"{smooth - self._lowest:.2f} nats above its lowest"
            why = f"the smoothed loss has been {above} for {len(self._above)} steps"
            return self._decision(signals, self._above[0], why, {"smooth": smooth, "lowest": self._lowest})
        return None

    def _recent(self, skips: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [skip for skip in skips if skips[-1][0] - skip[0] < self._config.rewind_within]

    def _decision(
        self, signals: Signals, first: tuple[int, int], why: str, numbers: dict[str, float | int | str]
    ) -> Decision:
        return Decision(
            self.name, self.source, "roll-back", signals.step, signals.window, why, numbers, first=first
        )  # fmt: skip

    def took(self, signals: Signals, action: Action, clip_to: float | None) -> None:
        """Learn what was done."""
        here = (signals.step, signals.window)
        if action == "skip-step":
            self._skips = self._recent([*self._skips, here])
        if action not in _KEPT:
            return
        smooth = signals.loss if self._smooth is None else self._smooth
        self._smooth = smooth + self._smoothing * (signals.loss - smooth)
        self._lowest = min(self._lowest, self._smooth)
        high = self._smooth > self._lowest + self._config.smooth_loss
        self._above = [*self._above, here] if high else []

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers."""
        lowest = self._lowest if math.isfinite(self._lowest) else None
        return {
            "skips": [list(skip) for skip in self._skips],
            "smooth": self._smooth,
            "lowest": lowest,
            "above": [list(place) for place in self._above],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a remembered state."""
        self._skips = [(int(a), int(b)) for a, b in state["skips"]]
        self._above = [(int(a), int(b)) for a, b in state["above"]]
        self._smooth = state["smooth"]
        self._lowest = math.inf if state["lowest"] is None else float(state["lowest"])


class UpdateSize:
    """Lowers the rate when an update is large against the weights it changes."""

    name, source = "update-size", "OPT-175B (Zhang et al. 2022)"

    def __init__(self, config: GuardConfig) -> None:
        self._limit = config.update_ratio

    def look(self, signals: Signals, so_far: Action) -> Decision | None:
        """Judge a step by the last update that was measured."""
        ratio = signals.update_ratio
        if ratio is None or ratio <= self._limit:
            return None
        why = f"the last update was {ratio:.3g} of the size of the weights, more than {self._limit:g}"
        numbers: dict[str, float | int | str] = {"ratio": ratio, "limit": self._limit}
        return Decision(self.name, self.source, "lower-rate", signals.step, signals.window, why, numbers)

    def took(self, signals: Signals, action: Action, clip_to: float | None) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to remember."""


RULES: dict[str, Callable[[GuardConfig], Rule]] = {
    "non-finite": NonFinite,
    "skip-step": SkipStep,
    "spiky-loss": SpikyLoss,
    "zclip": ZClip,
    "log-mad": LogMad,
    "rewind": Rewind,
    "update-size": UpdateSize,
}


def make_guard(config: GuardConfig) -> Guard:
    """The guard that the settings describe.

    Raises:
        UsageError: no rule of that name.
    """
    unknown = [name for name in config.rules if name not in RULES]
    if unknown:
        raise UsageError("the guard has no such rule", where="guard.rules", got=unknown[0], expected=", ".join(RULES))
    rules = [RULES[name](config) for name in config.rules]
    return Guard(rules, lower_by=config.lower_by, lower_for=config.lower_for, rollbacks=config.rollbacks)
