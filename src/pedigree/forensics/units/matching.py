"""Unit matching between two layers, confirmed on projections that the match never saw.

Units of layer i of A are carried into B's frame and matched to units of layer j of B by one projection (the gate of a
GLU, the input of a plain MLP, V or K of attention). The match is then scored on the other projections of the same
units against the exact permutation distribution of that score. Independent models share neither; anything that keeps
the trained weights keeps both, in whatever order, scale or sign the units stand (forensics study, section 9.10).

Null      the units of B that were matched could have borne each other's held-out projections
Assumes   one residual frame (gauge); that a unit's projections are not all copies of one vector
Never     says who came first

Shapes: M = units of A, N = units of B, D = residual width of B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from pedigree.forensics.exact.assignment import permutation_z
from pedigree.forensics.sides.gauge import Gauge, unit_rows
from pedigree.forensics.sides.linear import mean_row, rounded_product, row_weights
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.views import UnitKind, UnitSet

MANY_NUMBERS = 1 << 22
ROWS_AT_ONCE = 512

COPY_COSINE = 0.9
"""Units of one layer whose matching directions agree beyond this are copies of one unit."""


PLAIN_UNITS = 256
"""Units of a table up to which it is looked at whether all of them are plain."""


TIED_REST = 1e-3
"""Share of a row's length below which what it holds beside the matched direction is rounding (bf16 numbers that were
tied are equal, and the frame turns them alike)."""


SAME_ROWS = 1e-5
"""Share of a row's length below which what is left of it without the mean row is rounding."""


@dataclass(frozen=True)
class Table:
    """Unit directions of one layer, centered and scaled to length one, ready to compare.

    Attributes:
        kind: which units.
        match_UD: directions matches are made on.
        confirm_UD: directions held out, by projection.
        name: projection of `match_UD`.
        index_U, label_U: position and expert (or head) of each unit.
        total: number of units of the layer.
        rounded: whether the nearest units are looked for in bfloat16.
    """

    kind: UnitKind
    match_UD: Tensor
    confirm_UD: dict[str, Tensor]
    name: str
    index_U: Tensor
    label_U: Tensor
    total: int
    rounded: bool = False

    @cached_property
    def searched_UD(self) -> Tensor:
        """`match_UD` in the number type in which the nearest units are looked for."""
        return self.match_UD.to(torch.bfloat16) if self.rounded else self.match_UD

    @cached_property
    def is_silent(self) -> bool:
        """Whether no unit has a held-out direction, as in blocks that were added without a function: such a table
        confirms nothing, and excludes nothing."""
        return not any(bool(x.any()) for x in self.confirm_UD.values())

    @cached_property
    def is_plain(self) -> bool:
        """Whether the table is of a sample in which no unit is a copy of another and no row is empty."""
        if len(self.match_UD) > PLAIN_UNITS:
            return False  # telling that would cost more than it saves
        alike_UU = (self.match_UD @ self.match_UD.T).abs() > COPY_COSINE
        alike_UU.fill_diagonal_(False)
        return not bool(alike_UU.any()) and all(bool(x.any(dim=1).all()) for x in self.confirm_UD.values())


@dataclass(frozen=True)
class MatchScore:
    """How well the units of two layers agree.

    Attributes:
        z: standard score of the held-out agreement under the permutation null.
        effect: held-out agreement above its null mean; 1 for a perfect copy, 0 for strangers.
        n: units of A that were matched.
    """

    z: float
    effect: float
    n: int


def make_table(
    units: UnitSet, gauge: Gauge, side: str, views: tuple[str, ...] | None = None, *, rounded: bool = False
) -> Table:
    """Directions of a unit set in B's frame.

    Args:
        units: units of one layer.
        gauge: the frame and the lens.
        side: "a" (rows are carried) or "b".
        views: which projections, the matching one first; all by default.
        rounded: look at rows, and search among them, in bfloat16, as units of sampled models are kept: that moves a
            cosine of theirs by less than a hundredth of what chance does.
    """
    names = views or units.names
    view = partial(gauge.view_a if side == "a" else gauge.view_b, rounded=rounded)
    # One projection after the other: the full-width rows of a whole layer are held only once.
    tables = {name: _see(units.views_UD[name], view) for name in names}
    match_UD = unit_rows(tables.pop(names[0]))
    # A unit's projections resemble each other; what they share with the matching one would confirm chance matches.
    confirm_UD = {name: unit_rows(_beside(rows_UD, match_UD)) for name, rows_UD in tables.items()}
    return Table(units.kind, match_UD, confirm_UD, names[0], units.index_U, units.label_U, units.total, rounded)


def _beside(rows_UD: Tensor, match_UD: Tensor) -> Tensor:
    """What rows hold beside the direction they were matched on; nothing where that is all they hold.

    Projections that are tied (queries that are keys, an up projection that began as the gate) leave rounding behind,
    which points where the matched direction points and would confirm any match.
    """
    rest_UD = rows_UD - (rows_UD * match_UD).sum(dim=1, keepdim=True) * match_UD
    rest_UD[rest_UD.norm(dim=1) < TIED_REST * rows_UD.norm(dim=1)] = 0.0
    return rest_UD


def _see(rows_UD: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
    """Centered rows through a view; of a whole layer of a wide model some at a time, so that no second copy is held."""
    if rows_UD.numel() <= MANY_NUMBERS:
        return view(centered(rows_UD))
    blocks = [rows_UD[begin : begin + ROWS_AT_ONCE] for begin in range(0, len(rows_UD), ROWS_AT_ONCE)]
    length_U = torch.cat([block_UD.float().norm(dim=1) for block_UD in blocks])
    weight_U = row_weights(length_U)
    if weight_U is None:
        sums = [block_UD.float().sum(dim=0) for block_UD in blocks]
        mean_1D = torch.stack(sums).sum(dim=0, keepdim=True) / len(rows_UD)
    else:
        parts = zip(torch.split(weight_U, ROWS_AT_ONCE), blocks, strict=True)
        mean_1D = torch.stack([w_U @ block_UD.float() for w_U, block_UD in parts]).sum(dim=0, keepdim=True)
        mean_1D = mean_1D / weight_U.sum()
    seen = []
    for long_U, block_UD in zip(torch.split(length_U, ROWS_AT_ONCE), blocks, strict=True):
        rest_UD = block_UD.float() - mean_1D
        rest_UD[(long_U == 0.0) | (rest_UD.norm(dim=1) < SAME_ROWS * long_U)] = 0.0
        seen.append(view(rest_UD))
    return torch.cat(seen)


def centered(rows_UD: Tensor) -> Tensor:
    """Rows minus their mean, float32; rows of zeros stay zero.

    The mean row is shared by all units and also by strangers of one recipe; it carries no identity. Rows that are all
    alike (a layer that one number fills) leave rounding, which is alike in strangers and is zero, too.
    """
    rows_UD = rows_UD.to(torch.float32, copy=True)
    length_U = rows_UD.norm(dim=1)
    rows_UD -= mean_row(rows_UD, length_U)
    rows_UD[(length_U == 0.0) | (rows_UD.norm(dim=1) < SAME_ROWS * length_U)] = 0.0
    return rows_UD


def score_layers(a: Table, b: Table, max_units: int | None = None) -> MatchScore:
    """Match units of `a` to units of `b` on the first projection and score the match on the others.

    Args:
        a: units of a layer of A, already carried into B's frame.
        b: units of a layer of B.
        max_units: use an evenly spaced subset of A's units (search over many layer pairs).
    """
    pick = spread_evenly(a.match_UD.shape[0], max_units)
    signed = a.kind != "ffn"
    if a.name != b.name or a.match_UD.shape[1] != b.match_UD.shape[1]:
        return MatchScore(0.0, 0.0, 0)
    similarity_MN = similarity(a, b, pick)
    best_M = (similarity_MN.abs() if signed else similarity_MN).argmax(dim=1)
    z, effect = confirm(a, b, pick, best_M)
    return MatchScore(z, effect, int(best_M.shape[0]))


def similarity(a: Table, b: Table, pick_M: Tensor) -> Tensor:
    """Cosines of the matching directions of picked units of A with those of all units of B, [M, N]."""
    if a.rounded and b.rounded:
        return rounded_product(a.searched_UD[pick_M], b.searched_UD.T)
    return a.match_UD[pick_M] @ b.match_UD.T


def confirm(a: Table, b: Table, pick_M: Tensor, match_M: Tensor) -> tuple[float, float]:
    """Score a match on the held-out projections: (z, effect)."""
    found = held_out_scores(a, b, pick_M, match_M)
    if found is None or found[0].shape[0] < 8:
        return 0.0, 0.0
    score_MM, alive_M = found
    return permutation_z(score_MM, torch.arange(score_MM.shape[0]), unit_labels(b, match_M[alive_M]))


def unit_labels(b: Table, match_M: Tensor) -> Tensor:
    """A label for each matched unit of B: repeated choices of a unit, and copies of it, are one unit, [M].

    Copies (experts made from one block, widened layers) bear nearly the same projections; counted one by one they would
    repeat what one of them says.
    """
    unit_M: Tensor
    units_C, unit_M = torch.unique(match_M, return_inverse=True)
    if len(b.match_UD) <= PLAIN_UNITS and b.is_plain:
        return unit_M
    rows_CD = b.match_UD[units_C]
    alike_CC = (rows_CD @ rows_CD.T).abs() > COPY_COSINE
    alike_CC.fill_diagonal_(True)
    first_C: Tensor = alike_CC.to(torch.uint8).argmax(dim=1)
    return first_C[unit_M]


def held_out_scores(a: Table, b: Table, pick_M: Tensor, match_M: Tensor) -> tuple[Tensor, Tensor] | None:
    """Agreement of each picked unit of A with each matched unit of B on held-out projections, [M, M], and which of the
    matches took part.

    A unit may be negated as a whole by a disguise, so its projections are added before the absolute value is taken:
    their signs must agree with each other. Units without any held-out direction (zeroed in one model) are dropped.
    """
    total_MM: Tensor | None = None
    weight_MM: Tensor | None = None
    for name, rows_a in a.confirm_UD.items():
        if name not in b.confirm_UD:
            continue
        left_MD, right_MD = rows_a[pick_M], b.confirm_UD[name][match_M]
        cos_MM = left_MD @ right_MD.T
        seen_MM = (left_MD.abs().sum(1) > 0)[:, None] & (right_MD.abs().sum(1) > 0)[None, :]
        total_MM = cos_MM if total_MM is None else total_MM + cos_MM
        weight_MM = seen_MM.float() if weight_MM is None else weight_MM + seen_MM.float()
    if total_MM is None or weight_MM is None:
        return None
    alive = (weight_MM.amax(dim=1) > 0) & (weight_MM.amax(dim=0) > 0)
    return (total_MM.abs() / weight_MM.clamp_min(1.0))[alive][:, alive], torch.nonzero(alive).flatten()
