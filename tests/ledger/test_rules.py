"""Rules of a policy: each is kept, set aside by a signed entry, or not kept; what is missing is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.attacks.ledger_attacker import Project
from tests.ledger.test_exports import project as exported_project

from pedigree.errors import MissingInput, ProblemsFound, UsageError
from pedigree.ledger.directory import look_at
from pedigree.ledger.key_events import add, revoke, rotate
from pedigree.ledger.keys import PrivateKey, PublicKey
from pedigree.ledger.passport import passport_of
from pedigree.ledger.proof import make_proof, verify_proof
from pedigree.ledger.release import release
from pedigree.ledger.rules import Case, Ruling, judge
from pedigree.ledger.statement import MANIFEST, Draft, Subject
from pedigree.records.policy import Policy, read_policy
from pedigree.records.schemas import json_schema

project = exported_project


def rulings(project: Project, name: str, policy: dict[str, Any], *outside: Any) -> dict[str, Ruling]:
    report = project.verify(*outside)
    made = passport_of(report, project.ids[name])
    found = judge(Policy.model_validate({"policy": 1, **policy}), Case(made, report, report.problems))
    assert found[0].rule == "record"
    return {ruling.rule: ruling for ruling in found}


def kept(project: Project, name: str, policy: dict[str, Any], rule: str, *outside: Any) -> bool:
    return rulings(project, name, policy, *outside)[rule].kept


def about(project: Project, model: str, kind: str, key: PrivateKey | None = None, **facts: Any) -> int:
    draft = Draft(kind, facts, subjects=(Subject(MANIFEST, project.ids[model]),))
    return project.ledger.append(draft, [key] if key else None).index


def test_an_empty_policy_asks_for_the_record_alone(project: Project) -> None:
    assert [*rulings(project, "small", {})] == ["record"]
    project.ids["nobody"] = "f" * 64
    assert not kept(project, "nobody", {}, "record")


def test_ancestors_by_digest_name_and_pattern(project: Project) -> None:
    for word, expected in (
        ("owner/base", False), ("OWNER/*", False), ("sha256:" + project.ids["base"][:12], False), ("tun*", False),
        ("small", False), ("owner/bas", True), (project.ids["base"][:6], True), ("f" * 12, True),
    ):  # fmt: skip
        assert kept(project, "small", {"ancestors": {"exclude": [word]}}, "ancestors") == expected, word
    rules = {"ancestors": {"unrecorded": "refuse"}}
    assert kept(project, "small", rules, "unrecorded")
    project.make("odd", "a" * 64)
    assert not kept(project, "odd", rules, "unrecorded")


def test_licenses_of_the_whole_closure(project: Project) -> None:
    assert kept(project, "small", {"licenses": {"exclude": ["cc-by-nc-*"]}}, "licenses")
    ruling = rulings(project, "small", {"licenses": {"exclude": ["llama*"]}})["licenses"]
    assert (ruling.kept, ruling.sentence) == (False, "excluded: owner/base: llama3")
    project.take_in("silent")
    project.make("child", "silent")
    assert kept(project, "child", {"licenses": {"unknown": "allow"}}, "licenses")
    assert not kept(project, "child", {"licenses": {"unknown": "refuse"}}, "licenses")


def test_data_sets(project: Project) -> None:
    for word in ("team/*", "d" * 12, "notes.txt"):
        assert not kept(project, "small", {"datasets": {"exclude": [word]}}, "datasets"), word
    assert kept(project, "small", {"datasets": {"exclude": ["other"]}}, "datasets")


def test_what_counts_as_from_scratch(project: Project) -> None:
    project.make("own")
    assert kept(project, "own", {"scratch": {}}, "scratch")
    ruling = rulings(project, "small", {"scratch": {}})["scratch"]
    assert (ruling.kept, ruling.sentence) == (False, "from elsewhere: owner/base (init)")
    project.make("taught", "base", role="teacher")
    assert not kept(project, "taught", {"scratch": {}}, "scratch")
    assert kept(project, "taught", {"scratch": {"allow": ["teacher"]}}, "scratch")
    assert not kept(project, "base", {"scratch": {}}, "scratch")
    project.take_in("words")
    project.make("spelled", "words", role="tokenizer")
    assert not kept(project, "spelled", {"scratch": {}}, "scratch")
    assert kept(project, "spelled", {"scratch": {"allow": ["tokenizer"]}}, "scratch")
    assert "scratch" not in rulings(project, "small", {"scratch": {"required": False}})


def test_edges_and_checkpoints_held_outside(project: Project) -> None:
    project.make("own")
    assert kept(project, "own", {"edges": "declared"}, "edges")
    assert not kept(project, "own", {"edges": "verified"}, "edges")
    assert not kept(project, "own", {"freshness": {"anchored": True}}, "anchored")
    assert kept(project, "own", {"edges": "verified", "freshness": {"anchored": True}}, "edges", project.note)
    assert kept(project, "own", {"freshness": {"anchored": True}}, "anchored", project.note)
    assert not kept(project, "small", {"edges": "declared"}, "edges")  # its base came from elsewhere
    assert kept(project, "small", {"edges": "unknown"}, "edges")
    assert kept(project, "own", {"freshness": {"max_age_days": 1}}, "freshness")
    assert not kept(project, "own", {"freshness": {"max_age_days": 1e-9}}, "freshness")


def test_findings_of_the_weights_on_every_edge(project: Project) -> None:
    ruling = rulings(project, "small", {"audits": ["lineage"]})["audits"]
    assert (ruling.kept, ruling.sentence.partition(" (")[0]) == (False, "2 of 2 edges have no finding")
    for child, parent, verdict in (("small", "tuned", "REPLAYED"), ("tuned", "base", "CORROBORATED")):
        facts = {"child": project.ids[child], "parent": project.ids[parent], "verdict": verdict}
        project.ledger.append(Draft("forensic", facts))
    assert kept(project, "small", {"audits": ["lineage"]}, "audits")
    assert not kept(project, "small", {"audits": ["clearance"]}, "audits")
    about(project, "small", "attach", name="clearance", schema="pedigree/clearance")
    assert kept(project, "small", {"audits": ["clearance"]}, "audits")


def test_evaluations_and_their_limits(project: Project) -> None:
    rule: dict[str, Any] = {"evaluations": [{"of": "english", "at_most": 1.2}]}
    assert "no evaluation of english" in rulings(project, "small", rule)["evaluations"].sentence
    about(project, "small", "attach", name="evaluation", numbers={"english": 1.25})
    assert rulings(project, "small", rule)["evaluations"].sentence.startswith("english is 1.25, at most 1.2 is asked")
    about(project, "small", "attach", name="evaluation", numbers={"english": 1.15})
    assert kept(project, "small", rule, "evaluations")
    assert not kept(project, "small", {"evaluations": [{"of": "english", "at_least": 2}]}, "evaluations")
    about(project, "base", "attach", name="evaluation", numbers={"german": 1.0})  # of another model
    assert not kept(project, "small", {"evaluations": [{"of": "german"}]}, "evaluations")
    about(project, "small", "attach", name="evaluation", numbers={"english": "nan"})
    assert not kept(project, "small", rule, "evaluations")


def test_who_released_and_how_many_signed(project: Project) -> None:
    alice, bob = PrivateKey.generate(), PrivateKey.generate()
    add(project.ledger, alice.public, "actor", "alice")
    add(project.ledger, bob.public, "actor", "bob")
    own = project.ledger.key("actor").public.id
    rules = {"release": {"by": ["alice", "bob", own[:12]], "signatures": 2}}
    assert [rulings(project, "tuned", rules)[word].kept for word in ("release", "signatures")] == [False, False]
    assert release(project.ledger, look_at(project.folder / "tuned")).problems == []
    found = rulings(project, "tuned", rules)
    assert [found[word].kept for word in ("release", "signers", "signatures")] == [True, True, False]
    assert found["signatures"].sentence.startswith("1 of 2 signatures")
    about(project, "tuned", "approval")  # the same key again is the same signature
    assert not kept(project, "tuned", rules, "signatures")
    rotate(project.ledger, "actor")
    about(project, "tuned", "approval")  # and so is the key that took its place
    assert not kept(project, "tuned", rules, "signatures")
    about(project, "tuned", "approval", alice)
    assert kept(project, "tuned", rules, "signatures")
    assert not kept(project, "tuned", {"release": {"by": ["alice"]}}, "signers")
    assert not kept(project, "tuned", {"release": {"by": ["alice"], "signatures": 2}}, "signatures")
    # What a revoked key signed is not counted.
    revoke(project.ledger, alice.public.id, 1, "lost")
    assert not kept(project, "tuned", rules, "signatures")


def test_a_key_that_the_root_keys_did_not_admit_signs_nothing(project: Project) -> None:
    stranger = PrivateKey.generate()
    about(project, "tuned", "approval", stranger)
    found = rulings(project, "tuned", {"release": {"signatures": 1}})
    assert found["signatures"].sentence.startswith("0 of 1 signatures, by nobody")


def test_a_waiver_is_an_entry_that_is_shown(project: Project) -> None:
    alice = PrivateKey.generate()
    add(project.ledger, alice.public, "actor", "alice")
    rules: dict[str, Any] = {
        "evaluations": [{"of": "english"}], "licenses": {"exclude": ["llama*"]},
        "waivers": {"by": ["alice"], "rules": ["evaluations"]},
    }  # fmt: skip
    about(project, "small", "waiver", rule="evaluations", reason="no key of those who may")
    about(project, "small", "waiver", alice, rule="licenses", reason="no rule of those that can be")
    about(project, "tuned", "waiver", alice, rule="evaluations", reason="another model")
    assert not any(ruling.passes for rule, ruling in rulings(project, "small", rules).items() if rule != "record")
    entry = about(project, "small", "waiver", alice, rule="evaluations", reason="no test set yet")
    found = rulings(project, "small", rules)
    assert (found["evaluations"].kept, found["evaluations"].passes) == (False, True)
    assert (found["evaluations"].waived_by, found["evaluations"].waiver) == (entry, "alice: no test set yet")
    assert not found["licenses"].passes
    without = {**rules, "waivers": None}
    assert not rulings(project, "small", without)["evaluations"].passes


def test_the_record_itself_is_never_waived(project: Project) -> None:
    about(project, "small", "waiver", rule="record", reason="in a hurry")
    with project.database() as connection:
        connection.execute("DELETE FROM ledger_node WHERE level = 1")
    about_rules = {"waivers": {"by": [project.ledger.key("actor").public.id], "rules": ["record"]}}
    found = rulings(project, "small", about_rules)["record"]
    assert (found.kept, found.passes) == (False, False)


def test_a_proof_carries_what_a_policy_asks_for(project: Project) -> None:
    alice = PrivateKey.generate()
    add(project.ledger, alice.public, "actor", "alice")
    release(project.ledger, look_at(project.folder / "tuned"))
    about(project, "tuned", "approval", alice)
    about(project, "tuned", "attach", numbers={"english": 1})
    report = verify_proof(make_proof(project.ledger.store, project.ids["tuned"]), project.ids["tuned"])
    made = passport_of(report, project.ids["tuned"])
    policy = Policy.model_validate({
        "policy": 1, "release": {"by": ["alice", project.ledger.key("actor").public.id], "signatures": 2},
        "evaluations": [{"of": "english", "at_most": 2}], "licenses": {"exclude": ["gpl*"]},
    })  # fmt: skip
    assert all(ruling.passes for ruling in judge(policy, Case(made, report, report.problems)))


def test_all_problems_of_a_policy_at_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "policy: 1\nrelease:\n  signature: 2\n  by: alice\nedges: good\nlicences: {}\nfreshness: {max_age_days: -1}\n"
        "waivers: {rules: [everything]}\n"
    )
    with pytest.raises(ProblemsFound, match=r"problem|unknown key") as caught:
        read_policy(path)
    told = [problem.sentence() for problem in caught.value.problems]
    assert [int(text.partition("policy.yaml:")[2].split(":")[0]) for text in told] == [3, 4, 5, 6, 7, 8]
    with pytest.raises(MissingInput, match="no such policy"):
        read_policy(tmp_path / "none.yaml")


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    text = (read_policy.__globals__["__doc__"]).partition("\n\n")[2].partition("\n\nEvery")[0]
    (tmp_path / "policy.yaml").write_text("\n".join(line[4:] for line in text.splitlines()))
    policy, digest = read_policy(tmp_path / "policy.yaml")
    assert policy.release is not None
    assert (policy.release.signatures, digest[:7]) == (2, "sha256:")
    assert set(yaml.safe_load((tmp_path / "policy.yaml").read_text())) == set(json_schema("policy")["properties"])


def test_keys_are_admitted_by_the_root_key_and_once(project: Project, tmp_path: Path) -> None:
    alice = PrivateKey.generate()
    add(project.ledger, alice.public, "actor", "alice")
    for key, name in ((alice.public, "other"), (PrivateKey.generate().public, "alice")):
        with pytest.raises(UsageError, match=r"knows this key already|another key has this name"):
            add(project.ledger, key, "actor", name)
    (tmp_path / "alice.pub").write_bytes(alice.public.to_pem())
    (tmp_path / "alice.pem").write_bytes(alice.to_pem())
    assert PublicKey.load(tmp_path / "alice.pub") == PublicKey.load(tmp_path / "alice.pem") == alice.public
    project.make("by-alice", keys=[alice])
    assert project.verify().problems == []
    assert project.verdict("by-alice") == "DECLARED"
