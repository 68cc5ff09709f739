"""What a parent leaves of a model, beside models that are independent of both: the error rate of rests.

B is a child of a model C of the bank, or a merge of 80 % of C and 20 % of another model of its kind, as it is or
reordered afterwards. C's part is taken out and the rest compared with every other model that shares a start with
neither. Nothing may be found; what is asked is what `compare --decoy` and `scan` ask
(`forensics/comparison/remainder.py`).
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pedigree.benchmark.bank.kinds import Split, children, every, independent
from pedigree.benchmark.bank.numbers import BENCHMARK, FALSE_POSITIVE, QUANTILES, share_below
from pedigree.benchmark.bank.pairs import code_digest, digest_of, read_rows

MAJOR_PART = 0.8
"""Of C in a merge; beside it the other parent is the one that only a rest shows."""


@dataclass(frozen=True, order=True)
class Relative:
    """B: a child of `parent`, or its merge with `minor`; `moved` if units, heads and coordinates were reordered."""

    name: str
    parent: str
    minor: str | None = None
    moved: bool = False


@dataclass(frozen=True)
class RestLook:
    """A model beside what the parent leaves of a relative."""

    a: str
    b: Relative


def relatives(split: Split) -> list[Relative]:
    """Children of the split's models, and ordered merges within each kind, each in place and moved."""
    found = [Relative(child.name, str(child.parent)) for child in children(split)]
    models = [model for model in independent() if model.split == split]
    for major, minor in itertools.permutations(models, 2):
        if major.kind == minor.kind:
            name = f"{major.name}+{minor.name}"
            found.append(Relative(name, major.name, minor.name))
            found.append(Relative(f"{name}, moved", major.name, minor.name, moved=True))
    return found


def rest_looks(split: Split, most: int | None = None) -> list[RestLook]:
    """Looks at models that are independent of all that the rest is made of: first those of one kind, the others in an
    order drawn by hash.

    Args:
        split: which models.
        most: at most so many; None for all. More looks begin with the fewer ones.
    """
    kinds = {model.name: model.kind for model in every()}
    others = [model.name for model in independent() if model.split == split]
    found = [RestLook(a, b) for b in relatives(split) for a in others if a not in (b.parent, b.minor)]
    return sorted(
        found, key=lambda look: (kinds[look.a] != kinds[look.b.parent], digest_of(look.a, look.b.name))
    )[:most]  # fmt: skip


def measure_rests(directory: Path, looks: Iterable[RestLook]) -> list[dict[str, Any]]:
    """What is said of each look, from the notes where it was asked of the same code before."""
    wanted = list(looks)
    path = directory / ".bank" / f"rests-{code_digest()}.jsonl"
    known = {(row["a"], row["b"]): row for row in read_rows(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        for look in wanted:
            if (look.a, look.b.name) not in known:
                row = measure_rest(directory, look)
                known[look.a, look.b.name] = row
                stream.write(json.dumps(row, sort_keys=True) + "\n")
                stream.flush()
    return [known[look.a, look.b.name] for look in wanted]


def measure_rest(directory: Path, look: RestLook) -> dict[str, Any]:
    """One look: the word, the score, and the exact p-values of A beside the rest."""
    from pedigree.forensics.compare import look_at
    from pedigree.forensics.comparison.measure import single_thread
    from pedigree.forensics.comparison.remainder import rest_of
    from pedigree.weights.checkpoint import open_checkpoint

    seen: list[Any] = []

    def asked(left: Any, right: Any) -> Any:
        seen.append(look_at("standard", left, right))
        return seen[-1]

    place = _made(directory, look.b)
    models = (directory / look.a, place, directory / look.b.parent)
    a, b, c = (open_checkpoint(model) for model in models)
    with a, b, c, single_thread():
        rest = rest_of(a, b, c, asked)
        exact = {} if rest.verdict is None else seen[-1][2].exact
    return {
        "a": look.a,
        "b": look.b.name,
        "verdict": rest.verdict,
        "why_not": rest.why_not,
        "score": None if rest.score is None else round(rest.score, 3),
        "moved": rest.moved,
        "taken_out": rest.taken_out,
        "log10_p": {n: o.log10_p for n, o in exact.items() if o.applicable and o.log10_p is not None},
    }


def _made(directory: Path, relative: Relative) -> Path:
    """Where B lies; merges are made beside the bank's notes when they are first asked for."""
    if relative.minor is None:
        return directory / relative.name
    place = directory / ".bank" / "rests" / relative.name.replace(", ", "-")
    if not (place / "config.json").is_file():
        _merge(directory / relative.parent, directory / relative.minor, relative.moved, place)
    return place


def _merge(major: Path, minor: Path, moved: bool, place: Path) -> None:
    """The merge, reordered afterwards where it is to be, by `pedigree.surgery`."""
    from pedigree.records.recorder import NullRecorder
    from pedigree.surgery.composition import compose
    from pedigree.surgery.engine import run
    from pedigree.surgery.plan import make_plan
    from pedigree.surgery.recipe import read_recipe

    weights = [{"model": "source", "weight": MAJOR_PART}, {"model": "minor", "weight": 1.0 - MAJOR_PART}]
    # Heads of latent attention have no keys and values of their own to go with.
    latent = json.loads((major / "config.json").read_text(encoding="utf-8")).get("kv_lora_rank")
    spaces = ["inner", "residual"] if latent else ["inner", "heads", "residual"]
    steps: list[dict[str, Any]] = [{"merge": {"method": "linear", "models": weights}}]
    recipe = {
        "surgery": 1,
        "source": {"model": str(major)},
        "models": {"minor": str(minor)},
        "target": {"dir": str(place), "seed": 0, "link": False},
        "allow": "nfp",
        "steps": [*steps, {"launder.permute": {"spaces": spaces}}] if moved else steps,
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        composition = compose(read_recipe(path))
        try:
            run(make_plan(composition, workers=1), NullRecorder())
        finally:
            composition.close()


def rest_summary(calibration: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The shipped numbers, as `forensics/data/rest_bank.json` holds them."""
    return {
        "benchmark": f"{BENCHMARK}, rests",
        "calibration": _counted(calibration),
        "test": _counted(test),
        "uniformity": {"calibration": _uniformity(calibration), "test": _uniformity(test)},
    }


def _counted(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    made = [row for row in rows if row["verdict"] is not None]
    wrong = [row for row in made if row["verdict"] in FALSE_POSITIVE]
    models = len({row["a"] for row in rows})
    moved = sum(row["moved"] for row in made)
    return {
        "looks": len(rows),
        "not_made": len(rows) - len(made),
        "moved": moved,
        "models": models,
        "relatives": len({row["b"] for row in made}),
        "false_positives": len(wrong),
        "wrong": [{key: row[key] for key in ("a", "b", "verdict", "score")} for row in wrong],
        "verdicts": dict(sorted(Counter(row["verdict"] for row in made).items())),
        "largest_score": max((row["score"] for row in made), default=None),
        "note": f"{len(made)} looks of {models} models at what a parent leaves of a child or of a merge with a third "
        f"model, {moved} of them reordered after the merge; the looks share models",
    }


def _uniformity(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each exact test the share of looks at or below each level; they give bounds, so at most the level."""
    found = {}
    for name in sorted({name for row in rows for name in row["log10_p"]}):
        values = [row["log10_p"][name] for row in rows if name in row["log10_p"]]
        found[name] = {"looks": len(values), **{str(level): share_below(values, level) for level in QUANTILES}}
    return found
