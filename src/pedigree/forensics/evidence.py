"""Evidence for every pair of layers, under one gauge.

Shapes: I = layers of A, J = layers of B.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pedigree.forensics.gauge import Gauge
from pedigree.forensics.layer_path import NOISE_Z, emission, find_path
from pedigree.forensics.matching import Table, make_table, score_layers
from pedigree.forensics.side import Side, map_in_order
from pedigree.forensics.views import UnitKind, read_units

Floats = NDArray[np.float64]

KINDS: tuple[UnitKind, ...] = ("ffn", "vo", "qk")
CLEAR_Z = 8.0
"""A kind of unit takes part in the layer map only if some layer pair reaches this standard score with it."""


SEEN = 0.9
"""Share of a layer's units that must have been read before their absence means anything."""

RESEMBLANCE = 0.3
"""A layer pair whose standard score is below this share of the best in its row or column only resembles it."""


@dataclass(frozen=True)
class Grid:
    """Standard scores and effects of one kind of unit over all layer pairs, [I, J] each; nan where not compared.

    `coverage_J` is the share of the units of each layer of B that was read: where units were reordered, no more of A's
    sampled units can find their counterpart, and effects are read against it.
    """

    z_IJ: Floats
    effect_IJ: Floats
    coverage_J: Floats

    def sees(self, j: int) -> bool:
        """Whether enough of layer `j` of B was read to find its units in any order."""
        return bool(self.coverage_J[j] >= SEEN)

    @property
    def best(self) -> tuple[float, float]:
        """Largest standard score and the effect there; zeros when nothing was compared."""
        if not np.isfinite(self.z_IJ).any():
            return 0.0, 0.0
        at = np.unravel_index(np.nanargmax(self.z_IJ), self.z_IJ.shape)
        return float(self.z_IJ[at]), float(self.effect_IJ[at])


@dataclass(frozen=True)
class Evidence:
    """Grids by kind of unit under one gauge; B's tables are kept so that a closer look need not make them again."""

    gauge: Gauge
    grids: dict[UnitKind, Grid] = field(default_factory=dict)
    tables_b: dict[UnitKind, list[Table | None]] = field(default_factory=dict, repr=False)

    def best_z(self) -> float:
        """Largest standard score of any kind."""
        return max((grid.best[0] for grid in self.grids.values()), default=0.0)

    def path(self, kinds: tuple[UnitKind, ...] = KINDS) -> list[int | None]:
        """Layer of A for each layer of B, by the kinds given that show anything at all."""
        shown = [self.grids[k] for k in kinds if k in self.grids and self.grids[k].best[0] >= CLEAR_Z]
        if not shown:
            return [None] * next(iter(self.grids.values())).z_IJ.shape[1] if self.grids else []
        # A pair that was not compared (a layer read without that kind) speaks neither for nor against.
        total = sum(emission(_without_resemblance(grid.z_IJ)) for grid in shown)
        noise = float(emission(np.array([NOISE_Z]))[0]) * len(shown)
        return find_path(np.asarray(total), noise)

    def reverse_path(self) -> list[int | None]:
        """Layer of B for each layer of A."""
        turned = {
            kind: Grid(grid.z_IJ.T, grid.effect_IJ.T, np.ones(grid.z_IJ.shape[0])) for kind, grid in self.grids.items()
        }
        return Evidence(self.gauge, turned).path()


def collect_evidence(
    a: Side,
    b: Side,
    gauge: Gauge,
    layers_a: list[int] | None = None,
    kinds: tuple[UnitKind, ...] = KINDS,
    tables_b: dict[UnitKind, list[Table | None]] | None = None,
) -> Evidence:
    """Score every pair of layers under a gauge.

    Args:
        a, b: the two models.
        gauge: map from A's residual frame into B's.
        layers_a: only these layers of A (a quick look at a gauge); all by default.
        kinds: kinds of unit to score.
        tables_b: B's tables under the same gauge, from an earlier look.
    """
    chosen = list(range(a.n_layers)) if layers_a is None else layers_a
    grids: dict[UnitKind, Grid] = {}
    made = dict(tables_b or {})
    for kind in kinds:
        if kind not in made:
            made[kind] = _tables_of_b(b, kind, gauge)
        rows = map_in_order(
            lambda i, k=kind: _score_row(_table(a, i, k, gauge, "a"), made[k], a.sample.search_units),  # type: ignore[misc]
            chosen,
        )
        z_IJ = np.full((a.n_layers, b.n_layers), np.nan)
        effect_IJ = np.full((a.n_layers, b.n_layers), np.nan)
        for i, row in zip(chosen, rows, strict=True):
            z_IJ[i], effect_IJ[i] = row
        if np.isfinite(z_IJ).any():
            grids[kind] = Grid(z_IJ, effect_IJ, _coverage(made[kind]))
    return Evidence(gauge, grids, made)


def _coverage(tables_b: list[Table | None]) -> Floats:
    return np.array([0.0 if t is None else t.match_UD.shape[0] / max(1, t.total) for t in tables_b])


def _tables_of_b(b: Side, kind: UnitKind, gauge: Gauge) -> list[Table | None]:
    """Tables of every layer of B; of sampled models a few layers are read with all their units.

    Two samples of a layer whose units were reordered have few units in common. A sample against a whole layer has
    all of them, so a few whole layers tell whether units were reordered or are foreign. They are read when needed and
    only their view through the lens is kept.
    """
    whole = b.sample.whole_layers(b.n_layers) if kind != "vo" else []
    tables = map_in_order(lambda j: None if j in whole else _table(b, j, kind, gauge, "b"), range(b.n_layers))
    for j in whole:
        units = read_units(b.anatomy, j, kind, b.sample.all_units())
        tables[j] = None if units is None or len(units.names) < 2 else make_table(units, gauge, "b")
    return tables


def _table(side: Side, layer: int, kind: UnitKind, gauge: Gauge, which: str) -> Table | None:
    units = side.layer(layer).units.get(kind)
    return None if units is None or len(units.names) < 2 else make_table(units, gauge, which)


def _without_resemblance(z_IJ: Floats) -> Floats:
    """Scores in which neighbors that merely resemble a layer count as noise.

    Layers of one model resemble their neighbors; when a layer's true counterpart is absent the neighbor of it would
    be taken. A true pair is close to the best of its row and of its column; a resembling one is far below.
    """
    filled = np.nan_to_num(z_IJ, nan=NOISE_Z)
    best = np.maximum(filled.max(axis=0, keepdims=True), filled.max(axis=1, keepdims=True))
    return np.where(filled < RESEMBLANCE * best, np.minimum(filled, NOISE_Z / 2), filled)


def _score_row(left: Table | None, tables: list[Table | None], max_units: int) -> tuple[Floats, Floats]:
    z_J, effect_J = np.full(len(tables), np.nan), np.full(len(tables), np.nan)
    if left is not None:
        for j, right in enumerate(tables):
            if right is not None:
                score = score_layers(left, right, max_units)
                if score.n:
                    z_J[j], effect_J[j] = score.z, score.effect
    return z_J, effect_J
