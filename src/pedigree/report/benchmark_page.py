"""The leaderboard as one HTML file, from the record of a benchmark alone. It needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from pedigree.records.benchmark import Benchmark, Directions, FalseAlarms, Found, Interval, MethodScore
from pedigree.report.benchmark_figures import curve_figure, distance_figure, heat_figure
from pedigree.report.numbers import bytes_text
from pedigree.report.plain_text import escaped_json, printable

_STYLE = Path(__file__).parent / "templates" / "style.css"
_NOTHING = "-"
_METHODS_NOTE = (
    "Area: chance that a related pair scores higher than an unrelated one, with 95 % bounds by resampling families. "
    "At zero false: related pairs above every unrelated one of the test split. Found, false: by the method's own word "
    "where it has one, above the highest unrelated pair of the calibration split otherwise; the bound of false alarms "
    "is exact for pairs, as if they were independent. A pair that a method cannot compare counts as not found."
)
_HEAT_NOTE = "Related pairs found, in percent; in brackets how many there are. A dash: none was asked, or no threshold."
_DISTANCE_NOTE = "Missed related pairs of the laundering ladder and of plain further training."
_FOOTER = (
    "Scores speak about files whose making is known. Twins start from the same random numbers and are counted as "
    "neither related nor unrelated. Models of this size cannot show everything that large ones do."
)


def render_benchmark(record: Benchmark) -> str:
    """The page.

    Args:
        record: of `pedigree bench score`.
    """
    result, there = record.result, record.result.coverage
    style = _STYLE.read_text(encoding="utf-8").replace("max-width: 820px", "max-width: 1060px")
    sentence = (
        f"{there.relatives} related, {there.strangers} unrelated and {there.twins} twin pairs of {there.families} test "
        f"families; thresholds from {there.calibration_strangers} unrelated pairs of other families."
    )
    version, created = _text(record.producer.version), _text(record.created or "")
    parts = [
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Lineage benchmark, {_text(result.size)}</title><style>{style}</style></head><body>",
        f'<div class="top"><span>pedigree {version}</span><span>{created}</span></div>',
        "<h1>Lineage benchmark</h1>",
        f'<div class="answer"><span class="word">{there.models_made} of {there.models} models</span>',
        f'<span class="sentence">{sentence}</span></div>',
        *(f'<p class="small">{_text(words)}.</p>' for words in record.warnings),
        "<h2>Methods</h2>", _methods_table(result.methods), f'<p class="small soft">{_METHODS_NOTE}</p>',
        "<h2>What was found, by what was done</h2>", _figure(heat_figure(record), _HEAT_NOTE),
        "<h2>After further training</h2>", _figure(distance_figure(record), _DISTANCE_NOTE),
        "<h2>Over all thresholds</h2>", _figure(curve_figure(record), "Each method over all its thresholds."),
        "<h2>Layers, experts, directions, merges, trees</h2>", _details_table(result.methods),
        "<h2>What it costs</h2>", _costs_table(result.methods),
        "<h2>What went wrong</h2>", *(_wrong(method) for method in result.methods),
        *_left_out(record),
        f"<details><summary>The record</summary><pre>{escape(escaped_json(record.to_json(indent=1)))}</pre></details>",
        f"<footer>{_FOOTER}</footer></body></html>",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part) + "\n"


def _text(words: str) -> str:
    return escape(printable(words))


def _figure(svg: str, caption: str) -> str:
    if not svg:
        return '<p class="soft">Not enough was measured for this picture.</p>'
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th{'' if i == 0 else ' class=number'}>{escape(word)}</th>" for i, word in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{'' if i == 0 else ' class=number'}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _title(method: MethodScore) -> str:
    name = _text(method.title)
    return f"<strong>{name}</strong>" if method.name.startswith("pedigree") else name


def _interval(number: Interval) -> str:
    if number.value is None:
        return _NOTHING
    bounds = "" if number.low is None or number.high is None else f" ({number.low:.3f} to {number.high:.3f})"
    return f"{number.value:.3f}{bounds}"


def _count(found: Found | None) -> str:
    return _NOTHING if found is None or not found.of else f"{found.found} of {found.of}"


def _alarms(alarms: FalseAlarms) -> str:
    bound = "" if alarms.upper_95 is None else f", at most {100 * alarms.upper_95:.1f} %"
    return f"{alarms.wrong} of {alarms.strangers}{bound}"


def _methods_table(methods: Sequence[MethodScore]) -> str:
    rows = []
    for method in methods:
        speaks = method.by_verdict is not None and method.verdict_alarms is not None
        found = method.by_verdict if speaks else method.by_threshold
        alarms = method.verdict_alarms if speaks and method.verdict_alarms is not None else method.threshold_alarms
        rows.append([
            _title(method), _interval(method.area), _interval(method.zero_false), _count(found), _alarms(alarms),
            _count(method.twins_called_relatives), f"{method.unanswered} of {method.answers}",
        ])  # fmt: skip
    head = ("method", "area", "at zero false", "found", "false", "twins called related", "not compared")
    return _table(head, rows)


def _ways(ways: Directions | None) -> str:
    return _NOTHING if ways is None else f"{ways.right} / {ways.wrong} / {ways.silent}"


def _siblings(ways: Directions | None) -> str:
    return _NOTHING if ways is None or not ways.siblings else f"{ways.siblings_told} / {ways.siblings}"


def _details_table(methods: Sequence[MethodScore]) -> str:
    rows = []
    for method in methods:
        ways, merges, tree = method.directions, method.merges, method.tree
        rows.append([
            _title(method), _count(method.layers), _count(method.experts), _count(method.transformations),
            _ways(ways), _siblings(ways), _ways(method.directions_if_descent),
            _NOTHING if merges is None or merges.largest_error is None
            else f"{merges.largest_error:.3f} ({merges.merges - merges.untold} of {merges.merges})",
            _NOTHING if merges is None or merges.largest_decoy is None else f"{merges.largest_decoy:.3f}",
            _NOTHING if tree is None
            else f"{tree.right} of {tree.there} ({tree.arrows_right} / {tree.arrows_wrong})",
        ])  # fmt: skip
    head = (
        "method",
        "layers placed",
        "experts",
        "done named",
        "direction",
        "siblings",
        "if descent",
        "merges off",
        "decoys",
        "lines of a tree",
    )
    note = (
        "Direction and if descent: right / wrong / not said, of pairs of which one descends from the other. Siblings:"
        " given a direction / asked. Merges off: the largest error of a weight. Lines of a tree: with their arrows,"
        " right / wrong."
    )
    told = [row for row in rows if set(row[1:]) != {_NOTHING}]
    return f"{_table(head, told)}<p class=small>{note}</p>"


def _costs_table(methods: Sequence[MethodScore]) -> str:
    rows = [
        [
            _title(method), _NOTHING if method.seconds is None else f"{method.seconds:.3f}",
            _NOTHING if method.bytes is None else bytes_text(round(method.bytes)),
            _NOTHING if method.memory is None else bytes_text(method.memory), _text(method.source),
        ]
        for method in methods
    ]  # fmt: skip
    return _table(("method", "seconds a pair", "read a pair", "memory, largest", "source"), rows)


def _wrong(method: MethodScore) -> str:
    if not method.missed and not method.false_alarms and not method.reasons:
        return f'<p class="small">{_title(method)}: nothing.</p>'
    lists = [
        f"<p class=small>{word}: <span class=mono>{_text(', '.join(names))}</span></p>"
        for word, names in (("called related, unrelated by truth", method.false_alarms), ("missed", method.missed))
        if names
    ]
    why = [f"<p class=small>not compared, {count} times: {_text(words)}</p>" for words, count in method.reasons.items()]
    summary = f"{_text(method.title)}: {len(method.false_alarms)} false, {len(method.missed)} missed are listed"
    return f"<details><summary>{summary}</summary>{''.join([*lists, *why])}</details>"


def _left_out(record: Benchmark) -> list[str]:
    words = [f"{name}: {why}" for name, why in {**record.result.skipped, **record.result.not_made}.items()]
    if not words:
        return []
    return ["<h2>Left out</h2><ul class=small>", *(f"<li>{_text(line)}</li>" for line in words), "</ul>"]
