"""Whether one of two models is the other rounded to a grid of few-bit integers, stored in an ordinary number type.

Rounding to nearest leaves errors that fill the step of the grid evenly: their mean square is a twelfth of the step's.
A model that was trained on from a rounded one is on no grid any more, and what training moved is no more even than it
is bounded by half a step; so the model on the grid came from the other one. Grids are found block by block, without
knowing groups, scales or zero points: all numbers of a block are whole steps apart. Blocks lie along rows; in a matrix
that is stored turned (GPT-2's) also along columns, which are its rows in the file: whoever rounds a file rounds those.

Shapes  R = rows, C = columns, K = blocks, N = numbers of a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pedigree.forensics.sides.side import Side

BLOCKS = (32, 16)
"""Neighbors of a row that share a step; groups of common quantizers are whole multiples of the first, some of the
second."""

MOST_STEPS = 255
"""Steps between the ends of a block: eight bits."""

OFF = 0.02
"""How far from a whole number of steps a number may lie, by the rounding of the stored type."""

ONE_SCALE, IN_ORDER = 16, 0.9995
"""Neighbors of a row that share a scale in every packing; share of such blocks that are in order after rounding."""

ROWS, MANY_ROWS, MATRICES = 8, 32, 6
ON_GRID = 0.9
"""Share of blocks on a grid from which a matrix was rounded."""

EVEN = (0.06, 0.11)
"""Mean square of the error over that of the step: a twelfth, or 0.083, for rounding."""


def rounded_side(a: Side, b: Side, layer_map: list[int | None]) -> str | None:
    """`"a"` where A is B rounded, `"b"` where B is A rounded, None where neither is, or it cannot be told.

    Args:
        a, b: the two models.
        layer_map: layer of A for each layer of B.
    """
    votes = [_rounded(ways) for ways in _matrices(a, b, layer_map, ROWS)]
    told = {vote for vote in votes if vote is not None}
    return told.pop() if len(told) == 1 and votes.count(None) <= len(votes) // 2 else None


def is_on_grid(a: Side) -> bool:
    """Whether the numbers of a model stand on a grid of few-bit integers: it was rounded, and not trained since."""
    matrices = [[one_RC for one_RC, _ in ways] for ways in _matrices(a, a, list(range(a.n_layers)), ROWS)]
    told = [any(map(_on_some_grid, ways)) for ways in matrices if any(map(_sizes, ways))]
    return bool(told) and all(told)


def side_on_grid(a: Side, b: Side) -> str | None:
    """`"a"` or `"b"`, whichever alone stands on a grid of few-bit integers, whatever it was rounded from; else None.

    Error-compensating quantizers (GPTQ) do not round to the nearest, and scales that were moved first (AWQ), or another
    frame, leave nothing to hold the rounding against (`rounded_side`).
    """
    on_a, on_b = is_on_grid(a), is_on_grid(b)
    return None if on_a == on_b else "a" if on_a else "b"


def _is_gridded(x_KN: Tensor) -> bool:
    """Whether blocks stand on a grid; blocks of one or two values (a mask left no more) are on any and say nothing."""
    ordered_KN = x_KN.sort(1).values
    real_KN = ordered_KN.diff(dim=1) > 1e-4 * (ordered_KN[:, -1:] - ordered_KN[:, :1])
    busy_K = real_KN.sum(1) >= 2
    return bool(busy_K.double().mean() > 0.5) and _stand_on_grid(steps(x_KN[busy_K]))


def keeps_order(a: Side, b: Side, layer_map: list[int | None]) -> bool:
    """Whether neighbors under one scale stand in the same order in both models, equal ones counted as in order.

    Rounding to nearest keeps the order of numbers, on any grid; it makes some of them equal. What was trained on,
    before or after, changes places with its neighbors: of blocks of sixteen numbers of a model that moved by half a
    percent of its length, 0.3 to 0.9 % are out of order beside four bits and 7 % beside eight, of others none is
    (docs/LOG.md, 2026-11-30).

    Args:
        a, b: the two models.
        layer_map: layer of A for each layer of B.
    """
    found = [in_order(*_under_one_scale(ways)) for ways in _matrices(a, b, layer_map, MANY_ROWS)]
    return bool(found) and float(torch.cat(found).double().mean()) > IN_ORDER


def in_order(a_RC: Tensor, b_RC: Tensor) -> Tensor:
    """For each block whether no two of its numbers stand the other way round in the other model, bool [K]."""
    columns = a_RC.shape[1] // ONE_SCALE * ONE_SCALE
    a_KN, b_KN = (x_RC[:, :columns].reshape(-1, ONE_SCALE) for x_RC in (a_RC, b_RC))
    turned_K = torch.zeros(a_KN.shape[0], dtype=torch.bool)
    for n in range(1, ONE_SCALE):
        turned_KN = (a_KN - a_KN.roll(n, 1)) * (b_KN - b_KN.roll(n, 1)) < 0
        turned_K |= turned_KN.any(1)
    return ~turned_K


_Ways = list[tuple[Tensor, Tensor]]  # some rows of one matrix in both models; then, where it is stored turned, columns


def _matrices(a: Side, b: Side, layer_map: list[int | None], n_rows: int) -> Iterator[_Ways]:
    """Some rows of a few matrices of both, in the places where they stand."""
    count = 0
    for j, i in enumerate(layer_map):
        for role in ("mlp.up", "mlp.down", "attn.q"):
            one = None if i is None else a.anatomy.part(role, i)
            two = b.anatomy.part(role, j)
            if one is None or two is None or tuple(one.shape) != tuple(two.shape) or len(one.shape) != 2:
                continue
            rows, columns = (_spread(size, n_rows) for size in one.shape)
            ways = [(one.read(rows=rows).double(), two.read(rows=rows).double())]
            if one.turned or two.turned:
                ways.append((one.read(cols=columns).T.double(), two.read(cols=columns).T.double()))
            yield ways
            count += 1
            if count == MATRICES:
                return


def _spread(size: int, count: int) -> list[int]:
    """So many numbers below `size`, evenly apart."""
    return list(range(0, size, max(1, size // count)))[:count]


def _rounded(ways: _Ways) -> str | None:
    tries = ((a_RC, b_RC, size) for a_RC, b_RC in ways for size in _sizes(a_RC))
    return next((side for one in tries if (side := _rounded_in(*one)) is not None), None)


def _under_one_scale(ways: _Ways) -> tuple[Tensor, Tensor]:
    """The way of laying a matrix out in which neighbors share a scale: the one that has a grid; else by rows."""
    return next((way for way in ways if any(map(_on_some_grid, way))), ways[0])


def _rounded_in(a_RC: Tensor, b_RC: Tensor, size: int) -> str | None:
    """Which of the two is the other one rounded, block of so many neighbors by block."""
    a_KN, b_KN = _blocks(a_RC, size), _blocks(b_RC, size)
    step_a_K, step_b_K = steps(a_KN), steps(b_KN)
    on_a, on_b = _stand_on_grid(step_a_K), _stand_on_grid(step_b_K)
    if on_a == on_b:
        return None
    step_K = step_a_K if on_a else step_b_K
    fine = step_K > 0
    error = float((((a_KN - b_KN)[fine] / step_K[fine, None]) ** 2).mean())
    return ("a" if on_a else "b") if EVEN[0] < error < EVEN[1] else None


def _sizes(x_RC: Tensor) -> list[int]:
    """Blocks that fit into a row."""
    return [size for size in BLOCKS if size <= x_RC.shape[1]]


def _stand_on_grid(step_K: Tensor) -> bool:
    """Whether so many blocks have a step that the matrix was rounded."""
    return float((step_K > 0).double().mean()) > ON_GRID


def _on_some_grid(x_RC: Tensor) -> bool:
    """Whether blocks of some size stand on grids."""
    return any(_is_gridded(_blocks(x_RC, size)) for size in _sizes(x_RC))


def _blocks(x_RC: Tensor, size: int) -> Tensor:
    columns = x_RC.shape[1] // size * size
    return x_RC[:, :columns].reshape(-1, size)


def steps(x_KN: Tensor) -> Tensor:
    """The step of each block's grid [K]; zero where its numbers are on none."""
    ordered_KN = x_KN.sort(1).values
    gap_KN = ordered_KN.diff(dim=1)
    range_K = ordered_KN[:, -1] - ordered_KN[:, 0]
    # Equal numbers leave gaps of rounding errors of the stored type.
    real_KN = torch.where(gap_KN > 1e-4 * range_K[:, None], gap_KN, torch.inf)
    step_K = real_KN.min(1).values
    counted_KN = (ordered_KN - ordered_KN[:, :1]) / step_K[:, None]
    off_K = (counted_KN - counted_KN.round()).abs().max(1).values
    # The smallest gap is one step nearly always; a finer mean over the whole range takes its error out.
    on = (off_K < 10 * OFF) & (range_K / step_K <= MOST_STEPS) & torch.isfinite(step_K)
    whole_K = counted_KN[:, -1].round().clamp_min(1.0)
    better_K = range_K / whole_K
    again_KN = (ordered_KN - ordered_KN[:, :1]) / better_K[:, None].clamp_min(1e-300)
    exact = (again_KN - again_KN.round()).abs().max(1).values < OFF
    return torch.where(on & exact, better_K, 0.0)
