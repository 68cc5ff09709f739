"""The command line. Commands import what they need when they run, so that help starts at once.

A command returns its exit code; errors become words and codes in `pedigree.cli.errors`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from pedigree.cli.audit import audit
from pedigree.cli.bench import bench_app
from pedigree.cli.chat import chat
from pedigree.cli.clear import clear
from pedigree.cli.compare import compare
from pedigree.cli.demo import demo
from pedigree.cli.doctor import doctor
from pedigree.cli.errors import COULD_NOT_RUN, guarded
from pedigree.cli.eval import eval as evaluate
from pedigree.cli.explain import explain
from pedigree.cli.fingerprint import fingerprint
from pedigree.cli.ledger import ledger_app
from pedigree.cli.library import library_app
from pedigree.cli.options import EXIT_CODES
from pedigree.cli.origin import import_model
from pedigree.cli.plan import plan
from pedigree.cli.run import run
from pedigree.cli.scan import scan
from pedigree.cli.schema import schema
from pedigree.cli.serve import serve
from pedigree.cli.surgery import surgery_app
from pedigree.cli.tokenizer import tokenizer_app
from pedigree.cli.train import train
from pedigree.cli.tree import tree
from pedigree.cli.unmerge import unmerge
from pedigree.cli.why import why

_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    # Underscores are accepted where hyphens are documented.
    "token_normalize_func": lambda name: name.replace("_", "-"),
}

app = typer.Typer(
    name="pedigree",
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
    epilog=EXIT_CODES,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from pedigree.cli.version import version_line

        typer.echo(version_line())
        raise typer.Exit


@app.callback()
def _pedigree(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and what it runs on.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Make families of language models, and prove ancestry from weights alone, with a stated error rate.

    [bold]Examples[/bold]

    pedigree demo

    pedigree compare path/to/A path/to/B
    """


_COMMANDS: tuple[Callable[..., int], ...] = (
    audit, chat, clear, compare, demo, doctor, evaluate, explain, fingerprint, import_model, plan, run, scan, schema,
    serve, train, tree, unmerge, why,
)  # fmt: skip
_WITHOUT_ARGUMENTS = (demo, doctor, explain, schema)
for _command in _COMMANDS:
    _name = "import" if _command is import_model else _command.__name__  # `import` is no name of a function
    _bare = _command not in _WITHOUT_ARGUMENTS
    app.command(_name, context_settings=_SETTINGS, epilog=EXIT_CODES, no_args_is_help=_bare)(_command)
app.add_typer(bench_app(_SETTINGS, EXIT_CODES), name="bench", epilog=EXIT_CODES)
app.add_typer(ledger_app(_SETTINGS, EXIT_CODES), name="ledger", epilog=EXIT_CODES)
app.add_typer(surgery_app(_SETTINGS, EXIT_CODES), name="surgery", epilog=EXIT_CODES)
app.add_typer(tokenizer_app(_SETTINGS, EXIT_CODES), name="tokenizer", epilog=EXIT_CODES)
app.add_typer(library_app(_SETTINGS, EXIT_CODES), name="library", epilog=EXIT_CODES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code.

    Args:
        arguments: words after the program's name; those of the process when absent.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(app)
    _word_help(command)
    if not given:
        guarded(lambda: command(args=["--help"], prog_name="pedigree", standalone_mode=False), given)
        return COULD_NOT_RUN
    return guarded(lambda: command(args=given, prog_name="pedigree", standalone_mode=False), given)


_COMPLETION = {
    "install_completion": "Let Tab complete commands, options and their words from now on.",
    "show_completion": "Print what that would install.",
}


def _word_help(command: Any) -> None:
    """Our words in help where the library has its own.

    A flag stands alone; the parser would write `<bool>` beside it, as if it took a word.
    """
    context = command.context_class(command, **command.context_settings)
    for parameter in command.get_params(context):
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
        if parameter.name in _COMPLETION:
            parameter.help = _COMPLETION[parameter.name]
    for verb in getattr(command, "commands", {}).values():
        _word_help(verb)
