"""Pairs of the bank, and what one comparison says of each.

Independent pairs are pairs of different random starts inside one split; which of two is called A is decided by a hash,
since the answer may depend on it. A pair is measured once: rows are kept as JSON lines, under the keys of the
two models and a digest of the code that compares.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pedigree.benchmark.bank.kinds import BankModel, Split, children, independent, one_start

Pair = tuple[str, str]
FAMILIES = ("ffn", "vo", "planes")


@dataclass(frozen=True)
class KinPair:
    """Two relatives and what may be said of them.

    Attributes:
        a, b: names.
        words: verdicts that are right.
        wrong: verdicts that accuse.
        direction: the right direction; `undetermined` is never wrong.
    """

    a: str
    b: str
    words: tuple[str, ...]
    wrong: tuple[str, ...]
    direction: str = "undetermined"


def independent_pairs(split: Split, most: int | None = None) -> list[Pair]:
    """Pairs of models of a split that share no start: first those of one kind, the others in an order drawn by hash.

    Args:
        split: which models.
        most: at most so many; None for all. More pairs begin with the fewer ones.
    """
    models = [model for model in independent() if model.split == split]
    pairs = itertools.combinations(models, 2)
    drawn = sorted(pairs, key=lambda pair: (pair[0].kind != pair[1].kind, digest_of(pair[0].name, pair[1].name)))
    return [_turned((x.name, y.name)) for x, y in drawn][:most]


def kin_pairs(split: Split) -> list[KinPair]:
    """Pairs of one random start; parents with children; siblings."""
    found: list[KinPair] = []
    weak = ("shared-initialization", "inconclusive", "unrelated", "not-testable")
    for x, y in itertools.combinations([m.name for m in one_start(split)], 2):
        found.append(KinPair(*_turned((x, y)), weak, ("related", "partly-related", "identical")))
    families: dict[str, list[BankModel]] = {}
    for child in children(split):
        families.setdefault(str(child.parent), []).append(child)
    accused = ("identical", "shared-initialization", "unrelated", "partly-related")
    for parent, siblings in families.items():
        for child in siblings:
            first, second = _turned((parent, child.name))
            direction = "a-to-b" if first == parent else "b-to-a"
            found.append(KinPair(first, second, ("related",), accused, direction))
        for one, other in itertools.combinations(siblings, 2):
            found.append(KinPair(*_turned((one.name, other.name)), ("related",), accused))
    return found


def _turned(pair: Pair) -> Pair:
    return pair if digest_of(*pair)[0] % 2 else (pair[1], pair[0])


def digest_of(*names: str) -> bytes:
    """What pairs are ordered and turned by: nobody chose it, and it stays the same."""
    return hashlib.sha256("\n".join(names).encode()).digest()


@cache
def code_digest() -> str:
    """Digest of everything that takes part in a comparison; words about the code are not part of it."""
    from pedigree import forensics, weights

    state = hashlib.sha256()
    for package in (forensics, weights):
        folder = Path(str(package.__file__)).parent
        for path in sorted([*folder.rglob("*.py"), *folder.glob("data/*.json")]):
            if path.name not in ("bank.json", "rest_bank.json"):
                content = _bare(path.read_text(encoding="utf-8")) if path.suffix == ".py" else path.read_text()
                state.update(f"{path.relative_to(folder).as_posix()}\n{content}".encode())
    return state.hexdigest()[:16]


def _bare(source: str) -> str:
    """Code without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            said = [at for at in body if isinstance(at, ast.Expr) and isinstance(at.value, ast.Constant)]
            node.body = [at for at in body if at not in said]  # type: ignore[attr-defined]
    return ast.dump(tree)


def measure_pairs(directory: Path, pairs: Iterable[Pair], workers: int = 1) -> list[dict[str, Any]]:
    """What is said of each pair, from the notes where it was measured by the same code before.

    Args:
        directory: the bank.
        pairs: names of models that lie there.
        workers: processes.
    """
    wanted = list(pairs)
    path = _notes(directory)
    known = {(row["a"], row["b"]): row for row in read_rows(path)}
    missing = [pair for pair in wanted if pair not in known]
    jobs = [(directory / a, directory / b) for a, b in missing]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        for row in _measured(jobs, workers):
            known[row["a"], row["b"]] = row
            stream.write(json.dumps(row, sort_keys=True) + "\n")
            stream.flush()
    return [known[pair] for pair in wanted]


def measured_before(directory: Path, pairs: Iterable[Pair]) -> list[Pair]:
    """Those of the pairs that were measured by the same code before."""
    known = {(row["a"], row["b"]) for row in read_rows(_notes(directory))}
    return [pair for pair in pairs if pair in known]


def _notes(directory: Path) -> Path:
    return directory / ".bank" / f"pairs-{code_digest()}.jsonl"


def _measured(jobs: Sequence[tuple[Path, Path]], workers: int) -> Iterable[dict[str, Any]]:
    if workers <= 1:
        yield from map(measure_one, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(measure_one, jobs, chunksize=4)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file of notes; none where it is not there."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may have been cut off


def measure_one(pair: tuple[Path, Path]) -> dict[str, Any]:
    """One comparison: verdict, direction, scores by kind of unit, exact p-values, agreement of vocabulary rows."""
    from pedigree.forensics.compare import measure_pair
    from pedigree.forensics.comparison.direction import weigh_direction

    a, b, found, judgment = measure_pair(*pair)
    grids = found.evidence.grids
    signs = found.exact.get("body-signs")
    families = {} if signs is None else signs.extra.get("families", {})
    row: dict[str, Any] = {
        "a": pair[0].name,
        "b": pair[1].name,
        "verdict": judgment.verdict,
        "reasons": judgment.reasons,
        "best_z": round(found.evidence.best_z(), 3),
        "z": {kind: round(grid.best[0], 3) for kind, grid in grids.items()},
        "spread": {kind: _spread(grid.z_IJ) for kind, grid in grids.items()},
        "best_effect": round(max((grid.best[1] for grid in grids.values()), default=0.0), 4),
        "tables": {name: round(value, 4) for name, value in found.tables.items()},
        "log10_p": {
            **{n: o.log10_p for n, o in found.exact.items() if o.applicable and o.log10_p is not None},
            **{f"signs-{n}": families[n]["log10_p"] for n in FAMILIES if n in families},
        },
        "sign_z": {n: round(families[n]["z"], 3) for n in FAMILIES if n in families},
    }
    if judgment.verdict in ("related", "partly-related"):
        direction = weigh_direction(a, b, found)
        row |= {"direction": direction.verdict, "log_odds": round(direction.log_odds, 3), "why": direction.reasons}
    for name, survival in (("forward", found.forward), ("backward", found.backward)):
        if survival is not None:
            row[name] = {k: round(float(v), 4) for k, v in vars(survival).items()}
    row["additive"] = found.additive
    return row


def _spread(z_IJ: Any) -> list[float]:
    """Number, sum and sum of squares of the standard scores of all layer pairs."""
    import numpy as np

    values = z_IJ[np.isfinite(z_IJ)]
    return [int(values.size), round(float(values.sum()), 3), round(float((values**2).sum()), 3)]
