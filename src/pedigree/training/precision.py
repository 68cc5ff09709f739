"""Low precision: where products are rounded, how small gradients survive fp16, and how overflow is seen.

The one place that asks "did a gradient overflow" is `found_nonfinite`. Chips that saturate instead of producing
infinities (Ascend 910A) register a hook for their device type; no other code looks at gradients for this.

Source  loss scaling: Micikevicius et al. 2018; scale, window and hysteresis as in Megatron-LM's DynamicGradScaler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pedigree.training.config import Precision
from pedigree.training.device import DTYPES

# Device type -> function of the gradients that gives a 0-dimensional bool tensor.
OVERFLOW_HOOKS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {}


def autocast(device: torch.device, precision: Precision, *, pure: bool) -> AbstractContextManager[Any]:
    """The context of a forward pass: products in `precision`, sums, norms and softmax in float32."""
    if precision == "fp32" or pure:
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def found_nonfinite(grads: Sequence[Tensor], norm: Tensor) -> Tensor:
    """Whether a gradient overflowed, as a 0-dimensional tensor on the device: no host waits for it.

    Args:
        grads: the gradients of this rank.
        norm: their global norm; not finite as soon as one entry is not.
    """
    hook = OVERFLOW_HOOKS.get(norm.device.type)
    plain = ~torch.isfinite(norm)
    return plain if hook is None else plain | hook(grads)


class LossScaler:
    """The factor on the loss that keeps fp16 gradients above zero; stands still at one where it is not needed.

    Args:
        enabled: only fp16 needs it.
        scale: first factor.
        window: clean steps before the factor doubles.
        hysteresis: overflows before it is halved; restored when the factor grows.
        least: it never falls below.
    """

    def __init__(
        self, *, enabled: bool, scale: float = 2.0**16, window: int = 1000, hysteresis: int = 1, least: float = 1.0
    ) -> None:
        self.enabled = enabled
        self.scale = scale if enabled else 1.0
        self._window, self._hysteresis, self._least = window, hysteresis, least
        self._clean, self._left = 0, hysteresis

    def update(self, overflow: bool) -> None:
        """Take note of one step."""
        if not self.enabled:
            return
        if overflow:
            self._clean = 0
            self._left -= 1
            if self._left <= 0:
                self.scale = max(self.scale / 2, self._least)
            return
        self._clean += 1
        if self._clean == self._window:
            self.scale *= 2
            self._clean, self._left = 0, self._hysteresis

    def state(self) -> dict[str, float]:
        """What a checkpoint remembers."""
        return {"scale": self.scale, "clean": self._clean, "left": self._left}

    def load(self, state: dict[str, float]) -> None:
        """Go on from a remembered state."""
        self.scale, self._clean, self._left = state["scale"], int(state["clean"]), int(state["left"])
