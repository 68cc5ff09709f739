"""The recorder of a ledger: everything is told, nothing is waited for, and what goes wrong stays here."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from pedigree.ledger.database import Database
from pedigree.ledger.log import Ledger, LedgerPlace
from pedigree.ledger.people import erase, people
from pedigree.ledger.recorder import LedgerRecorder
from pedigree.ledger.repository import code_at
from pedigree.ledger.run_id import new_run_id
from pedigree.ledger.store import Store
from pedigree.ledger.surroundings import surroundings
from pedigree.ledger.verification import Verification, verify
from pedigree.records.recorder import JsonlRecorder, read_events
from pedigree.weights.artifact import artifact_id


def checked(place: LedgerPlace) -> Verification:
    return verify(Store(Database(place.database)))


def weights(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(content)
    return folder


def state(folder: Path, text: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(text)
    return folder


@pytest.fixture
def recorder(place: LedgerPlace, tmp_path: Path) -> LedgerRecorder:
    return LedgerRecorder(place, JsonlRecorder(tmp_path / "run.jsonl"), tmp_path)


def test_a_run_is_told_from_start_to_weights(recorder: LedgerRecorder, place: LedgerPlace, tmp_path: Path) -> None:
    base, out = weights(tmp_path / "base", "a"), tmp_path / "out"
    corpora = [{"source": {"path": "t.txt"}, "digest": "sha256:" + "c" * 64}]
    recorder.run_start({"step": 0, "seed": 7, "inputs": [{"path": str(base), "role": "init"}], "corpora": corpora})
    started = checked(place)
    assert [entry.leaf.kind for entry in started.entries][:2] == ["genesis", "run.start"]  # before anything else
    recorder.beat({"step": 1, "tokens": 10, "data": "x"})
    recorder.checkpoint({"step": 2, "tokens": 20, "path": str(state(tmp_path / "step-2"))})
    recorder.decision({"step": 2, "action": "clip"})
    recorder.run_end({"outcome": "finished", "step": 2})
    weights(out, "b")
    recorder.derive({"operation": "finetune", "name": "grown", "outputs": [str(out)], "parameters": {"tokens": 20}})
    assert recorder.close() == []
    report = checked(place)
    assert report.problems == []
    kinds = [entry.leaf.kind for entry in report.entries]
    assert kinds == ["genesis", "run.start", "artifact.import", "run.input", "run.beat", "ckpt.save", "run.decision",
                     "run.end", "derive"]  # fmt: skip
    start = report.entries[1]
    assert {"environment", "dataset"} <= {parent.role for parent in start.said.parents} if start.said else False
    edge = report.edges[-1]
    assert (edge.operation, edge.verdict) == ("finetune", "DECLARED")
    assert "sha256:" + edge.parent == artifact_id(base)
    assert report.edges[0].verdict == "UNKNOWN"  # what was loaded came from nobody knows where
    sidecar = json.loads((out / "pedigree.json").read_text())
    assert sidecar["artifact"] == artifact_id(out) == "sha256:" + edge.child
    assert sidecar["ledger"]["index"] == 8
    assert [event["event"] for event in read_events(tmp_path / "run.jsonl")] == [
        "run_start", "beat", "checkpoint", "decision", "run_end", "derive",
    ]  # fmt: skip


def test_what_surgery_tells_is_understood(recorder: LedgerRecorder, place: LedgerPlace, tmp_path: Path) -> None:
    a, out = weights(tmp_path / "a", "a"), weights(tmp_path / "out", "b")
    tensors = {f"layer.{i}": {"dtype": "F32", "shape": [1], "blake3": "0" * 64} for i in range(2000)}
    recorder.derive({"trade": "surgery", "operators": [{"operator": "depth"}], "seed": 1,
                     "inputs": {str(a): {"header": "x"}},
                     "output": {"location": str(out), "tensors": tensors}})  # fmt: skip
    assert recorder.close() == []
    report = checked(place)
    assert report.problems == []
    assert report.edges[-1].operation == "surgery"
    attached = report.entries[-1].facts["output"]["attached"]
    digest = attached.removeprefix("sha256:")
    body = Store(Database(place.database)).bodies([digest])[digest]
    assert len(json.loads(body)["output"]["tensors"]) == 2000


def test_a_run_that_goes_on_names_the_state_it_goes_on_from(place: LedgerPlace, tmp_path: Path) -> None:
    saved, other = state(tmp_path / "step-5", '{"a":1}'), state(tmp_path / "step-6", '{"a":2}')
    for resumed, told in ((None, saved), (saved, other), (tmp_path / "step-6", None)):
        recorder = LedgerRecorder(place, JsonlRecorder(tmp_path / "run.jsonl"), tmp_path)
        recorder.run_start({"step": 5 if resumed else 0, "resumed_from": str(resumed) if resumed else None})
        if told:
            recorder.checkpoint({"step": 5, "path": str(told)})
        assert recorder.close() == []
    assert checked(place).problems == []
    (other / "state.json").write_text('{"a":3}')  # somebody trained on in between
    recorder = LedgerRecorder(place, JsonlRecorder(tmp_path / "run.jsonl"), tmp_path)
    recorder.run_start({"step": 6, "resumed_from": str(other)})
    recorder.close()
    assert [(item.verdict, item.word) for item in checked(place).problems] == [("UNKNOWN", "hidden-step")]


def test_the_recorder_may_fail_and_the_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    broken = LedgerPlace(str(tmp_path / "file" / "ledger.db"), tmp_path / "file" / "keys")
    recorder = LedgerRecorder(broken, JsonlRecorder(tmp_path / "run.jsonl"), tmp_path)
    recorder.run_start({"step": 0})
    recorder.beat({"step": 1})
    recorder.checkpoint({"step": 1, "path": str(state(tmp_path / "s"))})
    recorder.derive({"outputs": [str(tmp_path / "nothing")]})
    recorder.run_end({"outcome": "finished"})
    failures = recorder.close()
    assert len(failures) >= 5
    assert len(read_events(tmp_path / "run.jsonl")) == 5  # the lines have all of it


def test_what_could_not_be_told_is_told_later(recorder: LedgerRecorder, place: LedgerPlace, tmp_path: Path) -> None:
    recorder.run_start({"step": 0})
    recorder.derive({"name": "gone", "outputs": [str(tmp_path / "nothing")]})
    recorder.run_end({"outcome": "finished"})
    assert any("no such file" in failure for failure in recorder.close())
    (missed,) = [entry for entry in checked(place).entries if entry.leaf.kind == "exception"]
    assert "no such file" in missed.facts["untold"][0]


def test_a_save_does_not_wait_for_hashing(
    recorder: LedgerRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pedigree.weights.artifact as artifact

    def slow(*args: object) -> object:
        time.sleep(1.5)
        raise OSError("slow disk")

    monkeypatch.setattr(artifact, "read_artifact", slow)
    recorder.run_start({"step": 0})
    begin = time.perf_counter()
    recorder.derive({"outputs": [str(weights(tmp_path / "o", "x"))]})
    recorder.beat({"step": 1})
    told = time.perf_counter() - begin
    recorder.close()
    assert told < 1.0 < time.perf_counter() - begin


def test_names_lie_beside_the_ledger_and_can_be_erased(
    recorder: LedgerRecorder, place: LedgerPlace, tmp_path: Path
) -> None:
    recorder.run_start({"step": 0})
    recorder.close()
    ledger = Ledger(place)
    (person,) = people(ledger.database)
    entry = checked(place).entries[1]
    assert entry.facts["actors"] == [{"id": person.id, "role": "operator"}]
    leaves = b"".join(row.leaf for row in ledger.store.rows())
    assert person.name.encode() not in leaves
    assert str(tmp_path).encode() not in leaves
    erase(ledger.database, person.id)
    assert people(ledger.database) == []
    assert verify(ledger.store).problems == []


def test_the_code_is_read_from_the_files_of_git(tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=b", "-c", "init.defaultBranch=main", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, env=environment).stdout

    assert code_at(tmp_path) is None
    git("init", "-q")
    (tmp_path / "sub").mkdir()
    for name in ("a.py", "sub/b.py", "c.py"):
        (tmp_path / name).write_text(name)
    git("add", ".")
    git("commit", "-qm", "x")
    (tmp_path / "sub" / "b.py").write_text("changed")
    (tmp_path / "c.py").unlink()
    code = code_at(tmp_path / "sub")
    assert code is not None
    assert code.commit == git("rev-parse", "HEAD").strip()
    assert set(code.changed) == {"sub/b.py", "c.py"}
    assert code.changed["c.py"] == ""
    git("pack-refs", "--all")
    again = code_at(tmp_path)
    assert again is not None
    assert again.commit == code.commit
    (tmp_path / ".git" / "index").write_bytes(b"DIRC\0\0\0\2\0\0\0\5short")
    assert not code_at(tmp_path).readable  # type: ignore[union-attr]


def test_runs_and_surroundings_have_names() -> None:
    first, second = new_run_id(), new_run_id()
    assert (first[14], len(first)) == ("7", 36)
    assert first != second
    around = surroundings()
    assert around == surroundings()
    assert "cryptography" in around["packages"]


def test_a_save_waits_for_no_disk_and_what_was_told_is_forced_to_it_behind_it(
    place: LedgerPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced: list[str] = []
    sync = os.fsync

    def waited(descriptor: int) -> None:
        forced.append(threading.current_thread().name)
        sync(descriptor)

    lines = JsonlRecorder(tmp_path / "run.jsonl", at_once=False)
    recorder = LedgerRecorder(place, lines, tmp_path)
    recorder.run_start({"step": 0})
    monkeypatch.setattr(os, "fsync", waited)
    recorder.checkpoint({"step": 1, "path": str(state(tmp_path / "step-1"))})
    recorder.beat({"step": 2})
    told = [event["event"] for event in read_events(lines.path)]
    assert told == ["run_start", "checkpoint", "beat"]  # there, though perhaps not on disk
    assert recorder.close() == []
    assert set(forced) == {"pedigree-ledger"}
    assert lines.at_once is False


def test_an_adapter_is_a_parent_beside_the_model_it_was_added_to(
    recorder: LedgerRecorder, place: LedgerPlace, tmp_path: Path
) -> None:
    base, out = weights(tmp_path / "base", "a"), weights(tmp_path / "out", "c")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_text("b")
    facts = {"trade": "surgery", "inputs": {str(base): {}}, "adapters": [{"path": str(adapter), "role": "adapter"}]}
    recorder.derive({**facts, "output": {"location": str(out)}})
    assert recorder.close() == []
    entry = checked(place).entries[-1]
    assert entry.said is not None
    roles = {parent.role: parent.digest for parent in entry.said.parents}
    assert roles["init"] == artifact_id(base).removeprefix("sha256:")
    assert roles["adapter"] == artifact_id(adapter).removeprefix("sha256:")
    assert entry.facts["input_digests"] == {str(base): roles["init"], str(adapter): roles["adapter"]}
