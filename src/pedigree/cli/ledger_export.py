"""`pedigree ledger export`: what is recorded, in the forms that others read."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.files import check_free, write_file
from pedigree.cli.ledger_options import LedgerOption, open_store, print_json, short
from pedigree.cli.options import INPUT, OUTPUT, ForceOption, JsonOption, check_word
from pedigree.cli.output import Output
from pedigree.cli.version import producer
from pedigree.errors import MissingInput, UsageError

if TYPE_CHECKING:
    from pedigree.ledger.directory import Found
    from pedigree.ledger.passport import Passport
    from pedigree.ledger.store import Store

FORMATS = ("statements", "oms", "cyclonedx-1.6", "cyclonedx-1.7", "card")


def export(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="A model; without it, statements of all entries.", show_default=False),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORMAT", help=f"One of {', '.join(FORMATS)}.", envvar="PEDIGREE_FORMAT",
            rich_help_panel=OUTPUT,
        ),
    ] = "statements",
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", "--output", "-o", metavar="FILE", help="Where to put it; by default it is printed.",
            envvar="PEDIGREE_OUT", rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="PEM", help="For oms: sign with this key (P-256, P-384, P-521), not the project's.",
            envvar="PEDIGREE_RELEASE_KEY", rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    release: Annotated[
        Path | None,
        typer.Option(
            "--release", metavar="DIR", help="Put the proof into pedigree.json of this model, and record the release.",
            envvar="PEDIGREE_RELEASE", rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy", metavar="FILE", help="For --release: refuse what these rules do not allow.",
            envvar="PEDIGREE_POLICY", rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    ledger: LedgerOption = None,
    json: JsonOption = False,
    force: ForceOption = False,
) -> int:  # fmt: skip
    """Give the record away: proof, statements, OpenSSF signature, CycloneDX bill of materials, model card.

    [bold]Examples[/bold]

    pedigree ledger export --release path/to/model

    pedigree ledger export path/to/model --format oms --out model.sig

    pedigree ledger export path/to/model --format card --out path/to/model/README.md

    pedigree ledger export > statements.jsonl
    """
    out = Output(json=json)
    if release is not None:
        from pedigree.cli.ledger_release import release_model

        return release_model(release, ledger, policy, out)
    word = check_word(form, FORMATS, option="--format")
    if word == "statements":
        return _statements(folder, ledger, to, force, out)
    if folder is None:
        raise UsageError("this export is about one model", where="--format", got=word, expected="a directory as well")
    if not folder.is_dir():
        raise MissingInput("there is no such directory", where=str(folder))
    if word == "card":
        return _card(folder, ledger, to, out)
    if to is None and word == "oms":
        raise UsageError("a signature is a file of its own", where="--out", fix=f"--out {folder.name}.sig")
    found, passport = _known(folder, ledger)
    if word == "oms":
        return _sign(found, passport, ledger, Path(str(to)), key, force, out)
    from pedigree.ledger.bill_of_materials import bill_of_materials

    bill = bill_of_materials(passport, word.removeprefix("cyclonedx-"), producer().version)
    return _give(json_text.dumps(bill, indent=2, ensure_ascii=False) + "\n", to, force, out)


def _statements(folder: Path | None, place: str | None, to: Path | None, force: bool, out: Output) -> int:
    """All signed statements as lines of DSSE envelopes, or those behind one model."""
    from pedigree.ledger.leaf import Leaf

    store = open_store(place)
    wanted = _behind(folder, store) if folder is not None else None
    lines = []
    for row in store.rows():
        leaf = Leaf.from_bytes(row.leaf, f"entry {row.index}") if wanted is None or row.index in wanted else None
        body = store.bodies([leaf.body]).get(leaf.body) if leaf is not None and leaf.key else None
        if body is not None:
            lines.append(body.decode() + "\n")
    return _give("".join(lines), to, force, out)


def _behind(folder: Path, store: Store) -> set[int]:
    """The entries in the life of a model."""
    from pedigree.ledger.directory import look_at
    from pedigree.ledger.lineage import Lineage

    if not folder.exists():
        raise MissingInput("no such file or directory", where=str(folder))
    found, graph = look_at(folder), Lineage.read(store)
    if graph.maker(found.digest) is None:
        raise _unregistered(folder)
    return set(graph.closure(found.digest))


def _known(folder: Path, place: str | None) -> tuple[Found, Passport]:
    """A model whose files are as they were registered, and what is recorded of it.

    Raises:
        MissingInput: the ledger does not know these files.
    """
    from pedigree.ledger.card import card_license
    from pedigree.ledger.directory import look_at
    from pedigree.ledger.passport import passport_of
    from pedigree.ledger.people import people
    from pedigree.ledger.verification import verify

    found, store = look_at(folder), open_store(place)
    report = verify(store)
    names = {person.id: person.name for person in people(store.database)}
    passport = passport_of(
        report, found.digest, files=found.artifact.manifest.files, config=_config(folder),
        license_=card_license(folder), names=names,
    )  # fmt: skip
    store.database.close()
    if passport.entry is None:
        raise _unregistered(folder)
    return found, passport


def _config(folder: Path) -> dict[str, Any]:
    """config.json, where it can be read."""
    try:
        data = (folder / "config.json").read_bytes()
        value = json_text.loads(data) if len(data) < 1 << 22 else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _unregistered(folder: Path) -> MissingInput:
    return MissingInput(
        "the ledger does not know these files", where=str(folder),
        fix=f"pedigree ledger verify {folder} says what changed; what came from elsewhere: pedigree import {folder}",
    )  # fmt: skip


def _sign(
    found: Found, passport: Passport, place: str | None, to: Path, key: Path | None, force: bool, out: Output
) -> int:  # fmt: skip
    """Sign the files, and record with which key that was done."""
    from hashlib import sha256

    from pedigree.ledger.elliptic_keys import ReleaseKey
    from pedigree.ledger.log import Ledger, LedgerPlace
    from pedigree.ledger.model_signature import sign_files
    from pedigree.ledger.statement import MANIFEST, Draft, Subject
    from pedigree.records.artifact import SIDECAR

    if _inside(to, found.folder):
        raise UsageError(
            "a signature inside the model would change what it is over", where=str(to),
            fix=f"--out {found.folder.resolve().parent / found.folder.resolve().name}.sig",
        )  # fmt: skip
    public = to.with_name(to.name + ".pub")
    for path in (to, public):
        check_free(path, force=force)
    opened = Ledger(LedgerPlace.find(place))
    private = ReleaseKey.load(key) if key is not None else ReleaseKey.of_project(opened.place.keys)
    name = passport.name or found.folder.resolve().name
    data = sign_files(name, found.artifact.manifest.files, private, (SIDECAR,))
    facts = {
        "name": name, "format": "oms", "key": private.public.to_dict(), "sha256": sha256(data).hexdigest(),
    }  # fmt: skip
    receipt = opened.append(Draft("export", facts, subjects=(Subject(MANIFEST, found.digest),)))
    write_file(to, data, force=force)
    write_file(public, private.public.pem, force=force)
    if out.mode == "json":
        result = {"signature": str(to), "public_key": str(public), "key": private.public.id, "entry": receipt.index,
                  "files": len(found.artifact.manifest.files)}  # fmt: skip
        print_json(out, "ledger export", {"directory": str(found.folder), "format": "oms"}, result)
        return DONE
    out.result(f"{to}: {len(found.artifact.manifest.files)} files signed, entry {receipt.index} names the key")
    out.note(f"here: pedigree ledger signature {found.folder} --signature {to} --public-key {public}")
    out.note(f"elsewhere: model_signing verify key {found.folder} --signature {to} --public_key {public}")
    return DONE


def _card(folder: Path, place: str | None, to: Path | None, out: Output) -> int:
    """Write the card; where it lies in the model itself, the model as it is afterwards is entered."""
    from pedigree.ledger.card import FILE, MAX_CARD, write_card
    from pedigree.ledger.log import Ledger, LedgerPlace
    from pedigree.ledger.recorder import sidecar_fields
    from pedigree.ledger.registration import register_documented
    from pedigree.ledger.sidecar import write_sidecar
    from pedigree.weights.artifact import read_artifact

    found, passport = _known(folder, place)
    present = to if to is not None and to.is_file() else folder / FILE
    before = ""
    if present.is_file():
        with present.open("rb") as stream:
            before = stream.read(4 * MAX_CARD).decode("utf-8", "replace")
    text, differing = write_card(before, passport)
    for key in differing:
        out.warn(f"the card says another {key} than the ledger; what was written stays")
    if to is None:
        out.result(text.rstrip("\n"))
        return DONE
    write_file(to, text, force=True)  # what somebody wrote into it is in it
    told = f"{to}: written from {passport.life.entries} entries"
    if _inside(to, folder) and (after := read_artifact(folder)).id != found.artifact.id:
        opened = Ledger(LedgerPlace.find(place))
        what = to.resolve().relative_to(folder.resolve()).as_posix()
        receipt = register_documented(opened, found.digest, passport.name, after, what)
        write_sidecar(folder, {**sidecar_fields(opened.origin, after.id, receipt), "proof": None})
        told += f"; the model with it is {short(after.id)}, entry {receipt.index}"
    out.result(told)
    return DONE


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _give(text: str, to: Path | None, force: bool, out: Output) -> int:
    """Print a text, or write it."""
    if to is None:
        if text:
            out.result(text.rstrip("\n"))
        return DONE
    out.result(write_file(to, text, force=force))
    return DONE
