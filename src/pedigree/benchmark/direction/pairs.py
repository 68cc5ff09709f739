"""The pairs whose descent is known, and what is measured of each.

Rows are kept in `DIR/SIZE.jsonl`, so that measuring goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pedigree.benchmark.direction.kinds import TWINS, recipes
from pedigree.benchmark.families.sizes import Scale
from pedigree.benchmark.zoo.recipe import Recipe
from pedigree.benchmark.zoo.truth import Registry

Truth = Literal["parent", "sibling", "twin"]
Known = tuple[str, str, Truth]
"""Two models and what they are; the parent stands first."""

SIBLINGS = 45
"""Pairs of siblings of each family; all parents with their children are taken."""


def known_pairs(scale: Scale) -> list[Known]:
    """Parents with their children, siblings, and twins of one start; in an order of its own."""
    everyone = recipes(scale)
    registry = Registry(everyone)
    families: dict[str, list[str]] = {}
    for name, recipe in everyone.items():
        families.setdefault(recipe.group, []).append(name)
    found: list[Known] = []
    for root, names in families.items():
        found += _family(root, names, registry)
        found += _donors(root, names, everyone, registry)
    return sorted(found, key=_draw)


def _family(root: str, names: Sequence[str], registry: Registry) -> list[Known]:
    twins = [name for name in names if name.rsplit(".", maxsplit=1)[-1] in TWINS]
    rest = [name for name in names if name not in twins]
    lines: list[Known] = []
    siblings: list[Known] = []
    for a, b in itertools.combinations(rest, 2):
        if a in registry.ancestors(b) or b in registry.ancestors(a):
            lines.append((a, b, "parent") if a in registry.ancestors(b) else (b, a, "parent"))
        elif registry.pair(a, b).relation in ("related", "partly-related"):
            siblings.append((a, b, "sibling"))
    apart: list[Known] = [(root, twin, "twin") for twin in twins]
    apart += [(a, b, "twin") for a, b in itertools.combinations(twins, 2)]
    return [*lines, *sorted(siblings, key=_draw)[:SIBLINGS], *apart]


def _donors(root: str, names: Sequence[str], everyone: Mapping[str, Recipe], registry: Registry) -> list[Known]:
    donors = {parent for name in names for parent in everyone[name].parents if everyone[parent].group != root}
    return [(donor, name, "parent") for donor in sorted(donors) for name in names if donor in registry.ancestors(name)]


def _draw(pair: Known) -> bytes:
    return hashlib.sha256(f"{pair[0]}|{pair[1]}".encode()).digest()


def measured(folder: Path, scale: Scale) -> list[dict[str, Any]]:
    """One row for each pair, measured where that was not done before.

    Args:
        folder: with the models of the scale in `SIZE/`.
        scale: which.
    """
    path = folder / f"{scale.name}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    there = {(row["a"], row["b"]) for row in rows}
    with path.open("a", encoding="utf-8") as stream:
        for a, b, truth in known_pairs(scale):
            if (a, b) not in there:
                row = {"a": a, "b": b, "truth": truth, **_measure(folder / scale.name / a, folder / scale.name / b)}
                stream.write(json.dumps(row, sort_keys=True) + "\n")
                stream.flush()
                rows.append(row)
    return rows


def _measure(a: Path, b: Path) -> dict[str, Any]:
    from pedigree.forensics.compare import measure_pair

    _, _, found, judgment = measure_pair(a, b)
    row: dict[str, Any] = {"verdict": judgment.verdict, "additive": found.additive}
    for name, value in (("share", found.share), ("forward", found.forward), ("backward", found.backward)):
        row[name] = None if value is None else {k: round(v, 5) for k, v in asdict(value).items()}
    return row
