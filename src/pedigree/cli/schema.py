"""`pedigree schema NAME`: the JSON schema of a record, so that other programs can hold us to it."""

from __future__ import annotations

import json as json_text
from typing import Annotated, Any

import typer

from pedigree.cli.options import JsonOption, closest, offer
from pedigree.cli.output import Output
from pedigree.errors import UsageError


def _names(incomplete: str) -> list[str]:
    """What Tab completes the name of a record with."""
    from pedigree.records.schemas import SCHEMAS

    return offer(*SCHEMAS)(incomplete)


def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Which record; without it, all are listed.", show_default=False, autocompletion=_names
        ),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Print the JSON schema of a record that pedigree writes.

    [bold]Examples[/bold]

    pedigree schema

    pedigree schema comparison
    """
    from pedigree.records.schemas import SCHEMAS, json_schema

    out = Output(json=json)
    if name is None:
        if json:
            listed = [{"name": key, "version": 1, "about": about_record(model)} for key, model in SCHEMAS.items()]
            record = {"schema": "pedigree/schemas", "version": 1, "command": "schema", "inputs": {}}
            out.result(json_text.dumps({**record, "result": listed, "warnings": []}, indent=2))
            return 0
        longest = max(map(len, SCHEMAS))
        for key, model in SCHEMAS.items():
            out.result(f"{key:<{longest}}  {about_record(model)}")
        return 0
    if name not in SCHEMAS:
        near = closest(name, SCHEMAS)
        raise UsageError(
            "there is no record of this name",
            got=repr(name),
            expected="one of " + ", ".join(SCHEMAS),
            fix=f"pedigree schema {near}" if near else "pedigree schema",
        )
    out.result(json_text.dumps(json_schema(name), indent=2))
    return 0


def about_record(model: type[Any]) -> str:
    """The first sentence a record says about itself."""
    return (model.__doc__ or "").strip().split("\n", maxsplit=1)[0].split(". ", maxsplit=1)[0].rstrip(".")
