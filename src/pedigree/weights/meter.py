"""How many bytes were fetched, out of how many, and how many may be.

Every read of every source is charged here before it happens, headers, retries and side files included, so that a
result can say what it cost and a budget is a promise and not a hope.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pedigree.errors import BudgetExceeded


class ByteMeter:
    """Thread-safe counter of fetched bytes with an optional budget.

    Args:
        budget: most bytes that may be fetched; None for no limit.

    Attributes:
        on_arrival: called, from any thread, when bytes have come in over a network; for progress.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._budget = budget
        self._read = 0
        self._total = 0
        self._arrived = 0
        self._lock = threading.Lock()
        self.on_arrival: Callable[[], None] | None = None

    @property
    def read(self) -> int:
        """Bytes fetched so far."""
        return self._read

    @property
    def arrived(self) -> int:
        """Bytes that have come in over a network so far; what is charged and still under way is not among them."""
        return self._arrived

    @property
    def total(self) -> int:
        """Bytes of all weight files of the checkpoint."""
        return self._total

    @property
    def budget(self) -> int | None:
        """Most bytes that may be fetched, None for no limit."""
        return self._budget

    @property
    def left(self) -> int | None:
        """Bytes that may still be fetched, None for no limit."""
        return None if self._budget is None else self._budget - self._read

    def set_total(self, n_bytes: int) -> None:
        """State the size of all weight files once it is known."""
        self._total = n_bytes

    def charge(self, n_bytes: int, where: str) -> None:
        """Count a read that is about to happen.

        Args:
            n_bytes: bytes the read will fetch.
            where: file the read goes to, for the message.

        Raises:
            BudgetExceeded: the read would pass the budget; nothing is counted then.
        """
        with self._lock:
            after = self._read + n_bytes
            if self._budget is not None and after > self._budget:
                raise BudgetExceeded(
                    "the byte budget does not cover the next read",
                    where=where,
                    got=f"{self._read:,} bytes read and {n_bytes:,} more wanted",
                    expected=f"at most {self._budget:,} bytes in all",
                    fix=f"--budget {after} or more, or a lower --depth",
                )
            self._read = after

    def arrive(self, n_bytes: int) -> None:
        """Note bytes that have come in over a network."""
        with self._lock:
            self._arrived += n_bytes
        if self.on_arrival is not None:
            self.on_arrival()
