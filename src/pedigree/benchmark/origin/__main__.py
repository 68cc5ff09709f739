"""Calibration of start against descent from the command line.

python -m pedigree.benchmark.origin make DIR [--split test]    trains the models (a core needs ten minutes)
python -m pedigree.benchmark.origin write DIR                  compares the pairs, fits, writes the shipped numbers
python -m pedigree.benchmark.origin tokens DIR                 the same of fingerprints in the frame of tokens
python -m pedigree.benchmark.origin count DIR                  counts the verdicts on the test split, in DIR/test.txt

All go on where they were stopped. `write` takes more pairs from `--direction DIR` (models that
`pedigree.benchmark.direction` made) and from `--benchmark DIR` (a folder of `pedigree bench make`).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pedigree.benchmark.origin.fit import calibrate, calibrate_by_tokens, kind_of
from pedigree.benchmark.origin.kinsfolk import CALIBRATION, TEST, make
from pedigree.benchmark.origin.pairs import measure_by_tokens, measured, of_benchmark, of_direction, of_kinsfolk
from pedigree.benchmark.text_file import write_text

SHIPPED = Path(__file__).parents[2] / "forensics" / "data" / "origin.json"


def main(arguments: list[str] | None = None) -> int:
    """Run one of the steps; returns the exit code."""
    parser = argparse.ArgumentParser(prog="pedigree.benchmark.origin", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=("make", "write", "tokens", "count"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--split", choices=("calibration", "test"), default="calibration")
    parser.add_argument("--direction", type=Path)
    parser.add_argument("--benchmark", type=Path)
    parser.add_argument("--size", default="nano", help="of the benchmark")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    told = parser.parse_args(arguments)
    if told.step == "make":
        _make(told.directory, told.split)
        return 0
    if told.step == "count":
        rows = measured(told.directory / "test.jsonl", of_kinsfolk(told.directory / "test", TEST))
        write_text(told.directory / "test.txt", table(rows) + "\n")
        return 0
    jobs = [*of_kinsfolk(told.directory / "calibration", CALIBRATION)]
    jobs += of_direction(told.direction) if told.direction else []
    jobs += of_benchmark(told.benchmark, told.size) if told.benchmark else []
    kept = json.loads(told.out.read_text(encoding="utf-8")) if told.out.is_file() else {}
    if told.step == "tokens":
        rows = measured(told.directory / "tokens.jsonl", jobs, measure_by_tokens)
        fitted = {"tokens": calibrate_by_tokens(rows, kept["matrices"])}
    else:
        rows = measured(told.directory / "calibration.jsonl", jobs)
        fitted = calibrate(rows)
    write_text(told.out, json.dumps(kept | fitted, indent=1, sort_keys=True) + "\n")
    return 0


def _make(place: Path, split: str) -> None:
    import torch

    torch.set_num_threads(1)
    for kin in CALIBRATION if split == "calibration" else TEST:
        make(kin, place / split)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Verdicts by kind of pair, as Markdown."""
    words = ("related", "partly-related", "shared-initialization", "inconclusive", "unrelated", "identical")
    counts = Counter((kind_of(row), row["verdict"]) for row in rows)
    lines = [f"| pairs | {' | '.join(words)} |", "|---" * (len(words) + 1) + "|"]
    for kind in sorted({kind for kind, _ in counts}):
        lines.append(f"| {kind} | {' | '.join(str(counts[kind, word]) for word in words)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
