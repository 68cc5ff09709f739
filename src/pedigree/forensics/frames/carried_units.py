"""Do matched feed-forward units agree in the frame that tokens give?

Few units of a narrow layer, as a fingerprint holds them, may be made to agree by somebody who turns the stream and
chooses their order (`units/read_units.py`). The turn is no choice where vocabulary rows turn with it and tokens name
them: then only the order is left, and is paid for (`exact/row_agreement.py`). Rows set to steer the frame are told as
everywhere (`named_frame.py`).

Shapes: U and W = units of A and of B, K = pairs, D = residual width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.gram_agreement import log_pairings
from pedigree.forensics.exact.row_agreement import CARD, RowMeter
from pedigree.forensics.frames.named_frame import EVEN_TOKENS, evenness, frame_of, tables_of
from pedigree.forensics.sides.anchors import SharedTokens
from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitSet
from pedigree.forensics.units.shared_units import WIDEST, first_of_copies
from pedigree.forensics.units.unit_map import UnitMap

MOST_EXPERTS = 1024
"""Experts of a layer that a framer could choose from: a file that holds some units holds those of one of them."""


def named_units_agree(a: Side, b: Side, tokens: SharedTokens, maps: Mapping[int, UnitMap]) -> TestOutcome:
    """Row agreement of matched units in the frame of vocabulary rows.

    Args:
        a, b: the two models; in the frame of tokens already, or in their own.
        tokens: tokens that both have.
        maps: origins of units of layers of B.
    """
    named = a.sample.by_tokens
    if not named and tokens.by != "surface form":
        return TestOutcome.not_applicable(
            CARD, "no tokenizer names the vocabulary rows, so they could have been chosen"
        )
    if max(a.width, b.width) > WIDEST:
        return TestOutcome.not_applicable(CARD, "too wide to be whitened")
    tables = [] if named else tables_of(a, b, tokens)
    if not named and not tables:
        return TestOutcome.not_applicable(CARD, "too few vocabulary rows that both have")
    left_DK, right_EK = _quiet_half(a.width) if named else frame_of(tables)
    meter, choices = RowMeter(), b.n_layers * math.log(a.n_layers + 1)
    for j, units in sorted(maps.items()):
        of_a, of_b = a.units("ffn", units.layer_a), b.units("ffn", j)
        if of_a is not None and of_b is not None and bool(units.matched_N.any()):
            paired = _add(meter, of_a, of_b, units, left_DK, right_EK)
            total_a, total_b = max(of_a.total, a.sample.layer_units), max(of_b.total, b.sample.layer_units)
            choices += log_pairings(total_a, total_b, paired, signed=False) + math.log(MOST_EXPERTS)
    outcome = meter.outcome(choices)
    if outcome.log10_p and tables and evenness(tables).steered(EVEN_TOKENS[len(tables) - 1]):
        return TestOutcome(CARD, outcome.statistic, outcome.n, 0.0, extra={**outcome.extra, "steered": True})
    return outcome


def _add(meter: RowMeter, a: UnitSet, b: UnitSet, units: UnitMap, left_DK: Tensor, right_EK: Tensor) -> int:
    """Take in the matched units of a layer, copies once; how many."""
    there_K = torch.nonzero(units.matched_N).flatten()
    at_K = units.origin_N[there_K]
    names = [name for name in a.names if name in b.names]
    seen = {name: (_seen(a.rows(name), left_DK), _seen(b.rows(name), right_EK)) for name in names}
    a_KVD = torch.stack([seen[name][0][at_K] for name in names], dim=1)
    b_KVD = torch.stack([seen[name][1][there_K] for name in names], dim=1)
    single_K = first_of_copies(a_KVD) & first_of_copies(b_KVD)
    at_K, there_K = at_K[single_K], there_K[single_K]
    meter.units += len(at_K)
    for a_UD, b_WD in seen.values():
        meter.add(a_UD, b_WD, at_K, there_K)
    return len(at_K)


def _seen(rows_UD: Tensor, frame_DK: Tensor) -> Tensor:
    """Rows of length one without what all of them have in common, through the frame."""
    return unit_rows((rows_UD - rows_UD.mean(0)).double() @ frame_DK)


def _quiet_half(width: int) -> tuple[Tensor, Tensor]:
    """The quiet half of coordinates that tokens name, the same for both."""
    quiet = torch.eye(width, dtype=torch.float64)[:, width // 2 :]
    return quiet, quiet
