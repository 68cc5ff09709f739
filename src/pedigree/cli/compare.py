"""`pedigree compare A B`: do the trained weights of two checkpoints share ancestry?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE, SAYS_NO
from pedigree.cli.files import check_free, check_there, write_file
from pedigree.cli.loading import loading
from pedigree.cli.options import (
    COMPUTE,
    INPUT,
    OUTPUT,
    ColorOption,
    ForceOption,
    JsonOption,
    PickleOption,
    QuietOption,
    SaltOption,
    check_word,
    offer,
    parse_size,
)
from pedigree.cli.output import Output

if TYPE_CHECKING:
    from pedigree.records.comparison import Comparison, Depth

# Repeated from pedigree.records.comparison, whose import would slow every start; a test holds them together.
VERDICT_WORDS = (
    "identical",
    "related",
    "partly-related",
    "shared-initialization",
    "unrelated",
    "inconclusive",
    "not-testable",
)
DEPTH_WORDS = ("auto", "glance", "standard", "full")

LOCATION = "a directory, .safetensors, index or .gguf file, hf://org/name@revision, https://..., a fingerprint"

AnnexOption = Annotated[
    bool,
    typer.Option(
        "--annex", help="Add what lies beside the weights (names, headers, paths); no verdict reads it.",
        envvar="PEDIGREE_ANNEX", rich_help_panel=OUTPUT,
    ),
]  # fmt: skip


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=f"One model: {LOCATION}", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other model, named in the same ways.", show_default=False)],
    decoy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X", help="A model that is not the suspected relative; may be given again.",
            envvar="PEDIGREE_DECOY", rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a report: one HTML file that needs nothing else.", envvar="PEDIGREE_REPORT",
            rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD", help=f"Exit with 1 on this verdict; may be given again: {', '.join(VERDICT_WORDS)}.",
            envvar="PEDIGREE_FAIL_ON", rich_help_panel=OUTPUT, show_default=False, autocompletion=offer(*VERDICT_WORDS),
        ),
    ] = None,
    quiet: QuietOption = False,
    color: ColorOption = None,
    depth: Annotated[
        str | None,
        typer.Option(
            metavar="DEPTH", help="glance, standard or full; auto, the default, goes deeper until certain.",
            envvar="PEDIGREE_DEPTH", rich_help_panel=COMPUTE, show_default=False, autocompletion=offer(*DEPTH_WORDS),
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Read no more weight bytes than this, such as 300MB.", envvar="PEDIGREE_BUDGET",
            rich_help_panel=COMPUTE, show_default=False,
        ),
    ] = None,
    salt: SaltOption = "",
    annex: AnnexOption = False,
    force: ForceOption = False,
    allow_pickle: PickleOption = False,
) -> int:  # fmt: skip
    """Compare two models by their weights: related or not, how sure, and what was done in between.

    [bold]Examples[/bold]

    pedigree compare path/to/A path/to/B

    pedigree compare path/to/A path/to/B --decoy path/to/C --report report.html

    pedigree compare path/to/A path/to/B --json --fail-on related

    Only weights and tokenizers are looked at; names and configurations never speak for a relation.
    """
    out = Output(json=json, quiet=quiet, color=color)
    words = [check_word(word, VERDICT_WORDS, option="--fail-on") for word in fail_on or ()]
    chosen = check_word(depth, DEPTH_WORDS, option="--depth") if depth else None
    budget_bytes = parse_size(budget) if budget else None
    if report is not None:
        check_free(report, force=force)
    for place in decoy or ():
        check_there(place, option="--decoy")
    comparison = run_compare(
        a, b, out, depth=chosen, budget_bytes=budget_bytes, decoys=decoy or (), allow_pickle=allow_pickle, salt=salt
    )
    if annex:
        from pedigree.cli.annex import read_annex

        # The answer is final here: what files say of themselves is looked at afterwards.
        comparison = comparison.model_copy(update={"annex": read_annex(a, b, allow_pickle=allow_pickle)})
    show(comparison, out)
    if report is not None:
        from pedigree.report.page import render_comparison

        out.note(write_file(report, render_comparison(comparison), force=force))
    return exit_code(comparison, words)


def run_compare(
    a: str,
    b: str,
    out: Output,
    *,
    depth: str | None = None,
    budget_bytes: int | None = None,
    decoys: Sequence[str] = (),
    allow_pickle: bool = False,
    salt: str = "",
) -> Comparison:
    """The comparison itself, with a status line while it runs."""
    from typing import cast

    with loading():
        from pedigree.forensics.compare import compare as compare_weights

    comparison = compare_weights(
        a,
        b,
        depth=cast("Depth | None", depth),
        budget_bytes=budget_bytes,
        decoys=tuple(decoys),
        allow_pickle=allow_pickle,
        progress=out.progress(),
        **({"salt": salt} if salt else {}),
    )
    out.clear_status()
    return comparison


def show(comparison: Comparison, out: Output) -> None:
    """Print the answer in the mode of `out`, warnings on stderr."""
    if out.mode == "json":
        out.result(comparison.to_json())
    elif out.mode == "quiet":
        out.result(comparison.result.verdict)
    else:
        from pedigree.cli.answer import answer_lines

        out.lines(answer_lines(comparison, width=out.width, unicode=out.unicode))
        if comparison.annex is not None:
            from pedigree.cli.annex import annex_lines

            out.lines(annex_lines(comparison.annex, width=out.width))
    for warning in comparison.warnings:
        out.warn(warning)


def exit_code(comparison: Comparison, fail_on: Sequence[str]) -> int:
    """0, 1 where the verdict is one that was asked to fail, 3 where the comparison cannot say."""
    verdict = comparison.result.verdict
    if verdict in fail_on:
        return SAYS_NO
    return CANNOT_SAY if verdict in ("inconclusive", "not-testable") else DONE
