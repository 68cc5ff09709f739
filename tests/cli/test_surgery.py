"""`pedigree surgery`: what a user types and sees."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.cli.conftest import Ran
from tests.surgery.surgery_models import quick_folder, write_model, write_recipe

from pedigree.records.surgery import OperatorList, SurgeryCheck, SurgeryPlan, SurgeryRun
from pedigree.surgery.catalog import BY_NAME

Pedigree = Callable[..., Ran]


@pytest.fixture
def recipe() -> Iterator[Path]:
    with quick_folder() as folder:
        source = write_model(folder / "source", "llama")
        yield write_recipe(source, folder / "grown", [{"grow.ffn": {"to": 30}}])


def test_ops_tells_every_operator(pedigree: Pedigree) -> None:
    ran = pedigree("surgery", "ops", "--json")
    assert ran.code == 0
    told = OperatorList.model_validate_json(ran.out)
    assert [one.name for one in told.operators] == list(BY_NAME)
    assert "grow.depth" in pedigree("surgery", "ops").out


def test_plan_run_verify(pedigree: Pedigree, recipe: Path) -> None:
    planned = pedigree("surgery", "plan", str(recipe), "--json")
    plan = SurgeryPlan.model_validate_json(planned.out)
    assert (planned.code, plan.exactness) == (0, "FP0")
    assert plan.config_changes == {"intermediate_size": [24, 30]}
    assert not (recipe.parent / "grown").exists()
    ran = pedigree("surgery", "run", str(recipe), "--json")
    run = SurgeryRun.model_validate_json(ran.out)
    assert (ran.code, run.plan) == (0, plan.digest)
    assert {t.name for t in plan.tensors if t.kind != "shared"} == set(run.digests)
    assert (recipe.parent / "grown.jsonl").exists()
    checked = pedigree("surgery", "verify", str(recipe.parent / "grown"), "--json")
    assert (checked.code, SurgeryCheck.model_validate_json(checked.out).verdict) == (0, "pass")


def test_words_for_people(pedigree: Pedigree, recipe: Path) -> None:
    told = pedigree("surgery", "plan", str(recipe)).out
    assert "exactness  FP0" in told
    assert "intermediate_size: 24 -> 30" in told
    assert "wrote " in pedigree("surgery", "run", str(recipe), "--unrecorded").out
    sidecar = json.loads((recipe.parent / "grown" / "pedigree.json").read_text())
    assert sidecar["record"] == "unrecorded"
    again = pedigree("surgery", "run", str(recipe))
    assert again.code == 2
    assert "--force" in again.err
    assert pedigree("surgery", "verify", str(recipe.parent / "grown")).out.startswith("pass")


def test_a_broken_result_is_told_with_its_layer_and_exit_code(pedigree: Pedigree, recipe: Path) -> None:
    assert pedigree("surgery", "run", str(recipe), "--quiet").code == 0
    file = recipe.parent / "grown" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.down_proj.weight"
    save_file({**tensors, name: tensors[name] * 3 + 0.1}, file)
    ran = pedigree("surgery", "verify", str(recipe.parent / "grown"))
    assert ran.code == 1
    assert ran.out.startswith("fail  ")
    assert "departs first at layer 1" in ran.out
    record = SurgeryCheck.model_validate_json(pedigree("surgery", "verify", str(recipe.parent / "grown"), "--json").out)
    assert (record.verdict, record.departs_at) == ("fail", 1)
    assert [one.layer for one in record.layers] == [*range(-1, len(record.layers) - 1)]


def test_a_verb_is_asked_for(pedigree: Pedigree) -> None:
    ran = pedigree("surgery")
    assert ran.code == 2
    assert "a verb is missing" in ran.err


def test_variables_stand_for_flags(pedigree: Pedigree, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEDIGREE_WORKERS", "1")
    monkeypatch.setenv("PEDIGREE_UNRECORDED", "1")
    assert pedigree("surgery", "run", str(recipe), "--quiet").code == 0
    assert not (recipe.parent / "grown.jsonl").exists()
    moved = recipe.parent / "source"
    moved = moved.rename(recipe.parent / "moved")
    assert pedigree("surgery", "verify", str(recipe.parent / "grown")).code == 2
    monkeypatch.setenv("PEDIGREE_SOURCE", str(moved))
    monkeypatch.setenv("PEDIGREE_TOKENS", "32")
    checked = pedigree("surgery", "verify", str(recipe.parent / "grown"), "--json")
    assert SurgeryCheck.model_validate_json(checked.out).tokens == 32
