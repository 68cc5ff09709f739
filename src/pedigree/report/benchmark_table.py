"""The leaderboard as Markdown tables, from the record of a benchmark alone."""

from __future__ import annotations

from collections.abc import Sequence

from pedigree.records.benchmark import Benchmark, Directions, Found, MethodScore
from pedigree.report.benchmark_figures import counted, rows_of, share
from pedigree.report.plain_text import printable

_NOTHING = "-"


def benchmark_markdown(record: Benchmark) -> str:
    """Coverage, a table of methods, a table of rows, a table of distances.

    Args:
        record: of `pedigree bench score`.
    """
    result, there = record.result, record.result.coverage
    parts = [
        f"{there.models_made} of {there.models} models of size {result.size}; {there.relatives} related, "
        f"{there.strangers} unrelated and {there.twins} twin pairs of {there.families} test families; thresholds from "
        f"{there.calibration_strangers} unrelated pairs of calibration families. pedigree {record.producer.version}, "
        f"{record.created or ''}.",
        _methods(result.methods), _details(result.methods), _rows(record), _distances(record),
    ]  # fmt: skip
    return printable_blocks(parts)


def printable_blocks(parts: Sequence[str]) -> str:
    """Blocks with an empty line between, each line printable."""
    return "\n\n".join("\n".join(printable(line) for line in part.split("\n")) for part in parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def _count(found: Found | None) -> str:
    return _NOTHING if found is None or not found.of else f"{found.found}/{found.of}"


def _percent(found: Found | None) -> str:
    value = share(found)
    return _NOTHING if value is None else f"{100 * value:.0f}"


def _methods(methods: Sequence[MethodScore]) -> str:
    rows = []
    for method in methods:
        alarms = method.verdict_alarms or method.threshold_alarms
        found = method.by_verdict or method.by_threshold
        area, best = method.area, method.zero_false
        bounds = "" if area.low is None or area.high is None else f" ({area.low:.3f}-{area.high:.3f})"
        upper = "" if alarms.upper_95 is None else f" (< {100 * alarms.upper_95:.1f} %)"
        rows.append([
            method.title, _NOTHING if area.value is None else f"{area.value:.3f}{bounds}",
            _NOTHING if best.value is None else f"{100 * best.value:.0f} %", _count(found),
            f"{alarms.wrong}/{alarms.strangers}{upper}", _count(method.twins_called_relatives),
            f"{method.unanswered}/{method.answers}", _NOTHING if method.seconds is None else f"{method.seconds:.3f}",
        ])  # fmt: skip
    head = ("method", "area (95 %)", "at zero false", "found", "false", "twins", "not compared", "seconds")
    return _table(head, rows)


def _ways(ways: Directions | None) -> str:
    return _NOTHING if ways is None else f"{ways.right}/{ways.wrong}/{ways.silent}"


def _siblings(ways: Directions | None) -> str:
    return _NOTHING if ways is None or not ways.siblings else f"{ways.siblings_told}/{ways.siblings}"


def _details(methods: Sequence[MethodScore]) -> str:
    rows = []
    for method in methods:
        ways, merges, tree = method.directions, method.merges, method.tree
        rows.append([
            method.title, _count(method.layers), _count(method.experts), _count(method.transformations),
            _ways(ways), _siblings(ways), _ways(method.directions_if_descent),
            _NOTHING if merges is None or merges.largest_error is None
            else f"{merges.largest_error:.3f} ({merges.merges - merges.untold}/{merges.merges} told)",
            _NOTHING if merges is None or merges.largest_decoy is None else f"{merges.largest_decoy:.3f}",
            _NOTHING if tree is None
            else f"{tree.right}/{tree.there} ({tree.arrows_right} arrows, {tree.arrows_wrong} wrong)",
        ])  # fmt: skip
    head = (
        "method", "layers", "experts", "done named", "direction right/wrong/silent", "siblings with one", "if descent",
        "merge error", "decoy", "tree",
    )  # fmt: skip
    return _table(head, [row for row in rows if set(row[1:]) != {_NOTHING}])


def _rows(record: Benchmark) -> str:
    methods = record.result.methods
    rows = []
    for row in rows_of(record):
        of = max((found.of for method in methods if (found := counted(method, row)) is not None), default=0)
        rows.append([f"{row} ({of})", *(_percent(counted(method, row)) for method in methods)])
    return _table(("found, percent", *(method.name for method in methods)), rows)


def _distances(record: Benchmark) -> str:
    methods = record.result.methods
    distances = sorted({score.distance for method in methods for score in method.distances})
    rows = []
    for distance in distances:
        cells = []
        for method in methods:
            score = next((s for s in method.distances if s.distance == distance), None)
            found = None if score is None else score.by_verdict or score.by_threshold
            value = share(found)
            cells.append(_NOTHING if value is None else f"{100 * (1 - value):.0f}")
        rows.append([f"{distance:g} x", *cells])
    return _table(("missed, percent, after", *(method.name for method in methods)), rows)
