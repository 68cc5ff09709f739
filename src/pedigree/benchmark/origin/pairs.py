"""What a comparison measures of the pairs that origin is fitted on, kept as JSON lines.

Three sources: the families of `kinsfolk.py`, those of `benchmark.direction` (merges, noise, partly frozen models and
long chains among them) and relatives of the calibration split of the benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pedigree.benchmark.families.sizes import SCALES
from pedigree.benchmark.origin.kinsfolk import Kin, pairs

Job = tuple[str, Path, Path, str]
"""Family, both models, and what they are: twin, parent, sibling, or a word of the benchmark."""


def of_kinsfolk(place: Path, families: Iterable[Kin]) -> Iterator[Job]:
    """Pairs of the families that lie in `place`."""
    for kin in families:
        home = place / kin.name
        for a, b, kind in pairs(home):
            yield kin.name, home / a, home / b, kind


def of_direction(place: Path) -> Iterator[Job]:
    """Pairs of `benchmark.direction`, whose models lie in `place/SIZE`."""
    from pedigree.benchmark.direction.kinds import FAMILIES
    from pedigree.benchmark.direction.pairs import known_pairs

    for size in FAMILIES:
        for a, b, truth in known_pairs(SCALES[size]):
            home = place / size
            if (home / a / "config.json").is_file() and (home / b / "config.json").is_file():
                yield f"{size}/{a.split('.')[0]}", home / a, home / b, truth


def of_benchmark(place: Path, size: str) -> Iterator[Job]:
    """Relatives and twins of the calibration split of a benchmark that was made in `place`."""
    from pedigree.benchmark.exam import exam

    for question in exam(place, size).asked.values():
        relation = question.known.pair.relation
        if question.split == "calibration" and relation in ("related", "shared-initialization"):
            home = place / "models"
            truth = "twin" if relation == "shared-initialization" else relation
            yield f"{size}/{question.a.split('.')[0]}", home / question.a, home / question.b, truth


def measured(path: Path, jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """One row for each pair, measured where it was not before.

    Args:
        path: of the JSON lines.
        jobs: the pairs.
    """
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    known = {(row["family"], row["a"], row["b"]): row for row in rows}
    found = []
    with path.open("a", encoding="utf-8") as stream:
        for family, a, b, truth in jobs:
            key = (family, a.name, b.name)
            if key not in known:
                known[key] = {"family": family, "a": a.name, "b": b.name, "truth": truth, **measure(a, b)}
                stream.write(json.dumps(known[key], sort_keys=True) + "\n")
                stream.flush()
            found.append(known[key])
    return found


def measure(a: Path, b: Path) -> dict[str, Any]:
    """The word of the comparison and the numbers that origin is weighed by."""
    from pedigree.forensics.compare import measure_pair

    _, _, found, judgment = measure_pair(a, b)
    row: dict[str, Any] = {"verdict": judgment.verdict}
    for name in ("forward", "backward", "share", "gains"):
        value = getattr(found, name)
        row[name] = None if value is None else {k: round(v, 5) for k, v in asdict(value).items()}
    return row
