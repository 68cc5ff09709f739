"""What was done to the numbers themselves: cut to zero, rounded, covered with noise, moved along a few directions.

Each is told by a trace that training does not leave. A mask leaves zeros in the places of numbers; rounding leaves a
grid (`grids.py`); noise has no strong directions (`additions.py`); a merged adapter has nothing but a few.

Shapes: none; all that is read here was measured before.
"""

from __future__ import annotations

import math

from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.sides.bits import Zeros
from pedigree.records.comparison import Transformation

LEAST_ZEROS = 0.05
"""Share of numbers that one side alone has at zero from which a mask was laid over it."""

OTHER_ZEROS = 0.1
"""Share of them that the other side may have alone."""

KEPT = 0.99
"""Share of equal numbers among those that are zero in neither, from which nothing but the mask was done."""

HIDDEN = 3.0
"""Length of what stands in place of zeros over that of the change elsewhere, above which it was there before: had it
grown out of zeros in training, it would be as long as that change."""

WHOLE = 0.95
"""Survival from which a model lives on whole; below it, it may have been mixed with another one."""

EVENLY = 3.0
"""Noise moves no matrix more than so many times as much as another."""


def masked_side(zeros: Zeros) -> str | None:
    """`"a"` or `"b"`, over which a mask of zeros was laid; None where neither is sparser by that, or both are."""
    looked_at = zeros.only_a + zeros.only_b + zeros.alive
    more, less, side = (zeros.only_b, zeros.only_a, "b") if zeros.only_b >= zeros.only_a else (
        zeros.only_a, zeros.only_b, "a",
    )  # fmt: skip
    if looked_at == 0 or more < LEAST_ZEROS * looked_at or less > OTHER_ZEROS * more:
        return None
    return side


def was_there_before(zeros: Zeros, side: str) -> bool:
    """Whether what a mask hides was there before it: nothing else changed, or much less than what is hidden."""
    many, hidden2 = (zeros.only_b, zeros.hidden_b2) if side == "b" else (zeros.only_a, zeros.hidden_a2)
    if zeros.kept >= KEPT * max(1, zeros.alive):
        return True
    return math.sqrt(hidden2 / max(1, many)) > HIDDEN * math.sqrt(zeros.moved2 / max(1, zeros.alive))


def number_edits(found: Findings, *, stored_otherwise: bool) -> list[Transformation]:
    """Masks, grids, noise and adapters, seen from A to B.

    Args:
        found: what was measured.
        stored_otherwise: whether B is stored in a type of few bits; then zeros and errors are those of that type.
    """
    if stored_otherwise or found.same_numbers:
        return []
    if found.gridded == "b":
        return [Transformation(kind="quantized", grid="few-bit integers")]
    zeros = found.bits.zeros if found.bits is not None else Zeros()
    masked = masked_side(zeros) if found.gridded is None else None
    if masked == "a":
        return []
    if masked == "b":
        share = zeros.only_b / (zeros.only_a + zeros.only_b + zeros.alive)
        return [Transformation(kind="weights-pruned", share=round(share, 4))]
    return _additions(found)


def _additions(found: Findings) -> list[Transformation]:
    more, there, back = found.additions, found.forward, found.backward
    if more is None or there is None or back is None or found.gridded is not None:
        return []
    if not found.evidence.gauge.is_trivial and found.evidence.gauge.kind != "signed-permutation":
        return []  # what a fitted frame leaves over looks like noise, too
    if back.cut and not there.cut and found.evidence.gauge.reaches_all:
        return [Transformation(kind="rank-reduced", matrices=back.cut, of=back.matrices)]
    whole = min(there.top, there.middle) > WHOLE
    if more.rank and whole:
        return [Transformation(kind="low-rank-update", rank=more.rank)]
    even = more.most < EVENLY * more.least
    if more.moves and more.is_noise(found.gains) and even and whole and there.middle > back.middle:
        return [Transformation(kind="noise-added", sigma=round(more.moved, 4))]
    return []
