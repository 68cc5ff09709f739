"""What a known parent leaves of a model, compared with another candidate.

A merge of 20/80 hides its minor parent: seen beside it, four fifths of every number are noise. Where the major parent C
is at hand its part can be taken out, matrix by matrix and number by number, and the rest is the minor parent and
nothing else. No frame is fitted and no token is needed, so a vocabulary drawn afresh hides nothing here.

Question  Is what C does not explain of B kin of A?
Null      A is independent of B and of C. The rest is made of B and C alone, so A and the rest are an independent pair
          like any other, and every test of a comparison holds for them as it stands
Assumes   C is a model of its own: not made from A, B or both. Whoever has A and B can subtract one from the other and
          call the result C; nothing in the weights shows that in narrow models. So the word for A and B stays what it
          is, and the rest is told beside it
Source    least squares for each matrix; docs/guide/methods.md, measured in docs/LOG.md, 2026-11-30

It is asked only where B is kin of C, in one frame and order, and C is a stranger to A: else the rest would be A's for
what A shares with C. Gains and biases stay B's, since a gain near one holds no share that could be told; so gains say
nothing about start or descent here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from pedigree.forensics.comparison.bank import rest_error_rate
from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.comparison.likeness import likeness, share_in
from pedigree.forensics.comparison.record import log10_p
from pedigree.forensics.comparison.verdict import Judgment, judge
from pedigree.forensics.sides.sampling import WHOLE_MODEL_BYTES, spread_evenly
from pedigree.forensics.sides.side import Side
from pedigree.records.comparison import Rest
from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.remainder import Remainder, can_be_taken_out, may_lose_a_part

LEAST_COSINE = 0.1
"""Tensors of B and C that agree less, number by number, have no part taken out: a vocabulary that was drawn afresh."""

LEAST_PART = 0.5
"""Part of the numbers of matrices that has to lie in tensors from which something is taken out."""

ROWS = 512
"""Rows of a tensor that shares are fitted on where models are not read whole."""

KIN = ("related", "partly-related", "shared-initialization")

Look = Callable[[Checkpoint, Checkpoint], tuple[Side, Side, Findings, Judgment]]


def rest_of(a: Checkpoint, b: Checkpoint, c: Checkpoint, look: Look) -> Rest:
    """Compare A with what C leaves of B.

    Args:
        a, b: the pair.
        c: a model that B is kin of.
        look: measures and judges two models.

    Returns:
        the answer; without a word where C cannot be laid over B, or is no stranger to A.

    Raises:
        BudgetExceeded: the bytes of A or B run out.
    """
    between = look(a, c)[3].verdict
    if between != "unrelated":
        return Rest(why_not=f"this model and A are {between.replace('-', ' ')}: what of B is whose cannot be told")
    found_rest = _in_place(b, c) or _brought(b, c, look)
    if found_rest is None:
        return Rest(why_not="most matrices do not agree with this model's, as they stand or moved as B was")
    rest, taken, moved = found_rest
    left, right, found, _ = look(a, rest)
    found.gains = None
    judged = judge(left, right, found)
    share = None
    if judged.verdict in KIN:
        share = share_in(left, right, found) if moved else _share_of(a, rest, can_be_taken_out(rest, a))
    return Rest(
        verdict=judged.verdict,
        log10_p=log10_p(found, judged),
        score=found.evidence.best_z(),
        taken_out=None if taken is None else round(taken, 4),
        share=None if share is None else round(share, 4),
        moved=moved,
        error_rate=rest_error_rate(),
    )


Left = tuple[Remainder, float | None, bool]
"""What is left of B, how much of C was taken out, and whether C had to be moved first."""


def _in_place(b: Checkpoint, c: Checkpoint) -> Left | None:
    """B without what of C stands in its place; None where that is less than half of it."""
    shares = shares_in_place(b, c)
    if not _covers(b, shares):
        return None
    return Remainder(b, c, shares), sorted(shares.values())[len(shares) // 2], False


def _brought(b: Checkpoint, c: Checkpoint, look: Look) -> Left | None:
    """B without C moved as B was; None where it cannot be, or meets less than half of B."""
    theirs, mine, found, judged = look(c, b)
    alike = likeness(theirs, mine, found) if judged.verdict in KIN else None
    if alike is None:
        return None
    allowed = set(may_lose_a_part(b))
    shares = {name: 1.0 for name in alike.numbers.names if name in allowed}
    return (Remainder(b, alike.numbers, shares), alike.share, True) if _covers(b, shares) else None


def _covers(b: Checkpoint, names: Iterable[str]) -> bool:
    numbers = {name: math.prod(info.shape) for name, info in b.tensors.items() if len(info.shape) > 1}
    return sum(numbers[name] for name in names) >= LEAST_PART * sum(numbers.values()) > 0


def believed(model: str) -> str:
    """What an answer about the rest takes on trust, in words."""
    return f"whether {model} was made from the models it is held beside: its part is taken out as if it was not"


def shares_in_place(b: Checkpoint, c: Checkpoint) -> dict[str, float]:
    """How much of C's tensors is in B's, by least squares, of those that agree in place."""
    found = {}
    for name, mine, theirs in _side_by_side(b, c, can_be_taken_out(b, c)):
        product, length = float(mine @ theirs), float(theirs @ theirs)
        if product > LEAST_COSINE * math.sqrt(float(mine @ mine) * length) > 0.0:
            found[name] = product / length
    return found


def _share_of(a: Checkpoint, rest: Checkpoint, names: Iterable[str]) -> float | None:
    """How much of A's tensors is in the rest, the median; None where A's are named otherwise or stand elsewhere."""
    pairs = _side_by_side(rest, a, names)
    found = sorted(float(mine @ theirs) / max(float(theirs @ theirs), 1e-300) for _, mine, theirs in pairs)
    return found[len(found) // 2] if found and found[len(found) // 2] > 0.0 else None


def _side_by_side(b: Checkpoint, c: Checkpoint, names: Iterable[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Numbers of both models of each tensor, double precision; of large models those of some rows."""
    whole = max(b.meter.total, c.meter.total) <= WHOLE_MODEL_BYTES
    for name in names:
        pick = spread_evenly(b.tensors[name].shape[0], None if whole else ROWS)
        mine, theirs = (model.read_index(name, pick).double().flatten() for model in (b, c))
        yield name, mine, theirs
