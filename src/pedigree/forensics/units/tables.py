"""Unit tables of two models under one gauge, each made once.

Where a model is sampled, some layers of B may be wanted whole: two samples of a layer whose units were reordered have
few units in common, but a sample against a whole layer has all of them, so a whole layer tells whether units were
reordered or are foreign. Of a whole layer only the view through the lens is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from pedigree.forensics.sides.gauge import Gauge
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitKind, UnitSet
from pedigree.forensics.units.matching import MatchScore, Table, make_table, score_layers
from pedigree.forensics.units.row_score import score_many
from pedigree.forensics.units.walk import Walk, Which

Key = tuple[str, UnitKind, int]


class Tables:
    """Tables of A and B under one gauge.

    Args:
        a, b: the two models.
        gauge: map from A's residual frame into B's.
        whole: layers of B that are read with all their units where the others are sampled.
        made: tables that were made under the same gauge before.
        of_b: tables of B that were made under another gauge which sees B alike; those made here are added.
    """

    def __init__(
        self,
        a: Side,
        b: Side,
        gauge: Gauge,
        whole: Iterable[int] = (),
        made: dict[Key, Table | None] | None = None,
        of_b: dict[Key, Table | None] | None = None,
    ) -> None:
        self.gauge = gauge
        self.whole = frozenset(whole) if b.sample.max_units is not None else frozenset()
        self._a, self._b = a, b
        self._made = {} if made is None else made
        self._made_b = {} if of_b is None else of_b
        self._scores: dict[tuple[UnitKind, int, int, bool], MatchScore] = {}
        self._lock, self._one_whole = threading.Lock(), threading.Lock()
        # Every unit of a large model carried into another frame would not fit; there A's tables are made as needed.
        self._keep_a = a.sample.max_units is not None or not a.sample.compact
        self.streamed = a.sample.streamed

    def of_a(self, kind: UnitKind, layer: int) -> Table | None:
        """Table of a layer of A, carried into B's frame; None where the layer has no such units."""
        return self._get(("a", kind, layer), lambda: self._make(self._a, kind, layer, "a"), self._keep_a)

    def of_b(self, kind: UnitKind, layer: int) -> Table | None:
        """Table of a layer of B, with all its units where the layer is wanted whole."""
        if layer in self.whole and kind != "vo":
            return self._get(("whole", kind, layer), lambda: self._make_whole(kind, layer), True)
        return self.sampled_of_b(kind, layer)

    def sampled_of_b(self, kind: UnitKind, layer: int) -> Table | None:
        """Table of a layer of B with the units that the sample takes."""
        return self._get(("b", kind, layer), lambda: self._make(self._b, kind, layer, "b"), True)

    def walk(self, which: Which, kind: UnitKind, layer: int) -> Walk | None:
        """A layer that is walked through instead of held; None where it has no such units."""
        side = self._a if which == "a" else self._b
        units = side.units(kind, layer)
        return None if units is None or len(units.names) < 2 else Walk(side, kind, layer, self.gauge, which, units)

    def score(self, kind: UnitKind, i: int, j: int, left: Table) -> MatchScore | None:
        """How well a pair of layers agrees, `left` being A's table; worked out once. None where B has no such units."""
        key = (kind, i, j, j in self.whole)
        known = self._scores.get(key)
        if known is None:
            right = self.of_b(kind, j)
            if right is None:
                return None
            known = self._scores[key] = score_layers(left, right, self._a.sample.search_units)
        return known

    def score_row(self, kind: UnitKind, i: int, left: Table, right: list[Table | None]) -> list[MatchScore | None]:
        """`score` of a layer of A with every layer of B, whose tables are given; many of them in one product."""
        keys = [(kind, i, j, j in self.whole) for j in range(len(right))]
        missing = [j for j, key in enumerate(keys) if right[j] is not None and key not in self._scores]
        rest = [table for j in missing if (table := right[j]) is not None]
        for j, score in zip(missing, score_many(left, rest, self._a.sample.search_units), strict=True):
            self._scores[keys[j]] = score
        return [self._scores.get(key) if right[j] is not None else None for j, key in enumerate(keys)]

    def with_whole(self, layers: Iterable[int]) -> Tables:
        """The same tables and scores, with other layers of B wanted whole."""
        other = Tables(self._a, self._b, self.gauge, layers, self._made, self._made_b)
        other._scores = self._scores
        return other

    def _get(self, key: Key, make: Callable[[], Table | None], keep: bool) -> Table | None:
        known = self._made if key[0] == "a" else self._made_b
        with self._lock:
            if key in known:
                return known[key]
        table = make()
        if keep:
            with self._lock:
                known[key] = table
        return table

    def _make(self, side: Side, kind: UnitKind, layer: int, which: str) -> Table | None:
        return self._table(side.layer(layer).units.get(kind), which)

    def _make_whole(self, kind: UnitKind, layer: int) -> Table | None:
        # As they are read, the units of a whole layer weigh more than all that is kept of it: one layer at a time.
        with self._one_whole:
            return self._table(self._b.whole_units(kind, layer), "b")

    def _table(self, units: UnitSet | None, which: str) -> Table | None:
        if units is None or len(units.names) < 2:
            return None
        return make_table(units, self.gauge, which, rounded=self._a.sample.max_units is not None)
