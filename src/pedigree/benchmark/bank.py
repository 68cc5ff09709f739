"""The bank of independent pairs: what the whole comparison says of models that share nothing but data and recipe.

    python -m pedigree.benchmark.bank make DIR       # trains the families of the zoo's bank set (resumable)
    python -m pedigree.benchmark.bank measure DIR    # compares every pair of seeds, writes forensics/data/bank.json

Every pair has the same architecture, tokenizer, data, data order and schedule, and another seed: the hardest
strangers that can be made. The thresholds of `forensics` were set on other families (the development set of the zoo),
so what is counted here was not fitted. Pairs of k seeds are not independent of each other; the bound that is printed
treats them as if they were, and says how many seeds stand behind it.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

FALSE_POSITIVE = ("identical", "related", "partly-related", "shared-initialization")
"""Verdicts that are wrong of an independent pair."""


def main(arguments: list[str] | None = None) -> int:
    """Run one of the two steps; returns the exit code."""
    parser = argparse.ArgumentParser(prog="pedigree.benchmark.bank", description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("make", "measure"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "forensics" / "data" / "bank.json")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    if options.step == "make":
        make_families(options.directory)
        return 0
    bank = measure_families(options.directory, options.workers)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(bank, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


def make_families(directory: Path) -> None:
    """Train every model of the bank set; models that are there already are kept."""
    from pedigree.benchmark.zoo.catalog import recipes_of
    from pedigree.benchmark.zoo.workshop import Workshop

    recipes = recipes_of("bank")
    workshop = Workshop(directory, recipes)
    for name in recipes:
        workshop.make([name])


def measure_families(directory: Path, workers: int) -> dict[str, Any]:
    """Compare all pairs of seeds inside each family (models named FAMILY-NUMBER)."""
    families: dict[str, list[Path]] = {}
    for path in sorted(directory.iterdir()):
        if (path / "config.json").is_file():
            families.setdefault(path.name.rpartition("-")[0], []).append(path)
    pairs = [pair for group in families.values() for pair in itertools.combinations(group, 2)]
    with ProcessPoolExecutor(workers) as pool:
        rows = list(pool.map(_measure, pairs))
    wrong = [row for row in rows if row["verdict"] in FALSE_POSITIVE]
    seeds = sum(len(group) for group in families.values())
    return {
        "benchmark": "bank-1",
        "families": {name: len(group) for name, group in families.items()},
        "test": {
            "pairs": len(rows),
            "false_positives": len(wrong),
            "wrong": wrong,
            "note": f"{len(rows)} pairs of {seeds} independently seeded models in {len(families)} families, "
            "same data, order and recipe; pairs share seeds",
        },
        "scores": {
            "best_z": sorted(round(row["best_z"], 3) for row in rows),
            "best_effect": sorted(round(row["best_effect"], 4) for row in rows),
            "exact_log10_p": sorted(round(row["exact_log10_p"], 3) for row in rows),
        },
        "verdicts": dict(sorted(Counter(row["verdict"] for row in rows).items())),
    }


def _measure(pair: tuple[Path, Path]) -> dict[str, Any]:
    from pedigree.forensics.compare import measure_pair

    _, _, found, judgment = measure_pair(*pair)
    z, effect = max((grid.best for grid in found.evidence.grids.values()), default=(0.0, 0.0))
    return {
        "a": pair[0].name,
        "b": pair[1].name,
        "verdict": judgment.verdict,
        "best_z": z,
        "best_effect": effect,
        "exact_log10_p": min((found.log10_p(name) for name in found.exact), default=0.0),
    }


if __name__ == "__main__":
    raise SystemExit(main())
