"""Read files once from start to end and forget them: the yardstick for every comparison.

python benchmarks/peers/sequential_read.py FILE...
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Read the files named on the command line into one buffer, 8 MiB at a time."""
    buffer = bytearray(8 << 20)
    for name in sys.argv[1:]:
        with Path(name).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
