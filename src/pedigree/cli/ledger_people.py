"""`pedigree ledger erase`: the name of somebody is forgotten; what was done stays in the log, under a random id."""

from __future__ import annotations

from typing import Annotated

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.ledger_options import LedgerOption, open_store, print_json
from pedigree.cli.options import JsonOption
from pedigree.cli.output import Output
from pedigree.errors import MissingInput, UsageError

MARK = "person:"


def erase(
    person: Annotated[
        str,
        typer.Argument(metavar="PERSON", help="An id that credits shows, or its first digits.", show_default=False),
    ],
    ledger: LedgerOption = None,
    json: JsonOption = False,
) -> int:
    """Forget name and address of a person for good; entries keep a random id, and every proof still holds.

    [bold]Examples[/bold]

    pedigree ledger erase person:4c1d0a27
    """
    from pedigree.ledger.database import Database
    from pedigree.ledger.log import LedgerPlace
    from pedigree.ledger.people import erase as forget
    from pedigree.ledger.people import people

    out = Output(json=json)
    begun = MARK + person.removeprefix(MARK)
    found = [one for one in people(open_store(ledger).database) if one.id.startswith(begun)]
    if not found:
        raise MissingInput(
            "the ledger holds no name under this id", got=person, fix="pedigree ledger credits DIR lists the ids"
        )
    if len(found) > 1 or begun == MARK:
        raise UsageError("these digits begin several ids", got=person, expected=", ".join(one.id for one in found[:4]))
    database = Database(LedgerPlace.find(ledger).database)
    forget(database, found[0].id)
    database.close()
    if out.mode == "json":
        print_json(out, "ledger erase", {"person": person}, {"id": found[0].id})
    else:
        out.result(f"{found[0].id}: name and address are erased here; copies of the ledger have their own")
    return DONE
