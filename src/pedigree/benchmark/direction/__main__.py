"""Calibration of the direction of a pair from the command line.

python -m pedigree.benchmark.direction make DIR         trains the models (resumable; a quarter of an hour of one core)
python -m pedigree.benchmark.direction measure DIR      compares the pairs (resumable; as long again)
python -m pedigree.benchmark.direction write DIR        measures what is missing, fits, writes the shipped numbers
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pedigree.benchmark.direction.fit import calibrate
from pedigree.benchmark.direction.kinds import FAMILIES, recipes
from pedigree.benchmark.direction.pairs import measured
from pedigree.benchmark.families.sizes import SCALES
from pedigree.benchmark.text_file import write_text

SHIPPED = Path(__file__).parents[2] / "forensics" / "data" / "direction.json"


def main(arguments: list[str] | None = None) -> int:
    """Run one of the steps; returns the exit code."""
    parser = argparse.ArgumentParser(prog="pedigree.benchmark.direction", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=("make", "measure", "write"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", action="append", choices=tuple(FAMILIES), help="one or more; all by default")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    told = parser.parse_args(arguments)
    sizes = told.size or list(FAMILIES)
    if told.step == "make":
        for size in sizes:
            _make(told.directory, size)
        return 0
    rows = {size: measured(told.directory, SCALES[size]) for size in sizes}
    if told.step == "write":
        write_text(told.out, json.dumps(calibrate(rows), indent=1, sort_keys=True) + "\n")
    return 0


def _make(folder: Path, size: str) -> None:
    import torch

    from pedigree.benchmark.zoo.workshop import Workshop

    torch.set_num_threads(1)
    scale = SCALES[size]
    models = recipes(scale)
    Workshop(folder / size, models, max_chars=scale.max_chars).make(list(models))


if __name__ == "__main__":
    raise SystemExit(main())
