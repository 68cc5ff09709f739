"""An audit as one HTML file: its first sheet is a certificate that fits an A4 page, behind it stands everything else.

Built from the record alone: no clock, no locale, no path, so that the same record gives the same bytes anywhere. Models
are called by their names and digests; where they lie on some machine is nobody's business but the record's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pedigree.records.audit import Audit, AuditEdge, AuditModel
from pedigree.records.comparison import Comparison, Controls
from pedigree.report import audit_words, words
from pedigree.report.environment import page_environment, page_style
from pedigree.report.figures import component_figure, decoy_figure
from pedigree.report.lineage_figure import ArcStyle, LineageArc, LineageNode, lineage_figure, parents_first
from pedigree.report.plain_text import printable_lines
from pedigree.report.seal import STYLE, audit_line, seal_figure
from pedigree.report.transformations import transformation_sentences

_LINES, _LINES_WITH_TREE = 5, 3  # claims on the first sheet
_DECOYS = 4  # other models beside the pair
_SMALL_TREE = 6  # models that a tree on the first sheet has at most
_ORDER = list(audit_words.EDGE_SENTENCES)


@dataclass(frozen=True)
class EdgePart:
    """One edge as the page shows it."""

    edge: AuditEdge
    claim: str
    changes: list[str]
    parts: str


def render_audit(audit: Audit) -> str:
    """The page of an audit as a complete HTML document, the same for the same record."""
    result = audit.result
    gravest = sorted(result.edges, key=lambda edge: -_ORDER.index(edge.verdict))
    shown = main_edge(gravest)
    children = {edge.child for edge in result.edges}
    present = [model for model in result.models if model.state != "missing"]
    subjects = [model for model in present if (model.recorded_as or model.artifact) in children] or present
    tree = tree_figure(audit)
    named = {digest for edge in result.edges for digest in (edge.child, edge.parent) if digest}
    small_tree = tree if 1 < len(named) <= _SMALL_TREE else None
    lines = _LINES if small_tree is None else _LINES_WITH_TREE
    context: dict[str, Any] = {
        "a": audit, "words": words, "said": audit_words, "style": page_style(), "digest": audit.content_digest(),
        "seal_style": STYLE, "line": audit_line(audit), "seal": seal_figure(audit_line(audit)),
        "mark": audit_words.EDGE_MARKS[result.verdict], "question": _question(subjects), "subjects": subjects,
        "gravest": gravest[:lines], "left": max(0, len(gravest) - lines), "main": shown,
        "lies": list(dict.fromkeys(lie for edge in gravest for lie in edge.lies)),
        "strip": component_figure(shown.comparison.result) if shown and shown.comparison else None,
        "decoys": _decoys(shown, result.bank_scores), "tree": tree, "small_tree": small_tree,
        "edges": [_part(edge) for edge in result.edges],
    }  # fmt: skip
    return printable_lines(page_environment().get_template("audit.html.j2").render(context))


def main_edge(gravest: Sequence[AuditEdge]) -> AuditEdge | None:
    """The edge whose evidence stands on the first sheet: the gravest that was compared; of equals the last one made."""
    compared = [edge for edge in gravest if edge.comparison is not None]
    if not compared:
        return None
    worst = [edge for edge in compared if edge.verdict == compared[0].verdict]
    return worst[-1]


def _question(subjects: Sequence[AuditModel]) -> str:
    if len(subjects) == 1:
        return f"Is what is claimed of {subjects[0].name} true of its weights?"
    return f"Is what is claimed of these {len(subjects)} models true of their weights?"


def _decoys(edge: AuditEdge | None, independent: Sequence[float]) -> str | None:
    """The declared pair, the other models and the independent pairs of the bank on one axis."""
    if edge is None or edge.comparison is None:
        return None
    result = edge.comparison.result
    controls = Controls(decoys=edge.decoys[:_DECOYS], off_diagonal=result.controls.off_diagonal)
    shown: Comparison = edge.comparison.model_copy(update={"result": result.model_copy(update={"controls": controls})})
    return decoy_figure(shown, independent)


def _part(edge: AuditEdge) -> EdgePart:
    result = edge.comparison.result if edge.comparison else None
    parts = ""
    if result is not None:
        parts = "; ".join(
            f"{words.component_name(name)}: {words.COMPONENT_SENTENCES[part.verdict]}"
            for name, part in result.components.items()
        )
    return EdgePart(edge, audit_words.claim_text(edge), transformation_sentences(result) if result else [], parts)


def tree_figure(audit: Audit) -> str:
    """The family tree of what claims name: claimed edges dashed, corroborated ones solid, contradicted ones hatched."""
    named = {digest for edge in audit.result.edges for digest in (edge.child, edge.parent)}
    models = [model for model in audit.result.models if (model.recorded_as or model.artifact) in named]
    twice = Counter(model.name for model in models)
    labels = {
        model.recorded_as or model.artifact: model.name
        if twice[model.name] == 1
        else f"{model.name} {words.short_digest(model.artifact, keep=6)}"
        for model in models
    }
    arcs, below = [], dict.fromkeys(labels.values(), "")
    for edge in audit.result.edges:
        child, parent = labels.get(edge.child), labels.get(edge.parent)
        if child is None:
            continue
        if parent is not None:
            arcs.append(LineageArc(parent, child, _style(edge), f"{edge.operation}: {edge.verdict}"))
        if parent is None or not below[child]:
            below[child] = f"{'random start' if edge.role == 'start' else edge.operation}: {edge.verdict.lower()}"
    nodes = [LineageNode(label, below[label]) for label in labels.values()]
    return lineage_figure(parents_first(nodes, arcs), sorted(arcs, key=lambda arc: (arc.style, arc.parent, arc.child)))


def _style(edge: AuditEdge) -> ArcStyle:
    if edge.verdict in ("CORROBORATED", "REPLAYED"):
        return "solid"
    return "hatched" if edge.verdict in ("CONTRADICTED", "SUSPECT") else "dashed"
