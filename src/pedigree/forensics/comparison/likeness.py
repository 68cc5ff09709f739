"""A model as it would look in another one's place: turned, reordered and rescaled as the other was.

B was made from C and moved afterwards: its stream was turned, units and heads were reordered and rescaled. Which moves
these were has been found from the two alone (frame, layer map, unit maps of their comparison); here they are made on C,
so that its part can be taken out of B number by number. Each block of B that a move keeps together is fitted by least
squares on the block of C that it came from: a unit by a number for each projection, a head by a matrix (planes may be
turned and values mixed), a table by one number.

Everything here is a function of B and C. A third model that is independent of both is independent of what is left of B
once this is taken out, however well or badly it was fitted; a fit that takes too much takes from whatever is left, and
hides it.

Source  moves: forensics study, section 1; canonical form: `views.py`.
Shapes  U = units or rows, D = residual width of B, H = heads, C = head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.sides.anchors import SharedTokens, read_table, share_tokens
from pedigree.forensics.sides.gauge import Gauge, refit_on_moment, unit_rows
from pedigree.forensics.sides.linear import without_damage
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import ffn_groups, fold_reader, fold_writer, read_gain
from pedigree.forensics.units.heads import bases, overlap
from pedigree.weights.anatomy import Anatomy, Part
from pedigree.weights.laid_out import LaidOut

WIDEST_HEAD = 0.5
"""Rows of a block over the residual width from which a matrix fitted to it explains anything, and nothing is fitted."""

LEAST_COSINE = 0.1
"""Tables that agree less have no part taken out: a vocabulary that was drawn afresh."""


@dataclass(frozen=True)
class Likeness:
    """C in B's place.

    Attributes:
        numbers: its part in B, laid out as B stores its tensors; zero where nothing of C was found.
        share: how much of C is in B, the median over units of what scales of units cannot change; None without units.
    """

    numbers: LaidOut
    share: float | None


def likeness(c: Side, b: Side, found: Findings) -> Likeness | None:
    """C as it would look in B's place; None where it cannot be brought there.

    Args:
        c, b: the two, read whole.
        found: of their comparison, C being A there.
    """
    gauge = replace(found.evidence.gauge, lens_BK=None)
    if c.sample.max_units is not None or c.sample.streamed or gauge.partial or not found.unit_maps:
        return None
    gauge = _sharper(c, b, found, gauge)
    out, shares = LaidOut(b.checkpoint), list[Tensor]()
    for j, i in enumerate(found.layer_map):
        if i is not None:
            shares += _units(c, b, found, gauge, j, out)
            _heads(c, b, gauge, (i, j), out)
    tokens = share_tokens(c.vocabulary, b.vocabulary, c.vocabulary_rows, b.vocabulary_rows)
    for role in ("embed", "head"):
        _table(c, b, gauge, tokens, role, out)
    return Likeness(out, _median(shares))


def share_in(a: Side, b: Side, found: Findings) -> float | None:
    """How much of A is in B, the median over matched units of what scales of units cannot change; None without."""
    gauge = replace(found.evidence.gauge, lens_BK=None)
    if gauge.partial or a.sample.streamed:
        return None
    shares = [_share_of_units(_matched(a, b, found, gauge, j)) for j in found.unit_maps]
    return _median(shares)


def _median(shares: list[Tensor]) -> float | None:
    every = torch.cat([torch.zeros(0), *shares])
    return float(every.median()) if every.numel() else None


# -- units -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Matched:
    """Units of a layer of B that have an origin: their places, and rows of both by projection, in one frame."""

    place_U: Tensor
    rows: dict[str, tuple[Tensor, Tensor]]

    def fitted(self, name: str) -> Tensor:
        """By how much each unit of C is in its partner, [U]."""
        theirs_UD, mine_UD = self.rows[name]
        return (theirs_UD * mine_UD).sum(1) / (theirs_UD**2).sum(1).clamp_min(1e-30)


def _matched(c: Side, b: Side, found: Findings, gauge: Gauge, j: int) -> _Matched:
    units, i = found.unit_maps[j], found.layer_map[j]
    left, right = None if i is None else c.units("ffn", i), b.units("ffn", j)
    place_U = torch.nonzero(units.matched_N).flatten()
    if left is None or right is None:
        return _Matched(place_U[:0], {})
    origin_U = units.origin_N[place_U]
    names = [name for name in left.names if name in right.names]
    return _Matched(place_U, {n: (gauge.carry(left.rows(n, origin_U)), right.rows(n, place_U)) for n in names})


def _share_of_units(pairs: _Matched) -> Tensor:
    """What scales of units cannot change: whoever multiplies the way in divides the way out, [U]."""
    names = [name for name in ("up", "down") if name in pairs.rows]
    if len(names) < 2:
        return torch.zeros(0)
    return (pairs.fitted("up") * pairs.fitted("down")).abs().sqrt()


def _sharper(c: Side, b: Side, found: Findings, gauge: Gauge) -> Gauge:
    """The frame fitted on all matched units, where it is a rotation; an order of coordinates is as it is."""
    if gauge.kind != "orthogonal":
        return gauge
    plain = replace(gauge, frame_AB=None, kind="identity")
    cross_DD, count = torch.zeros(c.width, b.width), 0
    for j in found.unit_maps:
        bare, carried = _matched(c, b, found, plain, j), _matched(c, b, found, gauge, j)
        for name, (theirs_UD, mine_UD) in bare.rows.items():
            sign_U1 = torch.sign(carried.fitted(name))[:, None]
            cross_DD += (sign_U1 * unit_rows(theirs_UD)).T @ unit_rows(mine_UD)
            count += len(mine_UD)
    return refit_on_moment(cross_DD, count, "matched units") or gauge


def _units(c: Side, b: Side, found: Findings, gauge: Gauge, j: int, out: LaidOut) -> Iterator[Tensor]:
    """Feed-forward units of a layer; yields how much of each is in its partner."""
    right = b.units("ffn", j)
    if j not in found.unit_maps or right is None:
        return
    pairs = _matched(c, b, found, gauge, j)
    for name, (theirs_UD, _) in pairs.rows.items():
        whole_UD = torch.zeros(right.count, b.width)
        whole_UD[pairs.place_U] = pairs.fitted(name)[:, None] * theirs_UD
        for label, group in ffn_groups(b.anatomy, j):
            own_U = torch.nonzero(right.label_U == label).flatten()
            rows_UD = whole_UD[own_U[right.index_U[own_U].argsort()]]
            _put(b.anatomy, group[name], rows_UD, "norm.mlp", writes=name == "down", out=out)
    yield _share_of_units(pairs)


# -- heads -------------------------------------------------------------------------------------------------------------

_TWO_SIDES = ((("attn.k", "attn.v"), "kv"), (("attn.q", "attn.o"), "q"))
_ONE_BLOCK = ("attn.q_a", "attn.kv_a")


def _heads(c: Side, b: Side, gauge: Gauge, layers: tuple[int, int], out: LaidOut) -> None:
    """Projections of attention, head by head; those that read into a latent as one block."""
    j = layers[1]
    for roles, which in _TWO_SIDES:
        counts = [(s.anatomy.n_kv_heads if which == "kv" else s.anatomy.n_heads) or 0 for s in (c, b)]
        blocks = {role: pair for role in roles if (pair := _blocks(c, b, gauge, role, layers, counts)) is not None}
        if not blocks:
            continue
        alike_HJ = sum(overlap(_bases(theirs), _bases(mine)) for theirs, mine in blocks.values())
        origin_J = _assigned(torch.as_tensor(alike_HJ))
        for role, (theirs_HCD, mine_JCD) in blocks.items():
            fitted_JCD = torch.zeros_like(mine_JCD)
            there_J = origin_J >= 0
            fitted_JCD[there_J] = _mixed(theirs_HCD[origin_J[there_J]], mine_JCD[there_J])
            part = b.anatomy.part(role, j)
            if part is not None:
                _put(b.anatomy, part, fitted_JCD.flatten(0, 1), "norm.attn", writes=role == "attn.o", out=out)
    for role in _ONE_BLOCK:
        pair = _blocks(c, b, gauge, role, layers, [1, 1])
        part = b.anatomy.part(role, j)
        if pair is not None and part is not None:
            _put(b.anatomy, part, _mixed(*pair)[0], "norm.attn", writes=False, out=out)


def _blocks(
    c: Side, b: Side, gauge: Gauge, role: str, layers: tuple[int, int], counts: list[int]
) -> tuple[Tensor, Tensor] | None:
    """Heads of a projection of both in one frame, [H, C, D] and [J, C, D]; None where none can be fitted."""
    tables = []
    for side, layer, count in zip((c, b), layers, counts, strict=True):
        rows_UD = _read(side.anatomy, role, layer)
        if rows_UD is None or rows_UD.shape[1] != side.width or not count or rows_UD.shape[0] % count:
            return None
        tables.append(rows_UD.reshape(count, -1, side.width))
    theirs, mine = gauge.carry(tables[0]), tables[1]
    if theirs.shape[1] != mine.shape[1] or mine.shape[1] > WIDEST_HEAD * b.width:
        return None
    return theirs, mine


def _bases(rows_HCD: Tensor) -> Tensor:
    return bases(rows_HCD.flatten(0, 1), torch.arange(rows_HCD.shape[0]).repeat_interleave(rows_HCD.shape[1]))


def _assigned(alike_HJ: Tensor) -> Tensor:
    """For each head of B the one of C that it came from, -1 where there are fewer."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-alike_HJ.double().numpy())
    origin_J = torch.full((alike_HJ.shape[1],), -1, dtype=torch.long)
    origin_J[torch.as_tensor(columns)] = torch.as_tensor(rows)
    return origin_J


def _mixed(theirs_JCD: Tensor, mine_JCD: Tensor) -> Tensor:
    """What mixtures of rows of C's block explain of B's, block by block, [J, C, D]."""
    basis_JCD = torch.linalg.qr(theirs_JCD.double().transpose(1, 2))[0].transpose(1, 2)
    fitted_JCD: Tensor = (mine_JCD.double() @ basis_JCD.transpose(1, 2) @ basis_JCD).float()
    return fitted_JCD


# -- tables, and the way back into storage -----------------------------------------------------------------------------


def _table(c: Side, b: Side, gauge: Gauge, tokens: SharedTokens, role: str, out: LaidOut) -> None:
    """Rows of tokens that both have, by one number."""
    part = b.anatomy.part(role)
    left, right = read_table(c.anatomy, role, tokens.a_T), read_table(b.anatomy, role, tokens.b_T)
    if part is None or left is None or right is None:
        return
    theirs_TD = gauge.carry(left)
    product, length = float((theirs_TD * right).sum()), float((theirs_TD**2).sum())
    if not product > LEAST_COSINE * (length * float((right**2).sum())) ** 0.5 > 0.0:
        return
    rows_UD = torch.zeros(part.shape[0], b.width)
    rows_UD[tokens.b_T] = product / length * theirs_TD
    _put(b.anatomy, part, rows_UD, "norm.final" if role == "head" else None, writes=False, out=out)


def _read(anatomy: Anatomy, role: str, layer: int) -> Tensor | None:
    """Rows of a projection of attention in canonical form, those that write as columns of their matrix."""
    part = anatomy.part(role, layer)
    if part is None or len(part.shape) != 2:
        return None
    if role == "attn.o":
        return without_damage(fold_writer(anatomy, part.read().T, "norm.attn.post", layer))
    return without_damage(fold_reader(anatomy, part.read(), "norm.attn", layer))


def _put(anatomy: Anatomy, part: Part, rows_UD: Tensor, norm: str | None, *, writes: bool, out: LaidOut) -> None:
    """Rows in canonical form back into a part: gains are taken out again, rows that write become columns."""
    folded = norm is not None and (
        anatomy.norm_placement not in ("pre", "post") if writes else anatomy.norm_placement != "post"
    )
    gain_D = read_gain(anatomy, f"{norm}.post" if writes else str(norm), part.layer) if folded else None
    if gain_D is not None and gain_D.shape[0] == rows_UD.shape[1]:
        rows_UD = torch.where(gain_D.abs() > 1e-6, rows_UD / gain_D, torch.zeros(()))
    out.put(part, rows_UD.T if writes else rows_UD)
