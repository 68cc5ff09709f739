"""Division: which rows of a stored projection belong to which role, and in which order.

Projections are fused in several ways (one role after the other, head by head, group by group, row by row in turn), and
rotary rows may be stored as neighbouring pairs. What a model does follows from the table, the heads, and the shapes of
the tensors beside it.

Shapes: H = heads, K = key/value heads, D = head dimension, R = rotary dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pedigree.weights.dimensions import Heads, Hints, solve_heads
from pedigree.weights.latent import Latent, solve_latent
from pedigree.weights.layout import Rows, compose, grouped_rows, half_split_order
from pedigree.weights.orientation import Oriented

MOST_ORDERED_ROWS = 1 << 22
"""An index over more rows than this is refused; no projection has as many."""

_ATTENTION = ("attn.q", "attn.k", "attn.v")
_ROTARY = ("attn.q", "attn.k", "norm.q", "norm.k")
_REORDERED = (*_ROTARY, "attn.q_b", "attn.kv_a", "attn.k_b", "attn.v_b")


@dataclass(frozen=True, slots=True)
class Share:
    """The rows of one role in an oriented tensor: `order` where it is given, else start to stop."""

    role: str
    start: int
    stop: int
    order: Rows | None = None


@dataclass(frozen=True)
class Divider:
    """What is known about the attention of a model; divides its projections.

    Attributes:
        heads: how rows divide into heads.
        latent: dimensions of latent attention, None where there is none.
        interleaved: whether rotary pairs are stored as neighbours.
        out_cols: columns of the output projection by layer: the rows of the query.
        sinks: rows of key and of value, where learned sinks tell them.
        inner_cols: columns of the writing projection of units by layer: how many units there are.
    """

    heads: Heads
    latent: Latent | None
    interleaved: bool
    out_cols: Mapping[int | None, int]
    sinks: tuple[int, int] | None
    inner_cols: Mapping[int | None, int] = field(default_factory=dict)

    def divide(self, item: Oriented) -> list[Share]:
        """The roles in an oriented tensor with their rows, rotary rows half-split; empty where they do not divide."""
        entry = item.match.entry
        reorders = entry.fused not in ("", "blocks", "leading") or entry.roles[0] in _REORDERED
        if reorders and item.rows > MOST_ORDERED_ROWS:
            return []
        if len(entry.roles) == 1:
            shares = [Share(entry.roles[0], 0, item.rows)]
        elif entry.fused == "alternating":
            shares = _divide_in_turn(item)
        elif entry.fused == "per-head" and len(entry.roles) == 2:
            shares = _divide_heads(item, self.heads)
        elif entry.fused in ("per-head", "per-group", "quarters"):
            shares = _divide_groups(item, self.heads)
        elif entry.fused == "leading":
            shares = _divide_leading(item, self.inner_cols.get(item.match.layer, 0))
        else:
            sizes = fused_sizes(item, self.out_cols, self.sinks, self.heads.n_heads, self.heads.n_kv_heads)
            stops = [sum(sizes[: n + 1]) for n in range(len(sizes))]
            shares = [Share(r, stop - n, stop) for r, n, stop in zip(entry.roles, sizes, stops, strict=False)]
        return [self._half_split(share) for share in shares]

    def _half_split(self, share: Share) -> Share:
        """A share with its rotary rows in half-split order."""
        n_rows = share.stop - share.start if share.order is None else len(share.order)
        order = self._rotary_order(share.role, n_rows) if self.interleaved else None
        if order is None:
            return share
        if share.order is not None:
            order = compose(order, share.order)
        elif share.start:
            order = order + share.start
        return Share(share.role, share.start, share.stop, order)

    def _rotary_order(self, role: str, n_rows: int) -> Rows | None:
        if self.latent is not None:
            return self.latent.rotary_order(role, n_rows)
        dim, rotary = self.heads.head_dim, self.heads.rotary_dim
        if role not in _ROTARY or not dim or not rotary or n_rows % dim or rotary < 2:
            return None
        return half_split_order(n_rows // dim, dim, rotary)


def make_divider(oriented: Sequence[Oriented], facts: Mapping[str, Any], hints: Hints, notes: list[str]) -> Divider:
    """Count heads and find what else the division of projections needs.

    Args:
        oriented: all matched tensors.
        facts: the table's facts for this model.
        hints: what the config says.
        notes: receives a sentence for everything guessed or contradicted.
    """
    latent = solve_latent(oriented, hints, notes)
    out_cols = {o.match.layer: o.cols for o in oriented if o.match.entry.roles == ("attn.o",) and o.cols}
    sinks = _sink_widths(oriented)
    heads = latent.heads if latent else _count_heads(oriented, out_cols, sinks, facts, hints, notes)
    inner_cols = {o.match.layer: o.cols for o in oriented if o.match.entry.roles == ("mlp.down",) and o.cols}
    return Divider(heads, latent, facts.get("rope") == "interleaved", out_cols, sinks, inner_cols)


def _count_heads(
    oriented: Sequence[Oriented],
    out_cols: Mapping[int | None, int],
    sinks: tuple[int, int] | None,
    facts: Mapping[str, Any],
    hints: Hints,
    notes: list[str],
) -> Heads:
    rows: dict[tuple[str, int | None], int] = {}
    norm_lengths: set[int] = set()
    stored: tuple[int, int] | None = None
    for item in oriented:
        match, roles = item.match, item.match.entry.roles
        if match.bias:
            continue
        if len(roles) > 1 and roles[0] == "attn.q":
            sizes = fused_sizes(item, out_cols, sinks, hints.get("n_heads"), hints.get("n_kv_heads"))
            for role, size in zip(roles, sizes, strict=False):
                rows.setdefault((role, match.layer), size)
        elif roles[0] in _ATTENTION:
            rows[roles[0], match.layer] = rows.get((roles[0], match.layer), 0) + item.rows
            stored = stored or item.stored_heads or ((1, item.rows) if match.head is not None else None)
        elif roles[0] in ("norm.q", "norm.k") and match.entry.axes is None:
            norm_lengths.add(item.rows)
    first = {role: size for (role, _), size in reversed(rows.items())}
    return solve_heads(
        hints,
        notes,
        q_rows=first.get("attn.q"),
        k_rows=first.get("attn.k"),
        norm_length=norm_lengths.pop() if len(norm_lengths) == 1 else None,
        stored_heads=stored,
        rotary_fraction=facts.get("rotary_fraction"),
    )


def _sink_widths(oriented: Sequence[Oriented]) -> tuple[int, int] | None:
    """Rows of key and value told by learned sinks, which have as many columns; None without sinks."""
    widths = {o.match.entry.roles[0]: o.cols for o in oriented if o.match.entry.tail and o.cols}
    key, value = widths.get("attn.sink.k"), widths.get("attn.sink.v")
    return (key, value) if key and value else None


def fused_sizes(
    item: Oriented,
    out_cols: Mapping[int | None, int],
    sinks: tuple[int, int] | None,
    n_heads: int | None,
    n_kv_heads: int | None,
) -> tuple[int, ...]:
    """Rows of each role inside a fused projection; empty where they cannot be told.

    Query rows are the columns of the output projection of the same layer, and where these are all of them nothing else
    is there; without one the heads tell. Roles other than query, key and value have equal shares.
    """
    total, roles = item.rows, item.match.entry.roles
    if roles[:1] == ("attn.q",) and total == out_cols.get(item.match.layer):
        return (total,)
    if len(roles) != 3 or roles[0] != "attn.q":
        return (total // len(roles),) * len(roles) if total % len(roles) == 0 else ()
    if sinks is not None:
        return (total - sum(sinks), *sinks) if total > sum(sinks) else ()
    q_rows = out_cols.get(item.match.layer)
    if q_rows is None and n_heads is not None:
        q_rows = total * n_heads // (n_heads + 2 * (n_kv_heads or n_heads))
    if q_rows is None:
        q_rows = total // 3
    rest = total - q_rows
    return (q_rows, rest // 2, rest // 2) if 0 < rest <= 2 * q_rows and rest % 2 == 0 else ()


def _divide_leading(item: Oriented, units: int) -> list[Share]:
    """The first rows, one stretch of `units` for each role; empty where there are not as many."""
    roles = item.match.entry.roles
    if not 0 < units * len(roles) <= item.rows:
        return []
    return [Share(role, n * units, (n + 1) * units) for n, role in enumerate(roles)]


def _divide_in_turn(item: Oriented) -> list[Share]:
    roles = item.match.entry.roles
    if item.rows % len(roles):
        return []
    turns = [grouped_rows(item.rows // len(roles), len(roles), turn, turn + 1) for turn in range(len(roles))]
    return [Share(role, 0, item.rows, turn) for role, turn in zip(roles, turns, strict=True)]


def _divide_heads(item: Oriented, heads: Heads) -> list[Share]:
    """Two roles of equal rows in turn inside each head, as a query and the gate of what the head writes; the first
    alone where there are rows for no more."""
    dim, n_heads, roles = heads.head_dim, heads.n_heads, item.match.entry.roles
    if not dim or not n_heads:
        return []
    if item.rows == n_heads * dim:
        return [Share(roles[0], 0, item.rows)]
    if item.rows != 2 * n_heads * dim:
        return []
    return [
        Share(role, 0, item.rows, grouped_rows(n_heads, 2 * dim, turn * dim, (turn + 1) * dim))
        for turn, role in enumerate(roles)
    ]


def _divide_groups(item: Oriented, heads: Heads) -> list[Share]:
    entry = item.match.entry
    dim, n_heads, n_kv = heads.head_dim, heads.n_heads, heads.n_kv_heads
    if not dim or not n_heads or not n_kv or n_heads % n_kv:
        return []
    if entry.fused == "quarters":
        groups, q_rows, kv_rows = 4, n_heads * dim // 4, n_kv * dim // 4
    else:
        groups = n_heads if entry.fused == "per-head" else n_kv
        q_rows, kv_rows = (dim if entry.fused == "per-head" else dim * (n_heads // n_kv)), dim
    group_rows = q_rows + 2 * kv_rows
    if groups * group_rows != item.rows or not kv_rows:
        return []
    cuts = [(0, q_rows), (q_rows, q_rows + kv_rows), (q_rows + kv_rows, group_rows)]
    return [
        Share(role, 0, item.rows, grouped_rows(groups, group_rows, begin, stop))
        for role, (begin, stop) in zip(entry.roles, cuts, strict=True)
    ]
