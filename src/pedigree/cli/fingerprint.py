"""`pedigree fingerprint MODEL -o FILE`: a few megabytes that stand for a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.files import check_free, write_file
from pedigree.cli.options import (
    OUTPUT,
    ColorOption,
    ForceOption,
    JsonOption,
    PickleOption,
    QuietOption,
    SaltOption,
)
from pedigree.cli.output import Output
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from pedigree.forensics.fingerprints.fingerprint import Fingerprint
    from pedigree.records.fingerprint import FingerprintMade


def fingerprint(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, named as for compare.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "--out", "-o", metavar="FILE", help="Where the fingerprint goes; must be named.",
            envvar="PEDIGREE_OUTPUT", rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    salt: SaltOption = "",
    quiet: QuietOption = False,
    color: ColorOption = None,
    force: ForceOption = False,
    allow_pickle: PickleOption = False,
) -> int:  # fmt: skip
    """Make a fingerprint: a few megabytes that can be compared later without the weights.

    [bold]Examples[/bold]

    pedigree fingerprint path/to/MODEL -o model.fingerprint

    pedigree compare model.fingerprint path/to/OTHER

    With --salt only those who know the words can compare with it.
    """
    out = Output(json=json, quiet=quiet, color=color)
    if output is None:
        raise UsageError("where the fingerprint goes is missing", expected="-o FILE", fix="-o model.fingerprint")
    check_free(output, force=force)
    from pedigree.forensics.fingerprints.fingerprint import make_fingerprint

    start = time.monotonic()
    made = make_fingerprint(model, salt=salt, allow_pickle=allow_pickle)
    data = made.to_bytes()
    told = write_file(output, data, force=force)
    record = _record(made, len(data), output, salted=bool(salt), seconds=time.monotonic() - start)
    if out.mode == "json":
        out.result(record.to_json())
    elif out.mode == "quiet":
        out.result(record.result.digest)
    else:
        result = record.result
        out.result(result.digest)
        out.note(told)
        out.note(
            f"{result.layers} layers: {result.units} units and {result.attention_dimensions} attention dimensions "
            f"of each, {result.tokens} tokens, gains of {result.norms} norms, at {result.coordinates} of "
            f"{result.width} coordinates"
        )
    for words in record.result.left_out:
        out.warn(f"not in the fingerprint: {words}")
    return 0


def _record(made: Fingerprint, size: int, output: Path, *, salted: bool, seconds: float) -> FingerprintMade:
    from pedigree.forensics.comparison.record import producer
    from pedigree.records.comparison import ReadRecord
    from pedigree.records.fingerprint import FingerprintMade, FingerprintResult

    model = made.model
    return FingerprintMade(
        producer=producer(),
        inputs={"model": made.location},
        result=FingerprintResult(
            file=str(output),
            digest=made.digest(),
            bytes=size,
            architecture=str(made.facts["architecture"]),
            layers=model.n_layers,
            width=model.width,
            coordinates=len(model.coordinates),
            units=len(model.units),
            attention_dimensions=len(model.dims),
            tokens=len(model.tokens),
            norms=len(model.norms.gains) if model.norms is not None else 0,
            salted=salted,
            left_out=model.left_out,
            read=ReadRecord(bytes=made.bytes_read, of=int(made.facts["bytes"]), seconds=round(seconds, 3)),
        ),
    )
