"""The options that `chat` and `serve` share, and the model behind both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.options import COMPUTE, INPUT
from pedigree.cli.output import Output

if TYPE_CHECKING:
    from pedigree.web.speaker import Speaker

ModelArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="A model: config.json, weights, tokenizer.json.", show_default=False)
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="cpu, cuda, npu, mps; by default what is here.", envvar="PEDIGREE_TORCH_DEVICE",
        rich_help_panel=COMPUTE, show_default=False,
    ),
]  # fmt: skip
DomainOption = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="Domain of the text, for models whose routing asks for one.",
        envvar="PEDIGREE_DOMAIN", rich_help_panel=INPUT,
    ),
]  # fmt: skip


def open_model(folder: Path, out: Output, *, name: str | None, device: str | None, domain: int) -> Speaker:
    """Read a model, with a status line while it is read."""
    from pedigree.web.speaker import open_speaker

    progress = out.progress()
    if progress is not None:
        progress("reading", 0.0, str(folder))
    try:
        return open_speaker(folder, name=name, device=device, domain=domain)
    finally:
        out.clear_status()
