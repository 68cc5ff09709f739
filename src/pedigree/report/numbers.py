"""Numbers as people read them: sizes, shares, p-values, ranges. Pure text, no dependency."""

from __future__ import annotations

import math
from collections.abc import Iterable

_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def bytes_text(size: float) -> str:
    """`size` bytes in decimal units: 120 MB, 3.1 GB."""
    for unit, name in _SIZES:
        if size >= unit:
            scaled = size / unit
            return f"{scaled:.3g} {name}" if scaled < 999.5 else f"{scaled:.0f} {name}"
    return f"{size:.0f} bytes"


def count_text(count: int) -> str:
    """`count` with thousands separated: 32,000."""
    return f"{count:,}"


def number_text(value: float) -> str:
    """`value` at three significant digits, without an exponent where it stays short."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:.3g}"


def percent_text(share: float) -> str:
    """A share (0..1) as percent: 0.4 %, 12 %; never rounded up to 100 % nor down to 0 %."""
    percent = 100 * share
    if 0 < percent < 0.01:
        return "under 0.01 %"
    if 99.95 <= percent < 100:
        return "over 99.9 %"
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.3g} %"


def seconds_text(seconds: float) -> str:
    """A time span: 0.4 s, 42 s, 3 min 5 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def p_text(log10_p: float) -> str:
    """A p-value with its sign: `p = 1`, `p = 0.03`, `p = 10^-42.3`, `p below 10^-1234`.

    Beyond 10^-100 only the bound is given: no null is known so well that its probability could be told exactly there.
    """
    if log10_p > -3:
        return f"p = {10 ** min(0.0, log10_p):.2g}"
    return f"p = 10^{log10_p:.3g}" if log10_p > -100 else f"p below 10^{math.ceil(log10_p)}"


def ranges_text(numbers: Iterable[int]) -> str:
    """Whole numbers, neighbours joined: 0-2, 5."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 layer`, `2 layers`."""
    return f"{count_text(count)} {one if count == 1 else many or one + 's'}"
