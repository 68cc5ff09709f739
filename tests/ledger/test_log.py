"""Writing a ledger: many at once, killed at any moment, on a full disk; what was acknowledged stays."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.ledger.second_verifier import envelope_holds, extends, includes, naive_root, note_holds, tree_hash

from pedigree.errors import InputError, MissingInput
from pedigree.ledger.database import Database
from pedigree.ledger.log import Ledger, LedgerPlace
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.statement import Draft, Parent, Subject
from pedigree.ledger.store import Store
from pedigree.ledger.verification import verify

WRITER = """
import sys
from pathlib import Path
from pedigree.ledger.log import Ledger, LedgerPlace
from pedigree.ledger.statement import Draft
ledger = Ledger(LedgerPlace(sys.argv[1], Path(sys.argv[2])))
name, count = sys.argv[3], int(sys.argv[4])
for i in range(count):
    kind = "run.beat" if i % 4 else "note"
    receipt = ledger.append(Draft(kind, {"writer": name, "i": i}))
    print(receipt.index, name, i, flush=True)
"""


def start_writer(place: LedgerPlace, name: str, count: int, out: Path) -> subprocess.Popen[bytes]:
    with out.open("ab") as stream:
        command = [sys.executable, "-c", WRITER, place.database, str(place.keys), name, str(count)]
        return subprocess.Popen(command, stdout=stream, env={**os.environ, "PYTHONPATH": "src"})


def acknowledged(folder: Path) -> list[tuple[int, str, int]]:
    rows = [line.split() for path in folder.glob("*.out") for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n")]  # fmt: skip
    return [(int(index), name, int(i)) for index, name, i in rows]


def check_nothing_lost(place: LedgerPlace, folder: Path) -> int:
    """Every acknowledged event stands at the place that was told, and there is one history."""
    database = Database(place.database)
    store = Store(database)
    report = verify(store)
    assert report.problems == []
    told = acknowledged(folder)
    assert len({index for index, _, _ in told}) == len(told)
    said = {entry.index: entry.facts for entry in report.entries}
    for index, name, i in told:
        assert (said[index]["writer"], said[index]["i"]) == (name, str(i))
    assert report.size >= len(told) + 1
    database.close()
    return len(told)


def test_an_entry_can_be_proven_to_a_second_implementation(any_ledger: Ledger) -> None:
    ledger = any_ledger
    for i in range(11):
        ledger.append(Draft("note", {"i": i}, subjects=(Subject("a", f"{i:064x}"),), parents=(Parent("b" * 64),)))
    store, head = ledger.store, ledger.store.head()
    leaves = [row.leaf for row in store.rows()]
    assert naive_root(leaves) == head.root
    log_key, actor = ledger.key("log").public.raw, ledger.key("actor").public.raw
    assert note_holds(head.note, ledger.origin, log_key) == (12, head.root)
    for i, leaf in enumerate(leaves):
        assert includes(tree_hash([leaf]), i, 12, store.inclusion_proof(i, 12), head.root)
    for old in range(1, 12):
        assert extends(old, 12, store.consistency_proof(old, 12), naive_root(leaves[:old]), head.root)
    body = json.loads(leaves[5])["body"]
    statement = envelope_holds(json.loads(store.bodies([body])[body]), actor)
    assert statement is not None
    assert statement["predicate"]["pedigree_seen"] == {"root": naive_root(leaves[:5]).hex(), "size": "5"}
    assert verify(store).problems == []


def test_events_of_one_transaction_are_all_there_or_none(any_ledger: Ledger) -> None:
    before = any_ledger.store.head()
    receipts = any_ledger.append_all([Draft("note", {"i": i}) for i in range(5)])
    assert [receipt.index for receipt in receipts] == [1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="cannot be a leaf"):
        any_ledger.append_all([Draft("note", {}), Draft("Not A Kind", {})])
    assert any_ledger.store.head().size == before.size + 5
    assert verify(any_ledger.store).problems == []


def test_eight_writers_at_once_make_one_history(any_place: LedgerPlace, tmp_path: Path) -> None:
    n_writers, n_events = (8, 12) if "://" not in any_place.database else (4, 12)
    writers = [start_writer(any_place, f"w{i}", n_events, tmp_path / f"{i}.out") for i in range(n_writers)]
    assert [writer.wait(120) for writer in writers] == [0] * n_writers
    assert check_nothing_lost(any_place, tmp_path) == n_writers * n_events


def killed_writers(place: LedgerPlace, folder: Path, seconds: float, n_writers: int) -> int:
    """Writers that are killed at random moments and replaced, for some time; how many were killed."""
    rng, killed = random.Random(1), 0
    writers = {i: start_writer(place, f"w{i}", 10**6, folder / f"{i}.out") for i in range(n_writers)}
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.02, 0.6))
            i = rng.randrange(n_writers)
            writers[i].send_signal(signal.SIGKILL)
            writers[i].wait()
            killed += 1
            writers[i] = start_writer(place, f"w{i}.{killed}", 10**6, folder / f"{i}.{killed}.out")
    finally:
        for writer in writers.values():
            writer.kill()
            writer.wait()
    return killed


def test_killed_writers_lose_nothing_they_acknowledged(place: LedgerPlace, tmp_path: Path) -> None:
    Ledger(place).close()
    killed = killed_writers(place, tmp_path, 3, 3)
    assert killed >= 3
    assert check_nothing_lost(place, tmp_path) > 0


@pytest.mark.slow
def test_eight_killed_writers_for_two_minutes(any_place: LedgerPlace, tmp_path: Path) -> None:
    Ledger(any_place).close()
    killed = killed_writers(any_place, tmp_path, 120, 8)
    assert killed >= 50  # a busy machine starts them slowly
    assert check_nothing_lost(any_place, tmp_path) > 100


def test_a_crash_at_any_write_leaves_a_beginning_of_the_history(place: LedgerPlace, tmp_path: Path) -> None:
    """The log of SQLite cut off at every page, and inside of pages: what a power cut may leave."""
    ledger = Ledger(place)
    ledger.database.run("PRAGMA wal_autocheckpoint=0")
    for i in range(6):
        ledger.append(Draft("note" if i % 2 else "run.beat", {"i": i}))
    whole, wal = Path(place.database), Path(place.database + "-wal")
    data, roots = wal.read_bytes(), {}
    leaves = [row.leaf for row in ledger.store.rows()]
    roots = {size: naive_root(leaves[:size]) for size in range(len(leaves) + 1)}
    sizes = set()
    frame = 4096 + 24
    cuts = [32 + frame * n + extra for n in range((len(data) - 32) // frame + 1) for extra in (0, 2000)]
    for cut in cuts:
        copy = tmp_path / "copy.db"
        shutil.copy(whole, copy)
        Path(f"{copy}-shm").unlink(missing_ok=True)
        Path(f"{copy}-wal").write_bytes(data[:cut])
        with contextlib.closing(Database(str(copy))) as database:
            try:
                head = Store(database).head()
            except MissingInput:  # not even the tables were written
                sizes.add(0)
                continue
            sizes.add(head.size)
            assert head.root == roots[head.size]
            if head.size:
                assert verify(Store(database)).problems == []
    assert sizes >= set(range(1, 8))
    ledger.close()


def test_a_full_disk_loses_nothing_and_mends_itself(place: LedgerPlace) -> None:
    ledger = Ledger(place)
    ledger.append(Draft("note", {"i": 0}))
    pages = ledger.database.run("PRAGMA page_count")[0][0]
    ledger.database.run(f"PRAGMA max_page_count={pages + 2}")
    done = []

    def fill() -> None:
        while len(done) < 1000:
            ledger.append(Draft("note", {"i": len(done), "text": "x" * 500}))
            done.append(ledger.store.head().size)

    with pytest.raises(InputError, match="full"):
        fill()
    assert verify(ledger.store).problems == []
    assert ledger.store.head().size == 2 + len(done)
    ledger.database.run(f"PRAGMA max_page_count={pages + 500}")
    assert ledger.append(Draft("note", {})).index == 2 + len(done)
    assert verify(ledger.store).problems == []


def test_the_file_may_not_grow_either(place: LedgerPlace, tmp_path: Path) -> None:
    """A limit of the system on file sizes: the write itself fails in the middle."""
    Ledger(place).close()
    code = WRITER.replace("ledger = ", "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
                          "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\nledger = ")  # fmt: skip
    with (tmp_path / "0.out").open("wb") as out:
        command = [sys.executable, "-c", code, place.database, str(place.keys), "w", "10000"]
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "src"}, check=False
        )
    assert b"InputError" in done.stderr
    assert check_nothing_lost(place, tmp_path) > 3
    assert Ledger(place).append(Draft("note", {"writer": "x", "i": 0})).index > 3


def test_what_is_no_ledger_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="there is no ledger here"):
        Database(str(tmp_path / "none.db"))
    (tmp_path / "text.db").write_text("no database " * 1000)
    with pytest.raises(InputError, match="cannot be read or written"):
        Database(str(tmp_path / "text.db"))
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE x (y)").connection.close()
    with pytest.raises(MissingInput, match="holds no ledger"):
        Store(Database(str(tmp_path / "empty.db"))).head()


def test_a_ledger_can_be_read_where_nothing_may_be_written(ledger: Ledger, tmp_path: Path) -> None:
    ledger.append(Draft("note", {}))
    ledger.close()
    copy = tmp_path / "closed" / "ledger.db"
    copy.parent.mkdir()
    shutil.copy(ledger.place.database, copy)
    copy.parent.chmod(0o500)
    try:
        assert verify(Store(Database(str(copy), read_only=True))).problems == []
    finally:
        copy.parent.chmod(0o700)


def test_the_place_of_a_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEDIGREE_LEDGER", raising=False)
    deep = tmp_path / "project" / "a" / "b"
    deep.mkdir(parents=True)
    assert LedgerPlace.find(start=deep).database == str(deep / ".pedigree" / "ledger.db")
    (tmp_path / "project" / ".git").mkdir()
    assert LedgerPlace.find(start=deep).database == str(tmp_path / "project" / ".pedigree" / "ledger.db")
    (tmp_path / "project" / "a" / ".pedigree").mkdir()
    assert LedgerPlace.find(start=deep).keys == tmp_path / "project" / "a" / ".pedigree" / "keys"
    monkeypatch.setenv("PEDIGREE_LEDGER", "postgresql://user:word@host/db")
    found = LedgerPlace.find(start=deep)
    assert found.database.startswith("postgresql://")
    assert found.keys == tmp_path / "project" / "a" / ".pedigree" / "keys"


def test_the_checkpoint_of_a_receipt_is_over_its_entry(ledger: Ledger) -> None:
    receipt = ledger.append(Draft("note", {}))
    note = Checkpoint.from_note(receipt.note)
    assert note.size == receipt.index + 1
    assert note.signers([ledger.key("log").public])
