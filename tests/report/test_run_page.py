"""The page of a run: curves, facts, decisions; hostile names stay text."""

from __future__ import annotations

import math

from pedigree.records.training_run import DomainScore, StepResult
from pedigree.report.run_page import curve, render_run

ROWS = [
    {"tokens": 100 * i, "cross_entropy": 5.0 - i / 10, "grad_norm": 1.0, "rate": 1.0, "action": "apply"}
    for i in range(20)
]
SCORE = DomainScore(domain="en", bits_per_byte=1.5, nats_per_token=3.0, n_bytes=9, n_tokens=4)
RESULT = StepResult(
    step="<b>x</b>", outcome="finished", digest="sha256:0", steps=20, tokens=1900, first_step=0, loss=3.1, seconds=1.0,
    tokens_per_second=1000.0, arithmetic={"all": 0.25}, output="out", scores=[SCORE],
)  # fmt: skip


def test_the_page_shows_how_it_ended_and_escapes_names() -> None:
    page = render_run(RESULT, ROWS)
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x" not in page
    assert "1.500 bits per byte" in page
    assert "25 % right" in page
    assert page.count("<polyline") == 3
    assert "skipped no step" in page
    assert render_run(RESULT, ROWS) == page


def test_what_the_guard_did_is_told_with_the_data_it_dropped() -> None:
    decision = {
        "rule": "rewind", "source": "PaLM", "action": "roll-back", "step": 7, "window": 7, "why": "<i>three</i> skips",
        "numbers": {}, "dropped": {"windows": [3, 9]},
    }  # fmt: skip
    page = render_run(RESULT.model_copy(update={"decisions": [decision, {**decision, "action": "clip"}]}), ROWS)
    assert page.count("&lt;i&gt;three&lt;/i&gt; skips (PaLM)") == 1
    assert "3 to 9" in page


def test_a_curve_marks_skipped_steps_and_leaves_out_what_is_no_number() -> None:
    rows = [{**row, "action": "skip-step" if i in (4, 9) else "apply"} for i, row in enumerate(ROWS)]
    rows.append({"tokens": 2000, "cross_entropy": math.nan, "action": "apply"})
    svg = curve(rows, "cross_entropy", "loss")
    assert svg.count("<path") == 3  # the axes and two crosses
    assert "nan" not in svg
    assert curve(rows[:1], "cross_entropy", "loss") == ""


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    rows = [{"tokens": i, "cross_entropy": 1.0 + i, "action": "apply"} for i in range(10_001)]
    line = curve(rows, "cross_entropy", "loss").partition('points="')[2].partition('"')[0].split()
    assert len(line) <= 602
    assert line[-1] == "712.0,20.0"
