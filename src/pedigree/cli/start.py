"""Where the program starts: the command line is loaded under a guard, since loading takes a moment and Ctrl-C may come.

Only what is there at once is imported up here.
"""

from __future__ import annotations

import sys

from pedigree.cli.interruption import INTERRUPTED, NOTHING_WRITTEN


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    try:
        from pedigree.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{NOTHING_WRITTEN}\n")
        return INTERRUPTED
    return run()
