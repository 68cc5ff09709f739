"""Exact tests for the plain case: coordinates and units still stand where they stood in the parent.

Their p-values come from symmetries of random initialization that coordinatewise optimizers keep (see
`pedigree.forensics.exact`), so they need no bank of pairs and are not fooled by data, recipe or tokenizer that two
independent trainings share. A disguise makes them silent, never loud: then the matched evidence speaks.

The layer map was chosen with the same weights; each p-value is therefore multiplied by the number of layer maps that
could have been chosen.

A start need not be drawn: matrices can begin as the identity, as Hadamard matrices, or all from one seed. Then every
layer of either model carries one pattern, and independent models agree in place. So where layers that do not
correspond agree as well, a test says nothing (`unless_repeated`).

Shapes: U = units, D = residual width, T = tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pedigree.forensics.exact.assignment import mutual_nearest
from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.fixed_points import fixed_points
from pedigree.forensics.exact.sign_flip import sign_flip
from pedigree.forensics.sides.anchors import SharedTokens, read_table
from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.streamed_units import blocks
from pedigree.forensics.sides.views import UnitKind, UnitSet

COORDINATE_TOKENS = 4096

MAX_COORDINATES = 1024
"""Coordinates of a wide residual stream that take part, evenly spaced and the same in both models: numbering them
within a fixed subset is as free under the null as numbering all, and a thousand say more than anybody needs."""


CONTROL_LAYERS = 4
"""Layers that are also held against layers which do not correspond, spread over the depth."""

SOME_UNITS = 64
"""Units of a layer by which it is seen whether one number fills it."""

REPEATED_SHARE = 0.5
"""Share of the decades that layers which do not correspond may reach; beyond, the agreement is not theirs alone."""

REPEATED_LOG10_P = -12.0
"""Agreement weaker than this is not asked whether a pattern makes it: it decides nothing either."""

LayerPairs = list[tuple[int, int]]
"""(layer of A, layer of B)."""


def unless_repeated(test: Callable[[LayerPairs], TestOutcome], pairs: LayerPairs, n_a: int) -> TestOutcome:
    """A test of units in place, which does not apply where layers that do not correspond agree as well.

    Args:
        test: the test, over pairs of layers.
        pairs: (layer of A, layer of B), each layer of A once.
        n_a: layers of A.

    Returns:
        the outcome over all pairs; not applicable where every control reaches `REPEATED_SHARE` of its decades. Layers
        that were copied inside a model do not make all controls speak, only a pattern of the whole model does.
    """
    outcome = test(pairs)
    if not outcome.applicable or (outcome.log10_p or 0.0) > REPEATED_LOG10_P or n_a < 2 or not pairs:
        return outcome
    many = min(CONTROL_LAYERS, len(pairs))
    some = [pairs[(2 * k + 1) * len(pairs) // (2 * many)] for k in range(many)]
    least = REPEATED_SHARE * (test(some).log10_p or 0.0)
    for step in sorted({1, n_a // 2}):
        control = test([((i + step) % n_a, j) for i, j in some])
        if not control.applicable or least >= 0.0 or (control.log10_p or 0.0) > least:
            return outcome
    why = "layers that do not correspond agree as well: a pattern that every layer repeats, not numbers that were drawn"
    return TestOutcome.not_applicable(outcome.card, why, n=outcome.n, extra=outcome.extra)


def map_choices_log10(n_a: int, layer_map: list[int | None]) -> float:
    """log10 of the number of layer maps that were open: zero for the plain one-to-one map."""
    plain = list(range(len(layer_map)))
    if layer_map == plain and n_a == len(layer_map):
        return 0.0
    return len(layer_map) * math.log10(n_a + 1)


def body_sign_test(a: Side, b: Side, layer_map: list[int | None]) -> TestOutcome:
    """Sign-flip test on units of the body, in place: FFN units of gated layers, value/output and query/key dimensions.

    Families lie on disjoint tensors. Layers of different unit counts are compared on the leading units both have.
    """
    return unless_repeated(lambda pairs: _signs(a, b, pairs), _once(layer_map), a.n_layers)


def _signs(a: Side, b: Side, pairs: LayerPairs) -> TestOutcome:
    products: dict[str, list[Tensor]] = {}
    for i, j in pairs:
        for kind in ("ffn", "vo", "qk"):
            left, right = a.units(kind, i), b.units(kind, j)
            found = None if left is None or right is None else _in_place(left, right)
            if found is not None:
                products.setdefault({"ffn": "ffn", "vo": "vo", "qk": "planes"}[kind], []).append(found)
    return sign_flip({family: torch.cat(parts) for family, parts in products.items()})


def _once(layer_map: list[int | None]) -> LayerPairs:
    """(layer of A, layer of B), each layer of A once: copies of a layer are not independent of each other."""
    first: dict[int, int] = {}
    for j, i in enumerate(layer_map):
        if i is not None:
            first.setdefault(i, j)
    return list(first.items())


def _in_place(a: UnitSet, b: UnitSet) -> Tensor | None:
    """Inner products of units with the same position, summed over the projections whose joint sign is free."""
    if a.kind == "ffn" and "gate" not in a.names:
        return None  # without a gate a unit cannot change sign
    names = [n for n in (("up", "down") if a.kind == "ffn" else a.names) if n in a.names and n in b.names]
    width = min(a.width, b.width)
    n = _common_units(a, b)
    some_K = spread_evenly(n, SOME_UNITS)
    if not names or n == 0 or any(_is_one_unit(side.rows(name, some_K)) for side in (a, b) for name in names):
        return None
    total = torch.zeros(n, dtype=torch.float64)
    for name in names:
        found_U, squares_2 = torch.zeros(n, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        for pick_K in blocks(n, 2 * max(a.width, b.width)):
            x_KD, y_KD = a.rows(name, pick_K)[:, :width].double(), b.rows(name, pick_K)[:, :width].double()
            found_U[pick_K] = (x_KD * y_KD).sum(1)
            squares_2 += torch.stack([x_KD.square().sum(), y_KD.square().sum()])
        total += found_U / squares_2.prod().sqrt().clamp_min(1e-300)
    if a.kind == "qk":
        total = _planes(total, a.label_U[:n])
    return total


ONE_UNIT = 0.9
"""Share of the squares of rows in their mean from which all units of a layer are one: it has one sign, not many."""


def _is_one_unit(rows_UD: Tensor) -> bool:
    """Whether rows are all alike, as in a layer that one number fills."""
    mean_D = rows_UD.double().mean(dim=0)
    return float(mean_D.square().sum()) * len(rows_UD) > ONE_UNIT * float(rows_UD.double().square().sum()) > 0.0


def _planes(products_U: Tensor, label_U: Tensor) -> Tensor:
    """Pairs of query/key dimensions turn together under rotary positions: half-split planes share one sign."""
    per_head = int((label_U == label_U[0]).sum())
    if per_head % 2 or products_U.shape[0] % per_head:
        return products_U
    return products_U.reshape(-1, 2, per_head // 2).sum(dim=1).flatten()


def _common_units(a: UnitSet, b: UnitSet) -> int:
    """Number of leading units that stand for the same positions in both."""
    n = min(a.count, b.count)
    same = (a.index_U[:n] == b.index_U[:n]) & (a.label_U[:n] == b.label_U[:n])
    return int(same.int().cumprod(0).sum())


def body_fixed_points(a: Side, b: Side, layer_map: list[int | None], kind: UnitKind = "ffn") -> TestOutcome:
    """Units that are each other's nearest, found without positions, and stand at the same position."""
    return unless_repeated(lambda pairs: _same_numbers(a, b, pairs, kind), _once(layer_map), a.n_layers)


def _same_numbers(a: Side, b: Side, layers: LayerPairs, kind: UnitKind) -> TestOutcome:
    pairs: list[Tensor] = []
    for i, j in layers:
        left, right = a.units(kind, i), b.units(kind, j)
        if left is None or right is None or left.names[0] != right.names[0]:
            continue
        if int(left.label_U.max()) or int(right.label_U.max()):
            continue
        pick_a, pick_b = _placed_alike(left, right)
        x_UD, y_UD = left.rows(left.names[0], pick_a), right.rows(right.names[0], pick_b)
        width = min(x_UD.shape[1], y_UD.shape[1])
        found = mutual_nearest(unit_rows(x_UD[:, :width]) @ unit_rows(y_UD[:, :width]).T)
        if found.shape[0]:
            index_a, index_b = left.index_U[pick_a], right.index_U[pick_b]
            pairs.append(torch.stack([index_a[found[:, 0]], index_b[found[:, 1]]], dim=1))
    return fixed_points(pairs)


MOST_PLACED, PLACED = 4096, 2048
"""Units of a layer up to which all take part; of more the same 2,048 places in both models (numbering within a fixed
subset is as free under the null as numbering all)."""


def _placed_alike(a: UnitSet, b: UnitSet) -> tuple[Tensor, Tensor]:
    """Places of the units that are numbered against each other, in either model."""
    if max(a.count, b.count) <= MOST_PLACED:
        return torch.arange(a.count), torch.arange(b.count)
    chosen = spread_evenly(min(a.count, b.count), PLACED)
    return chosen, chosen


def table_fixed_points(a: Side, b: Side, role: str, tokens: SharedTokens) -> TestOutcome:
    """Residual coordinates of the embedding (or head) that are each other's nearest over shared tokens, in place."""
    chosen = tokens.spread(min(COORDINATE_TOKENS, max(64, a.sample.max_anchors)))
    left, right = read_table(a.anatomy, role, chosen.a_T), read_table(b.anatomy, role, chosen.b_T)
    if left is None or right is None or chosen.count < 2:
        return fixed_points([])
    step = -(-max(left.shape[1], right.shape[1]) // MAX_COORDINATES)
    x_DT = unit_rows((left - left.mean(0))[:, ::step].T)
    y_DT = unit_rows((right - right.mean(0))[:, ::step].T)
    found = mutual_nearest((x_DT @ y_DT.T).abs())
    return fixed_points([found] if found.shape[0] else [])
