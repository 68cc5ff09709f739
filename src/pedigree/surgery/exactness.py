"""Exactness classes of operators, and how they compose.

Source  reference measurements of the project; the classes follow "function preserving" in Net2Net (1511.05641).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Exactness(IntEnum):
    """How much of the function is kept; the larger, the more. A composition has the smallest of its steps.

    NFP  not preserving: the function changes, training has to mend it
    FPE  preserved up to a bound that is known
    FP1  identical in real arithmetic; rounding of the rewritten weights remains
    FP0  bit-identical outputs
    """

    NFP = 0
    FPE = 1
    FP1 = 2
    FP0 = 3

    @property
    def word(self) -> str:
        """The class as it is printed and recorded: "FP0", "FP1", "FP-epsilon" or "NFP"."""
        return "FP-epsilon" if self is Exactness.FPE else self.name


def whole(steps: Iterable[Exactness]) -> Exactness:
    """The class of steps done one after the other: the smallest, FP0 where there are none."""
    return min(steps, default=Exactness.FP0)
