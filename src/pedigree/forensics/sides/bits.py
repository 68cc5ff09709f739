"""Bit pass: which tensors are equal, number for number, whatever their name, file, shard or lossless cast.

Equality of sampled rows settles most honest cases within a few megabytes; equality of whole tensors names what was
frozen. Constant tensors (gains at one, biases at zero, rotary tables) are equal between strangers and are left out.

Shapes: canonical parts are [rows, columns] or [n].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from pedigree.forensics.sides.contents import digest_tensors
from pedigree.forensics.sides.linear import is_damaged
from pedigree.forensics.sides.side import LAYERS_AHEAD, Side
from pedigree.weights.anatomy import Part
from pedigree.weights.packed import stored_tensors

EDGE_ROWS = 4

_Kinds = tuple[torch.dtype, torch.dtype] | None

BAND_NUMBERS = 1 << 22
"""Numbers of a part that are compared at once."""


ZEROS_LOOKED_AT = 1 << 13
"""Numbers of a band of a matrix among which zeros are counted."""


@dataclass
class Zeros:
    """Numbers that are zero on one side only, in a sample of those matrices that differ.

    Attributes:
        only_a, only_b: how many are zero in A alone, in B alone.
        alive: how many are zero in neither.
        kept: how many of those are equal.
        hidden_a2, hidden_b2: sum of squares of what the other side has in place of A's zeros, and of B's.
        moved2: sum of squares of the difference of those that are zero in neither.
    """

    only_a: int = 0
    only_b: int = 0
    alive: int = 0
    kept: int = 0
    hidden_a2: float = 0.0
    hidden_b2: float = 0.0
    moved2: float = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in numbers of A and B that stand in the same places. What is zero throughout is silent, not masked."""
        x_N, y_N = (z.flatten()[:ZEROS_LOOKED_AT].double() for z in (x, y))
        a_N, b_N = x_N == 0, y_N == 0
        if bool(a_N.all()) or bool(b_N.all()):
            return
        both_N = ~a_N & ~b_N
        self.only_a += int((a_N & ~b_N).sum())
        self.only_b += int((b_N & ~a_N).sum())
        self.alive += int(both_N.sum())
        self.kept += int((both_N & (x_N == y_N)).sum())
        self.hidden_a2 += float((y_N[a_N] ** 2).sum())
        self.hidden_b2 += float((x_N[b_N] ** 2).sum())
        self.moved2 += float(((x_N - y_N)[both_N] ** 2).sum())

    def join(self, other: Zeros) -> None:
        """Add the counts of another matrix."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


@dataclass
class BitPass:
    """Outcome of the bit pass.

    Attributes:
        equal: names (in B) of informative parts equal to their counterpart.
        equal_after_cast: equal only after rounding to the coarser of the two number types.
        different: names of parts that differ.
        constant: parts that are constant in both and say nothing.
        unpaired: parts of B without a counterpart of the same shape.
        whole: whether all rows were looked at (else a sample).
        equal_share: share of equal numbers over all informative parts.
        coarser: "a" or "b", whose number type is the coarser one among parts equal after rounding.
        zeros: numbers of matrices that differ which are zero on one side only, with what stands beside them.
        damaged_a, damaged_b: names of parts that hold numbers which are not finite, or absurdly large.
    """

    equal: list[str] = field(default_factory=list)
    equal_after_cast: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    unpaired: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    whole: bool = True
    equal_share: float = 0.0
    same: int = 0
    seen: int = 0
    coarser: str | None = None
    zeros: Zeros = field(default_factory=Zeros)
    damaged_a: list[str] = field(default_factory=list)
    damaged_b: list[str] = field(default_factory=list)

    @property
    def all_equal(self) -> bool:
        """Whether nothing differs and nothing is without counterpart."""
        return bool(self.equal) and not (self.equal_after_cast or self.different or self.unpaired or self.missing)


def compare_bits(a: Side, b: Side, layer_map: list[int | None], whole: bool) -> BitPass:
    """Compare counterparts number for number along a layer map.

    Args:
        a, b: the two models.
        layer_map: layer of A for each layer of B.
        whole: read whole parts, or only some rows of each.
    """
    out = BitPass(whole=whole)
    used: set[tuple[str, int | None, int | None]] = set()
    pairs: list[tuple[Part, Part, str]] = []
    for part in b.anatomy.parts():
        layer = part.layer if part.layer is None or part.layer >= len(layer_map) else layer_map[part.layer]
        other = None if part.layer is not None and layer is None else a.anatomy.part(part.role, layer, part.expert)
        name = label(part)
        if other is None or tuple(other.shape) != tuple(part.shape):
            out.unpaired.append(name)
            continue
        used.add((other.role, other.layer, other.expert))
        pairs.append((other, part, name))
    for (_, _, name), (tally, kinds) in zip(pairs, _tallies(a, b, pairs, whole), strict=True):
        _enter(name, tally, kinds, out)
    out.missing = [label(p) for p in a.anatomy.parts() if (p.role, p.layer, p.expert) not in used]
    if out.all_equal:
        _compare_rest(a, b, out)
    out.equal_share = out.same / out.seen if out.seen else 0.0
    return out


def _compare_rest(a: Side, b: Side, out: BitPass) -> None:
    """Tensors without a role (a classifier, an adapter) decide whether files that agree otherwise are the same."""
    left, right = (
        digest_tensors(side.checkpoint, stored_tensors(side.checkpoint, side.anatomy.unmapped), informative_only=False)
        for side in (a, b)
    )
    extra, gone = Counter(right.values()) - Counter(left.values()), Counter(left.values()) - Counter(right.values())
    out.unpaired += [name for name, digest in right.items() if digest in extra]
    out.missing += [name for name, digest in left.items() if digest in gone]


def label(part: Part) -> str:
    """Role with layer and expert, such as `layers.3.mlp.up` or `embed`."""
    prefix = "" if part.layer is None else f"layers.{part.layer}."
    suffix = "" if part.expert is None else f".{part.expert}"
    return f"{prefix}{part.role}{suffix}"


@dataclass
class _Tally:
    """What was counted of one pair of parts, band by band."""

    same: int = 0
    seen: int = 0
    same_after_cast: bool = True
    varies: bool = False
    first: tuple[float, float] | None = None
    zeros: Zeros = field(default_factory=Zeros)
    damaged_a: bool = False
    damaged_b: bool = False


def _tallies(a: Side, b: Side, pairs: list[tuple[Part, Part, str]], whole: bool) -> Iterator[tuple[_Tally, _Kinds]]:
    """The tally of each pair, in order; a few rows behind a network are asked for many parts at a time."""
    if whole or not (a.is_remote or b.is_remote):
        yield from (_compare_part(left, right, whole) for left, right, _ in pairs)
        return
    with ThreadPoolExecutor(LAYERS_AHEAD) as pool:
        yield from pool.map(lambda pair: _compare_part(pair[0], pair[1], whole), pairs)


def _compare_part(a: Part, b: Part, whole: bool) -> tuple[_Tally, _Kinds]:
    tally, kinds = _Tally(), None
    for rows in _bands(b, whole):
        x, y = _read(a, rows), _read(b, rows)
        kinds = (x.dtype, y.dtype)
        _count(x, y, tally)
    return tally, kinds


def _enter(name: str, tally: _Tally, kinds: _Kinds, out: BitPass) -> None:
    for damaged, names in ((tally.damaged_a, out.damaged_a), (tally.damaged_b, out.damaged_b)):
        names += [name] if damaged else []
    if kinds is None or (tally.same == tally.seen and not tally.varies):
        out.constant.append(name)
        return
    out.same += tally.same
    out.seen += tally.seen
    if tally.same == tally.seen:
        out.equal.append(name)
    elif kinds[0] != kinds[1] and tally.same_after_cast:
        out.equal_after_cast.append(name)
        out.coarser = "a" if _coarser(*kinds) == kinds[0] else "b"
    else:
        out.different.append(name)
        out.zeros.join(tally.zeros)


def _count(x: Tensor, y: Tensor, tally: _Tally) -> None:
    """Add one band to the tally."""
    if x.numel() == 0:
        return
    wide_x, wide_y = (x, y) if x.dtype == y.dtype else (x.double(), y.double())
    equal = wide_x == wide_y
    tally.same += int(equal.sum())
    tally.seen += int(x.numel())
    if not bool(equal.all()):  # numbers that are none are equal to nothing
        tally.damaged_a |= is_damaged(x)
        tally.damaged_b |= is_damaged(y)
    if x.dim() > 1:
        tally.zeros.add(x, y)
    if x.dtype != y.dtype and tally.same_after_cast:
        floating = x.is_floating_point() and y.is_floating_point()
        kind = _coarser(x.dtype, y.dtype) if floating else None
        tally.same_after_cast = kind is not None and bool((x.to(kind) == y.to(kind)).all())
    if not tally.varies:
        edge = (float(wide_x.flatten()[0]), float(wide_y.flatten()[0]))
        tally.first = tally.first or edge
        tally.varies = not (bool((wide_x == tally.first[0]).all()) and bool((wide_y == tally.first[1]).all()))


def _bands(part: Part, whole: bool) -> Iterator[list[int] | slice | None]:
    """Rows to compare: everything in bands that fit in memory, or some rows at both ends and in the middle."""
    total = part.shape[0]
    if not whole and total > 4 * EDGE_ROWS:
        middle = total // 2
        edges = [range(EDGE_ROWS), range(middle, middle + EDGE_ROWS), range(total - EDGE_ROWS, total)]
        yield [row for edge in edges for row in edge]
        return
    columns = math.prod(part.shape[1:]) if len(part.shape) > 1 else 1
    step = max(1, BAND_NUMBERS // max(1, columns))
    if total <= step:
        yield None
        return
    for begin in range(0, total, step):
        yield slice(begin, min(begin + step, total))


def _read(part: Part, rows: list[int] | slice | None) -> Tensor:
    """Stored numbers; where a scale is stored beside them, the numbers they stand for."""
    scaled = any(piece.scale is not None for piece in part.pieces)
    return part.read(rows=rows) if scaled else part.read_native(rows=rows)


def _coarser(x: torch.dtype, y: torch.dtype) -> torch.dtype:
    """The type with the wider gap between numbers: bfloat16 rather than float16, though both have 16 bits."""
    return max((x, y), key=lambda kind: torch.finfo(kind).eps)
