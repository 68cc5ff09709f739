"""`pedigree demo`: small models are trained here, one is disguised, all are compared, reports are written."""

from __future__ import annotations

import itertools
import json as json_text
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.compare import run_compare
from pedigree.cli.errors import DONE, SAYS_NO
from pedigree.cli.files import GO_ON, write_file
from pedigree.cli.options import INPUT, OUTPUT, ColorOption, JsonOption, QuietOption
from pedigree.cli.output import Output, Span, shorten
from pedigree.errors import OutputExists

if TYPE_CHECKING:
    from pedigree.benchmark.zoo.orders import Zoo
    from pedigree.records.comparison import Comparison

DEFAULT_DIRECTORY = Path(".demo")
REPORTS = "reports"
MARKER = ".pedigree-demo"  # says that the folder is ours to write into, after an interruption too


def demo(
    directory: Annotated[
        Path,
        typer.Option(
            "--dir", metavar="DIR", help="Where models and reports go; finished models there are kept.",
            envvar="PEDIGREE_DEMO_DIR", rich_help_panel=INPUT,
        ),
    ] = DEFAULT_DIRECTORY,
    open_report: Annotated[
        bool,
        typer.Option(
            "--open/--no-open", help="Open a report in the browser when there is a screen.", envvar="PEDIGREE_OPEN",
            rich_help_panel=OUTPUT,
        ),
    ] = True,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
) -> int:  # fmt: skip
    """Train small models here, disguise one, compare every pair, write reports: under three minutes.

    [bold]Examples[/bold]

    pedigree demo

    pedigree demo --dir .demo --no-open
    """
    out = Output(json=json, quiet=quiet, color=color)
    start = time.monotonic()
    GO_ON.append(f"finished models, if any, are in {directory}; the same command goes on from there")
    zoo = _make(directory, out)
    if out.mode in ("human", "plain"):
        _show_training(zoo, out)
    pairs = []
    for a, b in itertools.combinations(zoo.models, 2):
        pair = _compare(zoo, a, b, directory / REPORTS, out)
        pairs.append(pair)
        if out.mode in ("human", "plain"):
            _show_pair(pair, out)
    right = sum(pair.comparison.result.verdict == pair.made for pair in pairs)
    telling = next((pair for pair in pairs if pair.comparison.result.verdict == "related"), pairs[0])
    if out.mode == "json":
        out.result(_record(pairs))
    else:
        agree = f"{right} of {len(pairs)} answers agree with how the models were made"
        out.result(f"{agree} ({time.monotonic() - start:.0f} s); {len(pairs)} reports in {directory / REPORTS}")
        out.result(f"open {telling.report}")
    if open_report and out.mode == "human":
        _open(telling.report)
    return DONE if right == len(pairs) else SAYS_NO


@dataclass(frozen=True)
class DemoPair:
    """Two demo models: how they were made, what the comparison says, where its report lies."""

    a: str
    b: str
    made: str
    comparison: Comparison
    report: Path


def _make(directory: Path, out: Output) -> Zoo:
    marker = directory / MARKER
    if directory.exists() and not marker.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OutputExists(
            "the demo would write into a folder that is not its own",
            where=str(directory),
            expected="an empty folder, a new one, or one of an earlier demo",
            fix="pedigree demo --dir another-folder",
        )
    (directory / REPORTS).mkdir(parents=True, exist_ok=True)
    marker.touch()

    from pedigree.benchmark.zoo.orders import make_demo

    show = out.progress()

    def progress(model: str, done: int, steps: int, loss: float) -> None:
        if show is not None:
            show(f"training {model}", done / max(1, steps), f"loss {loss:.2f}")

    out.note("training small models here, from nothing; a minute or two")
    zoo = make_demo(directory, progress=progress)
    out.clear_status()
    return zoo


def _compare(zoo: Zoo, a: str, b: str, reports: Path, out: Output) -> DemoPair:
    from pedigree.report.page import render_comparison

    comparison = run_compare(str(zoo.models[a]), str(zoo.models[b]), out)
    report = reports / f"{a}--{b}.html"
    write_file(report, render_comparison(comparison), force=True)
    return DemoPair(a, b, zoo.pair(a, b).relation, comparison, report)


def _show_training(zoo: Zoo, out: Output) -> None:
    losses = [f"{name} (loss {first:.2f} to {last:.2f})" for name, (first, last) in zoo.losses.items()]
    derived = [name for name in zoo.models if name not in zoo.losses]
    out.result(f"trained here: {', '.join(losses)}; derived: {', '.join(derived)}")
    out.result("")


def _show_pair(pair: DemoPair, out: Output) -> None:
    from pedigree.cli.answer import VERDICT_STYLES
    from pedigree.report import words
    from pedigree.report.transformations import transformation_sentences

    result = pair.comparison.result
    mark = words.VERDICT_MARKS[result.verdict][0 if out.unicode else 1]
    note = "(true)" if result.verdict == pair.made else f"(in truth {pair.made})"
    names = f"{pair.a} / {pair.b}"
    out.lines(
        [(Span(f"{names:<34}"), Span(f"{mark} {result.verdict}", VERDICT_STYLES[result.verdict]), Span(f"  {note}"))]
    )
    sentences = [result.strength, *transformation_sentences(result)[:3]]
    out.lines([(Span("    " + shorten(sentence, out.width - 4)),) for sentence in sentences if sentence])


def _record(pairs: Sequence[DemoPair]) -> str:
    result = [
        {
            "a": pair.a,
            "b": pair.b,
            "made": pair.made,
            "verdict": pair.comparison.result.verdict,
            "log10_p": pair.comparison.result.log10_p,
            "report": str(pair.report),
        }
        for pair in pairs
    ]
    record = {
        "schema": "pedigree/demo",
        "version": 1,
        "command": "demo",
        "inputs": {},
        "result": result,
        "warnings": [],
    }
    return json_text.dumps(record, indent=2)


def _open(report: Path) -> None:
    """Open the report where there is a screen; elsewhere its path has been printed."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        import webbrowser

        webbrowser.open(report.resolve().as_uri())
