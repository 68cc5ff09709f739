"""`pedigree ledger approve | waive | attach`: signed entries about a model that somebody else has made."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.ledger_options import LedgerOption, open_store, print_json, short
from pedigree.cli.options import INPUT, JsonOption, check_word
from pedigree.cli.output import Output
from pedigree.errors import MalformedFile, MissingInput

if TYPE_CHECKING:
    from pedigree.ledger.directory import Found
    from pedigree.ledger.log import Ledger

MAX_RECORD = 64 << 20  # bytes
MAX_ATTACHED = 8 << 20  # bytes of a record that is kept itself; of larger ones the digest is
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A model that is registered.", show_default=False)]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key", metavar="PEM", help="Who signs: a private key that the ledger admits; by default the project's.",
        envvar="PEDIGREE_KEY", rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip


def approve(
    folder: FolderArgument,
    note: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="What was looked at.",
            envvar="PEDIGREE_NOTE",
            rich_help_panel=INPUT,
            show_default=False,
        ),
    ] = "",
    key: KeyOption = None,
    ledger: LedgerOption = None,
    json: JsonOption = False,
) -> int:
    """Sign a model as well: policies count the different keys under a release.

    [bold]Examples[/bold]

    pedigree ledger approve path/to/model --key alice.pem
    """
    found, opened = _open(folder, ledger)
    entry = _sign(opened, found, "approval", {"note": note}, key)
    return _told("approve", folder, found, {"entry": entry}, f"approved by entry {entry}", json)


def waive(
    folder: FolderArgument,
    rule: Annotated[
        str,
        typer.Option(
            metavar="RULE", help="The rule to set aside, as verify --policy names it.", envvar="PEDIGREE_RULE",
            rich_help_panel=INPUT, show_default=False,
        ),
    ],
    reason: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Why; it is shown with every verdict.", envvar="PEDIGREE_REASON",
            rich_help_panel=INPUT, show_default=False,
        ),
    ],
    key: KeyOption = None,
    ledger: LedgerOption = None,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Set a rule of the policy aside for one model, in sight of everybody; the policy says who may.

    [bold]Examples[/bold]

    pedigree ledger waive path/to/model --rule evaluations --reason "no test set in this language" --key alice.pem
    """
    from pedigree.records.policy import RULES

    word = check_word(rule, RULES, option="--rule")
    found, opened = _open(folder, ledger)
    entry = _sign(opened, found, "waiver", {"rule": word, "reason": reason}, key)
    return _told("waive", folder, found, {"entry": entry, "rule": word}, f"{word} is set aside by entry {entry}", json)


def attach(
    folder: FolderArgument,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A record in JSON, such as of eval or clear.", show_default=False),
    ],
    key: KeyOption = None,
    ledger: LedgerOption = None,
    json: JsonOption = False,
) -> int:
    """Sign a record about a model into the ledger: an evaluation, a clearance, a comparison.

    [bold]Examples[/bold]

    pedigree eval path/to/model --texts english.txt --json > eval.json

    pedigree ledger attach path/to/model eval.json
    """
    from hashlib import sha256

    record, data = _record(file)
    found, opened = _open(folder, ledger)
    if found.digest.encode() not in data:
        raise MalformedFile(
            "the record is about another model", where=str(file), got="another artifact id, or none",
            expected=found.artifact.id,
        )  # fmt: skip
    schema = str(record["schema"])
    facts: dict[str, Any] = {
        "name": schema.removeprefix("pedigree/"), "schema": schema, "sha256": sha256(data).hexdigest(),
        "numbers": _numbers(record), "verdict": _verdict(record),
    }  # fmt: skip
    attached = (data,) if len(data) <= MAX_ATTACHED else ()
    entry = _sign(opened, found, "attach", facts, key, attached)
    return _told("attach", folder, found, {"entry": entry, **facts}, f"{schema} is entry {entry}", json)


def _record(file: Path) -> tuple[dict[str, Any], bytes]:
    """A record in a file.

    Raises:
        MissingInput: there is no such file.
        MalformedFile: it holds no record.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_RECORD + 1)
    except OSError as error:
        raise MissingInput("the record cannot be read", where=str(file), got=error.strerror) from error
    try:
        value = json_text.loads(data) if len(data) <= MAX_RECORD else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not str(value.get("schema", "")).startswith("pedigree/"):
        raise MalformedFile("this is no record", where=str(file), expected="JSON with a schema pedigree/...")
    return value, data


def _numbers(record: dict[str, Any]) -> dict[str, str]:
    """The numbers of an evaluation by what they are of: domains in bits per byte, sums, tasks."""
    if record["schema"] != "pedigree/evaluation":
        return {}
    from pydantic import ValidationError

    from pedigree.records.evaluation import Evaluation

    try:
        result = Evaluation.model_validate(record).result
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise MalformedFile("this is no record of an evaluation", where=where, got=error.errors()[0]["msg"]) from error
    found = {score.domain: f"{score.bits_per_byte:.6g}" for score in result.scores}
    if "all" in result.arithmetic:
        found["arithmetic"] = f"{result.arithmetic['all']:.6g}"
    for task, metrics in result.tasks.items():
        for name, value in metrics.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(task, f"{value:.6g}")
                found[f"{task}/{name}"] = f"{value:.6g}"
    return found


def _verdict(record: dict[str, Any]) -> str:
    result = record.get("result")
    return str(result.get("verdict") or "") if isinstance(result, dict) else ""


def _open(folder: Path, place: str | None) -> tuple[Found, Ledger]:
    """A registered model and its ledger.

    Raises:
        MissingInput: there is no such model, or the ledger does not know its files.
    """
    from pedigree.ledger.directory import look_at
    from pedigree.ledger.log import Ledger, LedgerPlace
    from pedigree.ledger.registration import entry_of

    if not folder.exists():
        raise MissingInput("no such file or directory", where=str(folder))
    open_store(place).database.close()
    found, opened = look_at(folder), Ledger(LedgerPlace.find(place))
    if entry_of(opened, found.digest) is None:
        raise MissingInput(
            "the ledger does not know these files", where=str(folder), fix=f"pedigree ledger verify {folder}"
        )
    return found, opened


def _sign(
    opened: Ledger, found: Found, kind: str, facts: dict[str, Any], key: Path | None, attached: tuple[bytes, ...] = ()
) -> int:
    """Append one signed entry about a model; its number.

    Raises:
        UsageError: the key is not admitted.
    """
    from pedigree.errors import UsageError
    from pedigree.ledger.keys import PrivateKey
    from pedigree.ledger.proof import make_proof
    from pedigree.ledger.sidecar import write_sidecar
    from pedigree.ledger.statement import MANIFEST, Draft, Subject
    from pedigree.ledger.verification import verify

    signer = PrivateKey.load(key) if key is not None else opened.key("actor")
    life = verify(opened.store).ring.life(signer.public.id)
    if life is None or life.role != "actor" or not life.good_at(opened.store.head().size):
        raise UsageError(
            "the ledger does not admit this key", where=str(key or "actor"), got=signer.public.id,
            fix="pedigree ledger key add PEM --name NAME",
        )  # fmt: skip
    draft = Draft(kind, facts, subjects=(Subject(MANIFEST, found.digest),), attachments=attached)
    index = opened.append(draft, [signer]).index
    if found.proof is not None:
        # The proof that the model carries is to show the new entry as well.
        write_sidecar(found.folder, {"proof": make_proof(opened.store, found.digest)})
    return index


def _told(verb: str, folder: Path, found: Found, result: dict[str, Any], told: str, json: bool) -> int:
    out = Output(json=json)
    if out.mode == "json":
        print_json(out, f"ledger {verb}", {"directory": str(folder)}, {"artifact": found.artifact.id, **result})
    else:
        out.result(f"{folder.name} {short(found.artifact.id)}: {told}")
    return DONE
