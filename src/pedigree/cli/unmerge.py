"""`pedigree unmerge MODEL --parents A B`: which parents, at which weights, by which method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE, SAYS_NO
from pedigree.cli.files import check_free, check_there, write_file
from pedigree.cli.options import (
    COMPUTE,
    INPUT,
    OUTPUT,
    ColorOption,
    ForceOption,
    JsonOption,
    PickleOption,
    QuietOption,
    check_word,
    offer,
)
from pedigree.cli.output import Line, Output, Span
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from pedigree.records.unmerging import MergeSource, Unmerging

# Repeated from pedigree.records.unmerging, whose import would slow every start; a test holds them together.
WORDS = ("merge", "one-parent", "not-explained", "not-in-frame")
FAR_MORE = 1000.0
"""Residual over that of rounding from which the number says nothing: single precision rounds by next to nothing."""

STYLES = {"merge": "bold blue", "one-parent": "bold blue", "not-explained": "bold magenta"}


def unmerge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to take apart.", show_default=False)],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="PARENT", help="Further candidates, after --parents.", hidden=True),
    ] = None,
    parents: Annotated[
        list[str] | None,
        typer.Option(
            "--parents", "-p", metavar="A B ...", help="Candidate parents; those that took no part come out at zero.",
            envvar="PEDIGREE_PARENTS",
            rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="X", help="The model all parents were tuned from; needed for task arithmetic, TIES and DARE.",
            envvar="PEDIGREE_BASE", rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "--out", "-o", metavar="FILE", help="Write YAML for mergekit that makes the merge again.",
            envvar="PEDIGREE_OUTPUT", rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
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
    depth: Annotated[
        str, typer.Option(metavar="DEPTH", help="standard or full.", envvar="PEDIGREE_DEPTH", rich_help_panel=COMPUTE)
    ] = "standard",
    force: ForceOption = False,
    allow_pickle: PickleOption = False,
) -> int:  # fmt: skip
    """Take a merged model apart: which parents, at which weights, by which method.

    [bold]Examples[/bold]

    pedigree unmerge path/to/MODEL --parents path/to/A path/to/B path/to/C

    pedigree unmerge path/to/MODEL --parents path/to/A path/to/B --base path/to/X -o merge.yaml

    The models must stand in one frame; pedigree compare tells when one was reordered or rotated.
    """
    out = Output(json=json, quiet=quiet, color=color)
    words = [check_word(word, WORDS, option="--fail-on") for word in fail_on or ()]
    whole = check_word(depth, ("standard", "full"), option="--depth") == "full"
    candidates = _candidates([*(parents or ()), *(more or ())], base)
    if output is not None:
        check_free(output, force=force)
    from pedigree.forensics.merges.unmerge_record import unmerge_record

    record = unmerge_record(
        model, candidates, base=base, whole=whole, allow_pickle=allow_pickle, progress=out.progress()
    )
    out.clear_status()
    show(record, out)
    if output is not None:
        _write_recipe(record, output, out, force=force)
    verdict = record.result.verdict
    if verdict in words:
        return SAYS_NO
    return CANNOT_SAY if verdict in ("not-explained", "not-in-frame") else DONE


def _candidates(places: list[str], base: str | None) -> list[str]:
    """The candidates, made sure to be there before any work is done."""
    if not places:
        raise UsageError("no candidate parents were named", expected="--parents A B", fix="--parents A B")
    for place in places:
        check_there(place, option="--parents")
    if base is not None:
        check_there(base, option="--base")
    return places


def _write_recipe(record: Unmerging, output: Path, out: Output, *, force: bool) -> None:
    if record.result.recipe is None:
        out.warn(f"{output} was not written: no merge was found")
    else:
        out.note(write_file(output, record.result.recipe, force=force))


def show(record: Unmerging, out: Output) -> None:
    """Print the answer in the mode of `out`."""
    if out.mode == "json":
        out.result(record.to_json())
    elif out.mode == "quiet":
        out.result(record.result.verdict)
    else:
        out.lines(answer_lines(record))
    for warning in record.warnings:
        out.warn(warning)


def answer_lines(record: Unmerging) -> list[Line]:
    """Verdict and method, one line for each source, what is explained, and what is not."""
    result = record.result
    method = f" by {result.method}" if result.method else ""
    lines: list[Line] = [[Span(result.verdict, STYLES.get(result.verdict, "bold magenta")), Span(method)]]
    if any(source.weight for source in result.sources):
        lines.append([Span("")])
        lines += [[Span(_source_line(source))] for source in result.sources]
    lines.append([Span("")])
    lines += [[Span(f"  {_label('why')}{reason}")] for reason in [*_explained(record), *result.reasons]]
    lines += [[Span(f"  {_label('or')}{words}")] for words in result.also_possible]
    lines += [[Span(f"  {_label('not checked')}{words}")] for words in result.not_checked]
    return lines


def _label(word: str) -> str:
    return f"{word:<13}"


def _source_line(source: MergeSource) -> str:
    error = f" +-{source.standard_error:.4f}" if source.standard_error is not None else ""
    density = f"  density {source.density:.2f}" if source.density is not None and source.weight else ""
    role = "base  " if source.role == "base" else "parent"
    return f"  {role} {source.weight:7.4f}{error:<10}{density}  {source.location}"


def _explained(record: Unmerging) -> list[str]:
    explained, out = record.result.explained, []
    if record.result.verdict == "merge" and explained.over_best_source is not None:
        out.append(
            f"the mixture explains {explained.over_best_source:.2%} of the distance to the nearest single source, "
            "on rows that were not fitted"
        )
    if explained.rounding_ratio is not None and record.result.verdict == "merge":
        ratio = explained.rounding_ratio
        times = f"{ratio:,.1f} times what" if ratio < FAR_MORE else "far more than"
        out.append(f"the rest is {times} rounding leaves by itself")
    return out
