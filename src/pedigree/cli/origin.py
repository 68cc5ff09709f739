"""`pedigree import DIR`: a model that came from elsewhere enters the ledger, with the origin that is claimed for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.ledger_options import LedgerOption, print_json, short
from pedigree.cli.options import INPUT, JsonOption, QuietOption
from pedigree.cli.output import Output
from pedigree.errors import MissingInput

if TYPE_CHECKING:
    from pedigree.records.artifact import Artifact


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
            metavar="TEXT", help="What should be known about it.", envvar="PEDIGREE_NOTE", rich_help_panel=INPUT,
            show_default=False,
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
    signed = _signature(folder, found.artifact)
    if signed:
        more["signature"] = signed
    claims: list[dict[str, str]] = more.get("claims", [])
    actors = [{"id": person_here(opened.database, Path.cwd()).id, "role": "importer"}]
    receipt = register(opened, found.artifact, origin=origin, note=note, actors=actors, more=more)
    if folder.is_dir() and not found.sidecar.get("proof"):
        write_sidecar(folder, sidecar_fields(opened.origin, found.artifact.id, receipt))
    result = {"artifact": found.artifact.id, "entry": receipt.index, "status": "unverified origin", "origin": origin,
              "license": more.get("license", ""), "signature": signed, "claims": claims,
              "known_before": known}  # fmt: skip
    if out.mode == "json":
        print_json(out, "import", {"directory": str(folder)}, result)
    elif out.mode == "quiet":
        out.result(found.artifact.id)
    else:
        told = f", said to come from {origin}" if origin else ""
        out.result(f"{folder.name} {short(found.artifact.id)}: entry {receipt.index}, unverified origin{told}")
        if signed:
            out.result(f"  {signed['file']}: {signed['told']}")
        for claim in claims:
            out.result(f"  its card claims: {claim['relation']} of {claim['name']}")
    return DONE


def _signature(folder: Path, artifact: Artifact) -> dict[str, str]:
    """What an OpenSSF signature beside or in the model is worth without a key of its signer; nothing where none is."""
    from pedigree.cli.ledger_signature import beside
    from pedigree.errors import PedigreeError
    from pedigree.ledger.signed_files import check_signature

    path = beside(folder) if folder.is_dir() else None
    if path is None:
        return {}
    inside = path.is_relative_to(folder.resolve())
    own = path.relative_to(folder.resolve()).as_posix() if inside else None
    try:
        report = check_signature(folder, artifact, path.read_bytes(), None, own=own)
    except (PedigreeError, OSError) as error:
        return {"file": path.name, "verdict": "UNKNOWN", "told": f"a signature that cannot be read: {error}"[:200]}
    grave = [item.sentence for item in report.problems if item.word != "no-key"]
    told = grave[0] if grave else f"{report.covered} files are as they were signed"
    whose = f", by {report.names or report.signer[:16]}" if report.signer else ", by a key that is not given"
    return {"file": path.name, "verdict": report.verdict, "told": told + whose}
