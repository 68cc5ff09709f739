"""Units that two models share although the models as wholes do not agree, and whether a framer could have made it so.

Two questions, both asked only where the held-out score of whole layers sees nothing, both decided by Gram agreement
(`exact/gram_agreement.py`), which no choice of frame, order, sign or length can buy:

 1. Units in place. Every unit agrees a little with the one at its position: the minor parent of a merge in a narrow
    model, or relatives between whose frames nothing leads.
 2. Kept units. A few units agree far beyond chance in a model that was drawn anew otherwise. A mean over a layer cannot
    see them. A single pair can be extreme by itself: in 3 d dimensions a cosine of 0.9 has p below 10^-30 after the
    number of pairs was paid for. Such pairs are only candidates: it is their inner products that are tested, with
    every choice of as many pairs paid for.

Shapes: U = units of a layer, M and N = units of a layer of A and of B, D = residual width, K = kept units.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.gram_agreement import CARD, LEAST_UNITS, MARGIN, GramMeter, log_pairings
from pedigree.forensics.exact.tails import LN10
from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.linear import symmetric_eigen
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitSet
from pedigree.forensics.units.matching import centered

VIEWS = ("gate", "up", "down")

WIDEST = 2048
"""Widest residual stream whose rows are whitened: beyond, the decompositions would take minutes."""

WHITE_ROWS = 2
"""Units of a layer for each dimension that whitening asks for; with fewer the second moment is mostly noise."""

MOST_NUMBERS = 150_000_000
"""Numbers of feed-forward units of both models that are kept a second time, as unit-length rows (0.6 GB)."""

CANDIDATE = -3.0
"""log10 p, the number of unit pairs paid for, below which two units are candidates for being one."""

FAINT, FAINT_SHARE = 0.5, 0.25
"""Pairs up to this log10 p are faint. Where there are more of them than this share of the candidates, units agree more
and less without a gap, as those of two trainings of one random start do: then it is not some units that were kept."""

ALONE = -12.0
"""The same for a candidate that is the only one of its pair of layers."""

COPY = 0.5
"""Units of one model that agree beyond this are copies (experts of one block, repeated layers); one of them counts."""

SCREEN_UNITS, SCREEN_Z = 256, 5.0
"""Units of each layer in the first look at units in place, and the standard score that asks for the second."""

SEEN_AGREEMENT, SEEN_LOG10_P = 0.7, -12.0
"""Correlation of inner products that units keep through about as much training as they had (0.75 to 0.8 on the
calibration families), and the p-value that has to be reached, for the detection limit."""

SEARCH_WORK = 1e11
"""Multiplications a search for kept units may take: a few seconds. Pairs of layers of like number come first."""


@dataclass(frozen=True)
class KeptUnits:
    """Units that live on in a model otherwise drawn anew.

    Attributes:
        pairs: (layer of A, layer of B) to matched rows (unit of A, unit of B), [K, 2].
        outcome: Gram agreement of all of them, every choice of as many pairs paid for.
        searched, layer_pairs: pairs of layers that were searched, and that there are.
        units_b: feed-forward units of B.
        alone: whether the other units show nothing, in place at a first look or as faint pairs; else it is not few
            units that agree.
        least_share: share of B's units that would have been enough, had they agreed at `SEEN_AGREEMENT`.
    """

    pairs: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    outcome: TestOutcome | None = None
    searched: int = 0
    layer_pairs: int = 0
    units_b: int = 0
    least_share: float = 1.0
    alone: bool = True

    @property
    def count(self) -> int:
        """Kept units of all layers."""
        return sum(len(found) for found in self.pairs.values())


class UnitRows:
    """Feed-forward units of a side as unit-length rows, bare and whitened, made once."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._bare: dict[int, dict[str, Tensor]] = {}
        self._white: dict[int, dict[str, Tensor]] = {}

    def units(self, layer: int) -> UnitSet | None:
        """The units of a layer, None where it has none."""
        return self.side.units("ffn", layer)

    def some(self, layer: int, name: str, pick_K: Tensor) -> Tensor:
        """Bare rows of some units of one projection; those of the whole layer are not made where they are streamed."""
        units = self.units(layer)
        if units is None or not self.side.sample.streamed or layer in self._bare:
            return self.bare(layer)[name][pick_K]
        rows_KD = units.rows(name, pick_K)
        dead_K = ~rows_KD.any(dim=1)
        rows_KD = rows_KD - self.side.mean_unit(units, layer, name)
        rows_KD[dead_K] = 0.0
        return unit_rows(rows_KD)

    def bare(self, layer: int) -> dict[str, Tensor]:
        """Centered unit-length rows of each projection, [U, D]."""
        if layer not in self._bare:
            units = self.units(layer)
            self._bare[layer] = {} if units is None else {n: unit_rows(centered(units.rows(n))) for n in units.names}
        return self._bare[layer]

    def white(self, layer: int) -> dict[str, Tensor]:
        """The same, whitened within the layer and projection: no direction is more common than another."""
        if layer not in self._white:
            units = self.units(layer)
            names = () if units is None else units.names
            self._white[layer] = {
                name: unit_rows(whitened(centered(units.rows(name)))) for name in names if units is not None
            }
        return self._white[layer]


def whitened(rows_UD: Tensor, part: float = 1.0) -> Tensor:
    """Rows in a frame where their second moment is the identity; it turns with the residual stream.

    Directions in which trained rows are long are shared by any two models once a frame may be chosen; after whitening
    an optimizer gains no more on trained strangers than on numbers drawn at random.

    Args:
        rows_UD: the rows.
        part: how much of the way there to go, on the scale of logarithms; 0 leaves rows as they are.
    """
    wide = rows_UD.double()
    values_D, vectors_DD = symmetric_eigen(wide.T @ wide / max(1, len(wide)))
    scale_D = values_D.clamp_min(1e-6 * float(values_D[-1]) + 1e-300).pow(-0.5 * part)
    # Directions that no row has (what a LayerNorm removes) stay empty instead of becoming rounding made large.
    scale_D = torch.where(values_D > 1e-9 * float(values_D[-1]), scale_D, torch.zeros_like(scale_D))
    return ((wide @ vectors_DD) * scale_D @ vectors_DD.T).float()


def can_be_whitened(a: Side, b: Side) -> bool:
    """Whether both models were read whole, have enough units for their width, and fit into memory a second time."""
    numbers = 0
    for side in (a, b):
        if side.sample.max_units is not None or not side.sample.ladder or side.width > WIDEST:
            return False
        units = [side.units("ffn", j) for j in range(side.n_layers)]
        if not any(u is not None and u.count >= WHITE_ROWS * side.width for u in units):
            return False
        numbers += sum(u.count * side.width * len(u.names) for u in units if u is not None)
    return numbers <= MOST_NUMBERS


def _shared_views(a: dict[str, Tensor], b: dict[str, Tensor], least_a: int, least_b: int) -> list[str]:
    if not a or not b or len(next(iter(a.values()))) < least_a or len(next(iter(b.values()))) < least_b:
        return []
    names = [name for name in VIEWS if name in a and name in b]
    return names if len(names) >= 2 and ("gate" in a) == ("gate" in b) else []


def units_in_place(a: UnitRows, b: UnitRows, pairs: Iterable[tuple[int, int]]) -> TestOutcome:
    """Gram agreement of units that stand at the same position.

    Args:
        a, b: rows of both models.
        pairs: (layer of A, layer of B), each layer of A once.

    Returns:
        the outcome, every order and every sign of the units paid for; not applicable where a first look at some of the
        units sees nothing.
    """
    pairs = list(pairs)
    if _first_look(a, b, pairs) < SCREEN_Z:
        return TestOutcome.not_applicable(CARD, "units in place do not agree at a first look")
    meter, choices = GramMeter(), b.side.n_layers * math.log(a.side.n_layers + 1)
    for i, j in pairs:
        choices += _add_in_place(meter, a, b, i, j)
    return meter.outcome(choices)


def _first_look(
    a: UnitRows, b: UnitRows, pairs: Iterable[tuple[int, int]], without: Mapping[tuple[int, int], Tensor] | None = None
) -> float:
    """Standard score of units in place, some of each layer as they are, order and signs taken as drawn by chance.

    Args:
        a, b, pairs: as `units_in_place` takes them.
        without: units that take no part, (layer of A, layer of B) to rows (unit of A, unit of B).
    """
    meter = GramMeter()
    for i, j in pairs:
        left_out = {int(u) for place, found in (without or {}).items() if place[1] == j for u in found[:, 1]}
        _add_in_place(meter, a, b, i, j, SCREEN_UNITS, left_out)
    seen = meter.outcome(0.0)
    if not seen.applicable:
        return 0.0
    dims_a, dims_b = seen.extra["dimensions"]
    return float((seen.statistic - 1.0) * math.sqrt(dims_a * dims_b / 2.0))


def _add_in_place(
    meter: GramMeter, a: UnitRows, b: UnitRows, i: int, j: int, most: int | None = None,
    left_out: Collection[int] = (),
) -> float:  # fmt: skip
    """Take in the units of a pair of layers that stand at one position; the choices that a framer had for them."""
    left, right = a.units(i), b.units(j)
    if left is None or right is None:
        return 0.0
    rows_a, rows_b = (a.bare(i), b.bare(j)) if most else (a.white(i), b.white(j))
    names = _shared_views(rows_a, rows_b, WHITE_ROWS * a.side.width, WHITE_ROWS * b.side.width)
    n = min(left.count, right.count)
    same_N = (left.index_U[:n] == right.index_U[:n]) & (left.label_U[:n] == right.label_U[:n])
    same_N[[u for u in left_out if u < n]] = False
    kept_K = torch.nonzero(same_N).flatten()[:most]
    if not names or not len(kept_K):
        return 0.0
    a_KVD, b_KVD = _stack(rows_a, names, kept_K), _stack(rows_b, names, kept_K)
    if not most:
        single_K = first_of_copies(a_KVD) & first_of_copies(b_KVD)
        a_KVD, b_KVD = a_KVD[single_K], b_KVD[single_K]
    meter.add(a_KVD, b_KVD)
    return log_pairings(left.count, right.count, len(a_KVD))


def _stack(rows: dict[str, Tensor], names: list[str], pick_K: Tensor) -> Tensor:
    return torch.stack([rows[name][pick_K] for name in names], dim=1)


def first_of_copies(rows_KVD: Tensor) -> Tensor:
    """Units that are no copy of an earlier one: copies stand to each other alike in any model that has them."""
    copy_KK = _alike(rows_KVD, rows_KVD) > COPY
    single_K: Tensor = ~torch.tril(copy_KK, diagonal=-1).any(dim=1)
    return single_K


def _alike(a_KVD: Tensor, b_KVD: Tensor) -> Tensor:
    """Mean agreement of units over projections, the joint sign of all but the first being free."""
    cos_KK = a_KVD[:, 0] @ b_KVD[:, 0].T
    rest_KK = sum(a_KVD[:, v] @ b_KVD[:, v].T for v in range(1, a_KVD.shape[1]))
    alike_KK: Tensor = (cos_KK + torch.as_tensor(rest_KK).abs()) / a_KVD.shape[1]
    return alike_KK


def find_kept_units(a: UnitRows, b: UnitRows) -> KeptUnits:
    """Units of A that live on in B in any order, in a residual stream that kept its coordinates.

    Pairs of layers are searched from like numbers outwards until the work is spent.
    """
    if a.side.width != b.side.width:
        return KeptUnits()
    every = [(i, j) for i in range(a.side.n_layers) for j in range(b.side.n_layers)]
    every.sort(key=lambda pair: (abs(pair[0] - pair[1]), pair))
    counts = [
        (u.count if (u := rows.units(k)) is not None else 0) for rows in (a, b) for k in range(rows.side.n_layers)
    ]
    units_b = sum(counts[a.side.n_layers :])
    total = sum(counts[: a.side.n_layers]) * units_b
    pairs: dict[tuple[int, int], Tensor] = {}
    work, searched, faint = 0.0, 0, 0
    for i, j in every:
        names = _shared_views(a.bare(i), b.bare(j), WHITE_ROWS * a.side.width, WHITE_ROWS * b.side.width)
        if not names or total == 0:
            continue
        work += counts[i] * counts[a.side.n_layers + j] * a.side.width
        if work > SEARCH_WORK and searched:
            break
        searched += 1
        found_K2, more = _candidates(a.bare(i), b.bare(j), names, math.log10(total))
        faint += more
        if len(found_K2):
            pairs[i, j] = found_K2
    least = _least_share(a, b, counts[a.side.n_layers :]) if searched == len(every) else 1.0
    if not pairs:
        return KeptUnits({}, None, searched, len(every), units_b, least)
    kept, outcome = _verify(a, b, pairs)
    alone = _first_look(a, b, [(j, j) for j in range(min(a.side.n_layers, b.side.n_layers))], kept) < SCREEN_Z
    alone = alone and faint <= max(2.0, FAINT_SHARE * sum(len(found) for found in pairs.values()))
    return KeptUnits(kept, outcome, searched, len(every), units_b, least, alone)


def _least_share(a: UnitRows, b: UnitRows, counts_b: list[int]) -> float:
    """Smallest even share of B's units that the test would have called, at the agreement that training leaves."""
    live = [n for n in counts_b if n]
    views = len(_shared_views(a.bare(0), b.bare(0), 0, 0)) if a.side.n_layers and b.side.n_layers else 0
    n, dims = (max(live) if live else 0), a.side.width
    for kept in range(1, n + 1) if views else ():
        rows = kept * len(live) * views
        free = rows * (rows - 1) / 2.0 if rows <= dims else rows * (dims - 1.0) - dims * (dims - 1.0) / 2.0
        choices = len(live) * (log_pairings(n, n, kept) + math.log(n) + math.log(a.side.n_layers + 1))
        given = -0.5 * free * math.log1p(-(SEEN_AGREEMENT**2)) / LN10
        if kept * len(live) >= LEAST_UNITS and given - MARGIN * choices / LN10 >= -SEEN_LOG10_P:
            return kept / n
    return 1.0


def _candidates(a: dict[str, Tensor], b: dict[str, Tensor], names: list[str], log10_pairs: float) -> tuple[Tensor, int]:
    """Pairs of units that are each other's best and extreme among all pairs, [K, 2], and how many are faintly so."""
    first_MN = _nats((a[names[0]] @ b[names[0]].T).clamp_min(0.0), a[names[0]].shape[1])
    # All projections together have to be extreme; a unit whose first one bears less than an even part is passed over.
    enough = (log10_pairs - FAINT) * LN10 / len(names)
    rows_M = torch.nonzero(first_MN.amax(dim=1) > enough).flatten()
    if not len(rows_M):
        return torch.empty(0, 2, dtype=torch.long), 0
    cos_VMN = torch.stack([a[name][rows_M] @ b[name].T for name in names[1:]])
    each_VMN = _nats(cos_VMN, a[names[0]].shape[1])
    # A unit may have been negated, its up row and down column together: their signs have to agree.
    linked_MN = cos_VMN.sign().sum(dim=0).abs() == len(cos_VMN)
    total_MN = first_MN[rows_M] + torch.where(linked_MN, each_VMN.sum(dim=0), each_VMN.amax(dim=0))
    log10_MN = _gamma_log10(total_MN, len(names)) + log10_pairs
    best = log10_MN.min(dim=1)
    mutual_M = log10_MN.argmin(dim=0)[best.indices] == torch.arange(len(rows_M))
    strong_M = mutual_M & (best.values < CANDIDATE)
    faint = int((mutual_M & (best.values < FAINT) & ~strong_M).sum())
    if int(strong_M.sum()) == 1:
        strong_M &= best.values < ALONE
    return torch.stack([rows_M[strong_M], best.indices[strong_M]], dim=1), faint


def _nats(cosines: Tensor, dims: int) -> Tensor:
    """-ln of a bound on the chance of so large a cosine of directions drawn at random: (1 - c^2)^((D - 1) / 2), the
    area of a cap against that of the half sphere over its rim."""
    return -0.5 * (dims - 1) * torch.log1p(-cosines.square().clamp_max(1.0 - 1e-6))


def _gamma_log10(nats: Tensor, parts: int) -> Tensor:
    """log10 P(sum of `parts` unit exponentials >= nats)."""
    terms = sum(nats**k / math.factorial(k) for k in range(parts))
    log10: Tensor = (torch.as_tensor(terms).log() - nats) / LN10
    return log10


def _verify(
    a: UnitRows, b: UnitRows, pairs: dict[tuple[int, int], Tensor]
) -> tuple[dict[tuple[int, int], Tensor], TestOutcome]:
    """Gram agreement of candidates, in whitened rows, copies inside either model taken once."""
    stacks_a, stacks_b, where = [], [], []
    for (i, j), pairs_K2 in pairs.items():
        rows_a, rows_b = a.white(i), b.white(j)
        names = [name for name in VIEWS if name in rows_a and name in rows_b]
        a_KVD, b_KVD = _stack(rows_a, names, pairs_K2[:, 0]), _stack(rows_b, names, pairs_K2[:, 1])
        sign_K = (a_KVD[:, 1:] * b_KVD[:, 1:]).sum(dim=(1, 2)).sign()
        b_KVD[:, 1:] *= torch.where(sign_K < 0, -1.0, 1.0)[:, None, None]
        stacks_a.append(a_KVD)
        stacks_b.append(b_KVD)
        where += [(i, j)] * len(pairs_K2)
    views = min(stack.shape[1] for stack in stacks_a)
    a_KVD, b_KVD = (torch.cat([stack[:, :views] for stack in stacks]) for stacks in (stacks_a, stacks_b))
    single_K = first_of_copies(a_KVD) & first_of_copies(b_KVD)
    meter = GramMeter()
    meter.add(a_KVD[single_K], b_KVD[single_K])
    left = torch.cat(list(pairs.values()))[single_K]
    kept_where = [place for place, single in zip(where, single_K.tolist(), strict=True) if single]
    kept = {place: left[torch.tensor([w == place for w in kept_where])] for place in dict.fromkeys(kept_where)}
    # Which units, which of B's for each, its sign; and for each pair of layers which they are and how many were taken.
    choices = b.side.n_layers * math.log(a.side.n_layers + 1)
    for (i, j), found_K2 in kept.items():
        n_a, n_b = len(a.white(i)["up"]), len(b.white(j)["up"])
        choices += log_pairings(n_a, n_b, len(found_K2)) + math.log(n_a)
    return kept, meter.outcome(choices)
