"""The bank from the command line.

python -m pedigree.benchmark.bank make DIR                        trains the models (resumable)
python -m pedigree.benchmark.bank measure DIR --split SPLIT       compares independent pairs of one split
python -m pedigree.benchmark.bank kin DIR --split SPLIT           compares relatives of one split
python -m pedigree.benchmark.bank fingerprints DIR                compares fingerprints of pairs, writes the numbers
python -m pedigree.benchmark.bank rests DIR                       looks at what a parent leaves, writes the numbers
python -m pedigree.benchmark.bank write DIR --out FILE            measures what is missing, writes the numbers
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pedigree.benchmark.bank.fingerprints import measure_fingerprints
from pedigree.benchmark.bank.kinds import Split, every
from pedigree.benchmark.bank.numbers import kin_summary, summary
from pedigree.benchmark.bank.pairs import independent_pairs, kin_pairs, measure_pairs, measured_before
from pedigree.benchmark.bank.rests import measure_rests, rest_looks, rest_summary
from pedigree.benchmark.text_file import write_text

SHIPPED = Path(__file__).parents[2] / "forensics" / "data" / "bank.json"


def main(arguments: list[str] | None = None) -> int:
    """Run one of the steps; returns the exit code."""
    parser = argparse.ArgumentParser(prog="pedigree.benchmark.bank", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=("make", "measure", "kin", "fingerprints", "rests", "write"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--split", choices=("calibration", "test"), default="calibration")
    parser.add_argument("--pairs", type=int, nargs=2, default=(None, None), metavar=("CALIBRATION", "TEST"),
                        help="at most so many independent pairs of each split; all by default")  # fmt: skip
    parser.add_argument("--measured", action="store_true", help="take what was measured before, compare nothing more")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--workers", type=int, default=1)
    told = parser.parse_args(arguments)
    if told.step == "make":
        from pedigree.benchmark.bank.training import BankShop

        BankShop(told.directory, every()).make()
        return 0
    if told.step == "fingerprints":
        found = measure_fingerprints(told.directory, told.pairs[1])
        write_text(
            told.out or SHIPPED.with_name("fingerprint_bank.json"), json.dumps(found, indent=1, sort_keys=True) + "\n"
        )
        return 0
    if told.step == "rests":
        splits: tuple[Split, ...] = ("calibration", "test")
        rows = [measure_rests(told.directory, rest_looks(s, n)) for s, n in zip(splits, told.pairs, strict=True)]
        write_text(
            told.out or SHIPPED.with_name("rest_bank.json"),
            json.dumps(rest_summary(*rows), indent=1, sort_keys=True) + "\n",
        )
        return 0
    found = _numbers(told)
    target = told.out or (SHIPPED if told.step == "write" else told.directory / f"{told.step}-{told.split}.json")
    write_text(target, json.dumps(found, indent=1, sort_keys=True) + "\n")
    return 0


def _numbers(told: argparse.Namespace) -> dict[str, Any]:
    if told.step == "kin":
        truth = kin_pairs(told.split)
        return kin_summary(measure_pairs(told.directory, [(k.a, k.b) for k in truth], told.workers), truth)
    calibration = _rows(told, "calibration", told.pairs[0])
    if told.step == "measure" and told.split == "calibration":
        return summary(calibration, [])
    return summary(calibration, _rows(told, "test", told.pairs[1]))


def _rows(told: argparse.Namespace, split: Split, most: int | None) -> list[dict[str, Any]]:
    pairs = independent_pairs(split, most)
    if told.measured:
        pairs = measured_before(told.directory, pairs)
    return measure_pairs(told.directory, pairs, told.workers)


if __name__ == "__main__":
    raise SystemExit(main())
