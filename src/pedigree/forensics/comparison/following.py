"""Matrices of two models side by side, and what their directions say: survival, share, additions, votes, gains.

Matrices that are equal but for gains, or hardly moved beside the others, take no part where others did: what was frozen
before anything was learned is equal in any two trainings of one start, and would make them look like parent and child.

Shapes: N = matched units, U = units, D = residual width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pedigree.forensics.comparison.direction import additive_vote
from pedigree.forensics.comparison.findings import CLEAR_LOG10_P, Findings
from pedigree.forensics.descent.additions import SAME, Additions, AdditionsMeter
from pedigree.forensics.descent.folded_gains import folded_side, same_gains_folded
from pedigree.forensics.descent.gains import LearnedGains, compare_gains
from pedigree.forensics.descent.origin import RAW, OriginEvidence, learned_apart, weigh_origin
from pedigree.forensics.descent.share import UNMOVED, ShareMeter, moved_beyond_gains
from pedigree.forensics.descent.survival import (
    FOREIGN,
    LONGER,
    MIN_DIRECTIONS,
    SEEN_LEARNING,
    SurvivalMeter,
    bulk_ratio,
)
from pedigree.forensics.descent.untouched_rows import untouched_rows
from pedigree.forensics.frames.ladder import TABLES
from pedigree.forensics.frames.turned_planes import planes_side_by_side
from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitKind, UnitSet
from pedigree.forensics.units.unit_map import UnitMap

SURVIVAL_LAYERS = 12
"""Layers that take part in the survival test, spread over the depth."""


STILLER = 0.2
"""Part of the way of the others up to which a matrix that moved takes no part beside them."""

LEAST_MATRICES = 12
"""Matrices that have to be followed where files hold some units of each layer, and these in another order: averages
over fewer, of narrow models, are those of a few dozen directions (a run over one text in one order, told by all of its
fourteen matrices, passed for a descendant by eight of them)."""

FEWEST_MATRICES, SURER = 6, 1.5
"""Matrices of which half as many do, and the log-odds beyond the threshold of descent that these have to reach."""

ALIKE = 0.1
"""Cosine of two matrices from which one has something of the other; of independent ones of 48 rows and columns it is
0.02 by chance, of larger ones less."""


_UNITS = re.compile(r"\.(attn|mlp)\.")
"""In names of matrices that are laid side by side."""


class _Meters:
    """Everything that is measured on matrices side by side."""

    def __init__(self) -> None:
        self.forward, self.backward = SurvivalMeter(), SurvivalMeter()
        self.share, self.additions = ShareMeter(), AdditionsMeter()
        self.votes: list[int] = []

    def add(self, x_ND: Tensor, y_ND: Tensor) -> None:
        """Take in a matrix of A and one of B."""
        self.forward.add(x_ND, y_ND)
        self.backward.add(y_ND, x_ND)
        self.share.add(x_ND, y_ND)
        self.additions.add(x_ND, y_ND)
        self.votes.append(additive_vote(x_ND, y_ND))

    def take(self, other: _Meters) -> None:
        """Add what others took in."""
        self.forward.take(other.forward)
        self.backward.take(other.backward)
        self.share.take(other.share)
        self.additions.take(other.additions)
        self.votes += other.votes

    @property
    def speaks(self) -> bool:
        """Whether anything of one model is in the other."""
        kept = self.forward.result(), self.backward.result()
        return any(one is not None and one.middle >= FOREIGN for one in kept)


def follow_directions(a: Side, b: Side, found: Findings) -> None:
    """Fill in survival, share, additions, votes and gains of the layers that the map lays side by side."""
    moved, still = _moved_and_still(_of_one_size(matched_matrices(a, b, found)))
    meters = moved if moved.speaks or still.forward.result() is None else still
    found.forward, found.backward = meters.forward.result(), meters.backward.result()
    found.share, found.additions = meters.share.result(), meters.additions.result(a, b)
    found.additive = (meters.votes.count(1), meters.votes.count(-1))
    followed = set(_layers_followed(a, found))
    pairs = [i if j in followed else None for j, i in enumerate(found.layer_map)]
    found.gains = compare_gains(a, b, pairs, found.evidence.gauge)
    in_order = found.evidence.gauge.keeps_channels
    if in_order and (a.sample.max_units is None or origin_of(found).origin != "descent"):
        found.folded = folded_side(a, b, pairs, found.unit_maps, found.evidence.gauge)
        if found.folded is not None or _may_have_begun_anew(a, b, found.gains):
            found.gains = None
    if found.gains is not None and gains_began_anew(found):
        found.gains, found.gains_anew = None, True
    if found.gains is None and found.additions is not None and found.additions.moves and found.additions.is_white:
        alike = same_gains_folded(a, b, pairs, found.unit_maps, found.evidence.gauge)
        found.additions = replace(found.additions, folded_alike=alike)
    if found.evidence.gauge.is_trivial and origin_of(found).origin != "descent":
        found.untouched = untouched_rows(a, b, found.tokens)


def _moved_and_still(pairs: Iterator[tuple[Tensor, Tensor]]) -> tuple[_Meters, _Meters]:
    """What was measured on matrices that moved, and on those that did not, or hardly beside the others.

    A part that two models of one start were both given, or never trained, lives on whole in either, also where one was
    rounded or tuned a little since. Averaged with what was trained apart it would make the whole a descendant.
    """
    each: list[tuple[float, _Meters]] = []
    ways: list[float] = []
    for x_ND, y_ND in pairs:
        meters = _Meters()
        meters.add(x_ND, y_ND)
        each.append((moved_beyond_gains(x_ND, y_ND), meters))
        if float((x_ND * y_ND).sum()) > ALIKE * float(x_ND.norm() * y_ND.norm()):
            ways.append(each[-1][0])
    far = sorted(ways)[3 * len(ways) // 4] if ways else 0.0
    moved, still = _Meters(), _Meters()
    for way, meters in each:
        (moved if way >= max(UNMOVED, STILLER * far) else still).take(meters)
    return moved, still


LIVES_ON = 0.9
"""Top over middle, either way, from which what both learned lives on in both. Trainings apart from one start whose
gains have nothing in common have 0.85 at most on one side, where learning is seen on both."""


def gains_began_anew(found: Findings) -> bool:
    """Whether gains have nothing in common though all that was learned, and can be seen on both sides, lives on either
    way: what is the same in matrices was not learned apart, so one model's gains were folded away, or drawn anew, and
    those that it learned since say nothing. Small gains are too faint in the scale of columns (`folded_gains.py`)."""
    forward, backward = found.forward, found.backward
    if forward is None or backward is None or not learned_apart(found.gains):
        return False
    both = forward, backward
    return all(one.ratio >= LIVES_ON and one.excess >= SEEN_LEARNING for one in both)


def _may_have_begun_anew(a: Side, b: Side, gains: LearnedGains | None) -> bool:
    """Whether norms of two kinds, or places, have gains that do not agree: a converted model learns new ones."""
    converted = (a.anatomy.norm, a.anatomy.norm_placement) != (b.anatomy.norm, b.anatomy.norm_placement)
    return converted and learned_apart(gains)


def origin_of(found: Findings) -> OriginEvidence:
    """Start or descent of the body, by everything that was measured.

    Rows that were handed down open a question that was settled otherwise; they settle none, since two models of one
    seed may both have begun with somebody's table.
    """
    gainless = found.gains is None and found.evidence.gauge.keeps_channels
    told = weigh_origin(
        found.forward, found.backward, found.share, found.gains, found.additions,
        faint=bool(found.carried), gainless=gainless, by_tokens=found.evidence.gauge.by_tokens,
    )  # fmt: skip
    if _is_rounded_copy(found):
        return replace(told, origin="descent")
    is_doubtful = told.origin == "start" and found.evidence.gauge.by_tokens
    if (found.reordered or is_doubtful) and _followed_by_few(found, told):
        return replace(told, origin="unknown")
    if told.origin == "descent" and _only_drawn_alike(found, told):
        return replace(told, origin="unknown")
    if told.origin == "start" and found.untouched is not None and found.untouched.told:
        return replace(told, origin="unknown")
    return told


def _followed_by_few(found: Findings, told: OriginEvidence) -> bool:
    """Whether too few matrices were followed for an average; a copy of what was learned needs none, and what is far
    beyond the threshold half as many."""
    if found.forward is None:
        return True
    is_copy = found.additions is not None and not found.additions.moves and told.learned >= SEEN_LEARNING
    is_sure = found.forward.matrices >= FEWEST_MATRICES and told.beyond >= SURER
    return found.forward.matrices < LEAST_MATRICES and not is_copy and not is_sure


def _only_drawn_alike(found: Findings, told: OriginEvidence) -> bool:
    """Whether what the two have in common was never trained, and equal, while other parts differ: a formula or one seed
    gives the same numbers in models that have nothing else in common."""
    additions = found.additions
    if additions is None or found.bits is None or not found.bits.different:
        return False
    equal = additions.untrained and not additions.moves and told.learned < RAW
    return equal and not _differ_as_one(found, additions)


def _differ_as_one(found: Findings, additions: Additions) -> bool:
    """Whether all that differs does so by order or frame alone, tables too: then no part was trained beside equal ones
    that two models may have been drawn with. A first step moves all parts alike as well, by more than arithmetic."""
    return additions.moved < SAME and _moved_alike(found, additions, SAME)


def _is_rounded_copy(found: Findings) -> bool:
    """Whether one of two models that were never trained is the other one rounded to a grid, tables too. No training
    leaves all numbers in order."""
    additions = found.additions
    if additions is None or additions.moves or not found.rounded or not found.in_order:
        return False
    return _moved_alike(found, additions, 2.0 * additions.moved)


def _moved_alike(found: Findings, additions: Additions, most: float) -> bool:
    """Whether nothing differs but matrices that were laid side by side, and tables, by no more than `most`."""
    if not additions.both_untrained or found.bits is None:
        return False
    names = found.bits.different
    plain = all(name in TABLES or (_UNITS.search(name) and "bias" not in name) for name in names)
    return plain and all(found.tables_apart.get(role, math.inf) < most for role in TABLES if role in names)


def _of_one_size(pairs: Iterator[tuple[UnitKind, Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same matrices without their kind, B's made as long as A's where a factor lies between their random bulks that
    no training leaves: one start drawn at two sizes has it, and in lengths as they are everything would live on."""
    for _, x_ND, y_ND in pairs:
        if min(x_ND.shape) >= MIN_DIRECTIONS:
            ratio = bulk_ratio(x_ND, y_ND)
            if abs(math.log(ratio)) > math.log(LONGER):
                y_ND = y_ND / ratio
        yield x_ND, y_ND


def matched_matrices(
    a: Side, b: Side, found: Findings, most_moved: float = 0.4
) -> Iterator[tuple[UnitKind, Tensor, Tensor]]:
    """Projections of both models in one frame with rows in the same order, with their kind, one pair after the other.

    Where units stand in place all of them are taken: keeping only those that match would hide what has died.
    Where they were moved, the matched ones are taken, each with A's sign, and with A's length where theirs was changed
    by more than training does. Of several layers of B that came from one layer of A the most alike is taken.

    Args:
        a, b, found: the pair.
        most_moved: share of matched units in other places up to which all units are taken where they stand.
    """
    layers = _layers_followed(a, found)
    for j in layers:
        i = found.layer_map[j]
        for kind in ("ffn", "qk") if a.sample.by_tokens else kinds_that_stand(found):
            left = None if i is None else a.units(kind, i)
            right = b.units(kind, j)
            if left is None or right is None or (a.sample.by_tokens and not found.hit(kind, j)):
                continue  # where tokens name the coordinates other units of a layer may stand in another order
            if found.reordered and kind == "ffn":
                continue  # of few units those that agree would be taken, and what has died would be hidden
            if a.sample.by_tokens and kind == "qk":
                aligned = _aligned_planes(left, right)
            else:
                aligned = _aligned_rows(left, right, found, j, most_moved)
            for x_ND, y_ND in aligned:
                yield kind, x_ND, y_ND


def kinds_that_stand(found: Findings) -> tuple[UnitKind, ...]:
    """The kinds of units that can be laid side by side. Whoever turned the stream and rescaled units may have mixed the
    dimensions of heads; side by side they look dead."""
    disguised = not found.evidence.gauge.is_trivial and any(_is_rescaled(u) for u in found.unit_maps.values())
    return ("ffn",) if disguised else ("ffn", "vo", "qk")


def _layers_followed(a: Side, found: Findings) -> list[int]:
    """Layers of B that are laid beside A's, spread over the depth."""
    layers = layers_once(found)
    most = SURVIVAL_LAYERS if a.sample.max_units is None else SURVIVAL_LAYERS // 2
    return layers if len(layers) <= most else [layers[(k * len(layers)) // most] for k in range(most)]


def layers_once(found: Findings) -> list[int]:
    """Layers of B with an origin; of copies of one layer the one that agrees most with it."""

    def agreement(j: int, i: int) -> float:
        return max((float(np.nan_to_num(grid.effect_IJ[i, j])) for grid in found.evidence.grids.values()), default=0.0)

    best: dict[int, int] = {}
    for j, i in enumerate(found.layer_map):
        if i is not None and (i not in best or agreement(j, i) > agreement(best[i], i)):
            best[i] = j
    return sorted(best.values())


RESCALED = 0.3
"""Natural logarithm of the length of a unit against its origin's from which it counts as rescaled: a GLU lets up and
down be scaled against each other, and copies share what they write."""

UNEVEN = 0.08
"""Deviation of that logarithm from which all units of a layer count as rescaled; training moves it less."""


def _aligned_planes(left: UnitSet, right: UnitSet) -> Iterator[tuple[Tensor, Tensor]]:
    """Planes of queries and keys with heads in A's order, at its angles and lengths, as rows of their own."""
    for x_PW, y_PW in planes_side_by_side(left, right):
        y_PW = y_PW * _lengths(x_PW, y_PW)
        width = left.width
        yield torch.cat([x_PW[:, :width], x_PW[:, width:]]), torch.cat([y_PW[:, :width], y_PW[:, width:]])


def _lengths(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """Factors that give rows of B the lengths of A's where theirs were changed by more than training does, [N, 1]."""
    length_N1: Tensor = x_ND.norm(dim=1, keepdim=True) / y_ND.norm(dim=1, keepdim=True).clamp_min(1e-30)
    log_N1 = length_N1.clamp_min(1e-30).log()
    if float((log_N1 - log_N1.median()).abs().median()) < UNEVEN:
        length_N1 = torch.where(log_N1.abs() > RESCALED, length_N1, 1.0)
    return length_N1


def _aligned_rows(
    left: UnitSet, right: UnitSet, found: Findings, j: int, most_moved: float
) -> Iterator[tuple[Tensor, Tensor]]:
    names = [n for n in left.names if n in right.names]
    carry = found.evidence.gauge.carry
    units = found.unit_maps.get(j) if left.kind == "ffn" else None
    same = left.count == right.count and bool((left.index_U == right.index_U).all())
    rows_N: Tensor | None = None
    if found.carried:
        in_place = True
    elif left.kind == "ffn":
        matched = units is not None and bool(units.matched_N.any())
        in_place = (units is not None and units.in_place_share > 1.0 - most_moved) or not (
            matched or found.evidence.gauge.by_tokens
        )
    else:
        in_place = same and bool(names) and dimensions_stand(carry(left.rows(names[0])), right.rows(names[0]))
        if in_place:
            rows_N = _of_heads_that_stand(carry(left.rows(names[0])), right.rows(names[0]), right.label_U)
    standing = found.log10_p("body-signs") <= CLEAR_LOG10_P
    if same and in_place and (standing or found.hit(left.kind, j)) and not (units is not None and _is_rescaled(units)):
        pick_N = _followed_rows(left)
        if rows_N is not None:
            pick_N = rows_N if pick_N is None else pick_N[torch.isin(pick_N, rows_N)]
        for name in names:
            yield carry(left.rows(name, pick_N)), right.rows(name, pick_N)
        return
    if units is None or int(units.matched_N.sum()) < MIN_DIRECTIONS or not found.hit("ffn", j):
        return
    hit_N = torch.nonzero(units.matched_N).flatten()
    hit_N = hit_N[spread_evenly(len(hit_N), _most_followed(left, len(hit_N)))]
    for name in names:
        x_ND = carry(left.rows(name, units.origin_N[hit_N]))
        y_ND = right.rows(name, hit_N)
        sign_N1 = torch.sign((x_ND * y_ND).sum(1, keepdim=True))
        yield x_ND, y_ND * sign_N1 * _lengths(x_ND, y_ND)


WIDEST_FOLLOWED, FOLLOWED_ROWS = 2048, 1024
"""Width beyond which only so many rows of a matrix are followed: decomposing all of them would take minutes and
gigabytes for each, and a thousand rows of every projection of a dozen layers say the same."""


MOST_FOLLOWED = 1 << 24
"""Numbers of a matrix that are followed at most: a mixture has a hundred thousand units in a layer."""


def _most_followed(units: UnitSet, count: int) -> int | None:
    """How many of so many rows are followed, None for all of them."""
    if min(units.width, count) > WIDEST_FOLLOWED:
        return FOLLOWED_ROWS
    return None if count * units.width <= MOST_FOLLOWED else MOST_FOLLOWED // units.width


def _followed_rows(units: UnitSet) -> Tensor | None:
    """Places of the rows that are followed, None for all of them."""
    most = _most_followed(units, units.count)
    return None if most is None else spread_evenly(units.count, most)


RESCALED_SPREAD, NEGATED_SHARE = 0.35, 0.1
"""Spread of log lengths (octaves of a disguise; training leaves less than 0.2) and share of negated units above which
rows of units are compared with A's lengths and signs."""


def _is_rescaled(units: UnitMap) -> bool:
    """Whether units were negated or rescaled one by one, which leaves the function and spoils rows side by side."""
    hit_N = units.matched_N
    if int(hit_N.sum()) < MIN_DIRECTIONS:
        return False
    negated = float((units.sign_N[hit_N] < 0).float().mean())
    spread = float(units.log_scale_N[hit_N].nan_to_num(0.0).std())
    return negated > NEGATED_SHARE or spread > RESCALED_SPREAD


STANDING_SHARE = 0.3
"""Share of dimensions of attention whose nearest is the one in its place, above which heads were not moved."""


def dimensions_stand(a_UD: Tensor, b_UD: Tensor) -> bool:
    """Whether dimensions of attention stand where they stood; moved heads, laid side by side, would look like death."""
    return float(_stands(a_UD, b_UD).float().mean()) > STANDING_SHARE


def _of_heads_that_stand(a_UD: Tensor, b_UD: Tensor, label_U: Tensor) -> Tensor | None:
    """Rows of the heads that stand where they stood; None where all do. Of four heads in another order one or two may
    keep their places by chance; beside others' rows the rest would look dead."""
    labels, head_U = torch.unique(label_U, return_inverse=True)
    heads = len(labels)
    stands_H = torch.zeros(heads).index_add_(0, head_U, _stands(a_UD, b_UD).float())
    share_H = stands_H / torch.bincount(head_U, minlength=heads)
    kept_H = share_H > STANDING_SHARE
    return None if bool(kept_H.all()) else torch.nonzero(kept_H[head_U]).flatten()


def _stands(a_UD: Tensor, b_UD: Tensor) -> Tensor:
    """Dimensions of A whose nearest one of B is the one in its place, [U]."""
    a_UD, b_UD = unit_rows(a_UD), unit_rows(b_UD)
    nearest_U = torch.cat([(part_KD @ b_UD.T).abs().argmax(dim=1) for part_KD in torch.split(a_UD, 2048)])
    return nearest_U == torch.arange(len(nearest_U))
