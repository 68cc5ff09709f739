"""Orientation: whether a stored matrix is [out, in] or [in, out], told from its shape.

One axis of nearly every matrix of a decoder is the residual stream, so its shape tells its orientation unless it is
square. Square matrices follow the majority of the others; where all are square, the role table decides.

Shapes: E = experts, H = heads, D = head dimension, d = residual width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pedigree.weights.table import Match, Table

_TABLE_ROLES = ("embed", "head", "mtp.embed", "mtp.head")


@dataclass(frozen=True, slots=True)
class Oriented:
    """A stored tensor seen as [rows, cols] (cols is None for vectors), and how to turn it."""

    match: Match
    stored: tuple[int, ...]
    rows: int
    cols: int | None
    transposed: bool = False
    swapped: bool = False

    @property
    def vector(self) -> bool:
        """Whether the tensor is a vector in canonical form."""
        return self.cols is None

    @property
    def stored_heads(self) -> tuple[int, int] | None:
        """(heads, head dimension) where an axis of the storage shows them."""
        if self.match.entry.packed or len(self.stored) != 3 or self.vector or self.match.entry.tail:
            return None
        return self.stored[0], self.rows // self.stored[0] if not self.transposed else self.stored[1]


def orient(
    matches: Sequence[Match], shapes: Sequence[tuple[int, ...]], table: Table, width: int | None, notes: list[str]
) -> list[Oriented | None]:
    """Orientation of every matched tensor; None where its shape cannot play its role.

    Args:
        matches: what each tensor is.
        shapes: its stored shape.
        table: the table the matches come from (its fact "transposed" is the default of its linear maps).
        width: residual width, None where unknown.
        notes: receives a sentence where the shapes contradict the table.
    """
    votes: dict[bool, Counter[bool]] = {False: Counter(), True: Counter()}
    for match, shape in zip(matches, shapes, strict=True):
        evidence = _evidence(match, shape, width)
        if evidence is not None and not _is_table(match):
            votes[match.entry.packed][evidence] += 1
    default = bool(table.facts.get("transposed", False))
    packed_default = bool(table.facts.get("packed_transposed", False))
    settled = {False: _majority(votes[False], default), True: _majority(votes[True], packed_default)}
    if votes[False] and settled[False] != default:
        stored = "[in, out]" if settled[False] else "[out, in]"
        notes.append(f"layout: linear maps are stored {stored}, as their shapes tell; {table.name} has it otherwise")
    return [_orient_one(m, shape, width, settled) for m, shape in zip(matches, shapes, strict=True)]


def _is_table(match: Match) -> bool:
    return match.entry.roles[0].startswith(_TABLE_ROLES)


def _is_vector(match: Match) -> bool:
    return match.bias or len(match.entry.axes_for(match.entry.roles[0])) == 1


def _evidence(match: Match, shape: tuple[int, ...], width: int | None) -> bool | None:
    """True where the shape says [in, out], False where it says [out, in], None where it says nothing."""
    settled = match.entry.transposed is not None or _is_vector(match)
    if width is None or settled or len(shape) != (3 if match.entry.packed else 2):
        return None
    return _turned(match, shape[-2:], width)


def _turned(match: Match, shape: tuple[int, ...], width: int) -> bool | None:
    axes = match.entry.axes_for(match.entry.roles[0])
    spaces = [axis.space for axis in axes]
    if spaces.count("residual") != 1 or (shape[0] == width) == (shape[1] == width):
        return None
    return shape[1 - spaces.index("residual")] == width


def _majority(votes: Counter[bool], default: bool) -> bool:
    return votes[True] > votes[False] if votes[True] != votes[False] else default


def _orient_one(match: Match, shape: tuple[int, ...], width: int | None, settled: dict[bool, bool]) -> Oriented | None:
    if not shape or math.prod(shape) == 0:
        return None
    entry = match.entry
    if _is_vector(match):
        length = math.prod(shape[1:] if entry.packed else shape)
        wide = len(shape) > (3 if entry.packed else 2) or (entry.packed and len(shape) < 2)
        return None if wide else Oriented(match, shape, length, None)
    if entry.tail:
        return Oriented(match, shape, shape[0], math.prod(shape[1:])) if len(shape) > 1 else None
    inner = shape[1:] if entry.packed else shape
    if len(inner) == 3 and not entry.packed:
        return _orient_heads(match, shape, width)
    if len(inner) != 2:
        return None
    turned = entry.transposed
    if turned is None:
        evidence = None if width is None else _turned(match, inner, width)
        turned = evidence if evidence is not None else (settled[entry.packed] and not _is_table(match))
    rows, cols = (inner[1], inner[0]) if turned else (inner[0], inner[1])
    return Oriented(match, shape, rows, cols, transposed=turned)


def _orient_heads(match: Match, shape: tuple[int, ...], width: int | None) -> Oriented | None:
    """A matrix stored with an axis of heads: [H, D, d], [H, d, D], or [H, D, d] of the output projection."""
    axes = match.entry.axes_for(match.entry.roles[0])
    if axes[0].space == "residual":
        return Oriented(match, shape, shape[2], shape[0] * shape[1], transposed=True)
    swapped = match.entry.swapped or (width is not None and shape[1] == width and shape[2] != width)
    head_dim, cols = (shape[2], shape[1]) if swapped else (shape[1], shape[2])
    return Oriented(match, shape, shape[0] * head_dim, cols, swapped=swapped)
