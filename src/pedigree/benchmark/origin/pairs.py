"""What a comparison measures of the pairs that origin is fitted on, kept as JSON lines.

Three sources: the families of `kinsfolk.py`, those of `benchmark.direction` (merges, noise, partly frozen models and
long chains among them) and relatives of the calibration split of the benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.benchmark.families.sizes import SCALES
from pedigree.benchmark.origin.kinsfolk import Kin, pairs

if TYPE_CHECKING:
    from pedigree.forensics.comparison.findings import Findings
    from pedigree.forensics.comparison.verdict import Judgment
    from pedigree.forensics.fingerprints.fingerprint import Fingerprint

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


def measured(
    path: Path, jobs: Iterable[Job], how: Callable[[Path, Path], dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """One row for each pair, measured where it was not before.

    Args:
        path: of the JSON lines.
        jobs: the pairs.
        how: what measures a pair; `measure` by default.
    """
    how = how or measure
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    known = {(row["family"], row["a"], row["b"]): row for row in rows}
    found = []
    with path.open("a", encoding="utf-8") as stream:
        for family, a, b, truth in jobs:
            key = (family, a.name, b.name)
            if key not in known:
                known[key] = {"family": family, "a": a.name, "b": b.name, "truth": truth, **how(a, b)}
                stream.write(json.dumps(known[key], sort_keys=True) + "\n")
                stream.flush()
            found.append(known[key])
    return found


def measure(a: Path, b: Path) -> dict[str, Any]:
    """The word of the comparison and the numbers that origin is weighed by."""
    from pedigree.forensics.compare import measure_pair

    _, _, found, judgment = measure_pair(a, b)
    return _row(found, judgment)


def measure_by_tokens(a: Path, b: Path) -> dict[str, Any]:
    """The same of two fingerprints in the frame of tokens, whether or not something stands in place; no numbers where
    nothing agrees."""
    from pedigree.forensics.fingerprints.thin_side import naming_of, turned_sides
    from pedigree.forensics.fingerprints.token_look import look_by_tokens

    left, right = _fingerprint(a), _fingerprint(b)
    turned = turned_sides(left, right)
    if turned is None:
        return {"verdict": "not-testable", "forward": None, "backward": None, "share": None, "gains": None}
    return _row(*look_by_tokens(turned, naming_of(left.model, right.model)))


@lru_cache(maxsize=64)
def _fingerprint(place: Path) -> Fingerprint:
    from pedigree.forensics.fingerprints.fingerprint import make_fingerprint

    return make_fingerprint(place)


def _row(found: Findings, judgment: Judgment) -> dict[str, Any]:
    row: dict[str, Any] = {"verdict": judgment.verdict}
    for name in ("forward", "backward", "share", "gains"):
        value = getattr(found, name)
        row[name] = None if value is None else {k: round(v, 5) for k, v in asdict(value).items()}
    return row
