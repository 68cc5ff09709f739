"""What an interruption leaves, in words and as an exit code; imports nothing, so that it is there first."""

from __future__ import annotations

NOTHING_WRITTEN = "interrupted: nothing was written; the same command starts again"
INTERRUPTED = 130
