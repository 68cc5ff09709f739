"""Does a frame that tokens give carry over to attention?

The residual stream of an innocent model can be turned so that chosen parts of it resemble a victim's: units of one
layer, or its attention. But it is one turn for the whole model. Vocabulary rows turn with the stream, and tokens name
them: they have no order that could be chosen. So the frame is fitted on them and never on what is compared, and the
query/key planes of all layers are scored in it (`exact/plane_agreement.py`). Nobody who edits a model without
changing what it computes has a say in that, but for the order of heads. Agreement of the vocabulary rows themselves
counts for nothing. Every order of heads is paid for, so the best one is looked for (`head_order.py`).

This sees what order and frame of feed-forward units leave open in narrow models: the minor parent of a merge. And a
frame that was spent on the attention of some layer does not carry over.

Shapes: T = shared tokens, D and E = residual widths, K = directions looked through, G = key/value heads, V = query
heads of a group and their key, P = planes of a layer, L = layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.plane_agreement import CARD, PlaneMeter
from pedigree.forensics.frames.head_order import HeadOrder, planes_in_order
from pedigree.forensics.frames.named_frame import EVEN_TOKENS, Tables, evenness, frame_of, tables_of, turned
from pedigree.forensics.sides.anchors import SharedTokens
from pedigree.forensics.sides.linear import without_damage
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitKind, fold_reader
from pedigree.forensics.units.evidence import Grid
from pedigree.forensics.units.shared_units import WIDEST, whitened
from pedigree.weights.anatomy import Anatomy

SLOW, USUAL_BASE = 1e-3, 1e4
"""Planes that turn by less than this from one token to the next do not count: over some hundred tokens they hardly
turn, and an edit that mixes them is nearly free. The base of frequencies where a model does not state it."""

CHEAP_WIDTH = 512
"""Up to this residual width any two models are tested; beyond, those whose units stand in one order or sign."""

CARRIED_SPENT, SPENT = 4.0, 2.0
"""What attention that agrees has to amount to, rows times squared agreement over width, to be beyond any frame: a
rotation of d coordinates lays n rows over others at a cosine of at most about 0.85 sqrt(d / n), which amounts to
0.72. Heads add to it. Where the frame of vocabulary rows could be tried and did not carry over, four times as much is
asked for."""


def planes_agree(a: Side, b: Side, tokens: SharedTokens, pairs: Sequence[tuple[int, int]], paid: float) -> TestOutcome:
    """Plane agreement of pairs of layers in the frame of vocabulary rows.

    Args:
        a, b: the two models.
        tokens: tokens that both have.
        pairs: (layer of A, layer of B).
        paid: natural logarithm of the number of layer maps that were open.
    """
    why = _why_not(a, b, tokens)
    if why is not None:
        return TestOutcome.not_applicable(CARD, why)
    count = min(_turning(side) for side in (a, b))
    left, right = (planes_of(side, [pair[k] for pair in pairs], count) for k, side in enumerate((a, b)))
    if left is None or right is None or left.shape[1:4] != right.shape[1:4]:
        return TestOutcome.not_applicable(CARD, "no query/key planes of one form")
    tables = tables_of(a, b, tokens)
    if not tables:
        return TestOutcome.not_applicable(CARD, "too few vocabulary rows that both have")
    groups = int(b.anatomy.n_kv_heads or 1)
    of_layer = math.lgamma(groups + 1) + groups * math.lgamma(int(b.anatomy.n_heads or groups) // groups + 1)
    # The loud directions that are left out may be B's or A's: two looks, both paid for.
    choices = paid + len(pairs) * of_layer + math.log(2.0)
    looks = [
        _meet(left, right, tables, groups).outcome(choices),
        _meet(right, left, turned(tables), groups).outcome(choices),
    ]
    best = min(looks, key=lambda outcome: (outcome.log10_p or 0.0, -outcome.statistic))
    if not best.log10_p:
        return best
    even = evenness(tables)
    steered = even.steered(EVEN_TOKENS[len(tables) - 1])
    said = {"even_tokens": even.share, "spread": even.spread, "low": even.low}
    return replace(best, log10_p=0.0 if steered else best.log10_p, extra=best.extra | said)


def _meet(left: Iterable[Tensor], right: Iterable[Tensor], tables: Tables, groups: int | None = None) -> PlaneMeter:
    """Planes of all layers in the frame of the tables: heads as they stand, or in the best order of so many groups."""
    frame_DK, lens_EK = frame_of(tables)
    meter = PlaneMeter()
    for x_PV2D, y_PV2E in zip(left, right, strict=True):
        seen_PV2K, there_PV2K = x_PV2D @ frame_DK, y_PV2E @ lens_EK
        meter.add(seen_PV2K, there_PV2K if groups is None else planes_in_order(seen_PV2K, there_PV2K, groups))
    return meter


def plane_tail(
    a: Side, b: Side, tables: Tables, pairs: Sequence[tuple[int, int]], orders: Sequence[HeadOrder]
) -> float | None:
    """log10 p of planes in the frame that tables give, seen from A; neither the order of heads nor a least ratio is
    asked for. None where there are no planes.

    Args:
        a, b: the two models.
        tables: vocabulary rows as `named_frame.tables_of` gives them.
        pairs: (layer of A, layer of B).
        orders: of B's heads, for each of the pairs.
    """
    if any(side.anatomy.rope not in ("half", "interleaved") or not side.anatomy.rotary_dim for side in (a, b)):
        return None
    count = min(_turning(side) for side in (a, b))
    left, right = (planes_of(side, [pair[k] for pair in pairs], count) for k, side in enumerate((a, b)))
    if left is None or right is None or left.shape[1:4] != right.shape[1:4]:
        return None
    return _meet(left, [o.planes(y_PV2E) for o, y_PV2E in zip(orders, right, strict=True)], tables).log10_tail()


def frame_spent(
    a: Side, b: Side, grids: Mapping[UnitKind, Grid], pairs: Sequence[tuple[int, int]], *, tested: bool
) -> bool:
    """Whether attention that agrees amounts to no more than a frame that was chosen for it could bring about.

    Args:
        a, b: the two models.
        grids: agreement of all pairs of layers by kind of unit.
        pairs: (layer of A, layer of B) that agree.
        tested: whether the frame of vocabulary rows could be tried.
    """
    amount = 0.0
    for kind in ("vo", "qk"):
        grid = grids.get(kind)
        if grid is None:
            continue
        for i, j in pairs:
            units = b.units(kind, j)
            effect = float(grid.effect_IJ[i, j])
            if units is not None and math.isfinite(effect):
                amount += units.count * len(units.names) * max(0.0, effect) ** 2
    return amount < (CARRIED_SPENT if tested else SPENT) * max(a.width, b.width)


def _why_not(a: Side, b: Side, tokens: SharedTokens) -> str | None:
    for side in (a, b):
        if side.anatomy.rope not in ("half", "interleaved") or not side.anatomy.rotary_dim:
            return "queries and keys are not turned by rotary positions"
        if side.sample.max_units is not None or not side.sample.ladder:
            return "the models were not read whole"
        if side.width > WIDEST:
            return "too wide to be whitened"
    if tokens.by != "surface form":
        return "no tokenizer names the vocabulary rows, so their order could have been chosen"
    return None


def _turning(side: Side) -> int:
    """Planes of a head that positions turn noticeably; those of very low frequency could be mixed nearly freely."""
    planes = int(side.anatomy.rotary_dim or 0) // 2
    config = side.checkpoint.config or {}
    holders = [config, config.get("rope_parameters"), config.get("text_config")]
    bases = [h.get("rope_theta") for h in holders if isinstance(h, Mapping)]
    stated = [float(v) for v in bases if isinstance(v, int | float) and not isinstance(v, bool) and 1.0 < v < 1e12]
    base = max(stated, default=USUAL_BASE)
    return min(planes, int(planes * math.log(1.0 / SLOW) / math.log(base)) + 1)


def planes_of(side: Side, layers: Sequence[int], count: int) -> Tensor | None:
    """Query/key planes of some layers, blocks of length one, whitened over all of these layers together.

    Args:
        side: the model.
        layers: numbers of layers.
        count: how many planes of each head, those of the highest frequencies.

    Returns:
        [L, P, V, 2, D], P running over groups of heads and their planes; None where the layers have no planes of one
        form.
    """
    found: list[tuple[Tensor, ...]] = []
    anatomy = side.anatomy
    for layer in layers:
        query, key = anatomy.part("attn.q", layer), anatomy.part("attn.k", layer)
        groups, heads = anatomy.n_kv_heads, anatomy.n_heads
        if query is None or key is None or not groups or not heads or query.shape[1] != side.width:
            return None
        if key.shape[1] != side.width or heads % groups or key.shape[0] % groups or query.shape[0] % heads:
            return None
        if query.shape[0] // heads != key.shape[0] // groups or key.shape[0] // groups < (anatomy.rotary_dim or 0):
            return None
        found.append(tuple(_blocks(anatomy, part.read(), layer, groups, count) for part in (query, key)))
    if len({tuple(part.shape for part in parts) for parts in found}) != 1:
        return None
    queries, keys = (_white(torch.stack([pair[k] for pair in found])) for k in range(2))
    both_LGVP2D = torch.cat([queries, keys], dim=2)
    planes: Tensor = both_LGVP2D.transpose(2, 3).flatten(1, 2)
    return planes


def _blocks(anatomy: Anatomy, rows_UD: Tensor, layer: int, groups: int, count: int) -> Tensor:
    """Rows of all heads as planes of length one, [G, V, P, 2, D]; a plane is scaled freely, query against key."""
    rows_UD = without_damage(fold_reader(anatomy, rows_UD, "norm.attn", layer)).double()
    rotary, width = int(anatomy.rotary_dim or 0), rows_UD.shape[1]
    head_dim = int(anatomy.head_dim or 0) or rotary
    rows = rows_UD.reshape(groups, -1, head_dim, width)[:, :, :rotary]
    return _to_unit(rows.reshape(groups, rows.shape[1], 2, rotary // 2, width).transpose(2, 3)[:, :, :count])


def _white(blocks: Tensor) -> Tensor:
    """Blocks whose rows, all layers together, are no more common in one direction than in another."""
    return _to_unit(whitened(blocks.reshape(-1, blocks.shape[-1])).double().reshape(blocks.shape))


def _to_unit(blocks: Tensor) -> Tensor:
    length = blocks.norm(dim=(-1, -2), keepdim=True)
    return torch.where(length > 1e-12, blocks / length.clamp_min(1e-12), torch.zeros_like(blocks))
