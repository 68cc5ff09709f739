"""`pedigree import DIR`: a model that came from elsewhere enters the ledger, with the origin that is claimed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.ledger_options import LedgerOption, print_json, short
from pedigree.cli.options import INPUT, JsonOption, QuietOption
from pedigree.cli.output import Output
from pedigree.errors import MissingInput


def import_model(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What came from elsewhere.", show_default=False)],
    origin: Annotated[
        str,
        typer.Option(
            "--from", metavar="PLACE", help="Where it is said to come from, such as hf://owner/name@commit.",
            envvar="PEDIGREE_FROM", rich_help_panel=INPUT, show_default=False,
        ),
    ] = "",
    note: Annotated[
        str,
        typer.Option(
            help="What should be known about it.", envvar="PEDIGREE_NOTE", rich_help_panel=INPUT, show_default=False
        ),
    ] = "",
    license_: Annotated[
        str,
        typer.Option(
            "--license", metavar="WORD", help="Under which license; by default as its card says.",
            envvar="PEDIGREE_LICENSE", rich_help_panel=INPUT, show_default=False,
        ),
    ] = "",
    ledger: LedgerOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:  # fmt: skip
    """Enter a model that was made elsewhere; its origin stays unverified.

    [bold]Examples[/bold]

    pedigree import models/base --from hf://owner/name@0a1b2c3

    pedigree import models/base --note "handed over on a disk"
    """
    from pedigree.ledger.directory import look_at
    from pedigree.ledger.log import Ledger, LedgerPlace
    from pedigree.ledger.people import person_here
    from pedigree.ledger.recorder import sidecar_fields
    from pedigree.ledger.registration import card_facts, entry_of, register
    from pedigree.ledger.sidecar import write_sidecar

    if not folder.exists():
        raise MissingInput("no such file or directory", where=str(folder))
    out = Output(json=json, quiet=quiet)
    found = look_at(folder)
    opened = Ledger(LedgerPlace.find(ledger))
    known = entry_of(opened, found.digest)
    more = card_facts(folder)
    if license_:
        more["license"] = license_
    claims: list[dict[str, str]] = more.get("claims", [])
    actors = [{"id": person_here(opened.database, Path.cwd()).id, "role": "importer"}]
    receipt = register(opened, found.artifact, origin=origin, note=note, actors=actors, more=more)
    if folder.is_dir() and not found.sidecar.get("proof"):
        write_sidecar(folder, sidecar_fields(opened.origin, found.artifact.id, receipt))
    result = {"artifact": found.artifact.id, "entry": receipt.index, "status": "unverified origin", "origin": origin,
              "license": more.get("license", ""), "claims": claims, "known_before": known}  # fmt: skip
    if out.mode == "json":
        print_json(out, "import", {"directory": str(folder)}, result)
    elif out.mode == "quiet":
        out.result(found.artifact.id)
    else:
        told = f", said to come from {origin}" if origin else ""
        out.result(f"{folder.name} {short(found.artifact.id)}: entry {receipt.index}, unverified origin{told}")
        for claim in claims:
            out.result(f"  its card claims: {claim['relation']} of {claim['name']}")
    return DONE
