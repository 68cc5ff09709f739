"""Where the program starts: the command line is loaded under a guard, since loading takes a moment and Ctrl-C may come.

Only what is there at once is imported up here.
"""

from __future__ import annotations

import os
import sys

from pedigree.cli.interruption import INTERRUPTED, NOTHING_WRITTEN


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    # A stream that was closed by whoever started us (`>&-`) is None: what is written there is for nobody.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process lives
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        from pedigree.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{NOTHING_WRITTEN}\n")
        return INTERRUPTED
    return run()
