"""Layers of a child that were taken whole from layers of the sources, in any order and number.

A stack of ranges of layers (mergekit's passthrough) is deeper or shallower than its sources, so layers of one number
say nothing. Some rows of each matrix of a layer are held against those of every layer of every source; layers that
agree within rounding are where it was taken from.

Shapes: R = rows, D = columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pedigree.forensics.merges.gram import last_place
from pedigree.weights.anatomy import Anatomy, Part

ROWS = 16
"""First rows of each matrix that are held against each other."""

Place = tuple[int, int]
"""A layer of a source: number of the source, counted from one, and of the layer."""


def find_stack(anatomies: Sequence[Anatomy]) -> list[Place] | None:
    """Where each layer of the child was taken from; None where some layer is none of the sources'.

    Args:
        anatomies: of the child, then of the sources.
    """
    child, *sources = anatomies
    found: list[Place] = []
    for layer in range(child.n_layers):
        mine = _matrices(child, layer)
        # A layer that two sources share belongs where the one before it came from.
        nearest = [(n, i + 1) for n, i in found[-1:]]
        every = [(n, i) for n, source in enumerate(sources, start=1) for i in range(source.n_layers)]
        place = next((p for p in (*nearest, *every) if _is_same(mine, _matrices_at(sources, p))), None)
        if not mine or place is None:
            return None
        found.append(place)
    return found or None


def stack_in_words(stack: Sequence[Place], names: Sequence[str]) -> str:
    """The ranges, in words; `names` are those of the sources."""
    return ", ".join(f"{names[n - 1]} {first} to {last - 1}" for n, first, last in ranges_of(stack))


def ranges_of(stack: Sequence[Place]) -> list[tuple[int, int, int]]:
    """Runs of layers that follow each other in one source: its number, the first layer, the one behind the last."""
    out: list[tuple[int, int, int]] = []
    for n, i in stack:
        if out and out[-1][0] == n and out[-1][2] == i:
            out[-1] = (n, out[-1][1], i + 1)
        else:
            out.append((n, i, i + 1))
    return out


def _matrices(anatomy: Anatomy, layer: int) -> dict[str, Part]:
    return {part.role: part for part in anatomy.parts() if part.layer == layer and len(part.shape) == 2}


def _matrices_at(sources: Sequence[Anatomy], place: Place) -> dict[str, Part]:
    source, layer = sources[place[0] - 1], place[1]
    return _matrices(source, layer) if layer < source.n_layers else {}


def _is_same(mine: dict[str, Part], theirs: dict[str, Part]) -> bool:
    """Whether some rows of every matrix agree within rounding; the first that do not end it."""
    if mine.keys() != theirs.keys():
        return False
    for role, part in mine.items():
        other = theirs[role]
        if other.shape != part.shape:
            return False
        rows = slice(0, min(ROWS, part.shape[0]))
        if not _agree(part.read(rows=rows), other.read(rows=rows), part.dtype):
            return False
    return True


def _agree(mine_RD: Tensor, theirs_RD: Tensor, dtype: str) -> bool:
    return bool(((mine_RD - theirs_RD).abs() <= last_place(mine_RD, dtype)).all())
