"""Units agree: could a framer have brought it about?

Of a large model 64 or 192 units of each layer are read, at positions that anybody can work out. Whoever holds an
innocent model may turn its residual stream so that just these resemble a victim's: a rotation of d coordinates can lay
about d directions over others, and there are hardly more of them in the sample. Their agreement under a frame, however
large its standard score, is then no evidence (docs/LOG.md, 2026-11-29). So a relation that was read off a sample has to
hold without any frame, too: the inner products among units read from A have to be those among their partners in B, with
every choice of partners and signs paid for (`exact/gram_agreement.py`).

The same holds of models that were read whole where only some layers agree: a rotation that is spent on one layer lays
its units over another's at a cosine of 0.3 in 256 dimensions.

Rows are whitened where a layer has twice as many units as they have coordinates; where it has not, choices count four
times instead. Attention is not put to this test: its dimensions may be mixed inside a head.

Shapes: U = units, V = projections, D = residual width, K = pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.gram_agreement import CARD, MARGIN, GramMeter, log_pairings
from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.linear import mean_row
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitSet
from pedigree.forensics.units.shared_units import UnitRows, can_be_whitened, first_of_copies
from pedigree.forensics.units.tables import Tables

MOST_ROWS = 1536
"""Rows that take part: their inner products cost a second at a width of 4,096, and say more than is needed."""

EVERY_ROW = 1 << 40

BARE_MARGIN = 4.0
"""Choices count so often where rows are not whitened; an optimizer used 2.1 times the bound there."""

WHOLE_LAYERS = 3
"""Layers of B that are read whole where the units of its sample do not stand in A's places."""

SURE_LOG10_P = -20.0
"""Units in their places that reach this need no other partners."""

LEAST_COSINE = 0.3
"""Agreement in the common frame below which two units are not taken for partners."""


@dataclass(frozen=True)
class _Reading:
    """How partners are looked for and their rows taken.

    Attributes:
        a, b: rows of both models.
        layers: how many pairs of layers share the rows.
        tables: unit tables by which partners are found; None for units in their places.
        white: whether rows are whitened.
        most: rows altogether.
    """

    a: UnitRows
    b: UnitRows
    layers: int
    tables: Tables | None
    white: bool
    most: int


def read_units_agree(a: Side, b: Side, pairs: Sequence[tuple[int, int]], tables: Tables | None) -> TestOutcome:
    """Gram agreement of the units that were read, in their places, or where they were found.

    Args:
        a, b: the two models.
        pairs: (layer of A, layer of B) that agree.
        tables: unit tables under the frame that was found; None where frames were not looked for.
    """
    rows_a, rows_b = UnitRows(a), UnitRows(b)
    best = TestOutcome.not_applicable(CARD, "no layer has units to compare")
    # What says most for its cost comes first; whitening decomposes a matrix for each layer and projection.
    tries = [(False, MOST_ROWS, False), (True, MOST_ROWS, False)]
    if can_be_whitened(a, b):
        tries += [(moved, most, True) for most in (MOST_ROWS, EVERY_ROW) for moved in (False, True)]
    for moved, most, white in tries:
        if moved and tables is None:
            continue
        chosen, where = list(pairs), tables if moved else None
        if where is not None and a.sample.max_units is not None:
            # Two samples of reordered units have few in common, so some layers of B are read whole.
            wanted = min(WHOLE_LAYERS, len(pairs))
            chosen = [pairs[(2 * k + 1) * len(pairs) // (2 * wanted)] for k in range(wanted)]
            where = where.with_whole([*where.whole, *(j for _, j in chosen)])
        reading = _Reading(rows_a, rows_b, len(chosen), where, white, most)
        meter, choices = GramMeter(), b.n_layers * math.log(a.n_layers + 1)
        for i, j in chosen:
            choices += _add(meter, reading, i, j)
        outcome = meter.outcome(choices, MARGIN if white else BARE_MARGIN)
        if outcome.applicable and (best.log10_p is None or (outcome.log10_p or 0.0) < best.log10_p):
            best = outcome
        if (best.log10_p or 0.0) < SURE_LOG10_P:
            break
    b.forget_whole_units()
    return best


def _add(meter: GramMeter, reading: _Reading, i: int, j: int) -> float:
    """Take in partners of a pair of layers; the choices that there were for them."""
    a, b = reading.a, reading.b
    left, right = a.units(i), b.units(j)
    if left is None or right is None:
        return 0.0
    sampled = b.side.sample.max_units is not None
    moved = reading.tables is not None
    names = [n for n in left.names if n in right.names and (not (moved and sampled) or n != "down")]
    most = max(8, reading.most // (reading.layers * max(1, len(names))))
    if reading.tables is None:
        found: Partners | None = _in_place(left, right, most)
    else:
        found = _found_again(reading.tables, i, j, most)
    if found is None or len(found[0]) < 2 or not names:
        return 0.0
    rows_K, index_K, label_K, sign_K = found
    a_KVD = torch.stack([_take(reading, a, i, name, rows_K) for name in names], dim=1)
    if moved and sampled:
        read = b.side.ffn_rows(j, names, index_K, label_K)
        means = [mean_row(right.rows(name)) for name in names]
        b_KVD = torch.stack([unit_rows(rows_KD - m) for rows_KD, m in zip(read, means, strict=True)], dim=1)
    else:
        there_K = _rows_of(right, index_K, label_K) if moved else index_K
        b_KVD = torch.stack([_take(reading, b, j, name, there_K) for name in names], dim=1)
    b_KVD[:, 1:] *= sign_K[:, None, None]
    once_K = first_of_copies(a_KVD) & first_of_copies(b_KVD)
    meter.add(a_KVD[once_K], b_KVD[once_K])
    return log_pairings(left.total, right.total, int(once_K.sum()))


def _take(reading: _Reading, rows: UnitRows, layer: int, name: str, pick_K: Tensor) -> Tensor:
    return rows.white(layer)[name][pick_K] if reading.white else rows.some(layer, name, pick_K)


def _rows_of(units: UnitSet, index_K: Tensor, label_K: Tensor) -> Tensor:
    """Rows of a unit set at given positions of given experts."""
    place = {pair: row for row, pair in enumerate(zip(units.label_U.tolist(), units.index_U.tolist(), strict=True))}
    return torch.tensor([place[pair] for pair in zip(label_K.tolist(), index_K.tolist(), strict=True)])


Partners = tuple[Tensor, Tensor, Tensor, Tensor]
"""Rows of A's sample; where their partners stand (rows of B's sample, or positions), their experts and signs."""


def _in_place(left: UnitSet, right: UnitSet, most: int) -> Partners:
    n = min(left.count, right.count)
    rows_K = torch.nonzero((left.index_U[:n] == right.index_U[:n]) & (left.label_U[:n] == right.label_U[:n])).flatten()
    kept = min(most, len(rows_K))
    rows_K = rows_K[(torch.arange(kept) * len(rows_K)) // max(1, kept)]
    return rows_K, rows_K, right.label_U[rows_K], torch.ones(len(rows_K))


def _found_again(tables: Tables, i: int, j: int, most: int) -> Partners | None:
    """Units of A's sample and their nearest under the frame, where both are each other's."""
    if tables.streamed:
        return _walked_again(tables, i, j, most)
    left, right = tables.of_a("ffn", i), tables.of_b("ffn", j)
    if left is None or right is None or left.name != right.name:
        return None
    cos_MN = left.match_UD @ right.match_UD.T
    best = cos_MN.max(dim=1)
    mutual_M = (cos_MN.argmax(dim=0)[best.indices] == torch.arange(len(cos_MN))) & (best.values > LEAST_COSINE)
    rows_K = torch.nonzero(mutual_M).flatten()[:most]
    there_K = best.indices[rows_K]
    sign_K = torch.ones(len(rows_K))
    if "up" in left.confirm_UD and "up" in right.confirm_UD:
        along_K = (left.confirm_UD["up"][rows_K] * right.confirm_UD["up"][there_K]).sum(dim=1)
        sign_K = torch.where(along_K < 0, -1.0, 1.0)
    return rows_K, right.index_U[there_K], right.label_U[there_K], sign_K


TRIED_FOR_EACH = 8
"""Units of A that are looked up for each pair that is wanted of layers that are walked through."""


def _walked_again(tables: Tables, i: int, j: int, most: int) -> Partners | None:
    """The same of layers that are not held: the first units of A whose nearest in B have them for their nearest."""
    a, b = tables.walk("a", "ffn", i), tables.walk("b", "ffn", j)
    if a is None or b is None or a.units.names[0] != b.units.names[0]:
        return None
    pick_M = torch.arange(min(a.units.count, TRIED_FOR_EACH * max(64, most)))
    left = a.table(pick_M)
    there_M = b.nearest(left.match_UD)
    right = b.table(there_M)
    along_M = (left.match_UD * right.match_UD).sum(dim=1)
    mutual_M = (a.nearest(right.match_UD) == pick_M) & (along_M > LEAST_COSINE)
    rows_K = pick_M[mutual_M][:most]
    there_K = there_M[mutual_M][:most]
    sign_K = torch.ones(len(rows_K))
    if "up" in left.confirm_UD and "up" in right.confirm_UD:
        up_M = (left.confirm_UD["up"] * right.confirm_UD["up"]).sum(dim=1)
        sign_K = torch.where(up_M[mutual_M][:most] < 0, -1.0, 1.0)
    return rows_K, b.units.index_U[there_K], b.units.label_U[there_K], sign_K
