"""How commands that make something come to a recorder: the ledger of the project, unless it is refused by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.options import DANGEROUS

if TYPE_CHECKING:
    from pedigree.records.recorder import Recorder

UnrecordedOption = Annotated[
    bool,
    typer.Option(
        "--unrecorded", "--no-ledger", help="Keep no record; what is made says so.", envvar="PEDIGREE_UNRECORDED",
        rich_help_panel=DANGEROUS,
    ),
]  # fmt: skip


@contextlib.contextmanager
def recorder_for(
    spool: Path | None, warn: Callable[[str], None], *, unrecorded: bool = False
) -> Iterator[Recorder]:  # fmt: skip
    """The recorder of one piece of work; everything is in the ledger when the block ends.

    Args:
        spool: the file of lines beside the work; by default one beside the ledger.
        warn: told what could not be recorded; the work goes on all the same.
        unrecorded: nothing is to be kept.
    """
    from pedigree.records.recorder import JsonlRecorder, NullRecorder

    if unrecorded:
        yield NullRecorder()
        return
    from pedigree.ledger.place import LedgerPlace
    from pedigree.ledger.recorder import LedgerRecorder

    place = LedgerPlace.find()
    lines: Recorder
    try:
        lines = JsonlRecorder(spool or place.keys.parent / "spool.jsonl", at_once=False)
    except OSError as error:
        warn(f"no lines are kept beside the work: {(error.strerror or str(error)).lower()}")
        lines = NullRecorder()
    recorder = LedgerRecorder(place, lines)
    try:
        yield recorder
    finally:
        for failure in dict.fromkeys(recorder.close()):
            warn(f"not in the ledger: {failure}")


def record_tokenizer(
    out: Path, facts: dict[str, Any], warn: Callable[[str], None], *, unrecorded: bool
) -> None:  # fmt: skip
    """Record that a tokenizer was made; where that is refused, the folder says so.

    Args:
        out: the folder it lies in.
        facts: `operation`, `inputs` and `parameters`, as `LedgerRecorder.derive` takes them.
        warn: told what could not be recorded.
        unrecorded: nothing is to be kept.
    """
    from pedigree.ledger.sidecar import write_sidecar

    with recorder_for(None, warn, unrecorded=unrecorded) as recorder:
        if unrecorded:
            write_sidecar(out, recorder.stamp)
        recorder.derive({"name": out.name, "outputs": [str(out)], **facts})
