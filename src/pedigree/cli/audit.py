"""`pedigree audit DIR`: what is said of models, held against their weights, edge by edge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE, SAYS_NO
from pedigree.cli.files import GO_ON, check_free, write_file
from pedigree.cli.ledger_options import (
    FAIL_ON_VERDICT,
    STYLES,
    VERDICT_WORDS,
    CheckpointOption,
    LedgerOption,
    fail_words,
    open_store,
    read_checkpoints,
)
from pedigree.cli.options import (
    INPUT,
    OUTPUT,
    ColorOption,
    ForceOption,
    JsonOption,
    PickleOption,
    QuietOption,
    offer,
)
from pedigree.cli.output import Line, Output, Span, shorten

if TYPE_CHECKING:
    from pedigree.ledger.store import Store
    from pedigree.records.audit import Audit, AuditEdge

KEPT = "comparisons"  # folder beside the ledger

HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="Write a page: one HTML file, its first sheet a certificate.",
        envvar="PEDIGREE_HTML", rich_help_panel=OUTPUT, show_default=False,
    ),
]  # fmt: skip
AgainstOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIBRARY", help="A library whose models are held against it too.", envvar="PEDIGREE_LIBRARY",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip


def audit(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model, or a folder of models.", show_default=False)],
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--with", metavar="DIR", help="More models to hold it against; may be given again.", envvar="PEDIGREE_WITH",
            rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    against: AgainstOption = None,
    ledger: LedgerOption = None,
    checkpoint: CheckpointOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VERDICT", help=FAIL_ON_VERDICT, envvar="PEDIGREE_FAIL_ON", rich_help_panel=OUTPUT,
            autocompletion=offer(*VERDICT_WORDS),
            show_default=False,
        ),
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="Sign what was found into the ledger.", envvar="PEDIGREE_RECORD", rich_help_panel=OUTPUT
        ),
    ] = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    force: ForceOption = False,
    allow_pickle: PickleOption = False,
) -> int:  # fmt: skip
    """Hold what is recorded or claimed of models against their weights, edge by edge.

    [bold]Examples[/bold]

    pedigree audit runs/quickstart

    pedigree audit path/to/model --with path/to/base --html audit.html

    Claims are those of the ledger, of family.json, and of base_model in a model card.
    """
    from pedigree.audit.examination import Request, examine

    out = Output(json=json, quiet=quiet, color=color)
    wrong = fail_words(fail_on)
    if html is not None:
        check_free(html, force=force)
    outside = read_checkpoints(checkpoint)
    store, project, kept = _ledger(ledger, must=record)
    places, unreadable = library_places(against)
    GO_ON.append(
        "finished comparisons are kept beside the ledger; the same command goes on from there"
        if kept
        else "nothing is kept"
    )
    request = Request(
        folder, [*(others or ()), *places], project, unreadable, store, outside, kept, allow_pickle
    )  # fmt: skip
    found = examine(request, out.progress() or (lambda stage, fraction, message: None))
    out.clear_status()
    GO_ON.pop()
    _show(found, out)
    if html is not None:
        from pedigree.report.certificate import render_audit

        out.note(write_file(html, render_audit(found), force=force))
    if record:
        from pedigree.audit.findings import record_findings

        out.note(f"{record_findings(found, ledger)} findings were signed into the ledger")
    return exit_code(found, wrong)


def _ledger(place: str | None, *, must: bool) -> tuple[Store | None, Path | None, Path | None]:
    """The ledger to read, the folder of its project, and where comparisons are kept: beside it.

    Nothing of it where there is no ledger and none was asked for.

    Raises:
        InputError: it was asked for and is not there.
    """
    from pedigree.ledger.log import FOLDER, LedgerPlace

    found = LedgerPlace.find(place)
    is_there = "://" in found.database or Path(found.database).is_file()
    if not is_there and place is None and not must:
        return None, None, None
    beside = found.keys.parent
    project = beside.parent if beside.name == FOLDER else Path.cwd()
    return open_store(place), project, beside / KEPT


def library_places(folder: str | None) -> tuple[list[Path], int]:
    """Where the models of a library lie, and how many of them are not on this machine."""
    if folder is None:
        return [], 0
    from pedigree.forensics.fingerprints.fingerprint import is_fingerprint
    from pedigree.forensics.scanning.library import open_library

    with open_library(folder) as library:
        listed = [entry.location for entry in library.entries()]
    here = [Path(p) for p in listed if "://" not in p and Path(p).exists() and not is_fingerprint(p)]
    return here, len(listed) - len(here)


def _show(found: Audit, out: Output) -> None:
    if out.mode == "json":
        out.result(found.to_json())
    elif out.mode == "quiet":
        out.result(found.result.verdict)
    else:
        out.lines(answer_lines(found, out.width))
    for warning in found.warnings:
        out.warn(warning)


def answer_lines(found: Audit, width: int) -> list[Line]:
    """The gravest word and the counts, one line for each edge with its reason below, what was not checked."""
    from pedigree.report.audit_words import counts_text
    from pedigree.report.numbers import plural

    result = found.result
    counts = counts_text(found)
    here = sum(model.state != "missing" for model in result.models)
    head = f"   {plural(here, 'model')}, {plural(len(result.edges), 'edge')}" + (f": {counts}" if counts else "")
    lines: list[Line] = [(Span(result.verdict, STYLES[result.verdict]), Span(head)), (Span(""),)]
    if not result.edges:
        nothing = "no ledger, family.json or model card here says what they were made from; nothing was compared"
        lines.append((Span(f"{'no claims':<13}{nothing}"),))
        lines.append((Span(f"{'':<13}pedigree compare, or scan and clear against a library, ask the weights alone"),))
    for edge in result.edges:
        lines.append((Span(f"{edge.verdict:<13}", STYLES[edge.verdict]), Span(shorten(_edge_words(edge), width - 13))))
        told = f"{', '.join(edge.lies)}: {edge.why}" if edge.lies else edge.why
        lines.append((Span(" " * 13), Span(shorten(told, width - 13), "dim")))
    before = f", {result.pairs_from_before} of them in an earlier audit" if result.pairs_from_before else ""
    lines += [(Span(""),), (Span(f"{'compared':<13}{plural(result.pairs, 'pair')}{before}"),)]
    if result.any_false_upper_95 is not None and result.pairs:
        bound = f"chance of any false relation among so many independent pairs: at most {result.any_false_upper_95:.2g}"
        lines.append((Span(f"{'error rate':<13}{bound}"),))
    lines += [(Span(f"{'not checked':<13}{shorten(words, width - 13)}"),) for words in result.not_checked]
    return lines


def _edge_words(edge: AuditEdge) -> str:
    who = {"ledger": f"entry {edge.entry}", "card": "model card", "family": "family.json"}[edge.source]
    return f"{edge.child_name} <- {edge.parent_name or 'unnamed'}   {edge.operation}, says {who}"


def exit_code(found: Audit, wrong: Sequence[str]) -> int:
    """1 where an edge has a word that says no; 3 where the weights decided no edge, or left one that could be asked."""
    edges = found.result.edges
    if any(edge.verdict in wrong for edge in edges):
        return SAYS_NO
    open_ones = [edge for edge in edges if not edge.decided and edge.role not in ("origin", "start")]
    return CANNOT_SAY if open_ones or not any(edge.decided for edge in edges) else DONE
