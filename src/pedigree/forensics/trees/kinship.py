"""What the tree needs of each pair of models: relation, direction, and squared distance in weight space.

Squared distances add along branches where changes are orthogonal, which independent changes of millions of numbers are
(forensics study 9.6). They are taken on matched rows in one frame, relative to the length of the weights.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pedigree.errors import MalformedFile, PedigreeError
from pedigree.forensics.compare import measure_pair
from pedigree.forensics.comparison.direction import ROUNDED, weigh_direction
from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.comparison.following import matched_matrices
from pedigree.forensics.comparison.laid_beside import FOREIGN
from pedigree.forensics.comparison.measure import Progress
from pedigree.forensics.comparison.record import producer
from pedigree.forensics.comparison.verdict import Judgment
from pedigree.forensics.sides.side import Side
from pedigree.forensics.spread import ANY_FAULT, spread_out
from pedigree.records.comparison import Verdict
from pedigree.weights.anatomy import Anatomy
from pedigree.weights.checkpoint import open_checkpoint
from pedigree.weights.roles import axes_of

MOST_MOVED = 0.02
"""Share of matched units in other places from which rows are laid beside their origins: distances have to add up, and
a few rows beside the wrong ones are as far apart as a whole training."""

DESCENT = ("identical", "related", "partly-related")
RELATED = (*DESCENT, "shared-initialization")

SPACES = ("inner", "heads", "kv_heads")

SAME = 1e-6
"""Squared distance below which two models have the same weights but for rounding and disguise."""

CAST = 1e-5
"""Squared distance up to which a model that stands on the coarser grid is a cast of the other: rounding to eight
significant bits costs 2.7e-6, and rows hold up to three rounded factors (matrix, gain of the stream, gain of a head).
Eight bits with a scale for 32 numbers cost 2e-5."""

Shape = tuple[int, ...]
"""Layers, feed-forward units, channels of queries, channels of keys, experts."""


@dataclass(frozen=True)
class Kinship:
    """One pair.

    Attributes:
        verdict: of the comparison, or "inconclusive" where it failed.
        log_odds: natural log-odds that the first came before the second.
        structural: the part of it that rests on copies, grids and the like, not on distances.
        distance2: squared distance over squared length; None where nothing was matched.
        mean_square: squared length for each number that was matched; distances that are to add up need one scale.
        units: the same two of feed-forward units, which can be matched where heads cannot; None where there are none.
        matched: how many numbers were matched.
        lengths: squared length of either model for each of them.
        reasons: of the direction.
        error: why the comparison failed, None where it did not.
        open_origin: the two share numbers, and only start or descent is left open.
        shapes: of either model, see `shape_of`; empty where that is not known.
    """

    verdict: Verdict
    log_odds: float = 0.0
    structural: float = 0.0
    distance2: float | None = None
    mean_square: float = 1.0
    units: tuple[float, float] | None = None
    matched: int = 0
    lengths: tuple[float, float] = (0.0, 0.0)
    reasons: tuple[str, ...] = ()
    error: str | None = None
    open_origin: bool = False
    shapes: tuple[Shape, Shape] = ((), ())

    @property
    def is_untold(self) -> bool:
        """Whether the comparison failed, or says neither a relation nor none."""
        return not self.open_origin and self.verdict in ("inconclusive", "not-testable")

    @property
    def related(self) -> bool:
        """Whether a line of descent may join the two. Trainings of one random start are none."""
        return self.verdict in DESCENT or self.open_origin

    @property
    def is_same(self) -> bool:
        """Whether the two are the same but for rounding and disguise; one that was grown or cut is another model."""
        limit = CAST if abs(self.structural) >= ROUNDED else SAME
        near = self.related and self.distance2 is not None and self.distance2 <= limit
        return near and self.shapes[0] == self.shapes[1]

    @property
    def cosine(self) -> float | None:
        """Cosine of what was matched; None where nothing was."""
        if self.distance2 is None or min(self.lengths) <= 0:
            return None if self.distance2 is None else 1.0 - self.distance2 / 2
        ratio = float((self.lengths[0] / self.lengths[1]) ** 0.5)
        return (ratio + 1.0 / ratio - self.distance2) / 2

    def turned(self) -> Kinship:
        """The same pair the other way round."""
        lengths = (self.lengths[1], self.lengths[0])
        shapes = (self.shapes[1], self.shapes[0])
        return replace(self, log_odds=-self.log_odds, structural=-self.structural, lengths=lengths, shapes=shapes)


@dataclass(frozen=True)
class PairTask:
    """Two models to compare, by their numbers and places."""

    i: int
    j: int
    first: str
    second: str
    allow_pickle: bool = False


def compare_all(
    locations: Sequence[str | Path],
    *,
    allow_pickle: bool = False,
    progress: Progress | None = None,
    workers: int = 1,
    fleet: str | None = None,
    kept: KeptPairs | None = None,
) -> dict[tuple[int, int], Kinship]:
    """Kinship of every pair (i, j) with i < j; a pair that cannot be compared says why and stops nothing.

    Args:
        locations: the models.
        allow_pickle: read torch files (weights only).
        progress: called with (stage, fraction, message).
        workers, fleet: processes here, or the address of a Ray cluster, as `spread.spread_out` takes them.
        kept: pairs that were compared before, and where those of this run are kept.

    Raises:
        UsageError: the cluster cannot be used.
    """
    tasks = [
        PairTask(i, j, str(locations[i]), str(locations[j]), allow_pickle)
        for i in range(len(locations)) for j in range(i + 1, len(locations))
    ]  # fmt: skip
    tell = progress or (lambda stage, fraction, message: None)
    marks = kept.marks(locations, allow_pickle) if kept is not None else []
    out: dict[tuple[int, int], Kinship] = {}
    for task in tasks:
        if kept is not None and (found := kept.get(marks[task.i], marks[task.j])) is not None:
            out[task.i, task.j] = found
    left = [task for task in tasks if (task.i, task.j) not in out]
    tell("comparing", len(out) / max(1, len(tasks)), f"{len(out)} of {len(tasks)} pairs are there")
    for done in spread_out(compare_pair, left, workers=workers, address=fleet):
        task = done.task
        pair = done.result or Kinship("inconclusive", error=done.lost)
        out[task.i, task.j] = pair
        if kept is not None and pair.error is None:
            kept.put(marks[task.i], marks[task.j], pair)
        words = f"{len(out)} of {len(tasks)} pairs; {task.first} and {task.second}: {pair.verdict}"
        tell("comparing", len(out) / len(tasks), words)
    return {(task.i, task.j): out[task.i, task.j] for task in tasks}


def compare_pair(task: PairTask) -> Kinship:
    """Compare two models in this process; what goes wrong is said in the pair."""
    try:
        return _kinship(task.first, task.second, task.allow_pickle)
    except PedigreeError as error:
        return Kinship("inconclusive", error=error.sentence())
    except ANY_FAULT as error:
        return Kinship("inconclusive", error=f"could not be compared: {type(error).__name__}: {error}"[:500])


def mark_of(place: str | Path, allow_pickle: bool) -> str:
    """What a model is known by: version of the program, headers and stamp; empty where it cannot be opened."""
    try:
        with open_checkpoint(place, allow_pickle=allow_pickle) as checkpoint:
            told = f"{producer().version}\n{checkpoint.header_digest()}\n{checkpoint.stamp()}"
            return hashlib.sha256(told.encode()).hexdigest()[:32]
    except PedigreeError:
        return ""


class KeptPairs:
    """Pairs that were compared before, in a file of JSON lines that is only added to.

    A pair counts as long as headers and stamps of both models and the version of the program are the same. Lines that
    cannot be read are passed over: such a pair is compared again.

    Args:
        path: the file; made when the first pair is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pairs: dict[tuple[str, str], Kinship] = {}
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise MalformedFile("the kept pairs cannot be read", where=str(path), got=str(error)) from error
            for line in lines:
                self._take(line)

    def marks(self, locations: Sequence[str | Path], allow_pickle: bool) -> list[str]:
        """What each model is known by."""
        return [mark_of(place, allow_pickle) for place in locations]

    def get(self, first: str, second: str) -> Kinship | None:
        """The pair of two marks, in this order; None where it is not known."""
        if (first, second) in self._pairs:
            return self._pairs[first, second]
        other = self._pairs.get((second, first))
        return None if other is None else other.turned()

    def put(self, first: str, second: str, pair: Kinship) -> None:
        """Keep a pair."""
        if not first or not second:
            return
        self._pairs[first, second] = pair
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"a": first, "b": second, **asdict(pair)}, sort_keys=True) + "\n")
            stream.flush()

    def _take(self, line: str) -> None:
        try:
            row = json.loads(line)
            marks = str(row.pop("a")), str(row.pop("b"))
            units = row.get("units")
            row["units"] = None if units is None else (float(units[0]), float(units[1]))
            row["lengths"] = (float(row["lengths"][0]), float(row["lengths"][1]))
            row["shapes"] = tuple(tuple(int(size) for size in shape) for shape in row.get("shapes", ((), ())))
            row["reasons"] = tuple(str(words) for words in row.get("reasons", ()))
            self._pairs[marks] = Kinship(**row)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            return


def _kinship(first: str | Path, second: str | Path, allow_pickle: bool) -> Kinship:
    a, b, found, judgment = measure_pair(first, second, allow_pickle=allow_pickle)
    if judgment.verdict not in RELATED and not judgment.open_origin:
        return Kinship(judgment.verdict)
    if judgment.open_origin and found.keeps_units:
        return Kinship(judgment.verdict)  # rows that one seed gives whoever draws from it join nobody
    if judgment.verdict == "partly-related" and not judgment.open_origin and not _shares_more_than_tables(judgment):
        return Kinship("inconclusive")
    units, heads = _sums(a, b, found)
    both = units + heads
    far, near = _relative(found, both), _relative_units(found, units)
    lengths = (float(both[1] / max(1.0, both[3])), float(both[2] / max(1.0, both[3])))
    if judgment.verdict == "shared-initialization":
        return Kinship(judgment.verdict, 0.0, 0.0, *far, near, int(both[3]), lengths)  # neither came first
    whole = weigh_direction(a, b, found, alone=False)
    bare = replace(found, additive=None, forward=None, backward=None, share=None)
    plain = weigh_direction(a, b, bare, alone=False)
    return Kinship(
        judgment.verdict,
        whole.log_odds,
        plain.log_odds,
        *far,
        near,
        int(both[3]),
        lengths,
        tuple(_named(words, str(first), str(second)) for words in whole.reasons),
        open_origin=judgment.open_origin,
        shapes=(shape_of(a.anatomy), shape_of(b.anatomy)),
    )


def _shares_more_than_tables(judgment: Judgment) -> bool:
    """Whether anything but vocabulary rows was handed down: two that began with the same word vectors are no family."""
    parts = judgment.components
    return any(parts[name].verdict in ("related", "identical") for name in parts.keys() - {"embed", "head"})


def shape_of(anatomy: Anatomy) -> Shape:
    """What a model was grown or cut in: its layers, the largest extent of each of `SPACES` in a matrix of a layer, and
    its experts. No disguise changes it."""
    widest = dict.fromkeys(SPACES, 0)
    for part in anatomy.parts():
        if part.layer is None or len(part.shape) != 2:
            continue
        for axis, extent in zip(axes_of(part.role), part.shape, strict=False):
            if axis.space in widest:
                widest[axis.space] = max(widest[axis.space], extent)
    experts = max((anatomy.experts(layer) for layer in range(anatomy.n_layers)), default=0)
    return anatomy.n_layers, *widest.values(), experts


def _named(words: str, first: str, second: str) -> str:
    """A reason that speaks of A and B, with the names of the two models instead."""
    names = {"A": Path(first).name, "B": Path(second).name}
    return re.sub(r"\b[AB]\b", lambda found: names[found[0]], words)


def distance2(a: Side, b: Side, found: Findings) -> tuple[float | None, float]:
    """Squared distance over the product of lengths, on matched rows, and that product for each number."""
    units, heads = _sums(a, b, found)
    return _relative(found, units + heads)


def _sums(a: Side, b: Side, found: Findings) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Squared distance, squared lengths of both, and how many numbers: of feed-forward units, and of heads."""
    sums = {"ffn": np.zeros(4), "heads": np.zeros(4)}
    if not found.same_numbers:
        for kind, x_ND, y_ND in matched_matrices(a, b, found, MOST_MOVED):
            x_ND, y_ND = _without_foreign_rows(x_ND, y_ND)
            squares = (float(t.double().square().sum()) for t in (x_ND - y_ND, x_ND, y_ND))
            sums["ffn" if kind == "ffn" else "heads"] += np.array([*squares, x_ND.numel()])
    return sums["ffn"], sums["heads"]


def _without_foreign_rows(x_ND: Tensor, y_ND: Tensor) -> tuple[Tensor, Tensor]:
    cosine_N = torch.nn.functional.cosine_similarity(x_ND, y_ND, dim=1)
    alike_N = cosine_N > cosine_N.median() - FOREIGN
    return (x_ND, y_ND) if bool(alike_N.all()) else (x_ND[alike_N], y_ND[alike_N])


def _relative(found: Findings, sums_4: npt.NDArray[np.float64]) -> tuple[float | None, float]:
    if found.same_numbers:
        return 0.0, 1.0
    apart, left, right, numbers = (float(value) for value in sums_4)
    if left * right <= 0:
        return None, 1.0
    return apart / (left * right) ** 0.5, (left * right) ** 0.5 / numbers


def _relative_units(found: Findings, units_4: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """The same of units alone; None where there are none to match."""
    distance, scale = _relative(found, units_4)
    return None if distance is None else (distance, scale)
