"""The 28 attacks on a record, each with the verdict it must get; the number is that of the threat model.

What the weights must say (4, 5, 6 and 17 where somebody lies consistently) is held against them by the audit; here
stands what the ledger alone can show, and what it must not claim to know.
"""

from __future__ import annotations

import base64
import json
import shutil
import threading
from hashlib import sha256
from pathlib import Path

import pytest
from tests.attacks.ledger_attacker import Project, words
from tests.source_tree import run_python

from pedigree.errors import MalformedFile, UnsafeFile
from pedigree.ledger import leaf as leaf_module
from pedigree.ledger.credits import credit_root, credits_of
from pedigree.ledger.directory import file_problems, look_at, registered_manifest
from pedigree.ledger.envelope import Envelope
from pedigree.ledger.key_events import revoke, rotate
from pedigree.ledger.keys import PrivateKey
from pedigree.ledger.leaf import Leaf
from pedigree.ledger.lineage import Lineage
from pedigree.ledger.log import Ledger
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.proof import make_proof, verify_proof
from pedigree.ledger.release import release
from pedigree.ledger.sidecar import write_sidecar
from pedigree.ledger.statement import Draft, Parent, Subject, hex_digest
from pedigree.weights.artifact import read_artifact


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.start(tmp_path)


def files_say(project: Project, place: Path) -> list[str]:
    """What `ledger verify DIR` finds in the files of a registered artifact."""
    digest = project.ids[place.name]
    found = look_at(place)
    registered = Lineage.read(project.ledger.store).maker(found.digest) is not None
    problems = file_problems(found, registered_manifest(project.ledger.store, digest), registered)
    assert all(problem.verdict == "CONTRADICTED" for problem in problems)
    return [problem.sentence for problem in problems]


def test_01_weights_changed_after_registration(project: Project) -> None:
    place = project.make("base")
    assert files_say(project, place) == []
    path = place / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    assert files_say(project, place) == ["model.safetensors was changed: 15 bytes before, 15 now"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "other.safetensors"), "model.safetensors is gone"),
        (lambda f: (f / "code.py").write_text(""), "code.py was added"),
        (lambda f: (f / "config.json").write_text(""), "config.json was changed"),
        (lambda f: (f / "config.json").unlink(), "config.json is gone"),
        (lambda f: shutil.move(f / "config.json", f / "sub.json"), "sub.json was added"),
    ],
)
def test_02_files_renamed_added_emptied_deleted(project: Project, change, told: str) -> None:  # type: ignore[no-untyped-def]
    place = project.make("base")
    change(place)
    assert any(sentence.startswith(told) for sentence in files_say(project, place))


def test_03_nothing_can_be_listed_as_ignored(project: Project) -> None:
    """There is no ignore list: hidden files, and those that tools of others pass over, count."""
    place = project.make("base")
    write_sidecar(place, {"ignore_paths": ["evil.py", ".git"]})
    for name in (".gitattributes", "evil.py", ".git"):
        (place / name).write_text("x")
        assert files_say(project, place) == [f"{name} was added"]
        (place / name).unlink()
    (place / "link").symlink_to("/etc/hostname")
    with pytest.raises(UnsafeFile, match="links to files that are its own"):
        look_at(place)


def test_04_a_parent_that_was_never_registered(project: Project) -> None:
    project.make("child", "e" * 64, operation="finetune")
    assert project.verdict("child") == "UNKNOWN"
    project.take_in("known")
    project.make("other", "known", operation="finetune")
    assert project.verdict("other") == "DECLARED"
    assert project.verdict("known") == "UNKNOWN"  # its own origin stays unverified


def test_05_a_wrong_parent_is_declared_until_the_weights_speak(project: Project) -> None:
    project.make("a")
    project.make("b")
    project.make("child", "a", operation="finetune")
    assert project.verdict("child") == "DECLARED"
    facts = {"child": project.ids["child"], "parent": project.ids["a"], "verdict": "CONTRADICTED", "why": "nearer to b"}
    project.ledger.append(Draft("forensic", facts))
    assert project.verdict("child") == "CONTRADICTED"
    project.make("merged", "b", operation="merge")
    project.ledger.append(
        Draft("replay", {"child": project.ids["merged"], "parent": project.ids["b"], "verdict": "REPLAYED"})
    )
    assert project.verdict("merged") == "REPLAYED"


def test_06_a_step_between_two_checkpoints_leaves_a_gap(project: Project) -> None:
    project.run("first")
    state = next(e for e in project.verify().entries if e.leaf.kind == "ckpt.save").leaf.subjects[0]
    good, hidden = Parent(state, "state"), Parent("f" * 64, "state")
    project.ledger.append(Draft("run.start", {"step": 3}, f"{1:036x}", parents=(good,)))
    assert words(project.verify()) == set()
    project.ledger.append(Draft("run.start", {"step": 3}, f"{2:036x}", parents=(hidden,)))
    project.ledger.append(Draft("run.start", {"step": 3}, f"{3:036x}"))
    report = project.verify()
    assert [(item.verdict, item.word) for item in report.problems] == [("UNKNOWN", "hidden-step")] * 2


def test_07_an_entry_edited_in_the_database(project: Project) -> None:
    project.make("base")
    with project.database() as connection:
        forged = project.ledger.store.row(1).leaf.replace(b'"kind":"derive"', b'"kind":"deriva"')
        connection.execute("UPDATE ledger_entry SET leaf = ? WHERE idx = 1", (forged,))
    report = project.verify()
    assert {"entry-changed", "root"} <= words(report)
    assert report.verdict == "CONTRADICTED"


def test_07_the_body_of_an_entry_edited(project: Project) -> None:
    project.make("base", tokens=1)
    body = Leaf.from_bytes(project.ledger.store.row(1).leaf).body
    envelope = json.loads(project.ledger.store.bodies([body])[body])
    payload = base64.b64decode(envelope["payload"]).replace(b'"tokens":"1"', b'"tokens":"9"')
    envelope["payload"] = base64.b64encode(payload).decode()
    with project.database() as connection:
        connection.execute("UPDATE ledger_body SET content = ? WHERE digest = ?",
                           (json.dumps(envelope).encode(), bytes.fromhex(body)))  # fmt: skip
    assert words(project.verify()) == {"body-changed"}
    assert project.verdict("base") == "CONTRADICTED"


def test_08_history_rewritten_and_signed_again_with_the_key_of_the_log(project: Project) -> None:
    for name in ("a", "b", "c"):
        project.make(name)
    kept = project.note
    project.make("d")

    def drop_b(index: int, leaf: bytes) -> bytes:
        return leaf.replace(b'"kind":"derive"', b'"kind":"nothing"') if index == 2 else leaf

    project.write_anew(drop_b)
    alone = project.verify()
    assert not {"root", "entry-changed"} & words(alone)  # the insider's own tree is whole
    report = project.verify(kept)
    assert "history-rewritten" in words(report)
    assert report.verdict == "CONTRADICTED"
    assert report.anchored == 0
    # Who did not only sign the head but everything again meets the copy all the same.
    assert "other-history" in words(alone)


def test_09_truncation_and_rollback(project: Project) -> None:
    project.make("a")
    before = Path(project.ledger.place.database).parent / "copy.db"
    project.ledger.database.run("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(project.ledger.place.database, before)
    project.make("b")
    kept = project.note
    assert project.verify(kept).problems == []
    project.write_anew(lambda _, leaf: leaf, upto=2)
    assert words(project.verify(kept)) == {"rolled-back"}
    assert words(project.verify(seen=[kept])) == {"rolled-back"}
    with project.database() as connection:
        connection.execute("DELETE FROM ledger_entry WHERE idx = 1")
    assert {"size", "root"} <= words(project.verify())


def test_10_two_histories_of_one_log(project: Project, tmp_path: Path) -> None:
    project.make("a")
    project.ledger.database.run("PRAGMA wal_checkpoint(TRUNCATE)")
    fork = tmp_path / "fork"
    fork.mkdir()
    shutil.copy(project.ledger.place.database, fork / "ledger.db")
    shutil.copytree(project.ledger.place.keys, fork / "keys")
    other = Project.start(fork)
    place = project.make("shown-to-one")
    other.make("shown-to-another")
    assert project.note.size == other.note.size
    assert words(project.verify(other.note)) == {"history-rewritten"}
    proof = make_proof(project.ledger.store, project.ids["shown-to-one"])
    digest = hex_digest(read_artifact(place).id)
    assert words(verify_proof(proof, digest, [other.note])) == {"split-view"}
    assert words(verify_proof(proof, digest, seen=[other.note])) == {"split-view"}


def test_11_a_backdated_entry_stands_where_it_was_written(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.make("a")
    kept = project.note
    monkeypatch.setattr("pedigree.ledger.log.now", lambda: "2020-01-01T00:00:00.000Z")
    project.make("late")
    assert project.entries["late"] > project.entries["a"]
    assert (
        project.verdict("late", kept) == "DECLARED"
    )  # the copy from before does not cover it, whatever its clock says
    assert project.verdict("a", kept) == "VERIFIED"


def test_12_a_statement_made_before_the_fact(project: Project) -> None:
    """It cannot name the tree it will be put into; and a checkpoint cannot come before the start of its run."""
    early = Draft("derive", {"name": "x"}, None, (Subject("manifest", "a" * 64),), operation="train")
    payload = early.payload(99, sha256(b"guess").digest(), leaf_module.now(), "1")
    envelope = Envelope.sign(payload, [project.ledger.key("actor")])
    first = envelope.signatures[0]
    leaf = Leaf("derive", envelope.digest, leaf_module.now(), first.key_id,
                sha256(first.signature).hexdigest(), None, 99,
                sha256(b"guess").hexdigest(), ("a" * 64,))  # fmt: skip
    put(project, leaf.to_bytes(), envelope.digest, envelope.to_bytes())
    assert words(project.verify()) == {"from-the-future"}
    run = f"{7:036x}"
    project.ledger.append(Draft("ckpt.save", {"step": 1}, run))
    project.ledger.append(Draft("run.start", {"step": 0}, run))
    assert "no-start" in words(project.verify())


def put(project: Project, leaf: bytes, digest: str, body: bytes) -> None:
    """Write a leaf as a forger does who has the key of the log."""
    store = project.ledger.store
    with project.ledger.database.write():
        size, root = store.add(store.head(), leaf, (digest, body))
        store.put_head(Checkpoint(project.note_origin, size, root).signed([project.ledger.key("log")]))


def test_13_what_a_lost_key_signed_is_suspect(project: Project) -> None:
    lost = project.ledger.key("actor")
    project.make("before")
    kept = project.note
    project.make("after", keys=[lost])
    revoke(project.ledger, lost.public.id, project.entries["before"], "laptop lost")
    assert project.verdict("after") == "SUSPECT"
    assert project.verdict("before") == "SUSPECT"  # nothing outside shows that it stood there before
    assert project.verdict("before", kept) == "VERIFIED"
    assert project.verdict("after", kept) == "SUSPECT"
    project.make("with-the-new-key")
    assert project.verdict("with-the-new-key") == "DECLARED"
    project.make("once-more", keys=[lost])
    assert project.verdict("once-more") == "SUSPECT"


def test_13_a_revocation_needs_the_root_keys(project: Project) -> None:
    actor = project.ledger.key("actor").public.id
    facts = {"key": actor, "last_trusted": "0", "reason": "x"}
    project.ledger.append(Draft("key.revoke", facts), [project.ledger.key("actor")])
    project.make("a")
    assert words(project.verify()) == {"key-event"}
    assert project.verdict("a") == "DECLARED"


def test_14_a_retired_key_with_its_clock_set_back(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    old = project.ledger.key("actor")
    project.make("before")
    rotate(project.ledger, "actor")
    project.make("after")
    monkeypatch.setattr("pedigree.ledger.log.now", lambda: "2020-01-01T00:00:00.000Z")
    project.make("again", keys=[old])
    assert project.verdict("before") == project.verdict("after") == "DECLARED"
    assert project.verdict("again") == "SUSPECT"
    assert words(project.verify()) == {"key-retired"}


def test_15_a_key_that_the_log_never_admitted(project: Project) -> None:
    """Keys come from the log alone: neither a file in the folder nor a key event without the root keys admits one."""
    own = PrivateKey.generate()
    project.make("a", keys=[own])
    assert project.verdict("a") == "CONTRADICTED"
    project.ledger.append(Draft("key.add", {"key": own.public.to_dict(), "role": "actor"}), [own])
    project.make("b", keys=[own])
    assert project.verdict("b") == "CONTRADICTED"
    assert words(project.verify()) == {"key-unknown", "key-event"}
    assert words(project.verify(pinned=["0" * 64])) == {"key-unknown", "key-event", "other-root-keys"}


def test_16_recording_switched_off_is_seen_by_the_next(project: Project) -> None:
    place = project.weights("silent", "weights")
    write_sidecar(place, {"record": "unrecorded"})
    found = look_at(place)
    (problem,) = file_problems(found, None, registered=False)
    assert (problem.verdict, problem.word) == ("UNKNOWN", "unrecorded")
    (place / "pedigree.json").unlink()
    (problem,) = file_problems(look_at(place), None, registered=False)
    assert (problem.verdict, problem.word) == ("UNKNOWN", "unregistered")


def test_17_numbers_that_do_not_fit_each_other(project: Project) -> None:
    run = f"{9:036x}"
    project.ledger.append(Draft("run.start", {"step": 0}, run))
    for step, tokens in ((10, 100), (20, 900)):
        project.ledger.append(Draft("ckpt.save", {"step": step, "tokens": tokens}, run))
    project.ledger.append(Draft("ckpt.save", {"step": 5, "tokens": 50}, run))
    assert words(project.verify()) == {"tokens", "steps-go-back"}
    project.run("consistent")  # a consistent lie is declared, never verified, without a copy elsewhere
    assert project.verdict("consistent") == "DECLARED"


def test_18_the_proof_of_another_model(project: Project) -> None:
    honest, other = project.make("honest"), project.weights("other", "other weights")
    proof = make_proof(project.ledger.store, project.ids["honest"])
    assert verify_proof(proof, hex_digest(read_artifact(honest).id)).problems == []
    report = verify_proof(proof, hex_digest(read_artifact(other).id))
    assert words(report) == {"other-artifact"}
    assert report.verdict == "CONTRADICTED"
    swapped = json.loads(json.dumps(proof).replace(project.ids["honest"], hex_digest(read_artifact(other).id)))
    assert "inclusion" in words(verify_proof(swapped, hex_digest(read_artifact(other).id)))


def test_19_proofs_and_json_that_can_be_read_in_two_ways(project: Project) -> None:
    place = project.make("a")
    digest, proof = hex_digest(read_artifact(place).id), make_proof(project.ledger.store, project.ids["a"])
    for entry in proof["entries"]:
        assert verify_proof({**proof, "entries": [{**entry, "inclusion": []}]}, digest).problems
    twin = proof["entries"][1]["leaf"].replace('"kind"', '"kind":"derive","kind"')
    with pytest.raises(MalformedFile, match="no leaf"):
        verify_proof({**proof, "entries": [{**proof["entries"][1], "leaf": twin}]}, digest)
    with pytest.raises(MalformedFile, match="no proof"):
        verify_proof({**proof, "entries": [{**proof["entries"][1], "index": "01"}]}, digest)
    short = [{**proof["entries"][1], "inclusion": [base64.b64encode(b"x" * 31).decode()]}]
    assert "inclusion" in words(verify_proof({**proof, "entries": short}, digest))
    with pytest.raises(MalformedFile, match="no signed checkpoint"):
        verify_proof({**proof, "checkpoint": proof["checkpoint"].replace("\n2\n", "\n02\n")}, digest)


def test_20_giant_leaves_and_proof_bombs(project: Project) -> None:
    place = project.make("a")
    digest, proof = hex_digest(read_artifact(place).id), make_proof(project.ledger.store, project.ids["a"])
    giant = proof["entries"][1]["leaf"].replace('"kind"', '"x":"' + "a" * 70_000 + '","kind"')
    with pytest.raises(MalformedFile, match="no leaf"):
        verify_proof({**proof, "entries": [{**proof["entries"][1], "leaf": giant}]}, digest)
    bomb = [{**proof["entries"][1], "inclusion": [base64.b64encode(b"x" * 32).decode()] * 100_000}]
    assert "inclusion" in words(verify_proof({**proof, "entries": bomb}, digest))
    with pytest.raises(MalformedFile, match="no proof"):
        verify_proof({**proof, "entries": [{}] * 200_000}, digest)
    with pytest.raises(MalformedFile, match="cannot be a leaf"):
        Leaf("note", "a" * 64, leaf_module.now(), subjects=("b" * 64,) * 2000).to_bytes()
    with pytest.raises(MalformedFile, match="verifier does not take"):
        Envelope.from_bytes(b'{"payload":' + b"[" * 10**6)


def test_21_a_dataset_that_changed_under_its_name(project: Project) -> None:
    project.make("first", "1" * 64, role="dataset")
    data = {"role": "dataset", "name": "texts"}
    for digest in ("1" * 64, "2" * 64):
        project.ledger.append(
            Draft("run.start", {"step": 0}, f"{int(digest[0]):036x}", parents=(Parent(digest, **data),))
        )
    (problem,) = project.verify().problems
    assert (problem.verdict, problem.word) == ("UNKNOWN", "dataset-changed")


def test_a_dataset_cut_by_two_tokenizers_has_not_changed(project: Project) -> None:
    """What a training names is the text as its tokenizer cut it."""
    project.make("first", "1" * 64, role="dataset")
    for number, (digest, cut) in enumerate((("1", "a"), ("2", "b"), ("1", "a"), ("2", "b"))):
        used = (Parent(digest * 64, "dataset", "texts"), Parent(cut * 64, "tokenizer", "tokenizer"))
        project.ledger.append(Draft("run.start", {"step": 0}, f"{number + 1:036x}", parents=used))
    assert not [problem for problem in project.verify().problems if problem.word == "dataset-changed"]
    used = (Parent("3" * 64, "dataset", "texts"), Parent("a" * 64, "tokenizer", "tokenizer"))
    project.ledger.append(Draft("run.start", {"step": 0}, f"{9:036x}", parents=used))
    assert [problem.word for problem in project.verify().problems] == ["dataset-changed"]


def test_22_a_contributor_dropped_at_release(project: Project) -> None:
    project.make("base")
    project.actors = ({"id": "person:two", "role": "operator"},)
    place = project.make("child", "base", operation="finetune")
    report = project.verify()
    people = [credit.person for credit in credits_of(report.entries)]
    assert people == ["person:one", "person:two"]
    one = [credit for credit in credits_of(report.entries) if credit.person == "person:two"]
    facts = {"credits": ["person:two"], "credit_root": credit_root(one)}
    project.ledger.append(Draft("release", facts, subjects=(Subject("manifest", project.ids["child"]),)))
    (problem,) = project.verify().problems
    assert (problem.verdict, problem.word) == ("CONTRADICTED", "credit-dropped")
    clean = Project.start(project.folder / "clean")
    clean.make("base")
    made = release(clean.ledger, look_at(clean.make("child", "base")))
    assert made.problems == []
    assert clean.verify().problems == []
    assert place.exists()


def test_23_entries_withheld_from_a_reader(project: Project) -> None:
    """A proof stands without the log; leaving out what it needs is seen, leaving out later key events is said."""
    project.make("base")
    place = project.make("child", "base", operation="finetune")
    digest, proof = hex_digest(read_artifact(place).id), make_proof(project.ledger.store, project.ids["child"])
    report = verify_proof(proof, digest, max_age_days=7)
    assert (report.problems, report.verdict) == ([], "DECLARED")
    without_keys = {**proof, "entries": [e for e in proof["entries"] if e["index"] != "0"]}
    assert verify_proof(without_keys, digest).verdict == "CONTRADICTED"
    without_base = {**proof, "entries": [e for e in proof["entries"] if e["index"] != str(project.entries["base"])]}
    assert verify_proof(without_base, digest).verdict == "UNKNOWN"
    without_last = {**proof, "entries": proof["entries"][:-1]}
    assert "stale" in words(verify_proof(without_last, digest, max_age_days=7))
    assert any("later key event" in sentence for sentence in report.not_checked)
    project.make("more")
    assert words(verify_proof(proof, digest, [project.note])) == {"older-than-known"}


def test_24_two_digests_stand_for_every_file(project: Project) -> None:
    """One broken hash is not enough: sha256 and blake3 of each file are in the manifest, and both are compared."""
    place = project.make("base")
    manifest = registered_manifest(project.ledger.store, project.ids["base"])
    assert manifest is not None
    assert {len(file.sha256) for file in manifest.files} == {len(file.blake3) for file in manifest.files} == {64}
    broken = manifest.model_copy(
        update={"files": [file.model_copy(update={"blake3": "0" * 64}) for file in manifest.files]}
    )
    found = look_at(place)
    assert len(file_problems(found, broken, registered=False)) == len(manifest.files)


def test_25_verification_needs_few_libraries() -> None:
    """A flaw in an exporter or a tensor library cannot reach the verifier: it does not load them."""
    code = (
        "import sys\nfrom pedigree.ledger import verification, proof, log\n"
        "top = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(*sorted(name for name in top if not name.startswith('_')))"
    )
    loaded = set(run_python(code).stdout.split())
    assert loaded <= {"cryptography", "cffi", "pedigree", "rfc8785", "sitecustomize", "typing_extensions"}, loaded


def test_26_evidence_that_was_deleted(project: Project) -> None:
    project.make("base")
    project.make("child", "base", operation="finetune")
    body = Leaf.from_bytes(project.ledger.store.row(project.entries["child"]).leaf).body
    with project.database() as connection:
        connection.execute("DELETE FROM ledger_body WHERE digest = ?", (bytes.fromhex(body),))
    report = project.verify()
    assert words(report) == {"evidence-missing"}
    assert project.verdict("child") == "UNKNOWN"
    assert project.verdict("base") == "DECLARED"


def test_27_writers_at_once_keep_one_order(project: Project) -> None:
    def write(name: str) -> None:
        own = Ledger(project.ledger.place)
        for i in range(10):
            own.append(Draft("note", {"writer": name, "i": i}))
        own.close()

    threads = [threading.Thread(target=write, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = project.verify()
    assert (report.problems, report.size) == ([], 41)
    for name in "0123":
        assert [int(e.facts["i"]) for e in report.entries if e.facts.get("writer") == name] == list(range(10))


def test_28_a_clock_that_jumps(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, time in enumerate(("2031-01-01T00:00:00.000Z", "1999-12-31T23:59:59.999Z", "2026-01-01T00:00:00.000Z")):
        monkeypatch.setattr("pedigree.ledger.log.now", lambda time=time: time)
        project.make(f"m{i}", *([f"m{i - 1}"] if i else []))
    assert project.verify().problems == []
    assert [project.verdict(f"m{i}") for i in range(3)] == ["DECLARED"] * 3
    assert words(project.verify(max_age_days=7)) == {"stale"}
