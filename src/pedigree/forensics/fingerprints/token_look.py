"""The second look of two fingerprints: rows in the frame of tokens, for models whose stream was turned.

It is asked where nothing stands in place. Measured and judged like any other frame; what is added is doubt of the frame
itself, which rests on tokens. Whoever gives rows other names chooses it, and so does, in part, whoever sets rows of
tokens that no text has. Rows of other names do not stand to each other as rows of these names do
(`frames/borne_names.py`); and a frame of few set rows lets weights agree at the tokens that were set, whereas what
descends agrees at all of them.

Shapes: U = rows, M = tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.comparison.following import matched_matrices
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.verdict import RENAMED, Judgment, judge
from pedigree.forensics.frames.borne_names import ONE_LANGUAGE
from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.side import Side

EVEN_TOKENS = 0.85
"""Share of tokens at which weights have to agree."""

SET_ROWS = (
    "weights agree at some tokens and not at others: whoever sets vocabulary rows that no text has chooses the frame "
    "there"
)


def look_by_tokens(turned: tuple[Side, Side], naming: float) -> tuple[Findings, Judgment]:
    """Measure and judge two models in the frame of tokens.

    Args:
        turned: both in the frame of tokens, as `thin_side.turned_sides` gives them.
        naming: how far output rows of both stand to each other alike, name by name.
    """
    found = measure(*turned, whole_bits=False)
    if found.within_reach and found.layers_hit("qk"):
        # An order of units may have been chosen to suit; planes of all heads have none, and are judged alone.
        del found.evidence.grids["ffn"], found.exact["units-read"]
    judgment = judge(*turned, found)
    for name in {"mlp", "experts"} & judgment.components.keys():
        if judgment.components[name].verdict == "unrelated":
            said = {"verdict": "inconclusive", "note": "only units in place were looked for"}
            judgment.components[name] = judgment.components[name].model_copy(update=said)
    if not found.layers_hit("ffn", "qk"):
        return found, judgment
    doubt = ""
    if naming < ONE_LANGUAGE:
        doubt = RENAMED
    elif even_share(*turned, found) < EVEN_TOKENS:
        doubt = SET_ROWS
    if doubt:
        parts = {
            name: part.model_copy(update={"verdict": "inconclusive"}) if part.verdict == "related" else part
            for name, part in judgment.components.items()
        }
        judgment = replace(judgment, verdict="inconclusive", components=parts, reasons=[doubt], open_origin=False)
    return found, judgment


def even_share(a: Side, b: Side, found: Findings) -> float:
    """Share of tokens at which rows laid side by side agree, in the quiet half of the frame; one without rows."""
    total_M = torch.zeros(a.width // 2)
    for _, x_UN, y_UN in matched_matrices(a, b, found):
        total_M += (unit_rows(x_UN) * unit_rows(y_UN)).sum(0)[a.width // 2 :]
    return float((total_M > 0.0).double().mean()) if bool(total_M.any()) else 1.0
