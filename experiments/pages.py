"""Tables and pictures of an experiment: the measured part of a page is replaced, what people wrote around it stays."""

from __future__ import annotations

import io
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- measured: written by the script -->", "<!-- end of what was measured -->"
COLORS = ("#c4500a", "#e0a030", "#6fa8d6", "#0b3a66", "#6b7280")
DASHES = ("-", "--", "-.", "-", ":")  # color never stands alone
_NUMBER = re.compile(r"-?\d+\.\d{3,}")  # coordinates; numbers in the words of a picture stay as they are
_ROOT = Path(__file__).resolve().parents[1]


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    parts = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    parts += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join(parts)


def put(page: Path, title: str, measured: str) -> None:
    """Write the measured part of a page; the page is made where it is not there."""
    page.parent.mkdir(parents=True, exist_ok=True)
    text = page.read_text(encoding="utf-8") if page.is_file() else f"# {title}\n\n{BEGIN}\n{END}\n"
    page.write_text(replaced(text, measured), encoding="utf-8")


def replaced(text: str, measured: str) -> str:
    """The text with another measured part; a text without its marks gets one at the end."""
    if BEGIN not in text or END not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{measured.strip()}\n\n{END}{rest.split(END, 1)[1]}"


def origin(command: str) -> str:
    """Where the numbers come from: command, commit, date, machine."""
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    python = ".".join(map(str, sys.version_info[:3]))
    made_with = f"torch {torch.__version__}, Python {python}, {platform.machine()}, one thread"
    return f"`{command}`, {day}, commit {commit}; {made_with}."


def figure(rows: int, columns: int, height: float) -> tuple[Any, Any]:
    """An empty figure with axes, in the style of the pictures of this project."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "pedigree", "svg.fonttype": "none", "font.size": 8.0, "axes.linewidth": 0.6})
    mpl.rcParams.update({"axes.titlesize": 8.5, "path.simplify": False, "xtick.major.width": 0.6})
    drawn = Figure(figsize=(7.6, height), layout="constrained")
    FigureCanvasSVG(drawn)
    return drawn, drawn.subplots(rows, columns, squeeze=False)


def save(drawn: Any, path: Path) -> None:
    """Write a figure as SVG: the same numbers give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<[^>]*>", lambda tag: _NUMBER.sub(_rounded, tag.group()), buffer.getvalue())
    text = "\n".join(line.rstrip() for line in text.splitlines())
    path.write_text(text + "\n", encoding="utf-8")


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number.group()):.2f}".rstrip("0").rstrip(".")
