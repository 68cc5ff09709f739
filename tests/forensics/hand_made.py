"""Findings made by hand, so that every question between measurement and verdict can be asked alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pedigree.forensics.comparison.findings import Findings, HeadScore
from pedigree.forensics.descent.survival import Survival
from pedigree.forensics.exact.card import TestCard, TestOutcome
from pedigree.forensics.frames.ladder import Climb
from pedigree.forensics.sides.anchors import SharedTokens
from pedigree.forensics.sides.bits import BitPass
from pedigree.forensics.sides.gauge import Gauge, identity_gauge
from pedigree.forensics.sides.views import UnitKind
from pedigree.forensics.units.evidence import Evidence, Grid
from pedigree.forensics.units.unit_map import UnitMap

Path = list[int | None]
CARD = TestCard("test", 1, "null", "assumption", "source", "unit")
WHOLE = Survival(1.0, 1.0, 0.0, 12, excess=0.3)
TWIN = Survival(0.1, 0.8, 0.9, 12, own=-0.7, alike=0.5, excess=0.3)


def outcome(log10_p: float | None) -> TestOutcome:
    if log10_p is None:
        return TestOutcome.not_applicable(CARD, "not made")
    return TestOutcome(CARD, 1.0, 100, log10_p)


def grid(path: Path, n_a: int, *, on: Sequence[int] | None = None, z: float = 40.0, effect: float = 0.8) -> Grid:
    """Noise everywhere, a clear score on the layers `on` of the path (all of them unless said otherwise)."""
    rng = np.random.default_rng(0)
    z_IJ = rng.normal(size=(n_a, len(path)))
    effect_IJ = 0.005 * rng.normal(size=(n_a, len(path)))
    for j, i in enumerate(path):
        if i is not None and (on is None or j in on):
            z_IJ[i, j], effect_IJ[i, j] = z, effect
    return Grid(z_IJ, effect_IJ, np.ones(len(path)))


def tokens(
    shared: int = 500, a: int = 500, b: int = 500, *, by: str = "surface form", same: bool = True
) -> SharedTokens:
    index = torch.arange(shared)
    return SharedTokens(index, index if same else index.flip(0), by, a, b)


def bits(**lists: Any) -> BitPass:
    return BitPass(**lists)


def found(
    path: Path,
    grids: Mapping[UnitKind, Grid],
    *,
    gauge: Gauge | None = None,
    exact: Mapping[str, float | None] | None = None,
    heads: Mapping[str, HeadScore] | None = None,
    tables: Mapping[str, float] | None = None,
    survival: tuple[Survival | None, Survival | None] = (WHOLE, WHOLE),
    **more: Any,
) -> Findings:
    evidence = Evidence(gauge or identity_gauge(32, 32), dict(grids))
    n_a = next((g.z_IJ.shape[0] for g in grids.values()), len(path))
    more.setdefault("reverse_map", [path.index(i) if i in path else None for i in range(n_a)])
    return Findings(
        tokens=more.pop("tokens", tokens()),
        climb=Climb(evidence),
        evidence=evidence,
        layer_map=path,
        exact={name: outcome(value) for name, value in (exact or {}).items()},
        heads=dict(heads or {}),
        tables=dict(tables or {}),
        forward=survival[0],
        backward=survival[1],
        **more,
    )


def unit_map(
    origin: Sequence[int],
    n_a: int,
    *,
    layers: tuple[int, int] = (0, 0),
    silent: Sequence[int] = (),
    label_a: Sequence[int] | None = None,
    label_b: Sequence[int] | None = None,
    log_scale: torch.Tensor | None = None,
    sign: torch.Tensor | None = None,
) -> UnitMap:
    """A unit map from the origin of each unit of B (-1: none)."""
    n_b = len(origin)
    silent_N = torch.zeros(n_b, dtype=torch.bool)
    silent_N[list(silent)] = True

    def index(labels: Sequence[int] | None, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        label = torch.zeros(n, dtype=torch.long) if labels is None else torch.tensor(labels)
        within = torch.zeros(n, dtype=torch.long)
        for value in label.unique():
            within[label == value] = torch.arange(int((label == value).sum()))
        return within, label

    index_a, labels_a = index(label_a, n_a)
    index_b, labels_b = index(label_b, n_b)
    return UnitMap(
        *layers,
        torch.tensor(list(origin)),
        torch.ones(n_b),
        index_a,
        labels_a,
        index_b,
        labels_b,
        silent_N,
        torch.zeros(n_b) if log_scale is None else log_scale,
        torch.ones(n_b) if sign is None else sign,
        n_a,
        n_b,
    )
