"""Search among a million fingerprints: how often the index finds what exact search finds, how fast, in what space.

    python benchmarks/library.py --fingerprints 1000000 --write     # minutes; writes benchmarks/library.md
    python benchmarks/library.py --fingerprints 30000               # seconds

Search vectors are drawn, models are not: a library with a row and a vector for each of so many models is written to a
temporary folder and asked through the code that `pedigree scan` uses. How alike drawn vectors are is taken from real
fingerprints (`library_calibration.json`, made by `--calibrate ZOO` from the models of `pedigree bench make`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from compare import ROOT, _machine

sys.path.insert(0, str(ROOT / "src"))

HERE = Path(__file__).resolve().parent
CALIBRATION = HERE / "library_calibration.json"
CHUNK = 4096
QUERIES = 200
KINDS = ("fine-tuned", "reworked", "disguised", "stranger")

Floats = npt.NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a library of so many rows, ask it, print and write what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--fingerprints", type=int, default=30_000, metavar="N", help="models in the library")
    parser.add_argument("--queries", type=int, default=QUERIES, metavar="N", help="of each kind (default: 200)")
    parser.add_argument("--calibrate", type=Path, metavar="ZOO", help="measure real fingerprints and end")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="calibrate on every K-th family")
    parser.add_argument("--workdir", type=Path, help="where the library is written (default: a temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--write", action="store_true", help="write benchmarks/library.md from this run")
    options = parser.parse_args(arguments)
    if options.calibrate is not None:
        CALIBRATION.write_text(
            json.dumps(calibrate(options.calibrate, options.every), indent=1) + "\n", encoding="utf-8"
        )
        return 0
    known = json.loads(CALIBRATION.read_text())
    started, loads = datetime.now(UTC), [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="pedigree-benchmark-", dir=options.workdir) as folder:
        found = measure(Path(folder), options.fingerprints, options.queries, known)
    loads.append(os.getloadavg()[0])
    context = {
        **_machine(),
        "date": f"{started:%Y-%m-%d}",
        "load": [round(min(loads), 1), round(max(loads), 1)],
        "command": f"python benchmarks/library.py --fingerprints {options.fingerprints} --write",
    }
    page = render(context, found, known)
    print(page[page.index("## Found") :])
    if options.json:
        options.json.write_text(json.dumps({"context": context, "found": found}, indent=2))
    if options.write:
        (HERE / "library.md").write_text(page, encoding="utf-8")
    return 0


# -- real fingerprints ------------------------------------------------------------------------------------------------


def calibrate(zoo: Path, every: int = 1) -> dict[str, Any]:
    """Cosines of both halves of the search vectors of real models: children with their root, and roots of families."""
    from pedigree.errors import PedigreeError
    from pedigree.forensics.fingerprints.fingerprint import make_fingerprint
    from pedigree.forensics.scanning.sketch import HALF, sketch

    vectors: dict[str, Floats] = {}
    families = sorted({path.name.split(".")[0] for path in zoo.iterdir()})[::every]
    for path in sorted(path for path in zoo.iterdir() if path.name.split(".")[0] in families):
        try:
            vectors[path.name] = sketch(make_fingerprint(path))
        except PedigreeError:
            continue
    halves = {name: [_unit(v[:HALF]), _unit(v[HALF:])] for name, v in vectors.items()}
    roots = [name for name in halves if "." not in name]
    related: dict[str, list[list[float]]] = {kind: [] for kind in KINDS[:3]}
    for name, both in halves.items():
        root = name.split(".")[0]
        if name == root or root not in halves or "twin" in name:
            continue
        pair = [round(float(x @ y), 4) for x, y in zip(both, halves[root], strict=True)]
        related[_kind(name)].append(pair)
    strange = [
        [float(x @ y) for x, y in zip(halves[a], halves[b], strict=True)]
        for k, a in enumerate(roots)
        for b in roots[k + 1 :]
        if a.split("-")[0] != b.split("-")[0]
    ]
    table = np.array(strange)
    return {
        "models": len(vectors),
        "pairs_of_strangers": len(strange),
        "strangers_mean": [round(float(m), 4) for m in table.mean(0)],
        "strangers_deviation": [round(float(s), 4) for s in table.std(0)],
        "related": related,
    }


def _kind(name: str) -> str:
    if re.search(r"rotated|permuted|disguis|laundered|channels", name):
        return "disguised"
    return "fine-tuned" if re.search(r"continued|noisy|quantized|frozen|lora", name) else "reworked"


def _unit(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return x / max(1e-30, float(np.linalg.norm(x)))


# -- drawn vectors ----------------------------------------------------------------------------------------------------


class Drawer:
    """Draws search vectors whose halves are as alike as those of real models.

    A half of a stranger is a common direction plus a random one in a subspace, whose share and dimension give the
    measured mean and deviation of cosines; a relative keeps the cosine of a real pair with its root, in either half.
    """

    def __init__(self, known: dict[str, Any]) -> None:
        from pedigree.forensics.scanning.sketch import HALF

        self.half, self.known = HALF, known
        draw = np.random.default_rng(0)
        self.common, self.bases = [], []
        for mean, deviation in zip(known["strangers_mean"], known["strangers_deviation"], strict=True):
            share = max(0.0, mean)
            # Cosines of random directions in n dimensions have deviation n^-1/2.
            n = int(np.clip(((1 - share) / max(deviation, 1e-3)) ** 2, 8, HALF - 1))
            basis = np.linalg.qr(draw.standard_normal((HALF, n + 1)))[0].astype(np.float32).T
            self.common.append(np.sqrt(share).astype(np.float32) * basis[0])
            self.bases.append(np.sqrt(1 - share).astype(np.float32) * basis[1:])

    def strangers(self, count: int, draw: np.random.Generator) -> Floats:
        """Vectors of independent models, [count, 2 halves]."""
        parts = []
        for common, basis in zip(self.common, self.bases, strict=True):
            free = draw.standard_normal((count, len(basis)), dtype=np.float32)
            free /= np.linalg.norm(free, axis=1, keepdims=True)
            parts.append(common + free @ basis)
        return np.concatenate(parts, axis=1) / np.float32(np.sqrt(2))

    def relatives(self, roots: Floats, kind: str, draw: np.random.Generator) -> Floats:
        """One relative of each root."""
        real = np.array(self.known["related"][kind], np.float32)
        pairs = real[draw.integers(len(real), size=len(roots))]
        noise = draw.standard_normal(roots.shape, dtype=np.float32)
        out = np.empty_like(roots)
        for k in (0, 1):
            at = slice(k * self.half, (k + 1) * self.half)
            root = roots[:, at] * np.float32(np.sqrt(2))
            free = noise[:, at] - (noise[:, at] * root).sum(1, keepdims=True) * root
            free /= np.linalg.norm(free, axis=1, keepdims=True)
            cosine = np.clip(pairs[:, k : k + 1], 0, 1)
            out[:, at] = (cosine * root + np.sqrt(1 - cosine**2) * free) / np.float32(np.sqrt(2))
        return out

    def library(self, count: int) -> Iterator[Floats]:
        """Vectors of a whole library: a tenth are roots, the others their relatives, families of very uneven size."""
        draw = np.random.default_rng(1)
        roots = self.strangers(max(1, count // 10), draw)
        yield from (roots[i : i + CHUNK] for i in range(0, len(roots), CHUNK))
        left = count - len(roots)
        while left:
            n = min(CHUNK, left)
            # The k-th family is drawn as often as 1 / k: a few hold tens of thousands, most one or two.
            picked = np.minimum(len(roots) - 1, np.exp(draw.random(n) * np.log(len(roots))).astype(np.int64) - 1)
            kinds = draw.choice(3, size=n, p=(0.7, 0.25, 0.05))
            made = np.empty((n, roots.shape[1]), np.float32)
            for k, kind in enumerate(KINDS[:3]):
                rows = np.flatnonzero(kinds == k)
                made[rows] = self.relatives(roots[picked[rows]], kind, draw)
            yield made
            left -= n


# -- measurement ------------------------------------------------------------------------------------------------------


def measure(folder: Path, count: int, queries: int, known: dict[str, Any]) -> dict[str, Any]:
    """Write the library, build its index, ask it with vectors that are not in it."""
    from pedigree.forensics.scanning.library import open_library
    from pedigree.forensics.scanning.neighbors import EXACT_UP_TO

    drawer = Drawer(known)
    began = time.monotonic()
    with open_library(folder, create=True) as library:
        pass
    connection = sqlite3.connect(folder / "library.db")
    connection.execute("PRAGMA synchronous=OFF")
    number = 0
    for made in drawer.library(count):
        rows = [(f"model-{number + k}", row.tobytes(), "") for k, row in enumerate(made)]
        connection.executemany("INSERT INTO models (location, vector, added) VALUES (?, ?, ?)", rows)
        number += len(rows)
    connection.commit()
    connection.close()
    written = time.monotonic() - began
    with open_library(folder) as library:
        began = time.monotonic()
        made_index = library.make_index()
        built = time.monotonic() - began
        index_bytes = (folder / "library.index").stat().st_size if made_index else 0
    lines = []
    with open_library(folder) as library:
        began = time.monotonic()
        library._index()
        loaded = time.monotonic() - began
        for kind in KINDS:
            lines.append(_ask(library, drawer, kind, queries, count))
    return {
        "models": count, "exact_up_to": EXACT_UP_TO, "written_s": written, "built_s": built, "loaded_s": loaded,
        "index_bytes": index_bytes, "database_bytes": (folder / "library.db").stat().st_size, "queries": queries,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "lines": lines,
    }  # fmt: skip


def _ask(library: Any, drawer: Drawer, kind: str, queries: int, count: int) -> dict[str, Any]:
    """Queries of one kind: their ten nearest by the index and by an exact search of everything."""
    draw = np.random.default_rng(KINDS.index(kind) + 2)
    n_roots = max(1, count // 10)
    # Roots of the middle of the list have a handful of relatives, as most models do.
    rows = draw.integers(n_roots // 100, n_roots, size=queries)
    ids = rows + 1
    if kind == "stranger":
        asked = drawer.strangers(queries, draw)
    else:
        marks = ",".join("?" * queries)
        blobs = dict(library._connection.execute(f"SELECT id, vector FROM models WHERE id IN ({marks})", ids.tolist()))
        roots = np.stack([np.frombuffer(blobs[i], np.float32) for i in ids.tolist()])
        asked = drawer.relatives(roots, kind, draw)
    seconds, found = [], []
    for query in asked:
        began = time.monotonic()
        found.append([(entry.id, similarity) for entry, similarity in library.nearest(query, 16)])
        seconds.append(time.monotonic() - began)
    began = time.monotonic()
    exact = _exact(library, asked)
    exact_s = (time.monotonic() - began) / queries
    kept = [len({i for i, _ in f[:10]} & set(e[:10])) / 10 for f, e in zip(found, exact, strict=True)]
    root_exact = [int(i) in e for i, e in zip(ids, exact, strict=True)]
    root_found = [int(i) in {j for j, _ in f} for i, f in zip(ids, found, strict=True)]
    lost = sum(e and not f for e, f in zip(root_exact, root_found, strict=True))
    return {
        "kind": kind, "recall": float(np.mean(kept)), "first": float(np.mean([f[0][1] for f in found])),
        "root_exact": None if kind == "stranger" else sum(root_exact),
        "root_found": None if kind == "stranger" else sum(root_found), "lost": lost,
        "p50_s": float(np.quantile(seconds, 0.5)), "p99_s": float(np.quantile(seconds, 0.99)), "exact_s": exact_s,
    }  # fmt: skip


def _exact(library: Any, asked: Floats) -> list[list[int]]:
    """The 16 nearest of every query among all vectors, one pass for all queries."""
    best_s = np.full((len(asked), 16), -np.inf, np.float32)
    best_i = np.zeros((len(asked), 16), np.int64)
    for ids, vectors in library._batches(""):
        s = np.concatenate([best_s, asked @ vectors.T], axis=1)
        i = np.concatenate([best_i, np.broadcast_to(ids, (len(asked), len(ids)))], axis=1)
        order = np.argpartition(-s, 15, axis=1)[:, :16]
        best_s, best_i = np.take_along_axis(s, order, 1), np.take_along_axis(i, order, 1)
    order = np.argsort(-best_s, axis=1, kind="stable")
    return np.take_along_axis(best_i, order, 1).tolist()  # type: ignore[no-any-return]


def render(context: dict[str, Any], found: dict[str, Any], known: dict[str, Any]) -> str:
    """The whole page."""
    lines = []
    for row in found["lines"]:
        root = "-" if row["root_exact"] is None else f"{row['root_found']} of {row['root_exact']}"
        lines.append(
            f"| {row['kind']} | {100 * row['recall']:.1f} % | {root} | {row['first']:.2f} "
            f"| {1e3 * row['p50_s']:.0f} ms | {1e3 * row['p99_s']:.0f} ms | {1e3 * row['exact_s']:.0f} ms |"
        )
    versions = ", ".join(f"{name} {version}" for name, version in context["versions"].items())
    sizes = {kind: len(pairs) for kind, pairs in known["related"].items()}
    means = {kind: np.mean(pairs, axis=0) for kind, pairs in known["related"].items()}
    alike = "\n".join(
        f"| {kind} | {sizes[kind]} | {means[kind][0]:.2f} | {means[kind][1]:.2f} |" for kind in known["related"]
    )
    moments = zip(known["strangers_mean"], known["strangers_deviation"], strict=True)
    strangers = [f"{mean:.3f} (sd {deviation:.3f})" for mean, deviation in moments]
    table = "\n".join(lines)
    return f"""# Search in a large library

Written by `{context["command"]}`; not by hand.

Commit {context["commit"]}, {context["date"]}. {context["cpu"]}, {context["cores"]} cores, {context["system"]}, Python
{context["python"]}, {versions}. One thread. Load average from {context["load"][0]} to {context["load"][1]}.

{found["models"]:,} models in one library, {found["queries"]} queries of each kind that are not in it, through the code
of `pedigree scan`. The vectors are drawn, the library is real: rows in SQLite, the index in its file
([how it works](../docs/adr/0028-index-of-large-libraries.md)). A tenth are roots; the others are relatives of roots,
the k-th family drawn as often as 1/k: 70 % fine-tuned, 25 % reworked, 5 % disguised.

## How alike they are

From {known["models"]} real fingerprints of the models of `pedigree bench make --size pico`: mean cosine with the root
of the family, for the half of the vector that stands in place and the half that does not change with the frame. Each
drawn relative takes both cosines of a real pair. They are models of some hundred thousand numbers; large
ones may differ.

| kind | pairs | in place | frame-free |
| --- | --- | --- | --- |
{alike}
| strangers of other designs | {known["pairs_of_strangers"]} | {strangers[0]} | {strangers[1]} |

## Found

| query | of the exact ten | root among 16, of exact | similarity of the first | p50 | p99 | exact, many at once |
| --- | --- | --- | --- | --- | --- | --- |
{table}

| | |
| --- | --- |
| index | {found["index_bytes"] / 1e6:.0f} MB, {found["index_bytes"] / found["models"]:.0f} bytes a model |
| vectors in the database | {found["database_bytes"] / 1e9:.2f} GB |
| building the index | {found["built_s"]:.0f} s |
| loading it, once for each command | {found["loaded_s"]:.2f} s |
| most memory of the whole run, both searches included | {found["peak_bytes"] / 1e9:.2f} GB |

*Of the exact ten*: how many of the ten nearest by an exact search are named. *Root*: queries whose root is among the 16
named, of those where it is among the exact 16. *Exact*: time of each query where one pass serves all. A stranger has no
relative: its ten nearest are chance, and which of them are named does not matter.
"""


if __name__ == "__main__":
    raise SystemExit(main())
