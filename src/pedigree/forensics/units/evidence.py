"""Evidence for every pair of layers, under one gauge.

Shapes: I = layers of A, J = layers of B.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pedigree.forensics.sides.gauge import Gauge
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.side import Side, map_in_order
from pedigree.forensics.sides.views import UnitKind
from pedigree.forensics.units.layer_path import NOISE_Z, emission, find_path
from pedigree.forensics.units.matching import Table
from pedigree.forensics.units.tables import Tables
from pedigree.forensics.units.walk import Walk, score_against

Floats = NDArray[np.float64]

KINDS: tuple[UnitKind, ...] = ("ffn", "vo", "qk")
CLEAR_Z = 8.0
"""A kind of unit takes part in the layer map only if some layer pair reaches this standard score with it."""


SEEN: dict[UnitKind, float] = {"ffn": 0.3, "vo": 0.9, "qk": 0.9}
"""Share of a layer's units that must have been read before their absence means anything. Feed-forward units are read
one by one, so of any sample that many are found again; heads are read whole, and the one that was read may have
moved."""

RESEMBLANCE = 0.3
"""A layer pair whose standard score is below this share of the best in its row or column only resembles it."""


@dataclass(frozen=True)
class Grid:
    """Standard scores and effects of one kind of unit over all layer pairs, [I, J] each; nan where not compared.

    `coverage_J` is the share of the units of each layer of B that was read: where units were reordered, no more of A's
    sampled units can find their counterpart, and effects are read against it. `enough` is the share that has
    to be read.
    """

    z_IJ: Floats
    effect_IJ: Floats
    coverage_J: Floats
    enough: float = 0.9

    def sees(self, j: int) -> bool:
        """Whether enough of layer `j` of B was read to find its units in any order."""
        return bool(self.coverage_J[j] >= self.enough)

    @property
    def best(self) -> tuple[float, float]:
        """Largest standard score and the effect there; zeros when nothing was compared."""
        if not np.isfinite(self.z_IJ).any():
            return 0.0, 0.0
        at = np.unravel_index(np.nanargmax(self.z_IJ), self.z_IJ.shape)
        return float(self.z_IJ[at]), float(self.effect_IJ[at])


@dataclass(frozen=True)
class Evidence:
    """Grids by kind of unit under one gauge; the tables are kept so that a closer look need not make them again."""

    gauge: Gauge
    grids: dict[UnitKind, Grid] = field(default_factory=dict)
    tables: Tables | None = field(default=None, repr=False)

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
    tables: Tables,
    layers_a: list[int] | None = None,
    kinds: tuple[UnitKind, ...] = KINDS,
) -> Evidence:
    """Score every pair of layers under a gauge.

    Args:
        a, b: the two models.
        tables: their unit tables under one gauge.
        layers_a: only these layers of A (a quick look at a gauge); all by default.
        kinds: kinds of unit to score.
    """
    chosen = list(range(a.n_layers)) if layers_a is None else layers_a
    grids: dict[UnitKind, Grid] = {}
    if a.sample.streamed:
        for kind in kinds:
            found = _walk_grid(a, b, tables.gauge, kind, chosen)
            if found is not None:
                grids[kind] = found
        return Evidence(tables.gauge, grids, tables)
    for kind in kinds:
        right = map_in_order(lambda j, k=kind: tables.of_b(k, j), range(b.n_layers))  # type: ignore[misc]
        rows = map_in_order(
            lambda i, k=kind, r=right: _score_row(tables, k, i, r),  # type: ignore[misc]
            chosen,
        )
        z_IJ = np.full((a.n_layers, b.n_layers), np.nan)
        effect_IJ = np.full((a.n_layers, b.n_layers), np.nan)
        for i, row in zip(chosen, rows, strict=True):
            z_IJ[i], effect_IJ[i] = row
        if np.isfinite(z_IJ).any():
            grids[kind] = Grid(z_IJ, effect_IJ, _coverage(right), SEEN[kind])
    return Evidence(tables.gauge, grids, tables)


MOST_SEARCHED = 1 << 26
"""Numbers of A's units that take part in a search over layer pairs and are held while B passes by, by projection."""


def _walk_grid(a: Side, b: Side, gauge: Gauge, kind: UnitKind, chosen: list[int]) -> Grid | None:
    """The grid of one kind without holding either model: some units of A stay, B's layers pass by in blocks."""
    z_IJ = np.full((a.n_layers, b.n_layers), np.nan)
    effect_IJ, coverage_J = z_IJ.copy(), np.zeros(b.n_layers)
    wanted = a.sample.search_units
    if len(chosen) * wanted * b.width > 2 * MOST_SEARCHED:  # a lens leaves half of the width
        wanted //= 2
    left: dict[int, Table] = {}
    for i in chosen:
        units = a.units(kind, i)
        if units is not None and len(units.names) > 1:
            left[i] = Walk(a, kind, i, gauge, "a", units).table(spread_evenly(units.count, wanted))
    for j in range(b.n_layers):
        units = b.units(kind, j)
        if units is None or len(units.names) < 2:
            continue
        coverage_J[j] = units.count / max(1, units.total)
        for i, score in score_against(left, Walk(b, kind, j, gauge, "b", units)).items():
            if score.n:
                z_IJ[i, j], effect_IJ[i, j] = score.z, score.effect
    return Grid(z_IJ, effect_IJ, coverage_J, SEEN[kind]) if np.isfinite(z_IJ).any() else None


MAX_CLOSER = 4
"""Layers that are read whole after most layers of a sampled model have found their place."""


def look_closer(a: Side, b: Side, evidence: Evidence) -> Evidence:
    """Read some of B's layers without a counterpart whole, where others of a sampled model have one.

    Only then does their silence mean that they are foreign: their units may merely have been reordered.
    """
    path = evidence.path()
    silent = [j for j, i in enumerate(path) if i is None and not any(g.sees(j) for g in evidence.grids.values())]
    if evidence.tables is None or b.sample.max_units is None:
        return evidence
    if not b.sample.column_layers and not (b.sample.goes_on and holds_all(path, a.n_layers)):
        return evidence
    if not silent or all(i is None for i in path):
        return evidence
    wanted = min(MAX_CLOSER, len(silent))
    chosen = [silent[(k * len(silent)) // wanted] for k in range(wanted)]
    return collect_evidence(a, b, evidence.tables.with_whole([*evidence.tables.whole, *chosen]))


MOST_FOREIGN = 0.25
"""Share of layers of foreign origin up to which a model that holds all layers of another is told from a glance."""


def holds_all(path: list[int | None], n_layers: int) -> bool:
    """Whether every layer of A has a place in B, and few layers of B are left over.

    Args:
        path: for each layer of B its layer of A.
        n_layers: layers of A.
    """
    foreign = sum(i is None for i in path)
    return set(range(n_layers)) <= set(path) and foreign <= min(MAX_CLOSER, MOST_FOREIGN * len(path))


def _coverage(tables_b: list[Table | None]) -> Floats:
    return np.array([0.0 if t is None else t.match_UD.shape[0] / max(1, t.total) for t in tables_b])


def _without_resemblance(z_IJ: Floats) -> Floats:
    """Scores in which neighbors that merely resemble a layer count as noise.

    Layers of one model resemble their neighbors; when a layer's true counterpart is absent the neighbor of it would
    be taken. A true pair is close to the best of its row and of its column; a resembling one is far below.
    """
    filled = np.nan_to_num(z_IJ, nan=NOISE_Z)
    best = np.maximum(filled.max(axis=0, keepdims=True), filled.max(axis=1, keepdims=True))
    return np.where(filled < RESEMBLANCE * best, np.minimum(filled, NOISE_Z / 2), filled)


def _score_row(tables: Tables, kind: UnitKind, i: int, right: list[Table | None]) -> tuple[Floats, Floats]:
    z_J, effect_J = np.full(len(right), np.nan), np.full(len(right), np.nan)
    left = tables.of_a(kind, i)  # held while its row is worked out, where tables of A are made as needed
    if left is None or left.is_silent:
        return z_J, effect_J
    for j, (there, score) in enumerate(zip(right, tables.score_row(kind, i, left, right), strict=True)):
        if score is not None and score.n and there is not None and not there.is_silent:
            z_J[j], effect_J[j] = score.z, score.effect
    return z_J, effect_J
