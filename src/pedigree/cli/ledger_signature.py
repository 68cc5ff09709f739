"""`pedigree ledger signature`: an OpenSSF model signature that came with a model, held against its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE, SAYS_NO
from pedigree.cli.ledger_options import STYLES, print_json
from pedigree.cli.options import INPUT, ColorOption, JsonOption, QuietOption
from pedigree.cli.output import Line, Output, Span
from pedigree.errors import MissingInput

if TYPE_CHECKING:
    from pedigree.ledger.signed_files import SignatureReport

NAMES = ("model.sig", "model.sigstore.json")
SHOWN = 12


def signature(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model, from whoever.", show_default=False)],
    file: Annotated[
        Path | None,
        typer.Option(
            "--signature", metavar="FILE", help="The signature; by default DIR.sig, or model.sig in the model.",
            envvar="PEDIGREE_SIGNATURE", rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", metavar="PEM", help="Key or certificate of the signer, from elsewhere.",
            envvar="PEDIGREE_PUBLIC_KEY", rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
) -> int:  # fmt: skip
    """Check an OpenSSF model signature (OMS 1.0): who signed, which files, and what it passes over.

    [bold]Examples[/bold]

    pedigree ledger signature path/to/model --public-key vendor.pub

    pedigree ledger signature path/to/model --signature model.sig --json
    """
    from pedigree.ledger.elliptic_keys import SignerKey
    from pedigree.ledger.model_signature import MAX_BUNDLE
    from pedigree.ledger.signed_files import check_signature
    from pedigree.weights.artifact import read_artifact

    out = Output(json=json, quiet=quiet, color=color)
    if not folder.exists():
        raise MissingInput("no such file or directory", where=str(folder))
    path = file or beside(folder)
    if path is None:
        raise MissingInput(
            "no signature lies with this model", where=str(folder),
            expected=f"{folder.resolve().name}.sig beside it, or {NAMES[0]} in it", fix="--signature FILE",
        )  # fmt: skip
    key = SignerKey.load(public_key) if public_key is not None else None
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BUNDLE + 1)
    except OSError as error:
        raise MissingInput("the signature cannot be read", where=str(path), got=error.strerror) from error
    inside = path.resolve().is_relative_to(folder.resolve()) and folder.is_dir()
    own = path.resolve().relative_to(folder.resolve()).as_posix() if inside else None
    report = check_signature(folder, read_artifact(folder), data, key, own=own)
    verdict = report.verdict
    if out.mode == "json":
        print_json(out, "ledger signature", {"directory": str(folder), "signature": str(path)}, report.to_dict())
    elif out.mode == "quiet":
        out.result(verdict)
    else:
        out.lines(signature_lines(report, path))
    if verdict in ("SUSPECT", "CONTRADICTED"):
        return SAYS_NO
    return CANNOT_SAY if verdict == "UNKNOWN" else DONE


def beside(folder: Path) -> Path | None:
    """The signature where signatures usually lie: beside the model, or in it; None where there is none."""
    whole = folder.resolve()
    places = (whole.with_name(whole.name + ".sig"), *(whole / name for name in NAMES))
    return next((place for place in places if place.is_file()), None)


def signature_lines(report: SignatureReport, path: Path) -> list[Line]:
    """The answer for a terminal."""
    lines: list[Line] = [(Span(report.verdict, STYLES[report.verdict]),
                          Span(f"   {path.name} over {report.signed_name!r}, by {report.material}"))]  # fmt: skip
    if report.signer:
        whose = f" of {report.names}" if report.names else ""
        how = "given" if report.given else "as the signature says, not traced to an authority"
        good = "good" if report.good else "not made by it"
        lines.append(_row("signer", f"key {report.signer[:16]}{whose}, {how}; signature {good}"))
    lines.append(_row("files", f"{report.covered:,} are as they were signed"))
    lines.append(_row("passed over", ", ".join(report.ignored) or "nothing"))
    for problem in report.problems[:SHOWN]:
        lines.append((Span(f"{'problem':<12}", "bold"), Span(f"{problem.verdict:<13}", STYLES[problem.verdict]),
                      Span(problem.sentence)))  # fmt: skip
    if len(report.problems) > SHOWN:
        lines.append(_row("", f"and {len(report.problems) - SHOWN} more problems (--json has all)"))
    return lines + [_row("" if i else "not checked", text) for i, text in enumerate(report.not_checked)]


def _row(label: str, text: str) -> Line:
    return (Span(f"{label:<12}", "bold"), Span(text))
