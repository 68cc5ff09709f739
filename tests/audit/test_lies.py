"""Every planted lie is found and named, and a family of which nothing untrue is said has no edge in doubt."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audited_family import TRUE_PARENTS, Family

from pedigree.ledger.statement import Draft, Subject
from pedigree.records.audit import AuditEdge

SETTINGS: dict[str, Any] = {
    "training": {"optimizer": {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.1}}
}


def test_no_edge_of_an_honest_family_is_contradicted_or_in_doubt(family: Family) -> None:
    found = family.honest()
    ledger = [edge for edge in found.result.edges if edge.source == "ledger"]
    verdicts = {(edge.child_name, edge.parent_name): edge.verdict for edge in ledger}
    assert {child: verdict for (child, _), verdict in verdicts.items() if verdict != "CORROBORATED"} == {
        "base": "DECLARED"  # nothing was there before it
    }
    assert {(child, parent) for child in TRUE_PARENTS for parent in TRUE_PARENTS[child]} < set(verdicts)
    assert not [lie for edge in ledger for lie in edge.lies]
    frozen = next(edge for edge in ledger if edge.child_name == "left-more")
    answers = {check.check: check.answer for check in frozen.checks}
    assert answers["frozen"] == answers["states"] == "agrees"
    # What the family is said to be is held against the weights as well, and one of it is not so.
    said = {edge.child_name: edge for edge in found.result.edges if edge.source == "family"}
    assert (said["left"].verdict, said["grown-more"].verdict) == ("CORROBORATED", "CONTRADICTED")
    assert said["grown-more"].lies == ["not-from-scratch"]
    assert "base" in said["grown-more"].why
    assert found.result.verdict == "CONTRADICTED"


def test_a_second_audit_compares_nothing_anew(family: Family) -> None:
    first = family.honest()
    again = family.honest()
    assert again.result.pairs == again.result.pairs_from_before == first.result.pairs > 10
    assert again.content_digest() == first.content_digest()


def is_caught(edge: AuditEdge, lie: str, named: str, verdict: str = "CONTRADICTED") -> None:
    assert (edge.verdict, edge.lies) == (verdict, [lie]), edge.why
    assert named in edge.why


def test_an_undeclared_parent_is_found(family: Family, tmp_path: Path) -> None:
    edge = family.told(tmp_path, "mixed", ["left"], "base", "right")
    is_caught(edge, "undeclared-parent", "0.40 of the weights come from right")


def test_an_undeclared_parent_of_another_family_is_found(family: Family, tmp_path: Path) -> None:
    edge = family.told(tmp_path, "left", ["stranger"], "base")
    assert set(edge.lies) == {"not-the-parent", "undeclared-parent"}
    assert "base too, which is not named" in edge.why


def test_a_swapped_sibling_is_found(family: Family, tmp_path: Path) -> None:
    edge = family.told(tmp_path, "left-more", ["right"], "base", "left")
    is_caught(edge, "swapped-sibling", "left is nearer")


def test_a_step_between_two_models_that_was_left_out_is_found(family: Family, tmp_path: Path) -> None:
    edge = family.told(tmp_path, "left-more", ["base"], "left")
    is_caught(edge, "hidden-step", "lies on the way: a step was left out")


def test_training_hidden_behind_an_operation_is_found(family: Family, tmp_path: Path) -> None:
    edge = family.told(tmp_path, "grown-more", ["base"], operation="grow.depth")
    is_caught(edge, "hidden-step", "the weights were changed in between")


def test_an_operation_hidden_behind_training_is_found(family: Family, tmp_path: Path) -> None:
    edge = family.told(tmp_path, "grown-more", ["base"], operation="finetune")
    is_caught(edge, "hidden-step", "does not change layers")


def test_an_operation_that_was_not_done_is_found(family: Family, tmp_path: Path) -> None:
    edge = family.told(tmp_path, "left", ["base"], operation="prune.depth")
    assert "prune.depth changes the number of layers, and the child has as many" in edge.why


def test_more_training_than_was_recorded_is_found(family: Family, tmp_path: Path) -> None:
    run = "018f0000-0000-7000-8000-000000000001"
    start = family.draft("left", ["base"])
    steps = {"steps": "1"}
    events = [
        Draft("run.start", {"settings": SETTINGS}, run, parents=start.parents),
        Draft(
            "derive", {**start.facts, "parameters": steps}, run, start.subjects, start.parents, "finetune",
            start.attachments,
        ),
    ]  # fmt: skip
    ledger = family.said(tmp_path, *events)
    (edge,) = family.by(ledger, [family.model("left"), family.model("base")]).result.edges
    is_caught(edge, "hidden-step", "more was done than was recorded")


def test_a_run_that_began_with_other_weights_than_its_parent_is_found(family: Family, tmp_path: Path) -> None:
    run = "018f0000-0000-7000-8000-000000000002"
    saved = sorted((family.model("left-more").parent / "checkpoints").glob("step-*"))
    states = [
        Draft(
            "ckpt.save", {"step": str(int(folder.name[5:]))}, run,
            (Subject("state.json", hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()),),
        )
        for folder in saved
    ]  # fmt: skip
    for parent, verdict, words in (
        ("left", "CORROBORATED", "began with the weights of left"),
        ("right", "CONTRADICTED", "began with weights of which none of 30 is that of right"),
    ):
        made = family.draft("left-more", [parent])
        said = replace(made, run=run)
        (tmp_path / parent).mkdir()
        ledger = family.said(tmp_path / parent, Draft("run.start", {}, run, parents=made.parents), *states, said)
        (edge,) = family.by(ledger, [family.model("left-more"), family.model(parent)]).result.edges
        assert edge.verdict == verdict, edge.why
        assert words in edge.why
    changed = [replace(state, subjects=(Subject("state.json", "ab" * 32),)) for state in states]
    ledger = family.said(tmp_path / "left" / "..", Draft("run.start", {}, run), *changed, replace(said, run=run))
    (edge,) = family.by(ledger, [family.model("left-more"), family.model("right")]).result.edges
    assert (edge.verdict, edge.lies) == ("SUSPECT", ["changed-files"])


def test_training_that_did_not_happen_is_found(family: Family, copied: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copyfile(family.model("base") / "model.safetensors", copied("left") / "model.safetensors")
    (tmp_path / "left" / "pedigree.json").unlink()
    other = Family(tmp_path, family.project)
    other.model = lambda name: tmp_path / name if name == "left" else family.model(name)  # type: ignore[method-assign]
    edge = other.told(tmp_path, "left", ["base"])
    is_caught(edge, "wrong-upload", "every number is the parent's")


def test_weights_of_another_model_in_the_folder_are_found(
    family: Family, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copyfile(family.model("right") / "model.safetensors", copied("left") / "model.safetensors")
    ledger = family.project / ".pedigree" / "ledger.db"
    found = family.by(ledger, [tmp_path / "left", family.model("base")])
    edge = next(edge for edge in found.result.edges if edge.child_name == "left")
    is_caught(edge, "wrong-upload", "the weights are those of right")
    assert next(model.state for model in found.result.models if model.name == "left") == "changed"


def test_changed_weights_are_found(family: Family, copied: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied("left") / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    found = family.by(family.project / ".pedigree" / "ledger.db", [tmp_path / "left", family.model("base")])
    edge = next(edge for edge in found.result.edges if edge.child_name == "left")
    is_caught(edge, "changed-files", "the weights are not those that were recorded")


def test_changed_words_beside_the_same_weights_make_a_record_stale(
    family: Family, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    (copied("left") / "README.md").write_text("# left\n", encoding="utf-8")
    found = family.by(family.project / ".pedigree" / "ledger.db", [tmp_path / "left", family.model("base")])
    edge = next(edge for edge in found.result.edges if edge.child_name == "left")
    assert (edge.verdict, edge.lies) == ("STALE", [])
    assert "README.md was added; the weights are those recorded" in edge.why


@pytest.mark.parametrize("name", ["left", "grown-more"])
def test_a_random_start_that_was_none_is_found(family: Family, tmp_path: Path, name: str) -> None:
    edge = family.told(tmp_path, name, [], "base", "stranger", operation="train")
    is_caught(edge, "not-from-scratch", "shares trained weights with base")


def test_a_parent_that_was_none_is_found(family: Family, tmp_path: Path) -> None:
    edge = family.told(tmp_path, "left", ["stranger"])
    is_caught(edge, "not-the-parent", "no relation to the declared parent")


def test_a_frozen_part_that_moved_is_found(family: Family, tmp_path: Path) -> None:
    edge = family.told(tmp_path, "left", ["base"], parameters={"frozen": ["attention"]})
    is_caught(edge, "frozen-moved", "layers.0.attn.")


def test_a_part_that_was_frozen_without_a_word_is_found(family: Family, tmp_path: Path) -> None:
    edge = family.told(tmp_path, "left-more", ["left"], parameters={"frozen": []})
    is_caught(edge, "frozen-undeclared", "the parent's number for number: layers.0.attn.", "SUSPECT")


def test_what_is_not_here_is_declared_and_says_why(family: Family, tmp_path: Path) -> None:
    ledger = family.said(tmp_path, family.draft("base", [], "train"), family.draft("left", ["base"]))
    base, left = family.by(ledger, [family.model("left")]).result.edges
    assert (base.verdict, left.verdict) == ("DECLARED", "DECLARED")
    assert "the files of the model are not here" in base.why
    assert "the files of the parent are not here" in left.why


def test_a_model_card_is_held_against_the_weights(
    family: Family, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    card = "---\nbase_model: somebody/{}\nbase_model_relation: finetune\n---\n# left\n"
    for name, verdict, word in (
        ("base", "CORROBORATED", "related"), ("stranger", "CONTRADICTED", "no relation"),
        ("nobody", "UNKNOWN", "no model named somebody/nobody"),
    ):  # fmt: skip
        folder = tmp_path / "left"
        shutil.rmtree(folder, ignore_errors=True)
        copied("left")
        (folder / "README.md").write_text(card.format(name), encoding="utf-8")
        found = family.by(None, [folder, family.folder / "stranger", family.folder / "base"])
        (edge,) = found.result.edges
        assert (edge.source, edge.verdict) == ("card", verdict), edge.why
        assert word in edge.why
