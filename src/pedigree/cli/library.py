"""`pedigree library add|list|export DIR`: fingerprints of many models, searchable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE
from pedigree.cli.files import GO_ON, check_free, write_file
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
)
from pedigree.cli.output import Output
from pedigree.errors import MalformedFile, MissingInput, OutputExists, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pedigree.forensics.scanning.library import Entry

_Folder = Annotated[str, typer.Argument(metavar="DIR", help="The library.", show_default=False)]


def add(
    folder: _Folder,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Models, or fingerprints of models.", show_default=False),
    ] = None,
    salt: SaltOption = "",
    list_file: Annotated[
        str | None,
        typer.Option(
            "--list", metavar="FILE", help="More models, one on each line; - reads them from standard input.",
            envvar="PEDIGREE_LIST", rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry", help="Try models again that could not be read.", envvar="PEDIGREE_RETRY", rich_help_panel=INPUT
        ),
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N", help="Processes that read models at the same time.", envvar="PEDIGREE_WORKERS", min=1,
            max=1024, rich_help_panel=COMPUTE,
        ),
    ] = 1,
    fleet: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Read them on a Ray cluster: auto, HOST:PORT, or local for one with --workers processors here.",
            envvar="PEDIGREE_FLEET", rich_help_panel=COMPUTE, show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    allow_pickle: PickleOption = False,
) -> int:  # fmt: skip
    """Add models to a library, which is made when it is not there.

    [bold]Examples[/bold]

    pedigree library add my-library path/to/A path/to/B

    pedigree library add my-library hf://org/name@main colleague.fingerprint

    pedigree library add my-library --list models.txt --workers 8

    pedigree library add my-library --list models.txt --fleet auto

    Models that are there and have not changed are not read again, so a run that was stopped goes on where it was.
    """
    out = Output(json=json, quiet=quiet, color=color)
    models = [*(models or ()), *(_listed(list_file) if list_file else ())]
    if not models:
        raise UsageError("no model was named", expected="DIR MODEL...", fix=f"pedigree library add {folder} MODEL")
    from pedigree.forensics.scanning.library import open_library

    # From any folder a model is found again, and named once.
    places = [str(Path(place).resolve()) if "://" not in place and Path(place).exists() else place for place in models]
    with open_library(folder, salt=salt, create=True) as library:
        GO_ON.append(f"finished fingerprints are in {folder}; the same command goes on from there")
        entries = library.add(
            places, allow_pickle=allow_pickle, retry=retry, tell=out.progress(), workers=workers, fleet=fleet
        )
        total = len(library.entries())
    out.clear_status()
    failed = [entry for entry in entries if entry.error is not None]
    _show(entries, folder, out)
    for entry in failed:
        out.warn(f"{entry.location} was left out: {entry.error}")
    out.note(f"{len(entries) - len(failed)} of {len(entries)} are in {folder}, which knows {total} models")
    return CANNOT_SAY if failed else DONE


def _listed(file: str) -> list[str]:
    """Models named in a file, one on each line; empty lines and lines that begin with # are left out."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise MissingInput("the list cannot be read", where=file, got=error.strerror) from error
    except UnicodeDecodeError as error:
        raise MalformedFile("the list is not text in UTF-8", where=file, got=str(error)) from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def list_models(
    folder: _Folder,
    salt: SaltOption = "",
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
) -> int:
    """List the models of a library.

    [bold]Examples[/bold]

    pedigree library list my-library

    pedigree library list my-library --json
    """
    out = Output(json=json, quiet=quiet, color=color)
    from pedigree.forensics.scanning.library import open_library

    with open_library(folder, salt=salt) as library:
        entries = library.entries()
    _show(entries, folder, out)
    return DONE


def export(
    folder: _Folder,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "--out", "-o", metavar="FOLDER", help="Where the fingerprints go; must be named.",
            envvar="PEDIGREE_OUTPUT", rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
    salt: SaltOption = "",
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    force: ForceOption = False,
) -> int:  # fmt: skip
    """Write the fingerprints of a library as files for others, with a list of what they are.

    [bold]Examples[/bold]

    pedigree library export my-library -o to-share

    pedigree library add their-library to-share/*.fingerprint
    """
    out = Output(json=json, quiet=quiet, color=color)
    if output is None:
        raise UsageError("where the fingerprints go is missing", expected="-o FOLDER", fix="-o to-share")
    if output.exists() and not output.is_dir():
        raise OutputExists("the output is a file", where=str(output), fix="name a folder")
    if not output.parent.is_dir():
        raise MissingInput("the folder of the output does not exist", where=str(output.parent))
    listing = output / "list.json"
    if output.is_dir():
        check_free(listing, force=force)
    from pedigree.forensics.scanning.library import open_library

    with open_library(folder, salt=salt) as library:
        entries = [entry for entry in library.entries() if entry.error is None]
        output.mkdir(exist_ok=True)
        for entry in entries:
            name = (entry.digest or "").removeprefix("sha256:")[:16]
            target = output / f"{name}.fingerprint"
            if not target.exists() or force:
                write_file(target, library.fingerprint(entry).to_bytes(), force=force)
    record = _record(entries, folder)
    out.note(write_file(listing, record.to_json() + "\n", force=force))
    _show(entries, folder, out)
    return DONE


def _record(entries: Sequence[Entry], folder: str) -> Any:
    from dataclasses import asdict

    from pedigree.forensics.comparison.record import producer
    from pedigree.records.scan import LibraryListing, LibraryModel

    models = [LibraryModel(**{k: v for k, v in asdict(entry).items() if k != "id"}) for entry in entries]
    return LibraryListing(producer=producer(), inputs={"library": folder}, result=models)


def _show(entries: Sequence[Entry], folder: str, out: Output) -> None:
    if out.mode == "json":
        out.result(_record(entries, folder).to_json())
        return
    for entry in entries:
        if out.mode == "quiet":
            out.result(entry.location)
        elif entry.error is not None:
            out.result(f"{'not read':<20} {'':>12}  {entry.location}")
        else:
            out.result(f"{entry.architecture or '':<20.20} {_count(entry.parameters):>12}  {entry.location}")


def _count(parameters: int | None) -> str:
    """Parameters as people say them: 6.74 B, 211 k."""
    if parameters is None:
        return ""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters >= size:
            return f"{parameters / size:.3g} {unit}"
    return str(parameters)


def library_app(settings: dict[str, Any], epilog: str) -> typer.Typer:
    """The noun with its verbs."""
    group = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=settings, epilog=epilog)

    @group.callback(invoke_without_command=True)
    def library(context: typer.Context) -> None:
        """Keep fingerprints of many models, to search with pedigree scan.

        [bold]Examples[/bold]

        pedigree library add my-library path/to/A path/to/B

        pedigree scan path/to/MODEL --against my-library
        """
        if context.invoked_subcommand is None:
            raise UsageError("a verb is missing", where="pedigree library", fix="pedigree library --help")

    for name, command in (("add", add), ("list", list_models), ("export", export)):
        group.command(name, context_settings=settings, epilog=epilog, no_args_is_help=True)(command)
    return group
