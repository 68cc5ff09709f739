"""`pedigree doctor`: what this machine can do, and which checks would be skipped on it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from typing import TYPE_CHECKING

from pedigree.cli.errors import COULD_NOT_RUN, DONE
from pedigree.cli.options import ColorOption, JsonOption
from pedigree.cli.output import Output, Span

if TYPE_CHECKING:
    from pedigree.records.machine import Library, Machine, MachineResult, Skipped

# distribution -> (what it is needed for, whether it is optional)
LIBRARIES: dict[str, tuple[str, bool]] = {
    "torch": ("every comparison", False),
    "numpy": ("every comparison", False),
    "scipy": ("every comparison", False),
    "blake3": ("digests of what was read", False),
    "cryptography": ("signatures of the ledger", False),
    "rfc8785": ("digests of records", False),
    "safetensors": ("writing models", False),
    "tokenizers": ("training and reading tokenizers", False),
    "pydantic": ("records", False),
    "pyyaml": ("reading recipes", False),
    "matplotlib": ("pictures in reports", False),
    "jinja2": ("reports", False),
    "segno": ("codes on printed sheets", False),
    "huggingface_hub": ("models named hf://", False),
    "gguf": ("quantized GGUF files", True),
    "transformers": ("pedigree demo, pedigree bench", True),
    # The extras: web, data, eval, log, library, fleet, team.
    "fastapi": ("pedigree serve", True),
    "starlette": ("pedigree serve", True),
    "uvicorn": ("pedigree serve", True),
    "pyarrow": ("corpora in Parquet files", True),
    "datasets": ("corpora of the Hub", True),
    "lm-eval": ("pedigree eval --tasks", True),
    "tensorboard": ("TensorBoard events of a training run", True),
    "faiss-cpu": ("search in large libraries", True),
    "ray": ("--fleet of library add, scan and tree", True),
    "psycopg": ("a ledger on PostgreSQL", True),
}
# Libraries that an extra brings, so that the right version comes.
EXTRAS = {
    "transformers": "'llm-pedigree[hf]'",
    **dict.fromkeys(("fastapi", "starlette", "uvicorn"), "'llm-pedigree[web]'"),
    **dict.fromkeys(("pyarrow", "datasets"), "'llm-pedigree[data]'"),
    "lm-eval": "'llm-pedigree[eval]'",
    "faiss-cpu": "'llm-pedigree[library]'",
    "ray": "'llm-pedigree[fleet]'",
    "psycopg": "'llm-pedigree[team]'",
    "tensorboard": "'llm-pedigree[log]'",
}


def doctor(json: JsonOption = False, color: ColorOption = None) -> int:
    """Say what this machine can do, and which checks would be skipped on it.

    [bold]Examples[/bold]

    pedigree doctor

    pedigree doctor --json
    """
    out = Output(json=json, color=color)
    machine = examine()
    if out.mode == "json":
        out.result(machine.to_json())
    else:
        show(machine.result, out)
    return DONE if machine.result.able else COULD_NOT_RUN


def examine() -> Machine:
    """Look at the machine; nothing is downloaded and no network is asked."""
    from pedigree.cli.version import installed_version, producer
    from pedigree.records.machine import Library, Machine, MachineResult

    libraries = [
        Library(name=name, version=installed_version(name), needed_for=need, optional=optional)
        for name, (need, optional) in LIBRARIES.items()
    ]
    threads, accelerator, problem = _torch_facts()
    skipped = _skipped(libraries)
    return Machine(
        producer=producer(),
        result=MachineResult(
            python=platform.python_version(),
            platform=platform.platform(terse=True),
            cores=os.cpu_count() or 1,
            threads=threads,
            memory=_memory(),
            free_disk=shutil.disk_usage(tempfile.gettempdir()).free,
            accelerator=accelerator,
            libraries=libraries,
            skipped=skipped,
            able=problem is None and all(library.version or library.optional for library in libraries),
        ),
        warnings=[problem] if problem else [],
    )


def _torch_facts() -> tuple[int | None, str | None, str | None]:
    """Threads, accelerator, and why torch does not start where it does not."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return None, None, f"torch does not start: {error}"
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return torch.get_num_threads(), name, None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _skipped(libraries: list[Library]) -> list[Skipped]:
    from pedigree.records.machine import Skipped

    return [
        Skipped(
            check=library.needed_for,
            why=f"{library.name} is not installed",
            fix=f"pip install {EXTRAS.get(library.name, library.name)}",
        )
        for library in libraries
        if library.version is None
    ]


def show(result: MachineResult, out: Output) -> None:
    """The machine as a short table."""
    from pedigree.report.numbers import bytes_text, plural

    accelerator = result.accelerator or "none (not needed)"
    threads = f", torch uses {plural(result.threads, 'thread')}" if result.threads else ", torch does not start"
    facts = [
        ("python", f"{result.python} on {result.platform}"),
        ("processor", f"{plural(result.cores, 'core')}{threads}"),
        ("memory", bytes_text(result.memory) if result.memory else "unknown"),
        ("disk", f"{bytes_text(result.free_disk)} free for temporary files" if result.free_disk else "unknown"),
        ("accelerator", accelerator),
    ]
    out.lines([(Span(f"{label:<13}", "bold"), Span(text)) for label, text in facts])
    for library in result.libraries:
        state = library.version or ("absent" if library.optional else "MISSING")
        style = "" if library.version else "bold yellow" if library.optional else "bold red"
        out.lines([(Span(f"{library.name:<17}"), Span(f"{state:<14}", style), Span(library.needed_for))])
    for skipped in result.skipped:
        out.lines([(Span("skipped here ", "bold yellow"), Span(f"{skipped.check}: {skipped.why}; {skipped.fix}"))])
    if not result.skipped:
        out.result("nothing would be skipped here")
