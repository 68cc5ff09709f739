"""How many lines of a family tree are right, on families that nothing was tuned on.

Random families of about twenty models over two to four starts (`benchmark/zoo/random_family.py`), at two widths. Every
family is looked at twice: whole, and with two or three of its inner models left out, whose place has to be drawn as a
hidden ancestor. Seeds below 120 are for development; those from 120 on are looked at once, when the rules stand.

    python experiments/trees.py --seeds 6              # development
    python experiments/trees.py --first 120 --seeds 2  # fresh
    python experiments/trees.py --draw --out docs/experiments
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import origin, put, table

from pedigree.benchmark.families.sizes import SCALES, scale_of
from pedigree.benchmark.tree_score import Line, TreeTally, score_tree
from pedigree.benchmark.zoo.random_family import Family, parents_of, random_family
from pedigree.benchmark.zoo.workshop import Workshop
from pedigree.forensics.trees.family_bulk import Bulk
from pedigree.forensics.trees.family_rows import CommonRows, common_rows
from pedigree.forensics.trees.family_tree import build_tree
from pedigree.forensics.trees.kinship import KeptPairs, Kinship, compare_all
from pedigree.forensics.trees.tree_merges import unmerged
from pedigree.records.family_tree import TreeResult

ROOT = Path(__file__).resolve().parents[1]
FRESH = 120
KEPT_ROWS = 6
"""Raised by hand when rows are laid side by side in another way."""
TABLES = ("table", "table_there", "worn", "worn_there")


@dataclass(frozen=True)
class Looked:
    """One look at a family.

    Attributes:
        family, size, seed: which.
        left_out: models kept back.
        tally: what was right.
        result: the tree.
    """

    family: Family
    size: str
    seed: int
    left_out: tuple[str, ...]
    tally: TreeTally
    result: TreeResult


def models_of(family: Family, size: str, place: Path, workers: int) -> dict[tuple[str, str], Kinship]:
    """Make the models that are not there, compare the pairs that were not, and give all pairs by name."""
    folder = place / family.name
    begun = time.process_time()
    workshop = Workshop(folder, family.recipes, max_chars=scale_of(size).max_chars)
    fresh = [name for name in family.order if not workshop.is_made(name)]
    places = workshop.make(family.order)
    made = time.process_time()
    kept = folder / "pairs.jsonl"
    alone = workers == 1 and not kept.is_file()
    pairs = compare_all(places, workers=workers, kept=KeptPairs(kept))
    if fresh and alone:
        each = {"made": (made - begun) / len(fresh), "compared": (time.process_time() - made) / len(pairs)}
        (folder / "seconds.json").write_text(json.dumps({k: round(v, 2) for k, v in each.items()}) + "\n")
    return {(family.order[i], family.order[j]): pair for (i, j), pair in pairs.items()}


def look(
    family: Family,
    size: str,
    seed: int,
    pairs: Mapping[tuple[str, str], Kinship],
    left_out: tuple[str, ...],
    place: Path,
) -> Looked:
    """Draw the tree of the models that are not left out, and count what is right."""
    shown = [name for name in family.order if name not in left_out]
    numbered = {(i, j): pairs[a, b] for i, a in enumerate(shown) for j, b in enumerate(shown) if i < j}
    folder = place / family.name
    weigh = unmerged([str(folder / name) for name in shown])
    result = build_tree(shown, numbered, lambda hub, members: _rows(folder, shown, hub, members), weigh)
    same = {name: family.recipes[name].parents[0] for name in family.same}
    tally = score_tree(lines_of(result), parents_of(family, shown), shown, same)
    return Looked(family, size, seed, left_out, tally, result)


def _rows(folder: Path, shown: Sequence[str], hub: int, members: Sequence[int]) -> CommonRows | None:
    """Common rows of some models of a family, kept in its folder."""
    names = [shown[k] for k in members]
    key = hashlib.sha256(f"{shown[hub]}\n{names}\n{KEPT_ROWS}".encode()).hexdigest()[:16]
    path = folder / f"rows-{key}.npz"
    if not path.is_file():
        found = common_rows(members.index(hub), [folder / name for name in names])
        if found is None:
            return None
        parts = {f"bulk-{k}": rows for k, rows in enumerate(found.bulk.rows)}
        parts |= {f"there-{k}": there for k, there in enumerate(found.bulk.there)}
        parts["rounded"] = np.array(sorted(found.rounded), dtype=np.int64)
        if found.table_RNN is not None and found.table_RN is not None:
            parts |= {"table": found.table_RNN, "table_there": found.table_RN}
        if found.worn_NRK is not None and found.worn_NR is not None:
            parts |= {"worn": found.worn_NRK, "worn_there": found.worn_NR}
        np.savez(path, gram=found.gram_RNN.astype(np.float64), there=found.there_RN, width=found.width, **parts)
    with np.load(path) as kept:
        count = sum(name.startswith("bulk-") for name in kept.files)
        bulk = Bulk([kept[f"bulk-{k}"] for k in range(count)], [kept[f"there-{k}"] for k in range(count)])
        rounded = frozenset(int(k) for k in kept["rounded"])
        table = [kept[name] if name in kept.files else None for name in TABLES]
        return CommonRows(kept["gram"], kept["there"], members.index(hub), int(kept["width"]), bulk, rounded, *table)


def lines_of(result: TreeResult) -> list[Line]:
    """The lines of a record, with the names of models; hidden ancestors keep their ids."""
    names = {node.id: node.locations[0] if node.locations else node.id for node in result.nodes}
    return [(names[edge.source], names[edge.target], edge.directed) for edge in result.edges]


def looks(told: argparse.Namespace) -> Iterator[Looked]:
    """Both looks at every family that is asked for; where nothing but drawing is wanted, at every one that is there."""
    place = told.place / "trees"
    for size in told.sizes.split(","):
        seeds = list(range(told.first, told.first + told.seeds))
        if told.draw:
            made = place.glob(f"random-{size}-*/pairs.jsonl")
            seeds = sorted(int(path.parent.name.rsplit("-", 1)[1]) for path in made)
        for seed in seeds:
            family = random_family(scale_of(size), seed)
            pairs = models_of(family, size, place, told.workers)
            yield look(family, size, seed, pairs, (), place)
            if family.left_out:
                yield look(family, size, seed, pairs, family.left_out, place)


HEAD = (
    "families", "width", "trees", "lines right", "arrows right", "wrong", "open", "skip a model", "join relatives",
    "join strangers", "hidden found", "invented", "merges whole", "ancestors told",
    "told wrongly", "trees without a fault",
)  # fmt: skip


def row(name: str, width: str, tally: TreeTally) -> list[object]:
    """One line of the table."""
    t = tally
    return [
        name, width, t.trees, f"{t.right} of {t.lines}", t.arrows_right, t.arrows_wrong + t.arrows_false, t.open,
        t.skipping, t.relatives, t.strangers, f"{t.hidden_found} of {t.hidden}", t.hidden_invented,
        f"{t.merges_found} of {t.merges}", f"{t.ancestors_right} of {t.ancestors}", t.ancestors_wrong, t.perfect,
    ]  # fmt: skip


def summed(found: Sequence[Looked]) -> list[list[object]]:
    """The table: by kind of seed, size, and whether models were left out."""
    lines = []
    for fresh in (False, True):
        for hidden in (False, True):
            for size in SCALES:
                mine = [
                    one.tally for one in found
                    if (one.seed >= FRESH) == fresh and bool(one.left_out) == hidden and one.size == size
                ]  # fmt: skip
                if mine:
                    name = ("fresh" if fresh else "development") + (", models left out" if hidden else ", whole")
                    lines.append(row(name, str(scale_of(size).sizes.d_model), sum(mine, TreeTally())))
    return lines


def faults(one: Looked) -> list[str]:
    """True lines that were not drawn, and lines that are not true, in words, with what was done to the child."""
    shown = [name for name in one.family.order if name not in one.left_out]
    parents = parents_of(one.family, shown)
    truth = {(p, c) for c, above in parents.items() for p in above}
    drawn = {(u, v): arrow for u, v, arrow in lines_of(one.result)}
    kinds = one.family.kinds
    out = [f"missing {p} > {c} ({kinds[c]})" for p, c in sorted(truth) if (p, c) not in drawn and (c, p) not in drawn]
    for (u, v), arrow in drawn.items():
        if (u, v) not in truth and ((v, u) not in truth or arrow):
            out.append(f"drawn {u} {'>' if arrow else '-'} {v} ({kinds.get(v, 'hidden')})")
    return out


def main() -> None:
    """Run what the command says, print the table, write the page."""
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    words.add_argument("--seeds", type=int, default=6, help="families of each size")
    words.add_argument("--first", type=int, default=0, help=f"the first seed; from {FRESH} on: looked at once")
    words.add_argument("--sizes", default=",".join(sorted(SCALES, reverse=True)), help="sizes, with commas between")
    words.add_argument("--workers", type=int, default=1, help="processes that compare pairs")
    words.add_argument("--place", type=Path, default=ROOT / "build" / "experiments", help="models and pairs")
    words.add_argument("--out", type=Path, default=None, help="folder of the page; nothing is written without one")
    words.add_argument("--json", type=Path, default=None, help="the counts of every look")
    words.add_argument("--draw", action="store_true", help="make nothing: families that are there")
    words.add_argument("--faults", action="store_true", help="say every line that is not right")
    told = words.parse_args()
    torch.set_num_threads(1)
    found: list[Looked] = []
    for one in looks(told):
        found.append(one)
        print(
            " | ".join(map(str, row(one.family.name + (" -" if one.left_out else ""), one.size, one.tally))), flush=True
        )
        for fault in faults(one) if told.faults else ():
            print("    " + fault)
    measured = table(HEAD, summed(found))
    print(measured)
    if told.json is not None:
        told.json.write_text(json.dumps([record(one) for one in found], indent=1) + "\n", encoding="utf-8")
    if told.out is not None:
        told_by = "\n\n".join([origin("python experiments/trees.py"), seconds(told.place / "trees"), measured])
        put(told.out / "trees.md", "Family trees that nobody tuned on", told_by)


def seconds(place: Path) -> str:
    """Processor time for a model and for a pair, mean over the families where it was measured."""
    words = []
    for size, scale in SCALES.items():
        took = [json.loads(path.read_text()) for path in place.glob(f"random-{size}-*/seconds.json")]
        if took:
            made, compared = (sum(one[key] for one in took) / len(took) for key in ("made", "compared"))
            words.append(f"width {scale.sizes.d_model}: {made:.1f} s a model, {compared:.2f} s a pair")
    return f"Processor time, one core: {'; '.join(words) or 'not measured'}."


def record(one: Looked) -> dict[str, Any]:
    """One look as plain values."""
    return {
        "family": one.family.name, "size": one.size, "seed": one.seed, "left_out": list(one.left_out),
        **asdict(one.tally),
    }  # fmt: skip


if __name__ == "__main__":
    main()
