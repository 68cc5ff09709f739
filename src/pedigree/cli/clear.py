"""`pedigree clear DIR --against LIBRARY`: tested against every model of a library, with the detection limit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE, SAYS_NO
from pedigree.cli.files import check_free, write_file
from pedigree.cli.options import (
    INPUT,
    OUTPUT,
    ColorOption,
    ForceOption,
    JsonOption,
    PickleOption,
    QuietOption,
    SaltOption,
)
from pedigree.cli.output import Line, Output, Span, shorten
from pedigree.errors import MissingInput, UsageError

if TYPE_CHECKING:
    from pedigree.records.audit import Clearance, Cleared


def clear(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The model to be cleared.", show_default=False)],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="LIBRARY", help="The library to test it against; must be named.", envvar="PEDIGREE_LIBRARY",
            rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    salt: SaltOption = "",
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write the answer as one printable sheet: an HTML file.",
            envvar="PEDIGREE_HTML", rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    force: ForceOption = False,
    allow_pickle: PickleOption = False,
) -> int:  # fmt: skip
    """Test a model against every model of a library: no relation found, and what would have been seen.

    [bold]Examples[/bold]

    pedigree clear path/to/model --against my-library

    pedigree clear path/to/model --against my-library --html clearance.html

    Exits with 1 where a relative was found, and with 3 where a model of the library could not be excluded.
    """
    out = Output(json=json, quiet=quiet, color=color)
    if against is None:
        raise UsageError("no library was named", expected="--against LIBRARY", fix="pedigree library add DIR MODEL...")
    if not folder.exists():
        raise MissingInput("no such file or directory", where=str(folder))
    if html is not None:
        check_free(html, force=force)
    from pedigree.audit.clearance import clear as clear_model
    from pedigree.forensics.scanning.library import open_library

    with open_library(against, salt=salt) as library:
        found = clear_model(
            folder, library, allow_pickle=allow_pickle, tell=out.progress() or (lambda stage, fraction, message: None)
        )
    out.clear_status()
    if out.mode == "json":
        out.result(found.to_json())
    elif out.mode == "quiet":
        out.result(found.result.verdict)
    else:
        out.lines(answer_lines(found, out))
    if html is not None:
        from pedigree.report.clearance_page import render_clearance

        out.note(write_file(html, render_clearance(found), force=force))
    return exit_code(found)


def exit_code(found: Clearance) -> int:
    """0 where no relation was found and every model was excluded, 1 where one was found, 3 where it stays open."""
    word = found.result.verdict
    return DONE if word == "unrelated" else CANNOT_SAY if word in ("inconclusive", "not-testable") else SAYS_NO


def answer_lines(found: Clearance, out: Output) -> list[Line]:
    """The word and its sentence, the models that came nearest, how many were tried, what was not checked."""
    from pedigree.cli.answer import VERDICT_STYLES
    from pedigree.report.clearance_page import answer_sentence
    from pedigree.report.words import VERDICT_MARKS

    result, width = found.result, out.width
    mark = VERDICT_MARKS[result.verdict][0 if out.unicode else 1]
    lines: list[Line] = [
        (Span(f"{mark} {result.verdict}", VERDICT_STYLES[result.verdict]), Span(f"   {answer_sentence(found)}")),
        (Span(""),),
    ]
    lines += [(Span(_line(one, width)),) for one in result.against[:8]]
    if len(result.against) > 8:
        lines.append((Span(f"  and {len(result.against) - 8} more (--json has all)"),))
    lines.append((Span(""),))
    lines.append((Span(f"{'correction':<13}{result.multiplicity.rule}"),))
    if result.multiplicity.any_false_upper_95 is not None:
        bound = f"{result.multiplicity.any_false_upper_95:.2g}"
        told = f"chance that any of so many independent models is called related: at most {bound}"
        lines.append((Span(f"{'error rate':<13}{told}"),))
    lines += [(Span(f"{'left out':<13}{words}"),) for words in result.left_out]
    lines += [(Span(f"{'not checked':<13}{shorten(words, width - 13)}"),) for words in result.not_checked]
    return lines


def _line(one: Cleared, width: int) -> str:
    if not one.compared:
        return shorten(f"  {'not compared':<21} {'':<15} {one.name}: {one.error}", width)
    limit = f", would see {one.detection_limit:.1%} of units" if one.detection_limit is not None else ""
    return shorten(f"  {one.verdict or '':<21} on {one.compared:<12} {one.name}{limit}", width)
