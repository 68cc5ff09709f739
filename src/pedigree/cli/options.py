"""The options that several commands share, defined once, each with its environment variable."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from pedigree.errors import UsageError

INPUT, OUTPUT, COMPUTE, DANGEROUS = "Input", "Output", "Compute", "Dangerous"

EXIT_CODES = """\
[bold]Exit codes[/bold]

[cyan]0[/cyan]    done; every check that was asked for passed
[cyan]1[/cyan]    done; a check says no (--fail-on)
[cyan]2[/cyan]    could not run: usage, missing or malformed input
[cyan]3[/cyan]    ran, and cannot say (inconclusive, not-testable)
[cyan]70[/cyan]   a bug of ours; says where the crash file is
[cyan]130[/cyan]  interrupted; says what is on disk
"""

JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print the record as JSON.", envvar="PEDIGREE_JSON", rich_help_panel=OUTPUT),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print the answer alone; no progress, no notes.", envvar="PEDIGREE_QUIET",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
ColorOption = Annotated[
    bool | None,
    typer.Option(
        "--color/--no-color", help="Color; by default on a terminal only, and never with NO_COLOR.",
        envvar="PEDIGREE_COLOR", rich_help_panel=OUTPUT, show_default=False,
    ),
]  # fmt: skip
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="Overwrite files that are in the way.", envvar="PEDIGREE_FORCE", rich_help_panel=DANGEROUS
    ),
]

SaltOption = Annotated[
    str,
    typer.Option(
        metavar="WORDS", help="Secret of a private exchange of fingerprints; the same on all sides.",
        envvar="PEDIGREE_SALT", rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
PickleOption = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="Read .bin, .pt and .pth files too (weights only, no code is run).",
        envvar="PEDIGREE_ALLOW_PICKLE", rich_help_panel=DANGEROUS,
    ),
]  # fmt: skip

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]i?)?B?\s*", re.IGNORECASE)
_UNITS = {"": 1, "k": 1_000, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_size(text: str, *, option: str = "--budget") -> int:
    """Bytes in a size such as `300MB`, `1.5 GiB` or `1000`.

    Raises:
        UsageError: not a size, or nothing.
    """
    match = _SIZE.fullmatch(text)
    size = int(float(match.group(1)) * _UNITS[(match.group(2) or "").lower()]) if match else 0
    if size <= 0:
        raise UsageError(
            "this is not a size in bytes",
            where=option,
            got=repr(text),
            expected="a number with an optional unit: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB",
            fix=f"{option} 300MB",
        )
    return size


def offer(*words: str) -> Callable[[str], list[str]]:
    """What Tab completes an argument or option with that takes one of `words`."""

    def begin(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete.lower().replace("_", "-"))]

    return begin


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word nearest to `word`, None where none is near."""
    matches = difflib.get_close_matches(word.lower().replace("_", "-"), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def check_word(word: str, known: Iterable[str], *, option: str) -> str:
    """`word`, where it is one of the known ones (underscores are taken for hyphens).

    Raises:
        UsageError: it is not; suggests the nearest.
    """
    words = list(known)
    plain = word.strip().lower().replace("_", "-")
    if plain in words:
        return plain
    near = closest(plain, words)
    raise UsageError(
        "unknown word",
        where=option,
        got=repr(word),
        expected="one of " + ", ".join(words),
        fix=f"did you mean {option} {near}?" if near else None,
    )


WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers", metavar="N", help="Processes that compare models at the same time.", envvar="PEDIGREE_WORKERS",
        min=1, max=1024, rich_help_panel=COMPUTE,
    ),
]  # fmt: skip
FleetOption = Annotated[
    str | None,
    typer.Option(
        "--fleet", metavar="ADDRESS",
        help="Compare them on a Ray cluster: auto, HOST:PORT, or local for one with --workers processors here.",
        envvar="PEDIGREE_FLEET", rich_help_panel=COMPUTE, show_default=False,
    ),
]  # fmt: skip
KeepOption = Annotated[
    Path | None,
    typer.Option(
        "--keep", metavar="FILE", help="Keep comparisons in FILE; the same command goes on from there.",
        envvar="PEDIGREE_KEEP", rich_help_panel=COMPUTE, show_default=False,
    ),
]  # fmt: skip
