"""`pedigree ledger`, `why` and `import`, as they are typed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest
from jsonschema import Draft202012Validator
from tests.cli.conftest import Ran

from pedigree.cli.ledger_keys import ROLE_WORDS
from pedigree.cli.ledger_options import STYLES, VERDICT_WORDS
from pedigree.ledger.database import Database
from pedigree.ledger.keys import ROLES
from pedigree.ledger.people import enter
from pedigree.ledger.verdict import WORST_LAST
from pedigree.records.audit import EdgeVerdict
from pedigree.records.comparison import Record
from pedigree.records.schemas import SCHEMAS, json_schema

Pedigree = Callable[..., Ran]


@pytest.fixture
def models(tmp_path: Path, pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base that came from elsewhere, a tokenizer that was trained, and a tokenizer nobody recorded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_text("weights")
    (tmp_path / "base" / "README.md").write_text("---\nbase_model: [a/b, c/d]\nbase_model_relation: merge\n---\n# hi\n")
    (tmp_path / "t.txt").write_text("some text to learn from\n" * 30)
    assert pedigree("import", "base", "--from", "hf://owner/base@1", "--quiet").code == 0
    assert pedigree("tokenizer", "train", "t.txt", "--size", "280", "--out", "tok", "--quiet").code == 0
    ran = pedigree("tokenizer", "train", "t.txt", "--size", "265", "--out", "silent", "--no-ledger", "--quiet")
    assert ran.code == 0, ran.err
    return tmp_path


def test_words_are_those_of_the_ledger() -> None:
    assert {word.upper() for word in VERDICT_WORDS} == set(WORST_LAST) == set(STYLES)
    assert set(ROLE_WORDS) == set(ROLES)
    assert get_args(EdgeVerdict) == WORST_LAST


def test_what_is_made_is_in_the_log_without_an_argument(pedigree: Pedigree, models: Path) -> None:
    record = json.loads(pedigree("ledger", "log", "--json").out)
    assert (record["schema"], record["command"]) == ("pedigree/ledger-log", "ledger log")
    assert [entry["kind"] for entry in record["result"]] == ["genesis", "artifact.import", "derive"]
    assert record["result"][2]["facts"]["operation"] == "tokenizer"
    assert "derive" in pedigree("ledger", "log", "-n", "1").out
    assert json.loads((models / "silent" / "pedigree.json").read_text())["record"] == "unrecorded"


def test_verify_says_what_it_checked(pedigree: Pedigree, models: Path) -> None:
    ran = pedigree("ledger", "verify")
    assert ran.code == 0, ran.err
    first, *rest = ran.out.splitlines()
    assert first.startswith("UNKNOWN")
    assert any("DECLARED" in line and "tok " in line for line in rest)
    assert any("unverified origin" in line for line in rest)
    assert [line[:11] for line in rest[-2:]] == ["not checked", " " * 11]
    assert pedigree("ledger", "verify", "--fail-on", "unknown", "--quiet").code == 1
    record = json.loads(pedigree("ledger", "verify", "--json").out)["result"]
    assert (record["tier"], record["verdicts"]) == ("T0", {"UNKNOWN": 1, "DECLARED": 1})
    assert pedigree("ledger", "verify", "--fail-on", "unknow").code == 2


def test_a_checkpoint_kept_elsewhere_makes_the_difference(pedigree: Pedigree, models: Path) -> None:
    kept = models / "kept.txt"
    kept.write_text(pedigree("ledger", "checkpoint").out)
    assert (
        json.loads(pedigree("ledger", "verify", "tok", "--checkpoint", str(kept), "--json").out)["result"]["tier"]
        == "T1"
    )
    assert pedigree("ledger", "verify", "tok", "--checkpoint", str(kept), "--quiet").out == "VERIFIED\n"
    shutil.rmtree(models / "project" / ".pedigree")
    pedigree("import", "base", "--quiet")
    ran = pedigree("ledger", "verify", "--checkpoint", str(kept))
    assert "a checkpoint of another ledger" in ran.out
    assert (ran.code, ran.out.split()[0]) == (1, "SUSPECT")
    assert "none is of this ledger" in ran.out
    both = models / "both.txt"
    both.write_text(kept.read_text() + "\n" + pedigree("ledger", "checkpoint").out)
    assert pedigree("ledger", "verify", "--checkpoint", str(both), "--quiet").code == 0
    ran = pedigree("ledger", "verify", "--checkpoint", "t.txt")
    assert (ran.code, "no signed checkpoint" in ran.err) == (2, True)


def test_this_machine_remembers(pedigree: Pedigree, models: Path) -> None:
    database = models / "project" / ".pedigree" / "ledger.db"
    before = models / "before.db"
    # With its write-ahead file, which stays as long as anything in this process has the database open.
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(before)) as kept:
        source.backup(kept)
    pedigree("tokenizer", "train", "t.txt", "--size", "270", "--out", "tok2", "--quiet")
    assert pedigree("ledger", "verify", "--fail-on", "stale", "--quiet").code == 0
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    shutil.copy(before, database)
    ran = pedigree("ledger", "verify")
    assert (ran.code, ran.out.split()[0]) == (1, "CONTRADICTED")
    assert "a checkpoint over 4 entries is held outside, 3 are stored" in ran.out
    assert pedigree("ledger", "verify", "--no-memory", "--quiet").code == 0


def test_files_are_held_against_their_record(pedigree: Pedigree, models: Path) -> None:
    assert pedigree("ledger", "verify", "tok").code == 0
    path = models / "tok" / "tokenizer_config.json"
    path.write_text(path.read_text() + " ")
    ran = pedigree("ledger", "verify", "tok")
    assert ran.code == 1
    assert "tokenizer_config.json was changed" in ran.out
    ran = pedigree("why", "tok")
    assert (ran.code, ran.out.split()[0]) == (1, "CONTRADICTED")
    ran = pedigree("why", "silent")
    assert ran.code == 3
    assert "recording switched off" in ran.out


def test_why_tells_a_life_in_ten_lines(pedigree: Pedigree, models: Path) -> None:
    ran = pedigree("why", "tok")
    assert ran.code == 0, ran.err
    assert len(ran.out.splitlines()) <= 10
    assert "t.txt" in ran.out
    record = json.loads(pedigree("why", "base", "--json").out)["result"]
    assert (record["verdict"], record["gaps"]) == ("UNKNOWN", ["base: came from elsewhere: unverified origin"])


def test_import_keeps_what_a_card_claims(pedigree: Pedigree, models: Path) -> None:
    ran = pedigree("import", "base", "--note", "again", "--json")
    result = json.loads(ran.out)["result"]
    assert result["claims"] == [{"name": "a/b", "relation": "merge"}, {"name": "c/d", "relation": "merge"}]
    assert (result["status"], result["known_before"]) == ("unverified origin", 1)
    assert pedigree("import", "nowhere").code == 2


def test_a_released_model_is_verified_without_the_ledger(pedigree: Pedigree, models: Path) -> None:
    assert pedigree("ledger", "export", "--release", "tok").code == 0
    shutil.rmtree(models / "project")
    shutil.copytree(models / "tok", models / "elsewhere" / "model")
    ran = pedigree("ledger", "verify", "elsewhere/model", "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert record["inputs"]["source"] == "proof"
    assert (record["result"]["verdict"], record["result"]["problems"]) == ("DECLARED", [])
    assert pedigree("why", "elsewhere/model").code == 0
    (models / "elsewhere" / "model" / "tokenizer.json").write_text("{}")
    ran = pedigree("ledger", "verify", "elsewhere/model")
    assert (ran.code, "another artifact" in ran.out) == (1, True)


def test_what_is_not_in_order_is_not_released(pedigree: Pedigree, models: Path) -> None:
    (models / "tok" / "more.txt").write_text("x")
    ran = pedigree("ledger", "export", "--release", "tok")
    assert (ran.code, "not in order" in ran.err) == (2, True)
    assert "proof" not in json.loads((models / "tok" / "pedigree.json").read_text())


def test_show_graph_credits_and_statements(pedigree: Pedigree, models: Path) -> None:
    artifact = json.loads((models / "tok" / "pedigree.json").read_text())["artifact"]
    shown = json.loads(pedigree("ledger", "show", artifact[:20], "--json").out)["result"]
    assert shown["entries"][0]["operation"] == "tokenizer"
    assert "tok" in pedigree("ledger", "show", "tok").out
    assert "genesis" in pedigree("ledger", "show", "0").out
    assert pedigree("ledger", "show", "99").code == 2
    assert pedigree("ledger", "show", "abcd1234").code == 2
    edges = json.loads(pedigree("ledger", "graph", "--json").out)["result"]["edges"]
    assert {edge["child_name"] for edge in edges} == {"base", "tok"}
    credits_ = json.loads(pedigree("ledger", "credits", "tok", "--json").out)["result"]
    assert len(credits_["credits"]) == 1
    assert credits_["credits"][0]["name"]
    lines = [json.loads(line) for line in pedigree("ledger", "export").out.splitlines()]
    assert {line["payloadType"] for line in lines} == {"application/vnd.in-toto+json"}


def test_keys_are_rotated_and_revoked(
    pedigree: Pedigree, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    old = next(k for k in json.loads(pedigree("ledger", "key", "list", "--json").out)["result"] if k["role"] == "actor")
    for role in ("actor", "log", "root", "actor", "log", "root"):
        assert pedigree("ledger", "key", "rotate", role).code == 0
    assert pedigree("ledger", "verify", "--no-memory", "--quiet").out == "UNKNOWN\n"
    monkeypatch.setenv("PEDIGREE_REASON", "lost")
    ran = pedigree("ledger", "key", "revoke", old["id"][:8], "--last-trusted", "1")
    assert ran.code == 0, ran.err
    assert "lost" in pedigree("ledger", "log", "--json").out
    assert pedigree("ledger", "verify", "tok").code == 1
    assert "SUSPECT" in pedigree("ledger", "verify", "tok").out
    assert pedigree("ledger", "key", "revoke", "0000", "--last-trusted", "1").code == 2
    assert pedigree("ledger", "key", "rotate", "actr").code == 2


def test_an_anchor_is_a_file_that_can_leave(pedigree: Pedigree, models: Path) -> None:
    assert pedigree("ledger", "anchor", "--to", "anchors.txt").code == 0
    assert pedigree("ledger", "anchor", "--to", "anchors.txt").code == 0
    ran = pedigree("ledger", "verify", "--checkpoint", "anchors.txt", "--json")
    assert json.loads(ran.out)["result"]["checked"]["outside"] >= 2


def test_where_there_is_no_ledger(pedigree: Pedigree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("log",), ("verify",), ("checkpoint",), ("anchor",), ("key", "rotate"), ("graph",)):
        ran = pedigree("ledger", *words)
        assert (ran.code, "there is no ledger here" in ran.err) == (2, True), words
    assert not (tmp_path / "project").exists()


def test_verify_starts_without_what_computes(models: Path) -> None:
    code = (
        "import sys\nfrom pedigree.cli.main import main\ncode = main(['ledger', 'verify', '--quiet'])\n"
        "loaded = {'torch', 'numpy', 'scipy', 'safetensors', 'yaml'} & set(sys.modules)\n"
        "sys.exit(str(loaded) if loaded else code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "UNKNOWN\n"), done.stderr


def test_every_option_can_be_set_by_the_environment(
    pedigree: Pedigree, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = models / "kept.txt"
    kept.write_text(pedigree("ledger", "checkpoint").out)

    def under(variables: dict[str, str], *words: str) -> Ran:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            return pedigree(*words)

    assert len(under({"PEDIGREE_NUMBER": "1", "PEDIGREE_ALL": "1"}, "ledger", "log").out.splitlines()) == 1
    assert under({"PEDIGREE_CHECKPOINT": str(kept)}, "ledger", "verify", "tok", "-q").out == "VERIFIED\n"
    assert under({"PEDIGREE_MAX_AGE": "-1", "PEDIGREE_NO_MEMORY": "1"}, "ledger", "verify", "-q").out == "STALE\n"
    assert under({"PEDIGREE_LEDGER_FAIL_ON": "unknown"}, "ledger", "verify", "-q").code == 1
    assert under({"PEDIGREE_LEDGER": str(models / "none.db")}, "ledger", "verify").code == 2
    assert under({"PEDIGREE_TO": str(models / "anchors.txt")}, "ledger", "anchor").code == 0
    assert (models / "anchors.txt").is_file()
    ran = under({"PEDIGREE_FROM": "hf://x/y", "PEDIGREE_NOTE": "by hand"}, "import", "base", "--json")
    assert json.loads(ran.out)["result"]["origin"] == "hf://x/y"
    assert under({"PEDIGREE_RELEASE": "tok"}, "ledger", "export").code == 0
    key = json.loads(pedigree("ledger", "key", "list", "--json").out)["result"][2]["id"]
    ran = under({"PEDIGREE_LAST_TRUSTED": "0", "PEDIGREE_REASON": "lost"}, "ledger", "key", "revoke", key, "--json")
    assert json.loads(ran.out)["result"]["last_trusted"] == 0


def test_a_proof_that_is_held_against_another_ledger_is_in_doubt(pedigree: Pedigree, models: Path) -> None:
    assert pedigree("ledger", "export", "--release", "tok").code == 0
    kept = models / "kept.txt"
    kept.write_text(pedigree("ledger", "checkpoint").out)
    assert pedigree("ledger", "verify", "tok", "--checkpoint", str(kept), "--quiet").out == "VERIFIED\n"
    shutil.rmtree(models / "project" / ".pedigree")
    pedigree("import", "base", "--quiet")
    kept.write_text(pedigree("ledger", "checkpoint").out)
    ran = pedigree("ledger", "verify", "tok", "--checkpoint", str(kept))
    assert (ran.code, ran.out.split()[0]) == (1, "SUSPECT")


def test_a_changed_file_of_a_release_is_named_where_the_ledger_is_here(pedigree: Pedigree, models: Path) -> None:
    assert pedigree("ledger", "export", "--release", "tok").code == 0
    (models / "tok" / "tokenizer_config.json").write_text("{}")
    ran = pedigree("ledger", "verify", "tok")
    assert ran.code == 1
    assert "tokenizer_config.json was changed" in ran.out
    assert "tokenizer.json was changed" not in ran.out


@pytest.mark.parametrize("damage", ["DELETE FROM ledger_head", "UPDATE ledger_head SET note = x'ff1b5b'",
                                    "UPDATE ledger_head SET root = zeroblob(32)"])  # fmt: skip
def test_a_damaged_checkpoint_is_neither_given_away_nor_written_upon(
    pedigree: Pedigree, models: Path, damage: str
) -> None:
    with closing(sqlite3.connect(models / "project" / ".pedigree" / "ledger.db")) as database, database:
        database.execute(damage)
    for words in (("ledger", "checkpoint"), ("ledger", "anchor"), ("import", "silent")):
        ran = pedigree(*words)
        assert (ran.code, ran.out) == (2, ""), words
        assert "the newest checkpoint of this ledger is damaged" in ran.err
        assert "fix: pedigree ledger verify" in ran.err
    assert pedigree("ledger", "verify", "--quiet").out == "CONTRADICTED\n"


def test_what_is_printed_as_json_keeps_its_published_schema(pedigree: Pedigree, models: Path) -> None:
    asked = [
        ("ledger", "verify"), ("ledger", "verify", "tok"), ("ledger", "log"), ("ledger", "checkpoint"),
        ("ledger", "graph"), ("ledger", "show", "1"), ("ledger", "show", "tok"), ("ledger", "credits", "tok"),
        ("why", "tok"), ("why", "base"),
    ]  # fmt: skip
    for words in asked:
        record = json.loads(pedigree(*words, "--json").out)
        name = record["schema"].removeprefix("pedigree/")
        assert name == "-".join(words[: 1 if words[0] == "why" else 2])
        Draft202012Validator(json_schema(name)).validate(record)


def test_what_writing_verbs_print_as_json_keeps_its_published_schema(pedigree: Pedigree, models: Path) -> None:
    found = json.loads(pedigree("ledger", "show", "base", "--json").out)["result"]["artifact"]
    Path("note.json").write_text(
        json.dumps({"schema": "pedigree/clearance", "about": found, "result": {"verdict": "clear"}})
    )
    asked = [
        ("anchor", "--to", "anchors.txt"), ("key", "list"), ("key", "rotate"),
        ("key", "add", "ada.pem", "--make", "--name", "ada"), ("approve", "base", "--key", "ada.pem"),
        ("waive", "base", "--rule", "licenses", "--reason", "asked"), ("attach", "base", "note.json"),
        ("export", "base", "--format", "oms", "--out", "base.sig"), ("export", "--release", "tok"),
        ("key", "revoke", "ada", "--last-trusted", "3"), ("erase", "person:"),
    ]  # fmt: skip
    for words in asked:
        if words[0] == "key" and words[1] == "revoke":
            keys = json.loads(pedigree("ledger", "key", "list", "--json").out)["result"]
            words = (*words[:2], next(key["id"] for key in keys if key["name"] == "ada"), *words[3:])
        if words[0] == "erase":
            credit = json.loads(pedigree("ledger", "credits", "tok", "--json").out)["result"]["credits"]
            words = ("erase", credit[0]["id"])
        ran = pedigree("ledger", *words, "--json")
        assert ran.code == 0, (words, ran.err)
        record = json.loads(ran.out)
        name = record["schema"].removeprefix("pedigree/")
        assert name == "ledger-" + "-".join(words[: 2 if words[0] == "key" else 1])
        assert not list(_unknown(SCHEMAS[name].model_validate(record)))


def _unknown(record: Record, at: str = "") -> Iterator[str]:
    """Fields that are printed and stand in no schema."""
    yield from (f"{at}.{name}" for name in record.model_extra or {})
    for name in type(record).model_fields:
        held = getattr(record, name)
        for item in held if isinstance(held, list) else [held]:
            if isinstance(item, Record):
                yield from _unknown(item, f"{at}.{name}")


def test_a_name_is_erased_to_the_last_byte_and_everything_still_holds(pedigree: Pedigree, models: Path) -> None:
    folder = models / "project" / ".pedigree"
    with closing(Database(str(folder / "ledger.db"))) as database:
        entered = enter(database, "Unmistakable Name", "somebody@unmistakable.example")
    assert any(b"Unmistakable" in file.read_bytes() for file in folder.glob("ledger.db*"))
    ran = pedigree("ledger", "erase", entered.id.removeprefix("person:")[:8])
    assert ran.code == 0, ran.err
    assert not any(b"nmistakable" in file.read_bytes() for file in folder.glob("ledger.db*"))
    assert pedigree("ledger", "verify", "--quiet").code == 0
    ran = pedigree("ledger", "erase", entered.id)
    assert (ran.code, "no name under this id" in ran.err) == (2, True)
    assert pedigree("ledger", "erase", "person:").code == 2
