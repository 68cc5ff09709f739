"""What the commands around the ledger share: options, opening, and the frame of their JSON."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.options import INPUT, check_word
from pedigree.cli.output import Output

if TYPE_CHECKING:
    from pedigree.ledger.note import Checkpoint
    from pedigree.ledger.store import Store

LedgerOption = Annotated[
    str | None,
    typer.Option(
        "--ledger", metavar="PLACE", help="A ledger.db, its folder, postgresql://...; by default the project's.",
        envvar="PEDIGREE_LEDGER", rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
CheckpointOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint", metavar="FILE", help="Checkpoints kept elsewhere, held against the ledger; again for more.",
        envvar="PEDIGREE_CHECKPOINT", rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
MaxAgeOption = Annotated[
    float | None,
    typer.Option(
        "--max-age", metavar="DAYS", help="STALE where the newest entry is older.", envvar="PEDIGREE_MAX_AGE",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
# Repeated from pedigree.ledger.verdict in small letters; a test holds them together.
VERDICT_WORDS = ("verified", "replayed", "corroborated", "declared", "unknown", "stale", "suspect", "contradicted")
FAIL_ON_VERDICT = (
    f"Exit with 1 on an edge of this verdict as well: {', '.join(VERDICT_WORDS[:5])}; stale, suspect and contradicted "
    "always do."
)
STYLES = {
    "VERIFIED": "bold green", "REPLAYED": "bold green", "CORROBORATED": "bold green", "DECLARED": "bold blue",
    "UNKNOWN": "bold magenta", "STALE": "bold yellow", "SUSPECT": "bold yellow", "CONTRADICTED": "bold red",
}  # fmt: skip


def open_store(place: str | None) -> Store:
    """The ledger to read; it is not written, not even beside it.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from pedigree.ledger.database import Database
    from pedigree.ledger.log import LedgerPlace
    from pedigree.ledger.store import Store

    return Store(Database(LedgerPlace.find(place).database, read_only=True))


def read_checkpoints(files: Iterable[Path] | None) -> list[Checkpoint]:
    """The notes in some files.

    Raises:
        MissingInput, MalformedFile: a file is not there, or holds something else.
    """
    from pedigree.errors import MissingInput
    from pedigree.ledger.note import read_notes

    found = []
    for path in files or ():
        if not path.is_file():
            raise MissingInput("there is no such file of checkpoints", where=str(path))
        found += read_notes(path.read_text(encoding="utf-8", errors="replace"), str(path))
    return found


def fail_words(words: Iterable[str] | None) -> list[str]:
    """The verdicts on which a command says no: the given ones, and those that always do."""
    from pedigree.ledger.verdict import SAYS_NO

    return [*SAYS_NO, *(check_word(word, VERDICT_WORDS, option="--fail-on").upper() for word in words or ())]


def print_json(out: Output, command: str, inputs: Mapping[str, Any], result: Any, warnings: Iterable[str] = ()) -> None:
    """One answer as JSON, in the frame that all commands share."""
    record = {
        "schema": f"pedigree/{command.replace(' ', '-')}", "version": 1, "command": command, "inputs": dict(inputs),
        "result": result, "warnings": list(warnings),
    }  # fmt: skip
    out.result(json_text.dumps(record, indent=2, ensure_ascii=False))


def short(digest: str) -> str:
    """The first digits of a digest."""
    return digest.removeprefix("sha256:")[:12]
