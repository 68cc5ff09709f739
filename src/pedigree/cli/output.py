"""The one object through which commands speak: the result on stdout, the talk on stderr.

Modes
human   a terminal: color where allowed, one status line while it works
plain   a pipe or file: no color, fixed width, ASCII where the encoding has nothing else
json    the record on stdout, notes on stderr
quiet   the answer alone on stdout, errors alone on stderr
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TextIO

from pedigree.report.plain_text import escaped_json, printable, printable_lines

Mode = Literal["human", "plain", "json", "quiet"]
Progress = Callable[[str, float, str], None]

NARROW, WIDE = 80, 100


@dataclass(frozen=True)
class Span:
    """A piece of a line and its style, a rich style such as `bold cyan`."""

    text: str
    style: str = ""


Line = Sequence[Span]


def shorten(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters; what is cut shows as ` ...`."""
    text = printable(text)
    return text if len(text) <= width else text[: width - 4].rstrip(" .,;") + " ..."


class Output:
    """Where a command speaks.

    Args:
        json: JSON was asked for.
        quiet: only the answer was asked for.
        color: True, False, or None to decide by terminal, NO_COLOR and TERM.
        stdout, stderr: other streams than those of the process.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        quiet: bool = False,
        color: bool | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        on_terminal = self.stdout.isatty()
        self.mode: Mode = "json" if json else "quiet" if quiet else "human" if on_terminal else "plain"
        self.silent = quiet
        self.color = _wants_color(self.stdout) if color is None else color
        self.unicode = "utf" in (self.stdout.encoding or "").lower()
        self.width = max(NARROW, min(WIDE, shutil.get_terminal_size((WIDE, 24)).columns)) if on_terminal else WIDE
        self._status: StatusLine | None = None
        self._closed = False

    def result(self, text: str) -> None:
        """Write one or more lines of the result to stdout. A reader that has left early is not an error."""
        self._write((escaped_json(text) if self.mode == "json" else printable_lines(text)) + "\n")

    def piece(self, text: str) -> None:
        """Write a part of a line of the result to stdout, at once."""
        self._write(printable_lines(text))

    def lines(self, lines: Sequence[Line]) -> None:
        """Write styled lines of the result to stdout."""
        self.clear_status()
        if not self.color:
            for line in lines:
                self.result("".join(printable(span.text) for span in line).rstrip())
            return
        from rich.console import Console
        from rich.text import Text

        console = Console(file=self.stdout, force_terminal=True, color_system="standard", highlight=False, width=10_000)
        for line in lines:
            with console.capture() as captured:
                console.print(
                    Text.assemble(*((printable(span.text), span.style) for span in line)), soft_wrap=True, end=""
                )
            self._write(captured.get().rstrip() + "\n")

    def note(self, text: str) -> None:
        """Say something on stderr that is not the result; nothing in quiet mode."""
        if not self.silent:
            self.clear_status()
            self.stderr.write(self.encodable(printable(text), self.stderr) + "\n")

    def warn(self, text: str) -> None:
        """A note that begins with `warning:`."""
        self.note(f"warning: {text}")

    def progress(self) -> Progress | None:
        """A progress function that keeps one status line, or None where nobody would see it."""
        if self.silent or not self.stderr.isatty():
            return None
        self._status = StatusLine(self.stderr)
        return self._status.show

    def clear_status(self) -> None:
        """Wipe the status line before anything else is said."""
        if self._status is not None:
            self._status.clear()

    def encodable(self, text: str, stream: TextIO | None = None) -> str:
        """`text` with a question mark for what the stream cannot write."""
        encoding = (stream or self.stdout).encoding or "utf-8"
        return text.encode(encoding, "replace").decode(encoding, "replace")

    def _write(self, text: str) -> None:
        if self._closed:
            return
        try:
            self.stdout.write(self.encodable(text))
            self.stdout.flush()
        except BrokenPipeError:
            self._closed = True
            # The interpreter flushes stdout once more at its end; give it somewhere to go.
            lead_nowhere(self.stdout)


def lead_nowhere(stream: TextIO) -> None:
    """Let everything that is written to a stream of the process, and waits in it, go to nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def wipe_status() -> None:
    """Wipe the status line that stands, whoever wrote it: what is said next begins a line."""
    line = StatusLine.standing
    if line is not None:
        with contextlib.suppress(OSError, ValueError):  # a stream that is closed shows nothing
            line.clear()


class StatusLine:
    """One line on a terminal that is written over: stage, share done, what is left, message."""

    standing: ClassVar[StatusLine | None] = None

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._start, self._last = clock(), float("-inf")

    def show(self, stage: str, fraction: float, message: str = "") -> None:
        """Write the line anew, at most ten times a second."""
        now = self._clock()
        if now - self._last < 0.1 and fraction < 1:
            return
        self._last = now
        elapsed = now - self._start
        share = min(1.0, max(0.0, fraction))
        left = f", about {elapsed * (1 - share) / share:.0f} s left" if 0.05 < share < 1 and elapsed > 3 else ""
        width = max(20, shutil.get_terminal_size((WIDE, 24)).columns - 1)
        text = printable(f"{stage} {100 * share:3.0f} %{left}  {message}")[:width]
        encoding = self._stream.encoding or "utf-8"
        self._stream.write("\r\x1b[K" + text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
        StatusLine.standing = self

    def clear(self) -> None:
        """Wipe the line."""
        if StatusLine.standing is self:
            StatusLine.standing = None
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _wants_color(stream: Any) -> bool:
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
