"""Do heads and position rows agree in the frame that tokens give?

Where attention has no rotary positions, or only a part of its dimensions turn, planes are none or few. There heads as
wholes are compared (`exact/head_agreement.py`): what values and outputs, queries and keys make of the residual stream
is the same however the dimensions inside a head are mixed. Learned positions add what a framer has no say in at all: a
row for each position, in an order that is the function itself. The frame is that of vocabulary rows
(`named_frame.py`). This finds the minor parent of a merge in narrow models of other designs than rotary ones.

Rows of positions beyond the length of texts can be set at will, so the first quarter has to agree by itself. And tables
can be taken over without a body, which then learns to read them much as the other did: so position rows count only
where units stand in the other's order or have its signs, and heads or planes have to agree as well.

Shapes: P = positions, D and E = residual widths, K = directions looked through, H = query heads, C = dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.head_agreement import (
    CARD,
    LEAST_HEADS,
    NEIGHBORS,
    Forms,
    cosines,
    forms_score,
    rows_score,
    together,
)
from pedigree.forensics.exact.tails import LN10, fisher_log10, normal_log10_sf
from pedigree.forensics.frames.carried_planes import CHEAP_WIDTH, plane_tail
from pedigree.forensics.frames.head_order import HeadOrder, order_of_forms
from pedigree.forensics.frames.named_frame import EVEN_TOKENS, Tables, evenness, sure_frame, tables_of, turned
from pedigree.forensics.sides.anchors import SharedTokens
from pedigree.forensics.sides.linear import without_damage
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import fold_reader, fold_writer
from pedigree.forensics.units.shared_units import whitened

LEAST_POSITIONS = 64
"""Fewer position rows than this take no part."""

SLOW_SHARE = 16
"""One in so many of the waves that position rows are made of, the slowest, is left out: any model has those."""

EARLY_SHARE, EARLY_LOG10_P = 4, -6.0
"""One in so many positions, the first, has to agree by itself, and log10 p that it has to reach. Strangers that read
the same texts in the same order reach a standard score of 5.1 there, others 2.0; 20/80 merges 5.9 to 8.8."""

EVEN_WITH_POSITIONS = 0.735
"""Share of tokens of a single table that have to agree in a frame fitted on other tokens and all positions: 0.75 and
more in merges, 0.73 at most in strangers whose rows were set evenly enough to pass (`named_frame.MOST_SPREAD`)."""

BODY_LOG10_P = -3.0
"""log10 p that heads and planes have to reach without position rows, their order not paid for. Bodies drawn afresh and
trained on the tables of another model: -0.2 to -2.5."""


def heads_agree(
    a: Side, b: Side, tokens: SharedTokens, pairs: Sequence[tuple[int, int]], paid: float, *, standing: bool
) -> TestOutcome:
    """Head agreement of pairs of layers, with position rows where both have some, in the frame of vocabulary rows.

    Args:
        a, b: the two models.
        tokens: tokens that both have.
        pairs: (layer of A, layer of B).
        paid: natural logarithm of the number of layer maps that were open.
        standing: whether units of the body stand in one order or have the same signs, beyond chance; without that
            position rows take no part.
    """
    why = _why_not(a, b, tokens)
    if why is not None:
        return TestOutcome.not_applicable(CARD, why)
    left, right = (_forms_of(side, [pair[k] for pair in pairs]) for k, side in enumerate((a, b)))
    kinds = sorted(left.keys() & right.keys())
    if not kinds or any(_shape(left[kind]) != _shape(right[kind]) for kind in kinds):
        return TestOutcome.not_applicable(CARD, "no heads of one form")
    tables = tables_of(a, b, tokens)
    if not tables:
        return TestOutcome.not_applicable(CARD, "too few vocabulary rows that both have")
    heads, groups = int(b.anatomy.n_heads or 1), int(b.anatomy.n_kv_heads or 1)
    of_layer = math.lgamma(groups + 1) + groups * math.lgamma(heads // groups + 1)
    # Two looks, and the planes alone before: three that are paid for, and every order of heads in each.
    choices = paid + len(pairs) * of_layer + math.log(3.0)
    rows = (_positions(a), _positions(b)) if standing else (None, None)
    both = None if rows[0] is None or rows[1] is None or len(rows[0]) != len(rows[1]) else (rows[0], rows[1])
    of_a, of_b = ([side[kind] for kind in kinds] for side in (left, right))
    looks = [
        _look(of_a, of_b, both, tables, partial(plane_tail, a, b, tables, pairs), choices, groups),
        _look(of_b, of_a, both and (both[1], both[0]), turned(tables),
              partial(plane_tail, b, a, turned(tables), [(j, i) for i, j in pairs]), choices, groups),
    ]  # fmt: skip
    log10_p, said = min(looks, key=lambda look: look[0])
    if log10_p < 0.0:
        even = evenness(tables, both)
        least = EVEN_WITH_POSITIONS if both is not None and len(tables) == 1 else EVEN_TOKENS[len(tables) - 1]
        said |= {"even_tokens": even.share, "spread": even.spread, "low": even.low}
        early = said.get("early_log10_p", EARLY_LOG10_P) <= EARLY_LOG10_P
        if even.steered(least) or not early or said["body_log10_p"] > BODY_LOG10_P:
            log10_p = 0.0
    n = len(pairs) * heads
    return TestOutcome(CARD, statistic=said["score"], n=n, log10_p=log10_p, extra=said | {"kinds": kinds})


def _look(
    left: list[list[Forms]], right: list[list[Forms]], positions: tuple[Tensor, Tensor] | None, tables: Tables,
    planes_in: Callable[[list[HeadOrder]], float | None], choices: float, groups: int,
) -> tuple[float, dict[str, float]]:  # fmt: skip
    """log10 p seen from one side, and what it is made of."""
    frame_DK, lens_EK = sure_frame(tables)
    seen = [[_seen(forms, frame_DK) for forms in kind] for kind in left]
    there = [[_seen(forms, lens_EK) for forms in kind] for kind in right]
    orders = _orders(seen, there, groups, stands=positions is not None)
    there = [[(o.heads(x), o.heads(y)) for o, (x, y) in zip(orders, kind, strict=True)] for kind in there]
    scores = [forms_score(x, y) for x, y in zip(seen, there, strict=True)]
    planes = planes_in(orders)
    heads = sum(scores) / math.sqrt(len(scores))
    other = [] if planes is None else [planes]
    body = fisher_log10([normal_log10_sf(heads), *other])
    said = {"heads": heads, "body_log10_p": body, "log10_choices": choices / LN10}
    if planes is not None:
        said["planes_log10_p"] = planes
    if positions is None:
        said["score"] = heads
        return together([heads], other, choices), said
    whole, early = (
        rows_score(_fast(positions[0], share) @ frame_DK, _fast(positions[1], share) @ lens_EK)
        for share in (1, EARLY_SHARE)
    )
    said |= {"positions": whole, "early_log10_p": normal_log10_sf(early), "score": (heads + whole) / math.sqrt(2.0)}
    return together([heads, whole], other, choices), said


def _orders(left: list[list[Forms]], right: list[list[Forms]], groups: int, *, stands: bool) -> list[HeadOrder]:
    """For each layer the order of heads in which forms of all kinds together agree best.

    Where position rows count (`stands`) units stand, and heads are taken as they stand, too: they have to agree by
    themselves there, their order not paid for. So they are in models of few layers: heads that do not belong together
    are the measure, and where few are of other layers, choosing would move it.
    """
    heads, layers = len(left[0][0][0]), len(left[0])
    if stands or layers < NEIGHBORS:
        return [HeadOrder.standing(heads, groups)] * layers
    suit_LHH = torch.zeros(layers, heads, heads, dtype=torch.float64)
    for kind in zip(left, right, strict=True):
        cos_LHH = torch.stack([cosines(x, y) for x, y in zip(*kind, strict=True)])
        suit_LHH += cos_LHH / cos_LHH.std().clamp_min(1e-30)
    return [order_of_forms(suit_HH, groups) for suit_HH in suit_LHH]


def _seen(forms: Forms, frame_DK: Tensor) -> Forms:
    return forms[0] @ frame_DK, forms[1] @ frame_DK


def _why_not(a: Side, b: Side, tokens: SharedTokens) -> str | None:
    for side in (a, b):
        if side.sample.max_units is not None or not side.sample.ladder:
            return "the models were not read whole"
        if side.width > CHEAP_WIDTH:
            return "too wide; inner products of units see as little there"
        if side.n_layers * int(side.anatomy.n_heads or 0) < LEAST_HEADS:
            return f"fewer than {LEAST_HEADS} heads"
    if tokens.by != "surface form":
        return "no tokenizer names the vocabulary rows, so their order could have been chosen"
    return None


def _positions(side: Side) -> Tensor | None:
    """Position rows without their mean, [P, D]; None where positions have none, or too few."""
    part = side.anatomy.part("embed.position")
    if part is None or len(part.shape) != 2 or part.shape[1] != side.width or part.shape[0] < LEAST_POSITIONS:
        return None
    rows_PD = without_damage(part.read()).double()
    if side.anatomy.norm == "layer" and side.anatomy.norm_placement == "pre":
        rows_PD = rows_PD - rows_PD.mean(dim=1, keepdim=True)
    return (rows_PD - rows_PD.mean(dim=0)).float()


def _fast(rows_PD: Tensor, share: int) -> Tensor:
    """The first of so many parts of the rows as waves along the positions, the slowest left out."""
    rows_PD = rows_PD[: len(rows_PD) // share].double()
    count = len(rows_PD)
    wave_P1 = torch.arange(max(1, count // SLOW_SHARE), dtype=torch.float64)[:, None]
    slow_WP = torch.cos(math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) * wave_P1 / count)
    slow_WP = slow_WP / slow_WP.norm(dim=1, keepdim=True)
    fast_PD: Tensor = rows_PD - slow_WP.T @ (slow_WP @ rows_PD)
    return fast_PD


def _shape(layers: list[Forms]) -> list[tuple[int, ...]]:
    return [tuple(forms[0].shape[:1]) for forms in layers]


def _forms_of(side: Side, layers: Sequence[int]) -> dict[str, list[Forms]]:
    """Forms of all heads by kind: `vo`, and `qk` of the dimensions that positions do not turn."""
    found: dict[str, list[Forms]] = {}
    reads = [_read_heads(side, layer) for layer in layers]
    if any(read is None for read in reads):
        return found
    made = [read for read in reads if read is not None]
    white = {name: _white([read[name] for read in made]) for name in made[0]}
    found["vo"] = list(zip(white["o"], white["v"], strict=True))
    rotary = 0 if side.anatomy.rope == "none" else int(side.anatomy.rotary_dim or side.anatomy.head_dim or 0)
    if rotary < white["q"][0].shape[1]:
        found["qk"] = [(q[:, rotary:], k[:, rotary:]) for q, k in zip(white["q"], white["k"], strict=True)]
    return found


def _read_heads(side: Side, layer: int) -> dict[str, Tensor] | None:
    """Rows of queries, keys, values and outputs of each query head, [H, C, D]; None where a layer has another form."""
    anatomy = side.anatomy
    heads, groups = int(anatomy.n_heads or 0), int(anatomy.n_kv_heads or 0)
    parts = {name: anatomy.part(f"attn.{name}", layer) for name in "qkvo"}
    if not heads or not groups or heads % groups or any(part is None for part in parts.values()):
        return None
    found: dict[str, Tensor] = {}
    for name, part in parts.items():
        if part is None:
            return None
        rows_UD = part.read()
        rows_UD = rows_UD.T if name == "o" else rows_UD
        fold: Callable[..., Tensor] = fold_writer if name == "o" else fold_reader
        own = heads if name in "qo" else groups
        if rows_UD.shape[1] != side.width or rows_UD.shape[0] % own:
            return None
        folded = fold(anatomy, rows_UD, "norm.attn.post" if name == "o" else "norm.attn", layer)
        of_head = without_damage(folded).reshape(own, -1, side.width)
        found[name] = of_head.repeat_interleave(heads // own, dim=0)
    alike = found["q"].shape == found["k"].shape and found["v"].shape == found["o"].shape
    return found if alike else None


def _white(layers: list[Tensor]) -> list[Tensor]:
    """Rows of all layers, no more common in one direction than in another."""
    flat = whitened(torch.cat([rows.flatten(0, 1) for rows in layers]))
    sizes = [rows.shape[0] * rows.shape[1] for rows in layers]
    return [part.reshape(rows.shape).double() for part, rows in zip(torch.split(flat, sizes), layers, strict=True)]
