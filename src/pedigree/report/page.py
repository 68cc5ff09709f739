"""A comparison record as one HTML file.

The page needs nothing but itself: styles and pictures stand inline, there is no script and no address to fetch.
It renders what the record holds and computes nothing, so the same record gives the same bytes years later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pedigree.records.comparison import Comparison
from pedigree.report import words
from pedigree.report.environment import number_or_nothing, page_environment, page_style
from pedigree.report.figures import component_figure, decoy_figure, evidence_figure, layers_figure
from pedigree.report.layers import layer_runs, layer_strip, split_sentence
from pedigree.report.numbers import number_text
from pedigree.report.plain_text import escaped_json, printable_lines
from pedigree.report.transformations import transformation_sentences

_NOTHING = "-"


@dataclass(frozen=True)
class LayerRow:
    """One line of the table under the heat map, as text."""

    layer: int
    source: str
    evidence: str
    elsewhere: str
    ffn: str
    attn: str
    note: str


def _column(comparison: Comparison, layer: int) -> dict[int, float]:
    """Evidence for one layer of B against every layer of A that it was compared with."""
    evidence = comparison.evidence_map
    if evidence is None or layer not in evidence.columns:
        return {}
    j = evidence.columns.index(layer)
    pairs = ((row, line[j]) for row, line in zip(evidence.rows, evidence.z, strict=False) if j < len(line))
    return {row: value for row, value in pairs if value is not None}


def _layer_rows(comparison: Comparison) -> list[LayerRow]:
    details = {match.layer: match for match in comparison.result.layer_map_detail}
    rows: list[LayerRow] = []
    for layer, source in enumerate(comparison.result.layer_map):
        column = _column(comparison, layer)
        others = [value for row, value in column.items() if row != source]
        match = details.get(layer)
        rows.append(
            LayerRow(
                layer=layer,
                source="new" if source is None else str(source),
                evidence=number_or_nothing(column.get(source)) if source is not None else _NOTHING,
                elsewhere=number_or_nothing(max(others, default=None)),
                ffn=_source_text(match.ffn, match.ffn_score) if match else _NOTHING,
                attn=_source_text(match.attn, match.attn_score) if match else _NOTHING,
                note=match.note if match else "",
            )
        )
    return rows


def _source_text(source: int | None, score: float | None) -> str:
    text = "new" if source is None else f"layer {source}"
    return text if score is None or source is None else f"{text} ({number_text(score)})"


def _layer_legend(comparison: Comparison, rows_a: int | None) -> str:
    """Words for the hatches that occur in the picture of layers."""
    result = comparison.result
    runs = layer_runs(result.layer_map)
    used = {source for source in result.layer_map if source is not None}
    parts = []
    if any(run.copied for run in runs):
        parts.append("Dotted: a layer of A used once more.")
    if any(run.source is None for run in runs):
        parts.append("Hatched in B: not found in A.")
    if set(range(rows_a or 0)) - used:
        parts.append("Crossed in A: not found in B.")
    return " ".join(parts)


def render_comparison(comparison: Comparison) -> str:
    """The report of one comparison as a complete HTML document.

    Args:
        comparison: the record; nothing else is consulted.

    Returns:
        HTML text, the same for the same record.
    """
    environment = page_environment()
    result = comparison.result
    rows_a = len(comparison.evidence_map.rows) if comparison.evidence_map is not None else None
    figures = {
        "components": component_figure(result),
        "layers": layers_figure(result, rows_a),
        "evidence": evidence_figure(comparison),
        "decoys": decoy_figure(comparison),
    }
    context: dict[str, Any] = {
        "c": comparison,
        "words": words,
        "style": page_style(),
        "figures": figures,
        "digest": comparison.content_digest(),
        "mark": words.VERDICT_MARKS[result.verdict][0],
        "changes": transformation_sentences(result),
        "off_diagonal": words.off_diagonal_sentence(result),
        "layers": _layer_rows(comparison),
        "layer_legend": _layer_legend(comparison, rows_a),
        "strip": layer_strip(result.layer_map, width=2000),
        "split": split_sentence(result.layer_map_detail),
        "record": _compact_record(comparison),
    }
    return printable_lines(environment.get_template("comparison.html.j2").render(context))


def _compact_record(comparison: Comparison) -> str:
    """The record as JSON with each row of a matrix on one line; reads back as the same record."""
    return escaped_json(_json_with_rows(comparison.to_dict()))


def _json_with_rows(plain: dict[str, Any]) -> str:
    evidence = plain.get("evidence_map")
    if not evidence:
        return json.dumps(plain, indent=1, ensure_ascii=False)
    rows = evidence["z"]
    evidence["z"] = "@rows@"
    text = json.dumps(plain, indent=1, ensure_ascii=False)
    matrix = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    return text.replace('"@rows@"', f"[{matrix}]")
