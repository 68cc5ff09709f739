"""Layers that hold parts of several layers of the other model, as when neighbors were averaged into one.

A layer of B that resembles two layers of A either came from both, or A has one layer twice. Which it is, A alone tells:
copies resemble each other, and layers that were averaged do not.

Shapes: U = units, I = layers of A, J = layers of B.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitSet
from pedigree.forensics.units.evidence import CLEAR_Z, Grid
from pedigree.forensics.units.matching import centered

ALIKE = 0.5
"""Held-out agreement with a second layer, over that with the best one, from which both are sources."""

COPIED = 0.2
"""Agreement of units in place from which two layers of one model are taken for copies; layers that were drawn apart and
trained together stay below 0.1."""


def mixed_layers(a: Side, grid: Grid | None, path: list[int | None], *, turned: bool = False) -> dict[int, list[int]]:
    """For each layer of B that was made of several of A, those layers.

    Args:
        a: the model whose layers they would be.
        grid: scores of feed-forward units.
        path: for each layer of B its layer in A.
        turned: whether the grid has the layers of `a` on its second axis.
    """
    if grid is None or a.sample.streamed:
        return {}
    z_IJ, effect_IJ = (x.T if turned else x for x in (grid.z_IJ, grid.effect_IJ))
    out: dict[int, list[int]] = {}
    for j, i in enumerate(path):
        if i is None or not z_IJ[i, j] >= CLEAR_Z:
            continue
        best = float(np.nanmax(effect_IJ[:, j]))
        sources = np.flatnonzero((effect_IJ[:, j] >= ALIKE * best) & (z_IJ[:, j] >= CLEAR_Z)).tolist()
        if len(sources) > 1 and not _is_one_layer(a, sources):
            out[j] = sources
    return out


def _is_one_layer(a: Side, layers: list[int]) -> bool:
    """Whether some of the layers are copies of each other."""
    rows = [_rows(a.units("ffn", i)) for i in layers]
    return any(_agreement(x, y) > COPIED for k, x in enumerate(rows) for y in rows[:k])


def _rows(units: UnitSet | None) -> Tensor | None:
    return None if units is None else unit_rows(centered(units.rows(units.names[0])))


def _agreement(x_UD: Tensor | None, y_UD: Tensor | None) -> float:
    if x_UD is None or y_UD is None:
        return 1.0
    n = min(len(x_UD), len(y_UD))
    return float((x_UD[:n] * y_UD[:n]).sum(dim=1).mean())
