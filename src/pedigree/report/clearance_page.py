"""A clearance as one sheet: what was tested, against what, and what would have been seen. Renders the record alone."""

from __future__ import annotations

from typing import Any

from pedigree.records.audit import Clearance
from pedigree.records.comparison import Controls, Decoy
from pedigree.report import audit_words, words
from pedigree.report.environment import page_environment, page_style
from pedigree.report.figures import component_figure, decoy_figure
from pedigree.report.numbers import percent_text, plural
from pedigree.report.plain_text import printable_lines
from pedigree.report.seal import STYLE, clearance_line, seal_figure

_ROWS = 9  # models on the sheet


def render_clearance(clearance: Clearance) -> str:
    """The sheet of a clearance as a complete HTML document, the same for the same record."""
    result = clearance.result
    context: dict[str, Any] = {
        "c": clearance, "words": words, "said": audit_words, "style": page_style(),
        "digest": clearance.content_digest(), "mark": words.VERDICT_MARKS[result.verdict][0],
        "seal_style": STYLE, "line": clearance_line(clearance), "seal": seal_figure(clearance_line(clearance)),
        "sentence": answer_sentence(clearance), "limit": limit_sentence(clearance), "rows": result.against[:_ROWS],
        "left": max(0, len(result.against) - _ROWS), "field": _field(clearance),
        "strip": component_figure(result.nearest.result) if result.nearest else None,
    }  # fmt: skip
    return printable_lines(page_environment().get_template("clearance.html.j2").render(context))


def answer_sentence(clearance: Clearance) -> str:
    """The answer in one sentence; nothing is called cleared that was not excluded model by model."""
    result = clearance.result
    count = plural(result.multiplicity.tried, "model")
    if result.verdict == "unrelated":
        return f"tested against {count}, no relation found"
    if result.verdict in ("inconclusive", "not-testable"):
        open_ones = sum(one.verdict != "unrelated" or one.compared != "weights" for one in result.against)
        return f"not cleared: a relation to {open_ones} of {len(result.against)} models could not be excluded"
    nearest = result.against[0]
    return f"not cleared: {nearest.name} is {result.verdict}"


def limit_sentence(clearance: Clearance) -> str:
    """What would have been seen."""
    limit = clearance.result.detection_limit
    if limit is None:
        return "no detection limit: nothing was compared on weights"
    return f"sharing {percent_text(limit)} of its units or more with one of them would have been seen"


def _field(clearance: Clearance) -> str | None:
    """The strongest evidence for each model of the library on one axis, the nearest first."""
    result = clearance.result
    if result.nearest is None or len(result.against) < 2:
        return None
    others = [
        Decoy(location=one.name, verdict=one.verdict, log10_p=one.log10_p, score=one.score)
        for one in result.against[1:6]
        if one.score is not None
    ]
    shown = result.nearest.result.model_copy(update={"controls": Controls(decoys=others)})
    return decoy_figure(result.nearest.model_copy(update={"result": shown}))
