"""`pedigree serve DIR`: OpenAI-compatible endpoints and a chat page over one model."""

from __future__ import annotations

import json as json_text
from typing import Annotated

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.options import COMPUTE, INPUT, OUTPUT, JsonOption, QuietOption, parse_size
from pedigree.cli.output import Output
from pedigree.cli.speaking import DeviceOption, DomainOption, ModelArgument, open_model
from pedigree.errors import MissingInput

NameOption = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="What requests call the model; by default its directory or step.", envvar="PEDIGREE_NAME",
        rich_help_panel=OUTPUT, show_default=False,
    ),
]  # fmt: skip
HostOption = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="Where to listen; anything but this machine's own address opens it to others.",
        envvar="PEDIGREE_HOST", rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
PortOption = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, max=65535, help="The port; 0 takes a free one.", envvar="PEDIGREE_PORT",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
ConcurrentOption = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, max=32, help="Answers made at a time; more are refused with 429.",
        envvar="PEDIGREE_MAX_CONCURRENT", rich_help_panel=COMPUTE,
    ),
]  # fmt: skip
TokensOption = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, help="Most tokens that a request may ask for.", envvar="PEDIGREE_MAX_TOKENS",
        rich_help_panel=COMPUTE,
    ),
]  # fmt: skip
BodyOption = Annotated[
    str,
    typer.Option(
        metavar="SIZE", help="Most bytes of a request.", envvar="PEDIGREE_MAX_BODY", rich_help_panel=INPUT
    ),
]  # fmt: skip


def serve(
    model: ModelArgument,
    name: NameOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    json: JsonOption = False,
    quiet: QuietOption = False,
    max_concurrent: ConcurrentOption = 4,
    max_tokens: TokensOption = 4096,
    max_body: BodyOption = "1MB",
    device: DeviceOption = None,
    domain: DomainOption = 0,
) -> int:
    """Serve a model: a chat page, and /v1/completions and /v1/chat/completions as OpenAI's clients speak them.

    [bold]Examples[/bold]

    pedigree serve path/to/model

    pedigree serve path/to/model --port 0 --max-concurrent 2

    Unless --host says otherwise it listens on this machine only. It asks nobody who they are, and logs nothing that is
    said. Ctrl-C ends it.
    """
    out = Output(json=json, quiet=quiet)
    limit = parse_size(max_body, option="--max-body")
    try:
        from pedigree.web.application import Desk
        from pedigree.web.asked import Limits
        from pedigree.web.server import allowed_hosts, bind, is_loopback, url_of
        from pedigree.web.server import serve as answer_until_asked_to_end
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "starlette", "uvicorn"):
            raise
        raise MissingInput(
            "the libraries of the server are not installed",
            got=f"no module {error.name}",
            fix="pip install 'llm-pedigree[web]'",
        ) from error
    with bind(host, port) as bound:
        speaker = open_model(model, out, name=name, device=device, domain=domain)
        desk = Desk(speaker, Limits(max_tokens=max_tokens, max_body=limit), max_concurrent, allowed_hosts(bound))
        url = url_of(bound)
        bound.listen()  # whoever reads the address below may connect at once
        if not is_loopback(bound):
            out.warn(f"{url} can be reached by other machines, and anyone who reaches it may use it")
        if out.mode == "json":
            told = {
                "schema": "pedigree/server", "version": 1, "command": "serve", "inputs": {"model": str(model)},
                "result": {"url": url, "model": speaker.name}, "warnings": [],
            }  # fmt: skip
            out.result(json_text.dumps(told))
        else:
            out.result(url if out.mode == "quiet" else f"serving {speaker.name} at {url}")
        out.note("Ctrl-C ends it")
        answer_until_asked_to_end(desk, bound)
    return DONE
