"""`pedigree ledger replay` and `verify --replay`: recorded steps done again, and what that says of their edges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE, SAYS_NO
from pedigree.cli.ledger_options import STYLES, LedgerOption, open_store, print_json, short
from pedigree.cli.options import COMPUTE, INPUT, ColorOption, JsonOption
from pedigree.cli.output import Line, Output, Span
from pedigree.errors import MissingInput

if TYPE_CHECKING:
    from pedigree.family.replay import Replayed
    from pedigree.ledger.store import Store
    from pedigree.ledger.verification import Verification

InputsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--inputs", metavar="DIR", help="Look for inputs here and below as well; may be given again.",
        envvar="PEDIGREE_INPUTS", rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
ReplayOption = Annotated[
    bool,
    typer.Option(
        "--replay", help="Do every surgery step again from its recorded inputs, and compare the digests.",
        envvar="PEDIGREE_REPLAY", rich_help_panel=COMPUTE,
    ),
]  # fmt: skip
TrainingOption = Annotated[
    int,
    typer.Option(
        "--replay-training", metavar="N", min=0, max=1_000_000, envvar="PEDIGREE_REPLAY_TRAINING",
        help="Take N steps of each training again, from one of its states.", rich_help_panel=COMPUTE,
        show_default=False,
    ),
]  # fmt: skip


def replay(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="A model; without it, every step of the ledger.", show_default=False),
    ] = None,
    inputs: InputsOption = None,
    training: TrainingOption = 0,
    ledger: LedgerOption = None,
    json: JsonOption = False,
    color: ColorOption = None,
) -> int:
    """Do recorded steps again, from the recorded inputs, and sign into the ledger what came out.

    [bold]Examples[/bold]

    pedigree ledger replay path/to/model

    pedigree ledger replay --inputs models --json

    pedigree ledger replay path/to/model --replay-training 20
    """
    from pedigree.ledger.directory import look_at
    from pedigree.ledger.lineage import Lineage
    from pedigree.ledger.log import Ledger, LedgerPlace
    from pedigree.ledger.verification import verify

    out = Output(json=json, color=color)
    store = open_store(ledger)
    report = verify(store)
    wanted = None
    if folder is not None:
        if not folder.exists():
            raise MissingInput("no such file or directory", where=str(folder))
        graph = Lineage.of_entries(report.entries)
        wanted = graph.closure(look_at(folder).digest)
    found = replayed(store, report, wanted, inputs or (), training, out)
    store.database.close()
    entries = _record(Ledger(LedgerPlace.find(ledger)), found)
    if out.mode == "json":
        listed = [item.to_dict() for item in found]
        print_json(out, "ledger replay", {"directory": str(folder or "")}, {"replayed": listed, "entries": entries})
    else:
        out.lines(replay_lines(found))
        if entries:
            out.note(f"signed as entries {entries[0]} to {entries[-1]}")
    if any(item.verdict == "CONTRADICTED" for item in found):
        return SAYS_NO
    return DONE if found and all(item.confirms for item in found) else CANNOT_SAY


def replayed(
    store: Store, report: Verification, wanted: Iterable[int] | None, inputs: Sequence[Path], training: int, out: Output
) -> list[Replayed]:
    """Do steps again.

    Args:
        store: the ledger.
        report: its verification.
        wanted: entries; None for all.
        inputs: folders to look in.
        training: steps of each training to take again, 0 for none.
        out: who is told how far it is.
    """
    from pedigree.family.replay import Replay

    chosen = None if wanted is None else set(wanted)
    found = Replay(store, report.entries, inputs, out.progress()).steps(chosen)
    if training:
        from pedigree.cli.ledger_replay_training import replayed_training

        found += replayed_training(report.entries, chosen, training, out.warn)
    out.clear_status()
    return sorted(found, key=lambda item: item.entry)


def applied(report: Verification, found: Sequence[Replayed]) -> None:
    """Let what was done again speak on its edges: it confirms what is declared, and contradicts whatever stands."""
    from pedigree.ledger.verdict import Problem

    by_entry = {item.entry: item for item in found}
    edges = []
    for edge in report.edges:
        item = by_entry.get(edge.entry)
        confirmed = edge.verdict in ("VERIFIED", "DECLARED", "CORROBORATED")
        if item is not None and (item.verdict == "CONTRADICTED" or (item.verdict == "REPLAYED" and confirmed)):
            edge = replace(edge, verdict=item.verdict, why=item.why)
        edges.append(edge)
    report.edges = edges
    for item in found:
        if item.verdict == "CONTRADICTED":
            report.problems.append(Problem("CONTRADICTED", "replay", f"{item.child_name}: {item.why}", item.entry))
        if item.verdict == "DECLARED":
            report.not_checked.append(f"entry {item.entry}, {item.child_name or short(item.child)}: {item.why}")


def replay_lines(found: Sequence[Replayed]) -> list[Line]:
    """One line for each step."""
    if not found:
        return [(Span("nothing was made by surgery: there is no step to do again"),)]
    return [
        (Span(f"{item.verdict:<13}", STYLES[item.verdict]),
         Span(f"{item.child_name or 'unnamed'} {short(item.child)}  entry {item.entry}: {item.why}"))
        for item in found
    ]  # fmt: skip


def _record(ledger: Any, found: Sequence[Replayed]) -> list[int]:
    """Sign what was found on each edge; what could not be done again says nothing."""
    from pedigree.ledger.people import person_here
    from pedigree.ledger.statement import Draft, Subject

    actors = [{"id": person_here(ledger.database, Path.cwd()).id, "role": "verifier"}]
    drafts = [
        Draft("replay", {
            "child": item.child, "parent": parent, "verdict": item.verdict, "why": item.why,
            "tensor": item.tensor or "", "replayed_entry": item.entry, "actors": actors,
        }, subjects=(Subject("replayed", item.child),))
        for item in found if item.verdict != "DECLARED" for parent in item.parents or ("",)
    ]  # fmt: skip
    receipts = ledger.append_all(drafts) if drafts else []
    ledger.close()
    return [receipt.index for receipt in receipts]
