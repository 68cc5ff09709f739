"""The place of each model below a known first one: whether it continues a model, or stands beside it.

Going from the first model downward, a model j that descends from `cur` either continues a child i of it or is another
child. With squared distances, which add up along branches, going over i is no detour for what continues i:

    gain = (d(cur, j) - d(i, j)) / d(cur, i)

is one for a continuation, and minus one where i and j have nothing in common but `cur`. In small models trained on
like texts it is neither: a later training undoes a part of the noise of the one before (0.5 and more), and a long
training passes every short one on like texts at some distance. So the gain is weighed together with

- who came first, and how short i's own way is: the shorter, the more of it may be shared by chance;
- the rows of weights, where models could be laid side by side: what continues i has moved by as much as i wherever i
  moved, another child moves in the same rows but by its own amounts (`CommonRows.kept_and_joint`);
- the cosine of both ways, where it is larger than children of one model were ever seen to have.

The weights are a logistic fit on the families of `experiments/trees.py` that are kept for development; the same fit
says how sure it is. Four things say more than it where they speak: a model that was only grown or cut is known by its
shape; rows that trainings did not move tell exactly who is no ancestor, and who has one in common (`handed_rows`), and
have the marks of every training that went over them (`worn_rows`); what was added by chance (noise, rounding) is told
exactly, too (`CommonRows.by_chance`); and beside what every training learns, in the bulk, a continuation has the whole
way of what it continues (`family_bulk`).

Shapes  N = models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pedigree.forensics.comparison.direction import ABSTAIN_BELOW
from pedigree.forensics.trees.family_rows import CHANCE, EXCLUDED
from pedigree.forensics.trees.kinship import SAME
from pedigree.forensics.trees.ways import Ways

Floats = npt.NDArray[np.float64]

OFFSET, PER_GAIN, PER_ODDS, PER_KEPT, PER_JOINT = -2.9, 4.0, 0.25, 2.4, 1.0
"""Log-odds that j continues i: offset, for each unit of gain, of log-odds that i came first, and of what is kept and
joint row by row."""

CHILDREN_SHARE, PER_MORE, WHOLE_GAIN = 0.6, 17.0, (0.5, 0.8)
"""Cosine of their ways up to which two children of one model were seen to learn alike, and log-odds for each unit above
it, where the gain is whole: two with an ancestor in common that is not among the models may share more, but not all."""

PAIRS_OFFSET, PAIRS_PER_GAIN = -2.3, 4.0
"""The same where models could not be laid side by side and only distances of pairs are known."""

BLUR = 0.15
"""Part of j's way by which the gain over a short way is uncertain."""

GAINS = (-1.0, 2.0)
"""Gains outside say no more than these: distances of a model of which little was matched are off."""

MOST_ODDS = 6.0
SHORT, PER_NOISE, BELIEVED = 0.01, 3.0, 2.5
"""Nobody else shares the way of a model that was rounded, or one so much shorter that no training can have made it:
there the gain is one or minus one but for noise, and a gain far beyond both is nothing but noise."""

WHOLE_PART, MORE_PART, PER_PART, LEAST_BULK, BESIDE_BULK = 0.76, 1.33, 30.0, 0.02, 0.25
"""In the bulk, the parts of i's way between which j continues it: continuations have 0.80 to 1.25, children of one
model up to 0.72 (57 and 118 triples), but those that were trained on one text in one order, one of them longer or
faster, go i's way and 0.4 of it once more. Log-odds for each unit; part of i's way that has to lie there; and the
weight of everything else beside it."""

MAY_BE_TEXT = 1.5
"""Most that the bulk says for a continuation where the cosine there is not above what children share: one that was
trained long on the text that another was trained on briefly has its whole way, too (cosine 0.52)."""

HANDED_DOWN = 4.0
"""Log-odds for a continuation where rows exclude that the two have nothing in common but the parent; what is left is an
ancestor of both that is not among the models."""

MARKS_LACKING = 5.0
"""Log-odds against a continuation without the marks of what it continues: 0.6 % of simulated continuations, and 72 % of
other children, look so (`worn_rows`)."""

MORE = 1.03
"""How many times as much, or as near, two models that grew together match."""

ROUNDS = 6
"""Times that every model is taken out and put in again, at most."""


@dataclass
class Placed:
    """Parents below one first model.

    Attributes:
        root: the first model.
        parents: of every other one.
        sure: log-odds that a model is below its parent rather than beside it; infinite below the root.
        order: how much more that is than log-odds that the parent is below it: seen from the parent's parent, the one
            on the way to the other came first. Of models that are not below the root itself.
        apart: pairs of which the second does not continue the first, since what continues it does not either.
        exact: models that continue their parent so that nothing but chance is left, seen from the one above it, or by
            rows that were handed down: the parent itself is where their ways part.
    """

    root: int
    parents: dict[int, int] = field(default_factory=dict)
    sure: dict[int, float] = field(default_factory=dict)
    order: dict[int, float] = field(default_factory=dict)
    exact: set[int] = field(default_factory=set)
    apart: set[tuple[int, int]] = field(default_factory=set)

    def children(self, of: int) -> list[int]:
        """In order of their numbers."""
        return sorted(j for j, parent in self.parents.items() if parent == of)

    def below(self, of: int) -> set[int]:
        """All that descends from a model, itself included."""
        return {of}.union(*(self.below(child) for child in self.children(of)))


def place(ways: Ways, odds_NN: Floats, root: int, merges: Mapping[int, tuple[int, ...]] | None = None) -> Placed:
    """Place every model below the root.

    Args:
        ways: squared distances on one scale.
        odds_NN: log-odds that the first came before the second, without what any shallower or smaller relative would
            have, a sibling as well as an ancestor (copies, grids).
        root: the first model.
        merges: models that lie between others, the nearest of those first: it hangs from that one, and none of them
            is below it.
    """
    known = dict(merges or {})
    out = Placed(root)
    order = sorted((j for j in range(len(ways)) if j != root), key=lambda j: _distance_first(ways, root, j))
    for j in order:
        _put(out, j, ways, odds_NN, known)
    for _ in range(ROUNDS):
        before, parted = dict(out.parents), len(out.apart)
        for j in order:
            _put(out, j, ways, odds_NN, known)
        _turn(out, order, ways, odds_NN, known)
        _part(out, order, ways, odds_NN, known)
        if out.parents == before and len(out.apart) == parted:
            break
    for j, parent in out.parents.items():
        if parent != root:
            above = out.parents[parent]
            there, back = (continues(above, *pair, ways, odds_NN) for pair in ((parent, j), (j, parent)))
            out.order[j] = there - back
            by_chance = (told_by_chance(above, parent, j, ways) or 0.0) > 0
            # Of a sibling whose rows stayed as in a parent that is not there, rows say the same; the pair may object.
            by_rows = odds_NN[parent, j] >= 0 and ways.handed(above, parent, j).follows
            if ways.reshaped(above, parent) or by_chance or by_rows:
                out.exact.add(j)
    return out


def _distance_first(ways: Ways, root: int, j: int) -> tuple[float, int, int]:
    """Nearest first; of models without a distance, those that were changed least in shape."""
    steps = sum(abs(new - old) for old, new in zip(ways.shapes[root], ways.shapes[j], strict=False))
    return ways.length(root, j) if ways.all_NN[root, j] > SAME else 0.0, steps, j


def _put(out: Placed, j: int, ways: Ways, odds_NN: Floats, known: Mapping[int, tuple[int, ...]]) -> None:
    """Give j the parent that its way down leads to; what hangs from j comes along."""
    mine = out.below(j) if j in out.parents else {j}
    if j in known and known[j][0] not in mine and (known[j][0] in out.parents or known[j][0] == out.root):
        out.parents[j], out.sure[j] = known[j][0], math.inf
        return
    made_of_j = {x for x, sources in known.items() if not mine.isdisjoint(sources)}
    at, sure = out.root, math.inf
    while True:
        ahead = [(at, i) for i in out.children(at)] + _merges_ahead(out, at, known)
        # Of two that were grown in one way each, a model that was grown in both matches the one it came from more, or
        # to the last digit.
        steps = [
            (
                min(continues(seen_from, i, j, ways, odds_NN) for seen_from in views),
                int(ways.matched_NN[i, j]), -float(ways.all_NN[i, j]), i,
            )
            for *views, i in ahead if i not in mine | made_of_j and (i, j) not in out.apart
        ]  # fmt: skip
        best = max(steps, default=(-math.inf, 0, 0.0, -1))
        if best[0] <= 0:
            break
        at, sure = best[3], best[0]
    out.parents[j], out.sure[j] = at, sure


def _turn(out: Placed, order: list[int], ways: Ways, odds_NN: Floats, known: Mapping[int, tuple[int, ...]]) -> None:
    """Let a model and its parent change places where either continues the other, and the pair and the model above both
    say together that it came first: who was put in earlier is a question of distances, and a training that undoes a
    part of the one before it comes back toward the first model."""
    for j in order:
        i = out.parents[j]
        if i == out.root or i in known or j in known:
            continue
        above = out.parents[i]
        there, back = (continues(above, *pair, ways, odds_NN) for pair in ((i, j), (j, i)))
        if back > 0 and there - back + float(odds_NN[i, j]) < 0:
            out.parents[j], out.sure[j] = above, out.sure[i]
            out.parents[i], out.sure[i] = j, back


def _part(out: Placed, order: list[int], ways: Ways, odds_NN: Floats, known: Mapping[int, tuple[int, ...]]) -> None:
    """Take a model out from below one that it does not continue: what continues it would continue both. A long training
    passes a short one on the same text; where children of the long one are known not to have gone that way, and say
    together more than that one step does, by a decision, the two stand side by side."""
    for k in order:
        i = out.parents[k]
        if i == out.root or i in known or k in known or ways.reshaped(out.parents[i], i):
            continue
        above = out.parents[i]
        beside = [x for x in out.children(above) if x != i and x not in known]
        left = [x for x in beside if continues(above, i, x, ways, odds_NN) <= 0]
        told = [continues(above, k, x, ways, odds_NN) for x in left]
        more = sum(max(0.0, odds) for odds in told) - max(0.0, continues(above, i, k, ways, odds_NN))
        if more >= ABSTAIN_BELOW:
            out.apart.add((i, k))


def _merges_ahead(out: Placed, at: int, known: Mapping[int, tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Merges of models that part at `at`, with the models from which they are seen. A merge has a part only of what
    either source learned, so that no way over a source leads to what continues it. That has the whole way to the merge,
    seen from both sources, which a descendant of one has not, and from where they part, which no other child has: seen
    from the sources alone, another child is as far as the merge."""
    below = {child: out.below(child) for child in out.children(at)}
    return [
        (at, *sources, x) for x, sources in sorted(known.items())
        if x in out.parents and all(any(s in ones for ones in below.values()) for s in sources)
        and not any(ones.issuperset(sources) for ones in below.values())
    ]  # fmt: skip


def continues(parent: int, i: int, j: int, ways: Ways, odds_NN: Floats) -> float:
    """Log-odds that j continues i, both being below `parent`, rather than standing beside it."""
    if ways.reshaped(parent, i):
        return MOST_ODDS if _has_the_shape(parent, i, j, ways) else -MOST_ODDS
    handed = ways.handed(parent, i, j)
    if handed.excludes or _lacks_layers(parent, i, j, ways) or ways.came_back(parent, i, j):
        return -MOST_ODDS
    odds = float(np.clip(odds_NN[i, j], -MOST_ODDS, MOST_ODDS))
    if handed.follows:
        odds = max(odds, 0.0)
    told = told_by_chance(parent, i, j, ways) if odds > -ABSTAIN_BELOW else None
    if told is None:
        told = _by_ways(parent, i, j, odds, ways)
    marks = ways.marks(parent, i, j)
    if marks is not None and marks.lacking:
        told -= MARKS_LACKING
    return told + HANDED_DOWN if handed.shares else told


def _by_ways(parent: int, i: int, j: int, odds: float, ways: Ways) -> float:
    """The same by who came first and by the ways from the parent alone."""
    d = ways.between(parent, i, j)
    way_i, way_j = max(float(d[0, 1]), 1e-300), max(float(d[0, 2]), 1e-300)
    gain = float(d[0, 2] - d[1, 2]) / way_i
    if way_i < SHORT * way_j or ways.rounded_NN[parent, i]:
        return PER_NOISE * float(gain) if abs(gain) <= BELIEVED else -BELIEVED
    if odds <= -ABSTAIN_BELOW:
        return -MOST_ODDS
    learned = _learned(parent, i, j, way_i, way_j, gain, odds, ways)
    bulk = ways.in_the_bulk(parent, i, j)
    if bulk is None or bulk.part < LEAST_BULK:
        return learned
    part = bulk.both / bulk.one
    most = MAY_BE_TEXT if bulk.cosine < CHILDREN_SHARE else MOST_ODDS
    told_there = float(np.clip(PER_PART * min(part - WHOLE_PART, MORE_PART - part), -MOST_ODDS, most))
    return min(told_there + BESIDE_BULK * learned, MOST_ODDS - 1.0)  # chance is surer


def _learned(parent: int, i: int, j: int, way_i: float, way_j: float, gain: float, odds: float, ways: Ways) -> float:
    """Log-odds that j continues i by what both learned, see the text of the module."""
    blurred = float(np.clip(gain * way_i / (way_i + BLUR * way_j), *GAINS))
    cosine = float(min(1.0, (gain + 1.0) / 2.0 * (way_i / way_j) ** 0.5))
    whole = float(np.clip((gain - WHOLE_GAIN[0]) / (WHOLE_GAIN[1] - WHOLE_GAIN[0]), 0.0, 1.0))
    more = PER_MORE * max(0.0, cosine - CHILDREN_SHARE) * whole
    rows = ways.kept_and_joint(parent, i, j)
    if rows is None:
        return PAIRS_OFFSET + PAIRS_PER_GAIN * blurred + PER_ODDS * odds + more
    kept, joint = (float(np.clip(value, *GAINS)) for value in rows)
    return OFFSET + PER_GAIN * blurred + PER_ODDS * odds + PER_KEPT * kept + PER_JOINT * joint + more


def told_by_chance(parent: int, i: int, j: int, ways: Ways) -> float | None:
    """Log-odds that j continues i where one of two histories leaves nothing but chance and the other is excluded by it;
    None elsewhere. The better a continuation fits, the more it is worth: of a model and its rounded copy the model is
    the one that was continued."""
    fits = ways.by_chance(parent, i, j)
    if fits is None:
        return None
    below, beside = fits
    if below.is_chance and beside.sum >= EXCLUDED:
        return MOST_ODDS - abs(below.sum) / CHANCE
    if beside.is_chance and below.sum <= -EXCLUDED:
        return -MOST_ODDS
    return None


def _has_the_shape(parent: int, i: int, j: int, ways: Ways) -> bool:
    """Whether j has what was put into i, which has nothing else that its parent has not, or lacks what i lacks.

    Another model may have grown in the same way: then no more layers of it match i than match the parent, and units
    that were put in are further from those of i.
    """
    shapes = zip(ways.shapes[parent], ways.shapes[i], ways.shapes[j], strict=False)
    if any((new - old) * (other - new) < 0 for old, new, other in shapes):
        return False
    if ways.shapes[i] != ways.shapes[j]:
        return True
    both, alone = int(ways.matched_NN[i, j]), int(ways.matched_NN[parent, j])
    if ways.shapes[i][0] > ways.shapes[parent][0]:
        return both > MORE * alone
    near, far = float(ways.all_NN[i, j]), float(ways.all_NN[parent, j])
    return MORE * both >= alone and near <= MORE * far


def _lacks_layers(parent: int, i: int, j: int, ways: Ways) -> bool:
    """Whether j has just as many layers as the parent, and i more: layers that were put in and trained are not taken
    out again one for one. (Units are: a wider block may be pruned to a size that it had.)"""
    before, grown, there = (ways.shapes[k][:1] for k in (parent, i, j))
    return grown > before == there


def common(parent: int, j: int, k: int, ways: Ways) -> float:
    """Cosine of the ways from the parent to two models."""
    d = ways.between(parent, j, k)
    return float((d[0, 1] + d[0, 2] - d[1, 2]) / 2 / max(d[0, 1] * d[0, 2], 1e-300) ** 0.5)
