"""`python -m pedigree` is `pedigree`."""

from __future__ import annotations

from pedigree.cli.start import main

if __name__ == "__main__":
    raise SystemExit(main())
