"""Assembly: from matched tensors to parts.

The stored tensors are oriented, the heads are counted, fused and packed tensors are divided into their roles, and
rotary rows are brought to the half-split order. A tensor whose shape cannot play its role is not forced: it is
returned as left over, with a note.

Shapes: E = experts, H = heads, K = key/value heads, D = head dimension, R = rotary dimensions, d = residual width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pedigree.weights.dimensions import Heads, Hints, residual_width
from pedigree.weights.division import Divider, Share, make_divider
from pedigree.weights.orientation import Oriented, orient
from pedigree.weights.part import Part, Piece, TensorSource
from pedigree.weights.roles import BIAS, Axis
from pedigree.weights.table import Match, Table

MOST_EXPERTS = 4096

Key = tuple[str, int | None, int | None]
Scales = Mapping[str, tuple[str, tuple[int, int]]]


@dataclass
class Assembly:
    """What came out of it: parts by (role, layer, expert), heads, width, and the tensors that were left over."""

    parts: dict[Key, Part] = field(default_factory=dict)
    heads: Heads = field(default_factory=lambda: Heads(None, None, None, None))
    width: int | None = None
    left_over: list[str] = field(default_factory=list)


def assemble(
    source: TensorSource,
    matches: Sequence[Match],
    table: Table,
    facts: Mapping[str, Any],
    hints: Hints,
    scales: Scales,
    notes: list[str],
) -> Assembly:
    """Parts of all matched tensors.

    Args:
        source: the checkpoint the parts will read from.
        matches: what each tensor is.
        table: where the matches come from.
        facts: the table's facts for this model.
        hints: what the config says.
        scales: block scales by the name of the tensor they belong to.
        notes: receives a sentence for everything guessed or contradicted.
    """
    result = Assembly()
    shapes = [tuple(source.tensors[match.name].shape) for match in matches]
    result.width = facts["width"] if "width" in facts else _width(matches, shapes, hints)
    oriented: list[Oriented] = []
    for match, found in zip(matches, orient(matches, shapes, table, result.width, notes), strict=True):
        if found is None:
            notes.append(f"{match.name}: its shape cannot be that of {match.entry.roles[0]}")
        else:
            oriented.append(found)
    oriented = _halved(oriented)
    divider = make_divider(oriented, facts, hints, notes)
    result.heads = divider.heads
    gathered: dict[Key, list[tuple[int, Oriented, Piece]]] = {}
    for item in oriented:
        for key, piece in _pieces(item, divider, scales, notes):
            gathered.setdefault(key, []).append((item.match.head or 0, item, piece))
    for key, found_pieces in gathered.items():
        _keep(key, found_pieces, source, result, notes)
    _join_expansions(result)
    used = {name for part in result.parts.values() for name in part.sources}
    result.left_over = sorted({match.name for match in matches} - used)
    return result


def _width(matches: Sequence[Match], shapes: Sequence[tuple[int, ...]], hints: Hints) -> int | None:
    gains = []
    for match, shape in zip(matches, shapes, strict=True):
        role = match.entry.roles[0]
        if not match.bias and len(shape) == 1 and match.entry.axes_for(role) == (Axis("residual", "gain"),):
            gains.append(shape[0])
    return residual_width(gains, (shape for shape in shapes if len(shape) >= 2), hints.get("d_model"))


def _halved(oriented: Sequence[Oriented]) -> list[Oriented]:
    """Entries that hold two roles where their rows are twice the inner width (gate and up in one tensor) get them."""
    lowest = (("mlp.down",), ("moe.expert.down",))
    inner = {o.match.layer: o.cols for o in oriented if o.match.entry.roles in lowest and o.cols}
    result = []
    for item in oriented:
        entry = item.match.entry
        if entry.halves and item.rows == 2 * inner.get(item.match.layer, 0):
            item = replace(item, match=replace(item.match, entry=replace(entry, roles=entry.halves, fused="blocks")))
        result.append(item)
    return result


def _pieces(item: Oriented, divider: Divider, scales: Scales, notes: list[str]) -> Iterator[tuple[Key, Piece]]:
    """The pieces one stored tensor gives, with the part each belongs to."""
    match = item.match
    n_experts = item.stored[0] if match.entry.packed else 1
    if n_experts > MOST_EXPERTS:
        notes.append(f"{match.name}: {n_experts} experts are more than any model has")
        return
    shares = divider.divide(item)
    if not shares:
        notes.append(f"{match.name}: its {item.rows} rows do not divide into {', '.join(match.entry.roles)}")
    for expert in range(n_experts):
        for share in shares:
            number = expert if match.entry.packed else match.expert
            role = share.role + BIAS if match.bias else share.role
            yield (role, match.layer, number), _piece(item, expert, share, scales)


def _piece(item: Oriented, expert: int, share: Share, scales: Scales) -> Piece:
    match, start, stop, order = item.match, share.start, share.stop, share.order
    lead: int | None = None
    if match.entry.packed and item.transposed:
        lead = expert
    elif match.entry.packed and expert:
        start, stop = start + expert * item.rows, stop + expert * item.rows
        order = None if order is None else order + expert * item.rows
    scale, block = scales.get(match.name, (None, None))
    return Piece(
        match.name,
        item.stored,
        start,
        stop,
        order,
        lead=lead,
        swapped=item.swapped,
        transposed=item.transposed,
        vector=item.vector,
        tail=match.entry.tail,
        scale=scale,
        scale_block=block,
    )


def _keep(
    key: Key, found: list[tuple[int, Oriented, Piece]], source: TensorSource, result: Assembly, notes: list[str]
) -> None:
    """Make the part of one key, from one tensor or from one tensor per head."""
    role, layer, expert = key
    found.sort(key=lambda entry: entry[0])
    by_head = found[0][1].match.head is not None
    if not by_head and len(found) > 1:
        for _, item, _piece_of in found[1:]:
            notes.append(f"{item.match.name}: {role} is already given by {found[0][1].match.name}")
        found = found[:1]
    cols = found[0][1].cols
    found = [entry for entry in found if entry[1].cols == cols]
    pieces = tuple(piece for _, _, piece in found)
    rows = sum(piece.n_rows for piece in pieces)
    first = found[0][1]
    axes = first.match.entry.axes_for(role.removesuffix(BIAS) if first.match.bias else role)
    axes = (Axis(axes[0].space, "bias"),) if first.match.bias else axes
    if role in ("norm.q", "norm.k") and first.match.entry.axes is None and rows != result.heads.head_dim:
        axes = (Axis("heads" if role == "norm.q" else "kv_heads", "gain"),)
    shape = (rows,) if cols is None else (rows, cols)
    dtype = str(source.tensors[pieces[0].source].dtype)
    result.parts[key] = Part(role, layer, expert, shape, axes, dtype, pieces, source)


def _join_expansions(result: Assembly) -> None:
    """Key and value expansions of a latent that are stored apart (GGUF) become one, head by head."""
    for role, layer, expert in list(result.parts):
        whole = ("attn.kv_b", layer, expert)
        value = result.parts.get(("attn.v_b", layer, expert))
        if role != "attn.k_b" or value is None or whole in result.parts:
            continue
        key = result.parts[role, layer, expert]
        pieces = _alternate_heads(key, value, result.heads.n_heads or 0)
        if pieces:
            del result.parts[role, layer, expert], result.parts["attn.v_b", layer, expert]
            shape = (key.shape[0] + value.shape[0], key.shape[1])
            result.parts[whole] = replace(key, role="attn.kv_b", shape=shape, pieces=pieces)


def _alternate_heads(key: Part, value: Part, n_heads: int) -> tuple[Piece, ...]:
    """Pieces that give each head's key rows and then its value rows; empty where they do not divide."""
    if not n_heads or key.shape[0] % n_heads or value.shape[0] % n_heads or key.shape[1:] != value.shape[1:]:
        return ()
    k_dim, v_dim = key.shape[0] // n_heads, value.shape[0] // n_heads
    k_piece, v_piece = key.pieces[0], value.pieces[0]
    turned = k_piece.swapped and len(k_piece.stored) == 3
    pieces: list[Piece] = []
    for head in range(n_heads):
        start, lead = (0, head) if turned else (head * k_dim, None)
        stop = start + k_dim
        pieces.append(replace(k_piece, start=start, stop=stop, lead=lead, swapped=False, transposed=turned))
        pieces.append(replace(v_piece, start=head * v_dim, stop=(head + 1) * v_dim))
    return tuple(pieces)
