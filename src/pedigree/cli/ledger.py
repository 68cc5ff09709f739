"""`pedigree ledger ...`: read, check and export what is recorded of the weights of a project."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.ledger_export import export
from pedigree.cli.ledger_keys import key_app
from pedigree.cli.ledger_options import LedgerOption, open_store, print_json, short
from pedigree.cli.ledger_people import erase
from pedigree.cli.ledger_replay import replay
from pedigree.cli.ledger_sign import approve, attach, waive
from pedigree.cli.ledger_signature import signature
from pedigree.cli.ledger_verify import edge_line, verify
from pedigree.cli.options import OUTPUT, ColorOption, JsonOption, QuietOption
from pedigree.cli.output import Line, Output, Span
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from pedigree.ledger.entry import Entry
    from pedigree.ledger.store import Store

ANCHORS = "pedigree-checkpoints.txt"
SHORT = ("name", "operation", "origin", "outcome", "action", "format", "rule", "reason", "note")
ArtifactArgument = Annotated[
    str, typer.Argument(metavar="ID", help="An artifact id or its first digits, or a directory.", show_default=False)
]


def log(
    number: Annotated[
        int,
        typer.Option(
            "--number",
            "-n",
            metavar="N",
            help="How many entries; 0 for all.",
            envvar="PEDIGREE_NUMBER",
            rich_help_panel=OUTPUT,
        ),
    ] = 20,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Signs of life of runs as well.", envvar="PEDIGREE_ALL", rich_help_panel=OUTPUT),
    ] = False,
    ledger: LedgerOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
) -> int:
    """List the newest entries, oldest of them first.

    [bold]Examples[/bold]

    pedigree ledger log

    pedigree ledger log -n 0 --json
    """
    from pedigree.ledger.leaf import Leaf

    out = Output(json=json, quiet=quiet, color=color)
    store = open_store(ledger)
    rows = [(row.index, Leaf.from_bytes(row.leaf, f"entry {row.index}")) for row in store.rows()
            if everything or b'"kind":"run.beat"' not in row.leaf]  # fmt: skip
    rows = rows[-number:] if number > 0 else rows
    said = {index: _facts(store, index, leaf) for index, leaf in rows}
    if out.mode == "json":
        listed = [
            {"index": index, "kind": leaf.kind, "time": leaf.time, "run": leaf.run, "key": leaf.key,
             "subjects": list(leaf.subjects), "parents": list(leaf.parents), "facts": said[index]}
            for index, leaf in rows
        ]  # fmt: skip
        print_json(out, "ledger log", {"ledger": store.database.safe_place}, listed)
        return DONE
    for index, leaf in rows:
        about = short(leaf.subjects[0]) if leaf.subjects and leaf.kind != "ckpt.save" else ""
        run = f"run {leaf.run[-8:]}" if leaf.run else ""
        text = "  ".join(part for part in (_in_short(leaf.kind, said[index]), about, run) if part)
        out.lines([(Span(f"{index:>6}  {leaf.time[:19]}  ", "dim"), Span(f"{leaf.kind:<16}", "bold"), Span(text))])
    return DONE


def _facts(store: Store, index: int, leaf: Any) -> dict[str, Any]:
    """What an entry says, unchecked: verification is another command."""
    from pedigree.errors import PedigreeError
    from pedigree.ledger.entry import read_statement, read_told
    from pedigree.ledger.envelope import Envelope
    from pedigree.ledger.statement import Said

    body = store.bodies([leaf.body]).get(leaf.body)
    try:
        if body is None:
            return {}
        if leaf.key is None:
            return dict(read_told(body, f"entry {index}"))
        where = f"entry {index}"
        said = Said.of(read_statement(Envelope.from_bytes(body, where), where), where)
    except PedigreeError:
        return {}
    return {**said.facts, "operation": said.operation} if said.operation else said.facts


def _in_short(kind: str, facts: dict[str, Any]) -> str:
    """The few facts of an entry that fit into its line."""
    if kind == "genesis":
        return str(facts.get("origin", ""))
    told = [str(facts[name]) for name in SHORT if facts.get(name)]
    if facts.get("step") not in (None, "") and kind in ("run.beat", "ckpt.save", "run.end", "run.decision"):
        told.append(f"step {facts['step']}")
    return "  ".join(told)[:60]


def show(
    artifact: ArtifactArgument,
    ledger: LedgerOption = None,
    json: JsonOption = False,
    color: ColorOption = None,
) -> int:
    """Everything the ledger holds about one artifact or one entry.

    [bold]Examples[/bold]

    pedigree ledger show 1d71fd97

    pedigree ledger show 8 --json
    """
    from pedigree.ledger.lineage import Lineage
    from pedigree.ledger.proof import ABOUT
    from pedigree.ledger.verification import verify as verify_store

    out = Output(json=json, color=color)
    store = open_store(ledger)
    report = verify_store(store)
    graph = Lineage.of_entries(report.entries)
    if artifact.isdecimal() and len(artifact) < 8:
        entries = [entry for entry in report.entries if entry.index == int(artifact)]
        if not entries:
            store.row(int(artifact))  # says that there is none
        digest = None
    else:
        digest = resolve(graph, artifact)
        makers = graph.makers[digest]
        entries = [
            entry for entry in report.entries
            if entry.index in makers or (entry.leaf.kind in ABOUT and digest in entry.leaf.subjects)
        ]  # fmt: skip
    edges = [edge for edge in report.edges if edge.entry in {entry.index for entry in entries}]
    problems = [item for item in report.problems if item.entry in {entry.index for entry in entries}]
    children = graph.descendants(digest) if digest else []
    result = {
        "artifact": digest, "entries": [_entry_dict(entry) for entry in entries],
        "edges": [edge.to_dict() for edge in edges], "problems": [item.to_dict() for item in problems],
        "descendants": children,
    }  # fmt: skip
    if out.mode == "json":
        print_json(out, "ledger show", {"id": artifact}, result)
        return DONE
    for entry in entries:
        out.lines([(Span(f"entry {entry.index}", "bold"), Span(f"  {entry.leaf.kind}  {entry.leaf.time}"))])
        for subject in entry.said.subjects if entry.said else ():
            out.result(f"  about    {subject.digest}  {subject.name}")
        for parent in entry.said.parents if entry.said else ():
            out.result(f"  from     {parent.digest}  {parent.role} {parent.name}")
        for name, value in entry.facts.items():
            text = value if isinstance(value, str) else json_text.dumps(value, ensure_ascii=False)
            out.result(f"  {name:<8} {text[:160]}{' ...' if len(text) > 160 else ''}")
    out.lines([edge_line(edge) for edge in edges])
    for child in children:
        out.result(f"  made into {short(child)}")
    return DONE


def _entry_dict(entry: Entry) -> dict[str, Any]:
    said = entry.said
    return {
        "index": entry.index, "kind": entry.leaf.kind, "time": entry.leaf.time, "run": entry.leaf.run,
        "key": entry.leaf.key, "operation": said.operation if said else None, "facts": dict(entry.facts),
        "subjects": [{"name": item.name, "sha256": item.digest} for item in said.subjects] if said else [],
        "parents": [{"name": item.name, "role": item.role, "sha256": item.digest} for item in said.parents]
        if said else [],
    }  # fmt: skip


def resolve(graph: Any, word: str) -> str:
    """The digest of an artifact that is named by digits or by a directory with a sidecar.

    Raises:
        UsageError, MissingInput: nothing or several things are meant.
    """
    folder = Path(word)
    if folder.is_dir():
        from pedigree.ledger.directory import look_at

        found = look_at(folder)
        return str(
            graph.resolve(found.digest if graph.maker(found.digest) is not None else found.claimed or found.digest)
        )
    return str(graph.resolve(word))


def graph(
    ledger: LedgerOption = None,
    json: JsonOption = False,
    color: ColorOption = None,
) -> int:
    """Every artifact and what it was made from, with the verdict on each edge.

    [bold]Examples[/bold]

    pedigree ledger graph

    pedigree ledger graph --json
    """
    from pedigree.ledger.verification import verify as verify_store

    out = Output(json=json, color=color)
    store = open_store(ledger)
    report = verify_store(store)
    if out.mode == "json":
        nodes = {edge.child: edge.child_name for edge in report.edges}
        result = {
            "nodes": [{"id": "sha256:" + digest, "name": name} for digest, name in nodes.items()],
            "edges": [edge.to_dict() for edge in report.edges],
        }  # fmt: skip
        print_json(out, "ledger graph", {"ledger": store.database.safe_place}, result)
        return DONE
    out.lines([edge_line(edge) for edge in report.edges])
    return DONE


def checkpoint(ledger: LedgerOption = None, json: JsonOption = False) -> int:
    """Print the signed checkpoint: a few lines to publish or to keep anywhere else.

    [bold]Examples[/bold]

    pedigree ledger checkpoint

    pedigree ledger checkpoint > kept-elsewhere.txt
    """
    out = Output(json=json)
    head, _ = open_store(ledger).sound_head()
    if out.mode == "json":
        print_json(out, "ledger checkpoint", {}, {"size": head.size, "root": head.root.hex(), "note": head.note})
    else:
        out.result(head.note.rstrip("\n"))
    return DONE


def anchor(
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE", help=f"Where to put it; by default {ANCHORS} in the project, to be committed.",
            envvar="PEDIGREE_TO", rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
    ledger: LedgerOption = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Add the newest checkpoint to a file that leaves this machine, and record that it was done.

    [bold]Examples[/bold]

    pedigree ledger anchor

    pedigree ledger anchor --to shared-drive/checkpoints.txt
    """
    from pedigree.ledger.log import Ledger, LedgerPlace
    from pedigree.ledger.statement import Draft

    out = Output(json=json)
    open_store(ledger).database.close()  # an anchor makes no new ledger
    place = LedgerPlace.find(ledger)
    opened = Ledger(place)
    head, _ = opened.store.sound_head()
    target = to or place.keys.parent.parent / ANCHORS
    with target.open("a", encoding="utf-8") as stream:
        stream.write(head.note + "\n")
        stream.flush()
    receipt = opened.append(Draft("anchor", {"size": head.size, "root": head.root.hex(), "kind": "file"}))
    result = {"file": str(target), "size": head.size, "root": head.root.hex(), "entry": receipt.index}
    if out.mode == "json":
        print_json(out, "ledger anchor", {}, result)
    else:
        out.result(f"{target}: checkpoint over {head.size:,} entries; keep a copy where nobody can change both")
    return DONE


def credits_(
    artifact: ArtifactArgument, ledger: LedgerOption = None, json: JsonOption = False, color: ColorOption = None
) -> int:
    """Everybody who had a part in an artifact, from all entries behind it.

    [bold]Examples[/bold]

    pedigree ledger credits path/to/model

    pedigree ledger credits 1d71fd97 --json
    """
    from pedigree.ledger.credits import behind, credit_root, credits_of
    from pedigree.ledger.lineage import Lineage
    from pedigree.ledger.people import people
    from pedigree.ledger.verification import verify as verify_store

    out = Output(json=json, color=color)
    store = open_store(ledger)
    report = verify_store(store)
    lineage = Lineage.of_entries(report.entries)
    digest = resolve(lineage, artifact)
    found = credits_of(behind(report.entries, lineage, digest))
    names = {person.id: person for person in people(store.database)}
    listed: list[dict[str, Any]] = [
        {"id": item.person, "name": names[item.person].name if item.person in names else None,
         "roles": list(item.roles), "entries": item.entries}
        for item in found
    ]  # fmt: skip
    if out.mode == "json":
        result = {"artifact": "sha256:" + digest, "credit_root": credit_root(found), "credits": listed}
        print_json(out, "ledger credits", {"id": artifact}, result)
        return DONE
    for item in listed:
        line: Line = (Span(item["name"] or "name erased", "bold"),
                      Span(f"  {', '.join(item['roles'])}, {item['entries']} entries  {item['id']}"))  # fmt: skip
        out.lines([line])
    return DONE


COMMANDS: tuple[tuple[str, Callable[..., int]], ...] = (
    ("log", log), ("verify", verify), ("show", show), ("graph", graph), ("checkpoint", checkpoint),
    ("anchor", anchor), ("credits", credits_), ("export", export), ("signature", signature),
    ("replay", replay), ("approve", approve), ("waive", waive), ("attach", attach), ("erase", erase),
)  # fmt: skip


def ledger_app(settings: dict[str, Any], epilog: str) -> typer.Typer:
    """The commands under `pedigree ledger`."""
    group = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=settings, epilog=epilog)

    @group.callback(invoke_without_command=True)
    def ledger(context: typer.Context) -> None:
        """Read, check and export what is recorded of weights: signed, in one tree, judged edge by edge.

        [bold]Examples[/bold]

        pedigree ledger log

        pedigree ledger verify
        """
        if context.invoked_subcommand is None:
            raise UsageError("a verb is missing", where="pedigree ledger", fix="pedigree ledger --help")

    for name, command in COMMANDS:
        wants_words = name in ("show", "credits", "signature", "approve", "waive", "attach", "erase")
        group.command(name, context_settings=settings, epilog=epilog, no_args_is_help=wants_words)(command)
    group.add_typer(key_app(settings, epilog), name="key", epilog=epilog)
    return group
