"""The pictures of a leaderboard, as inline SVG: a heat table, misses against training distance, curves.

Rules
1. The same record gives the same bytes.
2. Color never stands alone: cells carry their numbers, lines have dashes of their own and a legend.
3. Nothing is computed but places on the page and shares of counts that stand in the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pedigree.records.benchmark import Benchmark, DistanceScore, Found, MethodScore
from pedigree.report.plain_text import printable

_ROW_HEIGHT, _LABEL, _CELL = 19, 290, 40
_PALETTE = ("#0b3a66", "#c4500a", "#2f6ea5", "#7a5a00", "#5d7f3a", "#8a3d7c", "#3f8a8a", "#a05050", "#666666")
_DASHES = ("", "6 3", "2 2", "8 2 2 2", "1 3", "5 2", "3 3", "9 3", "4 1")
_WIDTH, _HEIGHT, _LEFT, _BASE = 820, 320, 46, 280
_RIGHT = 510
"""Where curves end; their legend begins behind it."""


def share(found: Found | None) -> float | None:
    """The share of a count, None where nothing was counted."""
    return None if found is None or not found.of else found.found / found.of


def counted(method: MethodScore, row: str) -> Found | None:
    """A cell of the table: by the method's own word where it has one, above its threshold otherwise."""
    for score in method.rows:
        if score.row == row:
            return score.by_verdict if method.by_verdict is not None else score.by_threshold
    return None


def rows_of(record: Benchmark) -> list[str]:
    """Rows in the order of the method that was asked about most."""
    methods = sorted(record.result.methods, key=lambda method: -len(method.rows))
    return list(dict.fromkeys(score.row for method in methods for score in method.rows))


def _svg(width: int, height: int, label: str, body: str) -> str:
    return (
        f'<svg class="figure" style="max-width:{width}px;--drawn:{width}px" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width} {height}" '
        f'font-size="10.5" fill="currentColor" stroke="none">{body}</svg>'
    )


_RISE = 5.3
"""Height of one letter of a column's name, which is written at a steep angle."""


def heat_figure(record: Benchmark) -> str:
    """Rows are transformations, columns are methods; a cell is the share of relatives that were found."""
    methods, rows = record.result.methods, rows_of(record)
    if not methods or not rows:
        return ""
    top = round(16 + _RISE * max(len(method.title) for method in methods))
    width, height = _LABEL + _CELL * len(methods) + 124, top + _ROW_HEIGHT * len(rows) + 8
    parts = []
    for j, method in enumerate(methods):
        x = _LABEL + _CELL * j + _CELL / 2 + 4
        parts.append(
            f'<text transform="translate({x:.1f} {top - 6}) rotate(-58)"{_weight(method)}>{_text(method.title)}</text>'
        )
    for i, row in enumerate(rows):
        y = top + _ROW_HEIGHT * i
        of = max((found.of for method in methods if (found := counted(method, row)) is not None), default=0)
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 13}" text-anchor="end">{_text(row)} ({of})</text>')
        parts += [_cell(_LABEL + _CELL * j, y, counted(method, row)) for j, method in enumerate(methods)]
    return _svg(width, height, "Share of relatives found, by transformation and method", "".join(parts))


def _is_ours(method: MethodScore) -> bool:
    return method.name.startswith("pedigree")


def _weight(method: MethodScore) -> str:
    return ' font-weight="700"' if _is_ours(method) else ""


def _cell(x: float, y: float, found: Found | None) -> str:
    value = share(found)
    if value is None:
        return f'<text x="{x + _CELL / 2}" y="{y + 13}" text-anchor="middle" opacity="0.5">-</text>'
    ink = "#ffffff" if value > 0.55 else "#16191d"
    red, green, blue = (round(235 + (end - 235) * value) for end in (11, 58, 102))
    color = f"#{red:02x}{green:02x}{blue:02x}"
    return (
        f'<rect x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_ROW_HEIGHT - 2}" fill="{color}"/>'
        f'<text x="{x + _CELL / 2}" y="{y + 13}" text-anchor="middle" fill="{ink}">{100 * value:.0f}</text>'
    )


def distance_figure(record: Benchmark) -> str:
    """Share of the ladder's relatives that were missed, against training since; distances stand evenly."""
    distances = sorted({score.distance for method in record.result.methods for score in method.distances})
    if len(distances) < 2:
        return ""
    place = {d: _LEFT + (_RIGHT - _LEFT) * i / (len(distances) - 1) for i, d in enumerate(distances)}
    lines = []
    for method in record.result.methods:
        points = []
        for score in method.distances:
            found = share(_of(method, score))
            if found is not None:
                points.append((place[score.distance], _height(1 - found)))
        lines.append((method, points))
    marks = "".join(f'<text x="{x:.1f}" y="{_BASE + 16}" text-anchor="middle">{d:g}</text>' for d, x in place.items())
    marks += f'<text x="{_LEFT}" y="{_BASE + 32}">training since, in units of the original</text>'
    return _svg(_WIDTH, _HEIGHT, "Miss rate against training distance", _frame("missed", marks) + _drawn(lines))


def _of(method: MethodScore, score: DistanceScore) -> Found:
    return score.by_verdict if score.by_verdict is not None and method.by_verdict is not None else score.by_threshold


def curve_figure(record: Benchmark) -> str:
    """Relatives found against strangers called relatives, over all thresholds."""
    lines = [
        (method, [(_LEFT + (_RIGHT - _LEFT) * x, _height(y)) for x, y in method.curve])
        for method in record.result.methods
        if method.curve
    ]
    if not lines:
        return ""
    marks = "".join(
        f'<text x="{_LEFT + (_RIGHT - _LEFT) * x:.1f}" y="{_BASE + 16}" text-anchor="middle">{100 * x:.0f} %</text>'
        for x in (0, 0.25, 0.5, 0.75, 1)
    )
    marks += f'<text x="{_LEFT}" y="{_BASE + 32}">strangers above the threshold</text>'
    return _svg(_WIDTH, _HEIGHT, "Receiver operating characteristic", _frame("relatives above", marks) + _drawn(lines))


def _height(value: float) -> float:
    return 24 + (1 - value) * (_BASE - 24)


def _frame(title: str, marks: str) -> str:
    levels = "".join(
        f'<text x="{_LEFT - 5}" y="{_height(v) + 4:.1f}" text-anchor="end">{100 * v:.0f} %</text>'
        f'<path d="M{_LEFT} {_height(v):.1f}H{_RIGHT}" stroke="currentColor" stroke-width="0.3" opacity="0.4"/>'
        for v in (0, 0.5, 1)
    )
    return f'<text x="{_LEFT}" y="14">{escape(title)}</text>{levels}{marks}'


def _drawn(lines: Sequence[tuple[MethodScore, Sequence[tuple[float, float]]]]) -> str:
    """Lines with a legend at the right, in the order of the methods; ours are heavy and lie under the others.

    Under them, since two lines that agree would otherwise show only one.
    """
    drawn, legend = [], []
    for number, (method, points) in enumerate(lines):
        color, dash = _PALETTE[number % len(_PALETTE)], _DASHES[(number + number // len(_PALETTE)) % len(_DASHES)]
        stroke = 3.2 if _is_ours(method) else 1.4
        style = f'fill="none" stroke="{color}" stroke-width="{stroke}" stroke-dasharray="{dash}"'
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        y = 30 + 17 * number
        drawn.append((not _is_ours(method), f'<polyline points="{path}" {style}/>'))
        legend.append(
            f'<path d="M{_RIGHT + 20} {y - 4}h28" {style}/>'
            f'<text x="{_RIGHT + 54}" y="{y}"{_weight(method)}>{_text(method.title)}</text>'
        )
    return "".join(line for _, line in sorted(drawn, key=lambda entry: entry[0])) + "".join(legend)


def _text(words: str) -> str:
    return escape(printable(words))
