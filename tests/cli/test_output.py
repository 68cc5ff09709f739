"""The output object: modes, color, the status line."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import Any

import pytest

from pedigree.cli.errors import say
from pedigree.cli.output import Output, Span, StatusLine, shorten
from pedigree.report.plain_text import printable


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on_terminal(**options: Any) -> tuple[Output, Terminal, Terminal]:
    stdout, stderr = Terminal(), Terminal()
    return Output(stdout=stdout, stderr=stderr, **options), stdout, stderr


def test_the_mode_is_what_was_asked_for_or_what_stdout_is() -> None:
    assert on_terminal()[0].mode == "human"
    assert on_terminal()[0].color
    assert on_terminal(json=True)[0].mode == "json"
    assert on_terminal(quiet=True)[0].mode == "quiet"


def test_no_color_and_dumb_terminals_are_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not on_terminal()[0].color
    assert on_terminal(color=True)[0].color
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not on_terminal()[0].color


def test_a_pipe_is_plain_and_one_hundred_columns_wide(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    assert (out.mode, out.color, out.width) == ("plain", False, 100)
    assert out.progress() is None


@pytest.mark.parametrize(("columns", "width"), [("40", 80), ("90", 90), ("300", 100)])
def test_a_terminal_decides_the_width_within_bounds(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert on_terminal()[0].width == width


def test_the_status_line_is_wiped_before_the_result() -> None:
    out, stdout, stderr = on_terminal()
    progress = out.progress()
    assert progress is not None
    progress("reading", 0.5, "layer\x1b[31m 3")
    assert "reading  50 %" in stderr.getvalue()
    assert "\x1b[31m" not in stderr.getvalue()
    out.lines([(Span("related", "bold"),)])
    assert stderr.getvalue().endswith("\r\x1b[K")
    assert "related" in stdout.getvalue()


def test_quiet_shows_no_status_and_no_notes() -> None:
    out, _, stderr = on_terminal(quiet=True)
    assert out.progress() is None
    out.warn("nobody hears this")
    assert stderr.getvalue() == ""


def test_the_status_line_tells_what_is_left_and_does_not_flicker() -> None:
    stream = Terminal()
    times = iter([0.0, 0.0, 0.05, 10.0])
    status = StatusLine(stream, clock=lambda: next(times))
    status.show("reading", 0.0)
    status.show("reading", 0.01)
    status.show("reading", 0.5, "x")
    assert stream.getvalue().count("\r") == 2
    assert "50 %, about 10 s left" in stream.getvalue()


def test_an_error_does_not_begin_behind_the_status_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    out = Output(stdout=Terminal(), stderr=terminal)
    progress = out.progress()
    assert progress is not None
    progress("opening", 0.0, "model")
    say("error: no such file or directory")
    assert terminal.getvalue().endswith("model\r\x1b[Kerror: no such file or directory\n")
    out.clear_status()
    assert terminal.getvalue().endswith("directory\n"), "nothing is left to wipe"


def test_what_the_encoding_cannot_hold_becomes_a_question_mark() -> None:
    raw = io.BytesIO()
    out = Output(stdout=io.TextIOWrapper(raw, encoding="ascii"))
    out.result("\u25cf related")
    assert raw.getvalue() == b"? related\n"
    assert not out.unicode


def test_what_is_too_long_shows_that_it_was_cut() -> None:
    assert shorten("word " * 40, 20) == "word word word w ..."


HOSTILE = "a\x1b[2J\x9b31m\x07\u202eb\x7f\u2028c"


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("say", ["result", "lines", "note", "warn"])
def test_nothing_that_is_said_steers_the_terminal(say: str, color: bool) -> None:
    out, stdout, stderr = on_terminal(color=color)
    given = [(Span(HOSTILE, "bold"), Span(HOSTILE))] if say == "lines" else HOSTILE
    getattr(out, say)(given)
    text = stdout.getvalue() + stderr.getvalue()
    without_colors = re.sub(r"\x1b\[[0-9;]*m", "", text) if color and say == "lines" else text
    assert "a\ufffd[2J\ufffd31m\ufffd\ufffdb\ufffd c" in without_colors
    assert printable(without_colors.replace("\n", "")) == without_colors.replace("\n", "")


def test_json_escapes_what_would_steer_the_terminal_and_loses_nothing() -> None:
    out, stdout, _ = on_terminal(json=True)
    record = {"location": HOSTILE + "\U000e0041 \u00e9 \u4e2d"}
    out.result(json.dumps(record, indent=2, ensure_ascii=False))
    assert json.loads(stdout.getvalue()) == record
    assert all(line.isprintable() for line in stdout.getvalue().split("\n"))
    assert "\u00e9 \u4e2d" in stdout.getvalue()
