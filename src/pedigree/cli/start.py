"""Where the program starts: the command line is loaded under a guard, since loading takes a moment and Ctrl-C may come.

Only the standard library is imported up here, and little of it.
"""

from __future__ import annotations

import sys

NOTHING_WRITTEN = "interrupted: nothing was written; the same command starts again"
INTERRUPTED = 130


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    try:
        from pedigree.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{NOTHING_WRITTEN}\n")
        return INTERRUPTED
    return run()
