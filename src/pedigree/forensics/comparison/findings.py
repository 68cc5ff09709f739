"""Everything one comparison measured, before any word is chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from pedigree.forensics.descent.additions import Additions
from pedigree.forensics.descent.copies import Copies
from pedigree.forensics.descent.gains import LearnedGains
from pedigree.forensics.descent.kept_origin import KeptOrigin
from pedigree.forensics.descent.share import Share
from pedigree.forensics.descent.survival import Survival
from pedigree.forensics.descent.table_origin import TableOrigin
from pedigree.forensics.descent.untouched_rows import UntouchedRows
from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.frames.ladder import Climb
from pedigree.forensics.sides.anchors import SharedTokens
from pedigree.forensics.sides.bits import BitPass
from pedigree.forensics.sides.contents import Contents
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitKind
from pedigree.forensics.units.evidence import Evidence
from pedigree.forensics.units.shared_units import KeptUnits
from pedigree.forensics.units.unit_map import UnitMap

CLEAR_Z = 8.0
"""Standard score above which a layer pair counts as matched; strangers of the bank stay below (see bank.json)."""

CLEAR_EFFECT = 0.04
"""Held-out agreement above which a layer pair counts as matched when coordinates keep their index."""

FITTED_EFFECT = 0.1
"""The same under a fitted frame, which strangers who learned the same task can share in part."""

CLEAR_LOG10_P = -12.0
"""Exact tests count below this, after multiplicity: far beyond what any number of comparisons could explain."""


FEW_UNITS = 16
"""Units of a layer below which their standard score, which is less than their number, cannot be called foreign."""


@dataclass(frozen=True)
class HeadScore:
    """Pooled head-subspace agreement along the layer map: standard score, effect, number of heads."""

    z: float
    effect: float
    n: int


@dataclass
class Findings:
    """Measured facts of one comparison; orientation: for each layer of B, something of A.

    `in_place` lists layers of B whose units agree with those at the same position beyond any choice of frame and order,
    `kept` units that live on one by one, `kept_origin` where they come from; all are looked for only where whole layers
    do not agree. `carried` lists layers whose query/key planes or heads agree in the frame of vocabulary rows where
    nothing else does; `framed` tells that only attention agrees, in a frame that vocabulary rows do not share, and no
    more than the choice of a frame could bring about; `renamed_rows` that it agrees in the frame of vocabulary rows,
    but these do not stand to each other as rows of their names do. `table_origins` says where vocabulary rows that
    agree come from, if nothing else agrees, `tables_apart` how far tables lie apart in a frame, over their length.
    `mixed` gives the layers of A of which a layer of B holds parts, where these are several; `mixed_back` the same of
    A's layers. `folded` tells in whose matrices the other's gains stand ("a" or "b"), `gains_anew` that gains take no
    part since those of one began anew. `rounded` and `gridded` name the side that is the other one rounded, and that
    stands on a grid of few-bit integers, by whatever rule it came there. `in_order` tells that numbers of a few
    matrices stand in the same order in both models. `reordered` tells that files hold some units of each layer, and
    that those of A that B's holds stand elsewhere: a layer of which none is held says nothing then. `beside` names
    tensors of B without a role that are equal to one of A; `handed_down` those that one file has from the other, where
    no layers could be laid side by side.
    """

    tokens: SharedTokens
    climb: Climb
    evidence: Evidence
    layer_map: list[int | None]
    bits: BitPass | None = None
    copies: Copies | None = None
    untouched: UntouchedRows | None = None
    rounded: str | None = None
    gridded: str | None = None
    in_order: bool = False
    reordered: bool = False
    unit_maps: dict[int, UnitMap] = field(default_factory=dict)
    heads: dict[str, HeadScore] = field(default_factory=dict)
    exact: dict[str, TestOutcome] = field(default_factory=dict)
    forward: Survival | None = None
    backward: Survival | None = None
    gains: LearnedGains | None = None
    additions: Additions | None = None
    tables: dict[str, float] = field(default_factory=dict)
    table_origins: dict[str, TableOrigin] = field(default_factory=dict)
    tables_apart: dict[str, float] = field(default_factory=dict)
    reverse_map: list[int | None] = field(default_factory=list)
    reverse_units: dict[int, UnitMap] = field(default_factory=dict)
    additive: tuple[int, int] | None = None
    share: Share | None = None
    contents: Contents | None = None
    handed_down: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    renamed: bool = False
    filled: list[int] = field(default_factory=list)
    penalty_log10: float = 0.0
    in_place: list[int] = field(default_factory=list)
    kept: KeptUnits | None = None
    kept_origin: KeptOrigin | None = None
    carried: list[int] = field(default_factory=list)
    framed: bool = False
    renamed_rows: bool = False
    folded: str | None = None
    gains_anew: bool = False
    mixed: dict[int, list[int]] = field(default_factory=dict)
    mixed_back: dict[int, list[int]] = field(default_factory=dict)
    blank: list[str] = field(default_factory=list)

    @property
    def clear_effect(self) -> float:
        """Held-out agreement that counts under the frame that was chosen."""
        return CLEAR_EFFECT if self.evidence.gauge.is_trivial else FITTED_EFFECT

    def hit(self, kind: UnitKind, j: int) -> bool:
        """Whether layer `j` of B is matched, with this kind of unit, to the layer of A that the map gives."""
        i, grid = self.layer_map[j], self.evidence.grids.get(kind)
        if i is None or grid is None:
            return False
        if (kind == "ffn" and j in self.in_place) or (kind == "qk" and j in self.carried):
            return True
        z, effect = grid.z_IJ[i, j], grid.effect_IJ[i, j]
        return bool(np.isfinite(z) and z >= CLEAR_Z and effect >= self.clear_effect * grid.coverage_J[j])

    def unseen(self, j: int) -> bool:
        """Whether layer `j` of B shows nothing, but too few of its units were read for that to mean anything."""
        blind = self.reordered or not any(grid.sees(j) for grid in self.evidence.grids.values())
        return self.layer_map[j] is None and blind

    def layers_hit(self, *kinds: UnitKind) -> list[int]:
        """Layers of B matched by any of the kinds."""
        return [j for j in range(len(self.layer_map)) if any(self.hit(kind, j) for kind in kinds)]

    def tested(self, *kinds: UnitKind) -> bool:
        """Whether any of the kinds could be compared at all."""
        return any(kind in self.evidence.grids for kind in kinds)

    @property
    def keeps_units(self) -> bool:
        """Whether some units live on, beyond any choice of frame, pairs and signs, in an otherwise foreign model."""
        return self.kept is not None and self.kept.alone and self.log10_p("kept-units") <= CLEAR_LOG10_P

    @property
    def within_reach(self) -> bool:
        """Whether a chosen frame could have made the few units that were read agree as they do."""
        names = ("units-read", "carried-units")
        chosen = "units-read" in self.exact and min(self.log10_p(name) for name in names) > CLEAR_LOG10_P
        return chosen and self.carried_log10_p > CLEAR_LOG10_P and not self.copied

    @property
    def copied(self) -> bool:
        """Whether trained matrices of the body are equal number for number: then nobody chose the frame, and what one
        model has of the other was handed down."""
        return self.copies is not None and self.copies.told

    @property
    def carried_log10_p(self) -> float:
        """log10 p that attention, with position rows, has in the frame of vocabulary rows."""
        return min(self.log10_p("carried-planes"), self.log10_p("carried-heads"))

    @property
    def carried_words(self) -> str:
        """What agrees in the frame of vocabulary rows, where `carried` lists its layers."""
        if self.log10_p("carried-planes") <= CLEAR_LOG10_P:
            what = "query/key planes agree"
        elif "positions" in self.exact["carried-heads"].extra:
            what = "position rows and heads agree"
        else:
            what = "heads agree"
        return f"{what} in the frame that vocabulary rows give, log10 p <= {math.floor(self.carried_log10_p)}"

    @property
    def same_numbers(self) -> bool:
        """Whether every part has an equal counterpart, layer by layer in order."""
        plain = self.layer_map == list(range(len(self.reverse_map))) and len(self.reverse_map) == len(self.layer_map)
        return plain and (self.renamed or (self.bits is not None and self.bits.whole and self.bits.all_equal))

    def family_log10_p(self, *families: str) -> float:
        """log10 p of the sign-flip test of some families of units in place, map paid for; 0 where not applicable."""
        outcome = self.exact.get("body-signs")
        if outcome is None or not outcome.applicable:
            return 0.0
        tested = outcome.extra.get("families", {})
        best = min((tested[name]["log10_p"] for name in families if name in tested), default=0.0)
        return min(0.0, best + self.penalty_log10)

    def log10_p(self, name: str) -> float:
        """log10 p of an exact test after paying for the choice of the layer map; 0 where it was not applicable."""
        outcome = self.exact.get(name)
        if outcome is None or not outcome.applicable or outcome.log10_p is None:
            return 0.0
        paid = self.penalty_log10 if name.startswith("body") else 0.0
        return min(0.0, outcome.log10_p + paid)


def has_few_units(a: Side, b: Side, found: Findings) -> bool:
    """Whether the feed-forward layers that the map lays side by side have too few units for a score (`FEW_UNITS`)."""
    for j, i in enumerate(found.layer_map):
        left, right = None if i is None else a.units("ffn", i), b.units("ffn", j)
        if left is not None and right is not None:
            return min(left.total, right.total) < FEW_UNITS
    return False
