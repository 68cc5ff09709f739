"""Layers that hold parts of several layers of the other model, as when neighbors were averaged into one.

A layer of B that resembles two layers of A either came from both, or A has one layer twice. Which it is, A alone tells:
copies resemble each other, and layers that were averaged do not.

Shapes: U = units, I = layers of A, J = layers of B.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitKind, UnitSet
from pedigree.forensics.units.evidence import CLEAR_Z, Grid
from pedigree.forensics.units.matching import centered

ALIKE = 0.5
"""Held-out agreement with a second layer, over that with the best one, from which both are sources."""

COPIED = 0.2
"""Agreement of units in place from which two layers of one model are taken for copies; layers that were drawn apart and
trained together stay below 0.1."""


def mixed_layers(
    a: Side, grids: Mapping[UnitKind, Grid], path: list[int | None], *, turned: bool = False
) -> dict[int, list[int]]:
    """For each layer of B that was made of several of A, those layers.

    Args:
        a: the model whose layers they would be.
        grids: scores of units; attention is asked about layers whose feed-forward units show nothing.
        path: for each layer of B its layer in A.
        turned: whether the grids have the layers of `a` on their second axis.
    """
    out: dict[int, list[int]] = {}
    if a.sample.streamed:
        return out
    for j, i in enumerate(path):
        for kind in KINDS:
            grid = grids.get(kind)
            if i is None or grid is None:
                continue
            z_IJ, effect_IJ = (x.T if turned else x for x in (grid.z_IJ, grid.effect_IJ))
            if not z_IJ[i, j] >= CLEAR_Z:
                continue
            best = float(np.nanmax(effect_IJ[:, j]))
            sources = np.flatnonzero((effect_IJ[:, j] >= ALIKE * best) & (z_IJ[:, j] >= CLEAR_Z)).tolist()
            if len(sources) > 1 and not _is_one_layer(a, kind, sources):
                out[j] = sources
            break
    return out


KINDS: tuple[UnitKind, ...] = ("ffn", "vo", "qk")
"""Kinds of units in the order in which they are asked."""


def _is_one_layer(a: Side, kind: UnitKind, layers: list[int]) -> bool:
    """Whether some of the layers are copies of each other."""
    rows = [_rows(a.units(kind, i)) for i in layers]
    return any(_agreement(x, y) > COPIED for k, x in enumerate(rows) for y in rows[:k])


def _rows(units: UnitSet | None) -> Tensor | None:
    return None if units is None else unit_rows(centered(units.rows(units.names[0])))


def _agreement(x_UD: Tensor | None, y_UD: Tensor | None) -> float:
    if x_UD is None or y_UD is None:
        return 1.0
    n = min(len(x_UD), len(y_UD))
    return float((x_UD[:n] * y_UD[:n]).sum(dim=1).mean())
