"""`pedigree tree MODEL...`: who descends from whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE
from pedigree.cli.files import GO_ON, check_free, check_there, write_file
from pedigree.cli.options import (
    OUTPUT,
    ColorOption,
    FleetOption,
    ForceOption,
    JsonOption,
    KeepOption,
    PickleOption,
    QuietOption,
    WorkersOption,
)
from pedigree.cli.output import Line, Output, Span
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from pedigree.records.family_tree import FamilyTree, TreeEdge, TreeNode


def tree(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Two or more models.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "--out", "-o", metavar="FILE", help="Write the tree as a picture (SVG).",
            envvar="PEDIGREE_OUTPUT", rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
    workers: WorkersOption = 1,
    fleet: FleetOption = None,
    keep: KeepOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    force: ForceOption = False,
    allow_pickle: PickleOption = False,
) -> int:  # fmt: skip
    """Draw the family tree of several models: ancestors, siblings, merges, and ancestors that are not among them.

    [bold]Examples[/bold]

    pedigree tree path/to/A path/to/B path/to/C

    pedigree tree models/* -o tree.svg --json

    pedigree tree models/* --workers 8 --keep pairs.jsonl

    Every two models are compared. A pair that cannot be is said in the answer and stops nothing; the exit code is then
    3.
    """
    out = Output(json=json, quiet=quiet, color=color)
    places = list(dict.fromkeys(models or ()))
    if len(places) < 2:
        raise UsageError("a tree takes two models or more", got=f"{len(places)}", fix="pedigree tree A B C")
    for place in places:
        check_there(place, option="MODEL")
    if output is not None:
        check_free(output, force=force)
    from pedigree.forensics.trees.family_tree import grow_tree

    if keep is not None:
        GO_ON.append(f"pairs compared so far, if any, are in {keep}; the same command goes on from there")
    record = grow_tree(
        places, allow_pickle=allow_pickle, progress=out.progress(), workers=workers, fleet=fleet, keep=keep
    )
    out.clear_status()
    if out.mode == "json":
        out.result(record.to_json())
    else:
        out.lines(answer_lines(record))
    for words in record.result.not_compared:
        out.warn(f"not compared: {words}")
    if output is not None:
        from pedigree.report.tree_figure import tree_svg

        out.note(write_file(output, tree_svg(record), force=force))
    return CANNOT_SAY if record.result.not_compared else DONE


def answer_lines(record: FamilyTree) -> list[Line]:
    """One line for each edge, then siblings, models without relatives, and what was not checked."""
    from pedigree.report.tree_figure import node_names

    result, ids = record.result, node_names(record.result.nodes)
    hidden = {node.id for node in result.nodes if node.kind == "hidden"}
    ends = {k: f"{name} (an ancestor that is not among them)" if k in hidden else name for k, name in ids.items()}
    names = {place: ids[node.id] for node in result.nodes for place in node.locations}

    def told(places: Sequence[str]) -> str:
        return ", ".join(names[place] for place in places)

    lines: list[Line] = [[Span(_edge_line(edge, ends))] for edge in result.edges]
    lines += [[Span(f"{ids[node.id]}   {_without_kin(node.locations, record, told)}")] for node in _unlinked(record)]
    lines += [[Span(f"siblings: {told(group)}")] for group in result.siblings]
    lines += [[Span(f"same random start, trained apart: {told(pair)}")] for pair in result.shared_starts]
    lines += [[Span(f"a shared start or descent, not told: {told(pair)}")] for pair in result.open_pairs]
    lines.append([Span("")])
    lines += [[Span(f"  {'not checked':<13}{words}")] for words in result.not_checked]
    return lines


def _unlinked(record: FamilyTree) -> list[TreeNode]:
    """Models that no line reaches."""
    linked = {end for edge in record.result.edges for end in (edge.source, edge.target)}
    return [node for node in record.result.nodes if node.id not in linked]


def _open_with(locations: list[str], record: FamilyTree) -> list[str]:
    """Models of which it is not told whether one of these is kin of them."""
    pairs = [pair for pair in record.result.untold_pairs if set(pair) & set(locations)]
    return list(dict.fromkeys(place for pair in pairs for place in pair if place not in locations))


def _without_kin(locations: list[str], record: FamilyTree, told: Callable[[Sequence[str]], str]) -> str:
    """What is known of a model that no line reaches, in words."""
    if locations[0] in record.result.unread:
        return "could not be compared"
    others = {place for node in record.result.nodes for place in node.locations} - set(locations)
    unsure = _open_with(locations, record)
    if not unsure:
        return "no relative among them"
    if set(unsure) == others:
        return "not told: no comparison with the others gives an answer"
    return f"no relative found; not told of {told(unsure)}"


def _edge_line(edge: TreeEdge, names: Mapping[str, str]) -> str:
    arrow = "->" if edge.directed else "--"
    weight = "" if edge.weight is None else f", weight {edge.weight:.3f}"
    what = {"merge": f"  (merge{weight})", "between": "  (between)", "same-weights": "  (same weights)"}.get(
        edge.kind, ""
    )
    odds = "" if edge.log_odds is None else f", log odds {edge.log_odds:.1f}"
    length = "" if edge.length is None else f"   distance {edge.length:.3g}{odds}"
    source = " or ".join(names[end] for end in (edge.source, *edge.or_from))
    return f"{source} {arrow} {names[edge.target]}{what}{length}"
