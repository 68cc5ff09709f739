"""How much memory a piece of work takes at its peak, above what the process held before. Linux tells; others do not."""

from __future__ import annotations

from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start_watch() -> int | None:
    """Bytes held now, with the kernel's high-water mark set back to them; None where it cannot be."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return None
    return _field("VmRSS")


def peak_above(before: int | None) -> int | None:
    """Bytes at the peak since `start_watch`, above `before`."""
    peak = _field("VmHWM")
    return None if before is None or peak is None else max(0, peak - before)


def _field(name: str) -> int | None:
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
