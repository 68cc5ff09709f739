"""`pedigree run`: a family is made, grown, compared; what is unchanged is kept; claims are held against the weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.cli.conftest import Ran

from pedigree.records.recorder import read_events
from pedigree.weights import known_files
from pedigree.weights.known_files import KnownFiles

Pedigree = Callable[..., Ran]

RECIPE = """
recipe: 1
family: tiny
seed: 3
corpora:
  code: {kind: python-stdlib, domain: code, max_documents: 12, held_out: 0.4}
tokenizers:
  own: {kind: byte-level, corpus: code, vocabulary: 300}
models:
  first:
    kind: train
    model: {member: llama-3-8b}
    tokenizer: own
    corpus: code
    claims: scratch
    training: {tokens: 4000, sequence_length: 64, batch_sequences: 8, evaluation: {max_tokens: 300}}
    at: {real: {model: {vocab_size: 300}}}
  second:
    kind: train
    model: {member: llama-3-8b}
    tokenizer: own
    corpus: code
    training: {tokens: 4000, sequence_length: 64, batch_sequences: 8, seed: 9, evaluation: {max_tokens: 300}}
    at: {real: {model: {vocab_size: 300}}}
  grown:
    kind: surgery
    from: first
    claims: scratch
    moments: carry
    steps:
      - grow.depth: {op: identity, after: [1]}
      - grow.ffn: {to: 256}
    at: {real: {steps: [{grow.depth: {op: identity, after: [1]}}]}}
  continued:
    kind: train
    from: grown
    moments: carry
    training: {tokens: 1000, sequence_length: 64, batch_sequences: 8, evaluation: {max_tokens: 300}}
evaluate:
  code-again: {corpus: code, models: [first, grown], tokens: 600, arithmetic: 2, sequence_length: 64}
compare: {roots: true}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_a_family_is_made_compared_and_kept(
    pedigree: Pedigree, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[tuple[int, int, int]] = []
    remember = KnownFiles.put

    def put(known: KnownFiles, status: os.stat_result, digests: tuple[str, str], begun: int) -> None:
        hashed.append((status.st_ino, status.st_size, status.st_ctime_ns))
        remember(known, status, digests, begun)

    monkeypatch.setattr(KnownFiles, "put", put)
    monkeypatch.setattr(known_files, "GRAIN", -(10**12))  # what was written just now counts as long ago
    ran = pedigree("run", "tiny.yaml", "--json")
    assert ran.code == 0, ran.err
    assert len(hashed) == len(set(hashed)) > 10  # every file once for each state that it was in
    result = json.loads(ran.out)["result"]
    members = {member["name"]: member for member in result["members"]}
    assert {name: member["outcome"] for name, member in members.items()} == dict.fromkeys(members, "made")
    assert members["grown"]["operators"] == ["grow.depth", "grow.ffn"]
    # The grown model is the old one bit for bit, so its text is predicted as well.
    scores = [members[name]["scores"][0]["bits_per_byte"] for name in ("first", "grown")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    measured = {one["model"]: one for one in result["evaluations"]}
    assert {(one["evaluation"], one["outcome"]) for one in measured.values()} == {("code-again", "made")}
    assert measured["first"]["scores"][0]["bits_per_byte"] == pytest.approx(
        measured["grown"]["scores"][0]["bits_per_byte"], rel=1e-4
    )
    assert measured["first"]["artifact"] != measured["grown"]["artifact"]
    kept = json.loads((tmp_path / "runs" / "tiny" / measured["grown"]["file"]).read_text(encoding="utf-8"))
    assert kept["schema"] == "pedigree/evaluation"
    assert kept["inputs"]["artifact"]["id"] == measured["grown"]["artifact"]
    told = read_events(tmp_path / "runs" / "tiny" / "evaluate" / "code-again" / "grown.jsonl")
    assert [event["event"] for event in told] == ["run_start", "run_end"]
    assert told[1]["scores"] == measured["grown"]["scores"]
    edges = {(edge["a"], edge["b"]): edge for edge in result["edges"]}
    assert edges["first", "grown"]["verdict"] == edges["grown", "continued"]["verdict"] == "related"
    assert edges["first", "second"]["finding"] == "corroborated"
    assert edges["first", "second"]["kin"] is False
    assert (members["grown"]["claim"], members["first"]["claim"]) == ("contradicted", "corroborated")
    assert "first" in members["grown"]["claim_because"]
    assert members["second"]["claims"] is None
    page = (tmp_path / "runs" / "tiny" / "family.html").read_text(encoding="utf-8")
    assert "the weights disagree" in page
    assert "What the models can do" in page
    assert page.count("<rect") == 4
    assert (tmp_path / "runs" / "tiny" / edges["first", "grown"]["report"]).is_file()
    record = json.loads((tmp_path / "runs" / "tiny" / "family.json").read_text(encoding="utf-8"))
    assert record["result"]["members"] == result["members"]

    # The state of the optimizer went along: the old units and layers go on with theirs, the fresh ones begin.
    begun = load_file(
        next((tmp_path / "runs" / "tiny" / "continued" / "checkpoints" / "step-00000000").glob("*.safe*"))
    )
    left = load_file(next((tmp_path / "runs" / "tiny" / "first" / "checkpoints" / "step-00000008").glob("*.safe*")))
    old, new = (f"optimizer.exp_avg_sq.layers.{layer}.ffn.up.weight" for layer in (2, 3))
    assert torch.equal(begun[new][: left[old].shape[0]], left[old])
    assert not begun["optimizer.exp_avg.layers.2.attn.o.weight"].any()
    assert [float(begun[f"optimizer.step.layers.{n}.attn.o.weight"]) for n in (1, 2, 3)] == [8, 0, 8]

    again = json.loads(pedigree("run", "tiny.yaml", "--json", "--no-compare").out)["result"]
    assert {member["outcome"] for member in again["members"]} == {"unchanged"}
    assert again["edges"] == []
    assert {one["outcome"] for one in again["evaluations"]} == {"unchanged"}
    recipe.write_text(RECIPE.replace("to: 256", "to: 240"), encoding="utf-8")
    third = json.loads(pedigree("run", "tiny.yaml", "--json", "--no-compare", "--only", "grown").out)["result"]
    assert [(m["name"], m["outcome"]) for m in third["members"]] == [("first", "unchanged"), ("grown", "made")]
    _changed_and_changed_back(pedigree, recipe, tmp_path / "runs" / "tiny")


def _changed_and_changed_back(pedigree: Pedigree, recipe: Path, family: Path) -> None:
    """A step of another definition is made anew and the old one kept; a recipe changed back finds it."""
    weights = {name: (family / name / "model" / "model.safetensors").read_bytes() for name in ("first", "second")}
    recipe.write_text(RECIPE.replace("tokens: 4000", "tokens: 4608", 1), encoding="utf-8")
    ran = pedigree("run", "tiny.yaml", "--json", "--no-compare", "--only", "first", "--only", "second")
    outcomes = {member["name"]: member["outcome"] for member in json.loads(ran.out)["result"]["members"]}
    assert outcomes == {"first": "made", "second": "unchanged"}
    assert "first has changed since it was made" in ran.err
    (kept,) = (family / "earlier").glob("first-*")
    assert (kept / "model" / "model.safetensors").read_bytes() == weights["first"]
    assert (family / "first" / "model" / "model.safetensors").read_bytes() != weights["first"]
    recipe.write_text(RECIPE, encoding="utf-8")
    back = pedigree("run", "tiny.yaml", "--json", "--no-compare")
    members = json.loads(back.out)["result"]["members"]
    assert {member["name"]: member["outcome"] for member in members} == dict.fromkeys(
        ("first", "second", "grown", "continued"), "unchanged"
    )
    assert (family / "first" / "model" / "model.safetensors").read_bytes() == weights["first"]
    assert len(list((family / "earlier").glob("grown-*"))) == 1
    # `train` has settings of its own on the command line, so it asks instead of starting anew.
    recipe.write_text(RECIPE.replace("tokens: 4000", "tokens: 4608", 1), encoding="utf-8")
    refused = pedigree("train", "tiny.yaml", "--only", "first")
    assert refused.code == 2
    assert "other settings" in refused.err


def test_what_is_asked_by_variables_is_done(pedigree: Pedigree, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEDIGREE_COMPARE", "no-value")
    assert pedigree("run", "tiny.yaml").code == 2
    monkeypatch.delenv("PEDIGREE_COMPARE")
    monkeypatch.setenv("PEDIGREE_FRESH", "no-value")
    assert pedigree("run", "tiny.yaml").code == 2


def test_a_step_that_does_not_fit_is_refused_before_anything_is_made(
    pedigree: Pedigree, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(RECIPE.replace("to: 256", "to: 8"), encoding="utf-8")
    ran = pedigree("run", "tiny.yaml")
    assert ran.code == 2
    assert "this is not wider" in ran.err
    assert "models.grown" in ran.err
    assert not (tmp_path / "runs").exists()


def test_a_plan_tells_what_operators_make_at_both_sizes(pedigree: Pedigree, recipe: Path) -> None:
    for size, layers, exactness in (("pico", 5, "FP0"), ("real", 33, "FP0")):
        result = json.loads(pedigree("plan", "tiny.yaml", "--size", size, "--json").out)["result"]
        (operation,) = result["operations"]
        assert operation["config"]["n_layers"] == layers
        assert operation["exactness"] == exactness
    assert "grown from first: grow.depth FP0, grow.ffn FP0; FP0 in all" in pedigree("plan", "tiny.yaml").out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("grow.depth: {op: identity", "grow.dept: {op: identity", "no such operator"),
        ("from: first\n    claims", "from: frist\n    claims", "no step of this name"),
        ("    moments: carry\n    steps", "    steps", "no state of an optimizer to carry"),
        ("    claims: scratch\n    training", "    moments: carry\n    training", "no state of an optimizer to carry"),
        ("grow.depth: {op: identity, after: [1]}\n", "grow.depth: {op: stack, times: 2}\n", "function of the model"),
        ("claims: scratch\n    moments", "claims: [nobody]\n    moments", "no step of this name"),
        ("models: [first, grown], tokens", "models: [frist, grown], tokens", "no step of this name"),
        ("code-again: {corpus: code", "code-again: {corpus: cod", "no corpus of this name"),
        ("sequence_length: 64}\ncompare", "sequence_length: 99999}\ncompare", "longer than the context of a model"),
        ("  second:\n", "  earlier:\n", "name is that of a folder"),
        ("compare: {roots: true}", "compare: {pairs: [[first, thrid]]}", "no step of this name"),
    ],
)
def test_what_is_wrong_with_surgery_is_told_with_its_place(
    pedigree: Pedigree, recipe: Path, old: str, new: str, words: str
) -> None:
    assert old in RECIPE
    recipe.write_text(RECIPE.replace(old, new, 1), encoding="utf-8")
    ran = pedigree("plan", "tiny.yaml")
    assert ran.code == 2
    assert words in ran.err
