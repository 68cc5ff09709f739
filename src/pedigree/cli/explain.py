"""`pedigree explain TEST`: what a test asks, in a paragraph, on a page, with its mathematics."""

from __future__ import annotations

import json as json_text
import textwrap
from typing import Annotated

import typer

from pedigree.cli.options import OUTPUT, ColorOption, JsonOption, check_word, closest, offer
from pedigree.cli.output import Line, Output, Span
from pedigree.errors import UsageError

LENGTHS = ("paragraph", "page", "full")


def _tests(incomplete: str) -> list[str]:
    """What Tab completes the name of a test with."""
    from pedigree.report.explanation import explanations

    return offer(*explanations())(incomplete)


def explain(
    test: Annotated[
        str | None,
        typer.Argument(
            metavar="TEST", help="A test, as results name it; none lists all.", show_default=False,
            autocompletion=_tests,
        ),
    ] = None,
    length: Annotated[
        str,
        typer.Option(
            metavar="LENGTH", help="paragraph, page, or full with the mathematics.", envvar="PEDIGREE_LENGTH",
            rich_help_panel=OUTPUT, autocompletion=offer(*LENGTHS),
        ),
    ] = "page",
    json: JsonOption = False,
    color: ColorOption = None,
) -> int:  # fmt: skip
    """Explain a test: its question, its null, why it is right, what it cannot see.

    [bold]Examples[/bold]

    pedigree explain

    pedigree explain sign-flip

    pedigree explain fixed-points --length full
    """
    from pedigree.report.explanation import explanations, resolve

    out = Output(json=json, color=color)
    chosen = check_word(length, LENGTHS, option="--length")
    known = explanations()
    if test is None:
        if json:
            listed = [{"name": e.name, "title": e.title, "paragraph": e.paragraph} for e in known.values()]
            out.result(json_text.dumps(_record(listed), indent=2))
            return 0
        for entry in known.values():
            out.lines([[Span(f"{entry.name:<24}", "bold"), Span(f"{entry.title}")]])
        return 0
    name = resolve(test)
    if name not in known:
        near = closest(name, known)
        raise UsageError(
            "there is no test of this name", got=repr(test), expected="one of " + ", ".join(known),
            fix=f"pedigree explain {near}" if near else "pedigree explain",
        )  # fmt: skip
    entry = known[name]
    if json:
        fields = ("name", "title", "paragraph", "page", "mathematics")
        out.result(json_text.dumps(_record({field: getattr(entry, field) for field in fields}), indent=2))
        return 0
    out.lines([[Span(entry.title, "bold")], [Span("")]])
    texts = [entry.paragraph, entry.page, entry.mathematics][: LENGTHS.index(chosen) + 1]
    out.lines([line for text in texts for line in [*_wrapped(text, min(out.width, 100)), [Span("")]]][:-1])
    return 0


def _record(result: object) -> dict[str, object]:
    return {
        "schema": "pedigree/explanation", "version": 1, "command": "explain", "inputs": {}, "result": result,
        "warnings": [],
    }  # fmt: skip


def _wrapped(text: str, width: int) -> list[Line]:
    """Markdown for a terminal: paragraphs wrapped, formulas as they stand, a leading bold word in bold."""
    lines: list[Line] = []
    for block in text.split("\n\n"):
        if lines:
            lines.append([Span("")])
        if block.startswith("    "):
            lines += [[Span(line)] for line in block.splitlines()]
            continue
        label, mark, rest = block.removeprefix("**").partition("**")
        if block.startswith("**") and mark:
            first, *more = textwrap.wrap(f"{label}{' '.join(rest.split()) and ' ' + ' '.join(rest.split())}", width)
            lines.append([Span(first[: len(label)], "bold"), Span(first[len(label) :])])
            lines += [[Span(line)] for line in more]
        else:
            lines += [[Span(line)] for line in textwrap.wrap(" ".join(block.split()), width)]
    return lines
