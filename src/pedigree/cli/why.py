"""`pedigree why DIR`: the life of a model in ten lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE, SAYS_NO
from pedigree.cli.ledger_options import STYLES, CheckpointOption, LedgerOption, print_json, read_checkpoints, short
from pedigree.cli.options import ColorOption, JsonOption
from pedigree.cli.output import Line, Output, Span, shorten
from pedigree.errors import MissingInput

if TYPE_CHECKING:
    from pedigree.ledger.directory import Found
    from pedigree.ledger.life import Life


def why(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model or a tokenizer.", show_default=False)],
    ledger: LedgerOption = None,
    checkpoint: CheckpointOption = None,
    json: JsonOption = False,
    color: ColorOption = None,
) -> int:
    """Say where a model comes from: parents, operators, data, tokens, compute, people, gaps.

    [bold]Examples[/bold]

    pedigree why runs/quickstart/quickstart/model

    pedigree why path/to/model --json
    """
    from pedigree.ledger.directory import look_at

    if not folder.exists():
        raise MissingInput("no such file or directory", where=str(folder))
    out = Output(json=json, color=color)
    found = look_at(folder)
    life, names = _life(found, ledger, checkpoint)
    if out.mode == "json":
        print_json(out, "why", {"directory": str(folder)}, {**life.to_dict(), "names": names})
    else:
        out.lines(life_lines(life, names, out.width))
    if life.verdict in ("STALE", "SUSPECT", "CONTRADICTED"):
        return SAYS_NO
    return CANNOT_SAY if not life.entries else DONE


def _life(found: Found, place: str | None, files: Any) -> tuple[Life, dict[str, str]]:
    """The life, from the proof that the model carries or from the ledger; names of people are in the ledger alone."""
    from pedigree.ledger.directory import file_problems, registered_manifest
    from pedigree.ledger.life import life_of
    from pedigree.ledger.lineage import Lineage
    from pedigree.ledger.people import people
    from pedigree.ledger.proof import verify_proof
    from pedigree.ledger.verification import verify

    outside = read_checkpoints(files)
    if found.proof is not None:
        report = verify_proof(found.proof, found.digest, outside)
        return life_of(report, found.digest), {}
    from pedigree.cli.ledger_options import open_store

    store = open_store(place)
    report = verify(store, outside)
    registered = Lineage.of_entries(report.entries).maker(found.digest) is not None
    claimed = found.claimed if not registered else None
    manifest = registered_manifest(store, claimed) if claimed else None
    names = {person.id: person.name for person in people(store.database)}
    return life_of(report, claimed or found.digest, file_problems(found, manifest, registered)), names


def life_lines(life: Life, names: dict[str, str], width: int) -> list[Line]:
    """The life in at most ten lines."""
    rows: list[tuple[str, str]] = [("artifact", f"sha256:{life.artifact}")]
    most = 2 if life.audited else 3  # ten lines in all
    for edge in life.edges[-most:]:
        parent = f"{edge.parent_name or 'unnamed'} {short(edge.parent)}".strip()
        rows.append(
            (edge.operation, f"{edge.child_name or 'unnamed'} <- {parent}   {edge.verdict}, entry {edge.entry}")
        )
    if len(life.edges) > most:
        rows[-1] = (rows[-1][0], f"{rows[-1][1]}; {len(life.edges) - most} steps before (--json has all)")
    rows.append(("data", ", ".join(life.data) or "none recorded"))
    tokens = f"{life.tokens:,} tokens" if life.tokens is not None else "no tokens recorded"
    work = f"{life.operations:.3g} floating-point operations" if life.operations is not None else "no compute recorded"
    rows.append(("training", f"{tokens}, {work}, as declared"))
    rows.append(("people", ", ".join(names.get(person, person) for person in life.people) or "none recorded"))
    rows.append(("gaps", "; ".join(life.gaps) or "none found; what was never recorded leaves none"))
    head = f"   {life.name or 'unnamed'}, {life.entries} entries"
    if life.first:
        head += f" from {life.first[:16]} to {life.last[:16]} by the clock of the recorder"
    if life.audited:
        rows.append(("audit", "; ".join(life.audited)))
    lines: list[Line] = [(Span(life.verdict, STYLES[life.verdict]), Span(head))]
    return lines + [(Span(f"{label:<12}", "bold"), Span(shorten(text, width - 12))) for label, text in rows]
