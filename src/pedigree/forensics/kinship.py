"""What the tree needs of each pair of models: relation, direction, and squared distance in weight space.

Squared distances add along branches where changes are orthogonal, which independent changes of millions of numbers are
(forensics study 9.6). They are taken on matched rows in one frame, relative to the length of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pedigree.errors import PedigreeError
from pedigree.forensics.compare import measure_pair
from pedigree.forensics.direction import weigh_direction
from pedigree.forensics.findings import Findings
from pedigree.forensics.measure import Progress, matched_matrices
from pedigree.forensics.side import Side
from pedigree.records.comparison import Verdict

DESCENT = ("identical", "related", "partly-related")
RELATED = (*DESCENT, "shared-initialization")


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
        reasons: of the direction.
        error: why the comparison failed, None where it did not.
        open_origin: the two share numbers, and only start or descent is left open.
    """

    verdict: Verdict
    log_odds: float = 0.0
    structural: float = 0.0
    distance2: float | None = None
    mean_square: float = 1.0
    units: tuple[float, float] | None = None
    matched: int = 0
    reasons: tuple[str, ...] = ()
    error: str | None = None
    open_origin: bool = False

    @property
    def related(self) -> bool:
        """Whether the two share any ancestry, a common random start included."""
        return self.verdict in RELATED or self.open_origin

    @property
    def descends(self) -> bool:
        """Whether the two share trained weights, so that a line of descent joins them."""
        return self.verdict in DESCENT

    def turned(self) -> Kinship:
        """The same pair the other way round."""
        return replace(self, log_odds=-self.log_odds, structural=-self.structural)


def compare_all(
    locations: Sequence[str | Path], *, allow_pickle: bool = False, progress: Progress | None = None
) -> dict[tuple[int, int], Kinship]:
    """Kinship of every pair (i, j) with i < j; a pair that cannot be compared says why and stops nothing."""
    pairs = [(i, j) for i in range(len(locations)) for j in range(i + 1, len(locations))]
    out: dict[tuple[int, int], Kinship] = {}
    for number, (i, j) in enumerate(pairs):
        if progress is not None:
            progress("comparing", number / max(1, len(pairs)), f"{locations[i]} and {locations[j]}")
        try:
            out[i, j] = _kinship(locations[i], locations[j], allow_pickle)
        except PedigreeError as error:
            out[i, j] = Kinship("inconclusive", error=error.sentence())
    return out


def _kinship(first: str | Path, second: str | Path, allow_pickle: bool) -> Kinship:
    a, b, found, judgment = measure_pair(first, second, allow_pickle=allow_pickle)
    if judgment.verdict not in RELATED and not judgment.open_origin:
        return Kinship(judgment.verdict)
    units, heads = _sums(a, b, found)
    far, near = _relative(found, units + heads), _relative_units(found, units)
    if judgment.verdict == "shared-initialization":
        return Kinship(judgment.verdict, 0.0, 0.0, *far, near, int(units[3] + heads[3]))  # neither came first
    whole = weigh_direction(a, b, found, alone=False)
    bare = replace(found, additive=None, forward=None, backward=None, share=None)
    plain = weigh_direction(a, b, bare, alone=False)
    return Kinship(
        judgment.verdict,
        whole.log_odds,
        plain.log_odds,
        *far,
        near,
        int(units[3] + heads[3]),
        tuple(_named(words, str(first), str(second)) for words in whole.reasons),
        open_origin=judgment.open_origin,
    )


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
        for kind, x_ND, y_ND in matched_matrices(a, b, found):
            squares = (float(t.double().square().sum()) for t in (x_ND - y_ND, x_ND, y_ND))
            sums["ffn" if kind == "ffn" else "heads"] += np.array([*squares, x_ND.numel()])
    return sums["ffn"], sums["heads"]


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
