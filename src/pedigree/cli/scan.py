"""`pedigree scan MODEL --against LIBRARY`: nearest relatives among many."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE, SAYS_NO
from pedigree.cli.files import GO_ON
from pedigree.cli.options import (
    COMPUTE,
    INPUT,
    OUTPUT,
    ColorOption,
    FleetOption,
    JsonOption,
    KeepOption,
    PickleOption,
    QuietOption,
    SaltOption,
    WorkersOption,
    check_word,
    offer,
)
from pedigree.cli.output import Line, Output, Span
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from pedigree.records.scan import Candidate, Scan

WORDS = ("relatives-found", "none-found", "inconclusive")
STYLES = {"relatives-found": "bold blue", "none-found": "bold green", "inconclusive": "bold magenta"}


def scan(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model, or its fingerprint.", show_default=False)
    ],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="LIBRARY", help="The library to search; must be named.", envvar="PEDIGREE_LIBRARY",
            rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    salt: SaltOption = "",
    candidates: Annotated[
        int,
        typer.Option(
            metavar="N", help="Best-ranked models to compare on fingerprints.", min=1, envvar="PEDIGREE_CANDIDATES",
            rich_help_panel=COMPUTE,
        ),
    ] = 16,
    confirm: Annotated[
        int,
        typer.Option(
            metavar="N", help="First of them to compare on weights, where those are on this machine.", min=0,
            envvar="PEDIGREE_CONFIRM", rich_help_panel=COMPUTE,
        ),
    ] = 3,
    workers: WorkersOption = 1,
    fleet: FleetOption = None,
    keep: KeepOption = None,
    json: JsonOption = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD", help=f"Exit with 1 on this verdict; may be given again: {', '.join(WORDS)}.",
            envvar="PEDIGREE_FAIL_ON", rich_help_panel=OUTPUT, show_default=False, autocompletion=offer(*WORDS),
        ),
    ] = None,
    quiet: QuietOption = False,
    color: ColorOption = None,
    allow_pickle: PickleOption = False,
) -> int:  # fmt: skip
    """Find the nearest relatives of a model in a library, corrected for the number of models tried.

    [bold]Examples[/bold]

    pedigree scan path/to/MODEL --against my-library

    pedigree scan path/to/MODEL --against my-library --json --fail-on relatives-found

    pedigree scan path/to/MODEL --against my-library --candidates 500 --confirm 500 --fleet auto --keep scan.jsonl
    """
    out = Output(json=json, quiet=quiet, color=color)
    words = [check_word(word, WORDS, option="--fail-on") for word in fail_on or ()]
    if against is None:
        raise UsageError("no library was named", expected="--against LIBRARY", fix="pedigree library add DIR MODEL...")
    from pedigree.forensics.scanning.library import open_library
    from pedigree.forensics.scanning.scan import scan as scan_library

    if keep is not None:
        GO_ON.append(f"comparisons made so far, if any, are in {keep}; the same command goes on from there")
    with open_library(against, salt=salt) as library:
        record = scan_library(
            model, library, candidates=candidates, confirm=confirm, allow_pickle=allow_pickle,
            progress=out.progress(), workers=workers, fleet=fleet, keep=keep,
        )  # fmt: skip
    out.clear_status()
    if out.mode == "json":
        out.result(record.to_json())
    elif out.mode == "quiet":
        for relative in record.result.relatives:
            out.result(relative.location)
    else:
        out.lines(answer_lines(record, out.width))
    for other in record.result.others:
        if other.error is not None:
            out.warn(f"{other.location} was not compared: {other.error}")
    verdict = record.result.verdict
    if verdict in words:
        return SAYS_NO
    return CANNOT_SAY if verdict == "inconclusive" else DONE


def answer_lines(record: Scan, width: int) -> list[Line]:
    """Verdict, one line for each relative, how many were tried, what was not checked."""
    result = record.result
    tried = f"   {result.multiplicity.tried} models tried, {result.multiplicity.compared} compared"
    lines: list[Line] = [[Span(result.verdict, STYLES[result.verdict]), Span(tried)]]
    if result.relatives:
        lines.append([Span("")])
        lines += [[Span(_line(relative))] for relative in result.relatives]
        lines += [[Span(_rest_line(other))] for other in result.others if _is_kin_of_rest(other)]
    lines.append([Span("")])
    lines += [
        [Span(f"  {label:<13}{words}")]
        for label, words in zip(["correction", ""], textwrap.wrap(result.multiplicity.rule, width - 15), strict=False)
    ]
    if result.multiplicity.any_false_upper_95 is not None:
        bound = f"{result.multiplicity.any_false_upper_95:.2g}"
        words = f"chance that any of so many independent models is called related: at most {bound}"
        lines.append([Span(f"  {'error rate':<13}{words}")])
    lines += [[Span(f"  {'not checked':<13}{words}")] for words in result.not_checked]
    return lines


def _is_kin_of_rest(candidate: Candidate) -> bool:
    return candidate.rest is not None and candidate.rest.verdict in ("related", "partly-related")


def _rest_line(candidate: Candidate) -> str:
    """A candidate that shows only once the nearest relative's part is taken out."""
    rest = candidate.rest
    share = f"share {rest.share:.2f}" if rest is not None and rest.share is not None else ""
    word = f"{rest.verdict} to the rest" if rest is not None else ""
    return f"  {word:<27} {share:<19} on {candidate.compared:<12} {candidate.location}"


def _line(candidate: Candidate) -> str:
    """Who it is stands at the end and is never cut: the name is the answer."""
    p = candidate.log10_p_corrected
    exact = f"p <= 10^{p:.0f}" if p is not None and p < -1 else ""
    direction = candidate.direction.verdict if candidate.direction is not None else ""
    way = {"a-to-b": "came first", "b-to-a": "came later"}.get(direction, "")
    return f"  {candidate.verdict or '':<21} {exact:<13} {way:<11} on {candidate.compared:<12} {candidate.location}"
