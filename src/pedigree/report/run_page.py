"""A training run as one HTML file: how it ended, its curves, what the guard did. Renders records, computes nothing.

The curves are lines of an inline SVG: the same rows give the same bytes, and the page asks for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pedigree.records.training_run import StepResult
from pedigree.report.numbers import count_text, number_text
from pedigree.report.plain_text import printable

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 220, 48, 24
_POINTS = 600  # more than there are places to draw them
_STYLE = Path(__file__).parent / "templates" / "style.css"


def curve(rows: Sequence[Mapping[str, Any]], field: str, title: str) -> str:
    """One field over the tokens as an SVG; skipped steps are marked by crosses.

    Args:
        rows: numbers of logged steps with `tokens`, `action` and the field; rows without a finite value are left out.
        field: what is drawn.
        title: what stands above.
    """
    points = [
        (float(row["tokens"]), float(row[field]), row.get("action", "apply"))
        for row in rows
        if _is_number(row.get(field))
    ]
    if len(points) < 2:
        return ""
    x0, x1 = points[0][0], points[-1][0]
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    high = high if high > low else low + 1

    def place(x: float, y: float) -> tuple[float, float]:
        share = (x - x0) / (x1 - x0) if x1 > x0 else 0.0
        return _LEFT + share * (_WIDTH - _LEFT - 8), 20 + (high - y) / (high - low) * (_HEIGHT - _BOTTOM - 20)

    thinned = points[:: math.ceil(len(points) / _POINTS)]
    thinned += [] if thinned[-1] is points[-1] else [points[-1]]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(p[0], p[1]) for p in thinned))
    crosses = "".join(
        f'<path d="M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"/>'
        for x, y in (place(p[0], p[1]) for p in points if p[2] in ("skip-step", "roll-back"))
    )
    base = _HEIGHT - _BOTTOM
    return (
        f'<svg class="figure" role="img" aria-label="{escape(title)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'fill="none" stroke="currentColor" font-size="11">'
        f'<path d="M{_LEFT} 20V{base}H{_WIDTH - 8}" stroke-width="0.6"/>'
        f'<polyline points="{line}" stroke="#2f6ea5" stroke-width="1.4"/><g stroke="#c4500a">{crosses}</g>'
        f'<g fill="currentColor" stroke="none"><text x="{_LEFT}" y="12">{escape(title)}</text>'
        f'<text x="{_LEFT - 4}" y="24" text-anchor="end">{number_text(high)}</text>'
        f'<text x="{_LEFT - 4}" y="{base}" text-anchor="end">{number_text(low)}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{count_text(int(x0))}</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 8}" text-anchor="end">{count_text(int(x1))} tokens</text></g></svg>'
    )


def render_run(result: StepResult, rows: Sequence[Mapping[str, Any]]) -> str:
    """The page of one run.

    Args:
        result: how it ended.
        rows: the numbers of its logged steps.
    """
    name = escape(printable(result.step))
    facts = [
        ("outcome", result.outcome),
        ("steps", count_text(result.steps)),
        ("tokens", count_text(result.tokens)),
        ("loss", f"{number_text(result.loss)} nats per token"),
        ("speed", f"{count_text(int(result.tokens_per_second))} tokens per second"),
    ]
    if result.utilization is not None:
        facts.append(("utilization", f"{100 * result.utilization:.0f} % of the measured rate of matrix products"))
    facts += [(f"text: {score.domain}", f"{score.bits_per_byte:.3f} bits per byte") for score in result.scores]
    facts += [(f"sums: {key}", f"{100 * share:.0f} % right") for key, share in result.arithmetic.items()]
    curves = [
        curve(rows, "cross_entropy", "cross entropy, nats per token"),
        curve(rows, "grad_norm", "gradient norm before clipping"),
        curve(rows, "rate", "learning rate, share of its peak"),
    ]
    style = _STYLE.read_text(encoding="utf-8")
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<style>{style}</style></head><body>",
        f"<section><h1>{name}</h1>{_table(facts)}",
        *(f'<div class="block">{svg}</div>' for svg in curves if svg),
        _decisions(result.decisions),
        "</section></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _table(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{escape(printable(k))}</th><td>{escape(printable(v))}</td></tr>" for k, v in facts)
    return f"<table>{rows}</table>"


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> str:
    """What the guard did beside clipping, one line each."""
    told = [decision for decision in decisions if decision["action"] != "clip"]
    if not told:
        return "<p>The guard skipped no step and dropped no data.</p>"
    lines = [
        f"<tr><td>{decision['step']}</td><td>{escape(decision['action'])}</td>"
        f"<td>{escape(printable(decision['why']))} ({escape(decision['source'])})</td>"
        f"<td>{escape(printable(_dropped(decision)))}</td></tr>"
        for decision in told
    ]
    head = "<tr><th>step</th><th>action</th><th>why</th><th>data windows dropped</th></tr>"
    return f"<h2>What the guard did</h2><table>{head}{''.join(lines)}</table>"


def _dropped(decision: Mapping[str, Any]) -> str:
    windows = decision.get("dropped", {}).get("windows")
    return "" if windows is None else f"{windows[0]} to {windows[1]}" if windows[0] != windows[1] else str(windows[0])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
