"""`pedigree ledger key ...`: list, admit, replace and revoke the keys of a ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.ledger_options import LedgerOption, open_store, print_json
from pedigree.cli.options import ColorOption, JsonOption, check_word
from pedigree.cli.output import Output
from pedigree.errors import UsageError

ROLE_WORDS = ("root", "log", "actor")  # repeated from pedigree.ledger.keys; a test holds them together


def list_keys(ledger: LedgerOption = None, json: JsonOption = False, color: ColorOption = None) -> int:
    """List the keys, what they are for, and for which entries they are good.

    [bold]Examples[/bold]

    pedigree ledger key list

    pedigree ledger key list --json
    """
    from pedigree.ledger.note import verifier_key
    from pedigree.ledger.verification import verify

    out = Output(json=json, color=color)
    report = verify(open_store(ledger))
    listed = [
        {"id": life.key.id, "role": life.role, "name": life.name, "since": life.since, "until": life.until,
         "last_trusted": life.last_trusted, "reason": life.reason,
         "verifier_key": verifier_key(report.origin, life.key) if life.role == "log" else None}
        for life in report.ring.lives.values()
    ]  # fmt: skip
    if out.mode == "json":
        print_json(out, "ledger key list", {}, listed)
        return DONE
    for item in listed:
        until = "" if item["until"] is None else f" to {item['until']}"
        trust = "" if item["last_trusted"] is None else f", revoked: trusted up to entry {item['last_trusted']}"
        whose = f"  {item['name']}" if item["name"] else ""
        out.result(f"{item['role']:<6} {item['id']}  entries {item['since']}{until or ' on'}{trust}{whose}")
    return DONE


def rotate(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="actor, log or root.")] = "actor",
    ledger: LedgerOption = None,
    json: JsonOption = False,
) -> int:
    """Replace the key of a role by a new one; what the old one signed stays good.

    [bold]Examples[/bold]

    pedigree ledger key rotate

    pedigree ledger key rotate log
    """
    from pedigree.ledger.key_events import rotate as rotate_key
    from pedigree.ledger.keys import Role
    from pedigree.ledger.log import Ledger, LedgerPlace

    out = Output(json=json)
    word = cast(Role, check_word(role, ROLE_WORDS, option="ROLE"))
    open_store(ledger).database.close()
    done = rotate_key(Ledger(LedgerPlace.find(ledger)), word)
    if out.mode == "json":
        print_json(out, "ledger key rotate", {"role": word}, done)
    else:
        out.result(f"{word}: {done['new']} signs from entry {int(done['entry']) + 1} on")
    return DONE


def add(
    file: Annotated[
        Path,
        typer.Argument(metavar="PEM", help="A public key; where --make puts a new one.", show_default=False),
    ],
    name: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Whose it is, as policies name it.", envvar="PEDIGREE_KEY_NAME", show_default=False
        ),
    ] = "",
    role: Annotated[str, typer.Option(metavar="ROLE", help="actor, log or root.", envvar="PEDIGREE_ROLE")] = "actor",
    make: Annotated[
        bool,
        typer.Option("--make", help="Make a new key: PEM is private, PEM.pub public.", envvar="PEDIGREE_MAKE_KEY"),
    ] = False,
    ledger: LedgerOption = None,
    json: JsonOption = False,
) -> int:
    """Admit another key: a second signer, a second machine; the root key signs that.

    [bold]Examples[/bold]

    pedigree ledger key add alice.pem.pub --name alice

    pedigree ledger key add alice.pem --make --name alice
    """
    from pedigree.cli.files import check_free
    from pedigree.ledger.key_events import add as add_key
    from pedigree.ledger.keys import PrivateKey, PublicKey, Role, write_private
    from pedigree.ledger.log import Ledger, LedgerPlace

    out = Output(json=json)
    word = cast(Role, check_word(role, ROLE_WORDS, option="--role"))
    open_store(ledger).database.close()
    if make:
        public = file.with_name(file.name + ".pub")
        for path in (file, public):
            check_free(path, force=False)
        private = PrivateKey.generate()
        write_private(file, private.to_pem())
        public.write_bytes(private.public.to_pem())
    done = add_key(Ledger(LedgerPlace.find(ledger)), PublicKey.load(file), word, name)
    if out.mode == "json":
        print_json(out, "ledger key add", {"file": str(file), "role": word}, done)
    else:
        whose = f" of {name}" if name else ""
        out.result(f"{word}: {done['key']}{whose} may sign from entry {int(done['entry']) + 1} on")
    return DONE


def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, or its first digits.", show_default=False)],
    last_trusted: Annotated[
        int,
        typer.Option(
            metavar="ENTRY", help="The last entry it is trusted for.", envvar="PEDIGREE_LAST_TRUSTED",
            show_default=False,
        ),
    ],
    reason: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Why, in a few words.", envvar="PEDIGREE_REASON", show_default=False),
    ] = "",
    ledger: LedgerOption = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Revoke a key: what it signed after an entry is SUSPECT from now on.

    [bold]Examples[/bold]

    pedigree ledger key revoke 4f264b4c --last-trusted 120 --reason "laptop lost"
    """
    from pedigree.ledger.key_events import revoke as revoke_key
    from pedigree.ledger.log import Ledger, LedgerPlace

    out = Output(json=json)
    open_store(ledger).database.close()
    done = revoke_key(Ledger(LedgerPlace.find(ledger)), key, last_trusted, reason)
    if out.mode == "json":
        print_json(out, "ledger key revoke", {"key": key, "last_trusted": last_trusted}, done)
    else:
        out.result(f"{done['key']} is trusted up to entry {last_trusted}; entry {done['entry']} says so")
        if done["new"]:
            out.result(f"{done['role']}: {done['new']} takes its place")
    return DONE


COMMANDS: tuple[tuple[str, Callable[..., int]], ...] = (
    ("list", list_keys), ("add", add), ("rotate", rotate), ("revoke", revoke),
)  # fmt: skip


def key_app(settings: dict[str, Any], epilog: str) -> typer.Typer:
    """The commands under `pedigree ledger key`."""
    group = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=settings, epilog=epilog)

    @group.callback(invoke_without_command=True)
    def key(context: typer.Context) -> None:
        """The keys of a ledger: list, add, rotate, revoke.

        [bold]Examples[/bold]

        pedigree ledger key list

        pedigree ledger key rotate
        """
        if context.invoked_subcommand is None:
            raise UsageError("a verb is missing", where="pedigree ledger key", fix="pedigree ledger key --help")

    for name, command in COMMANDS:
        group.command(name, context_settings=settings, epilog=epilog)(command)
    return group
