"""`pedigree surgery` on a mergekit YAML and on a swap: what a user types and sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from surgery.merge.tiny_checkpoints import MODELS, TINY, write_family
from surgery.vocabulary.swapping import write_models
from tests.cli.conftest import Ran

Pedigree = Callable[..., Ran]


def test_a_mergekit_yaml_is_planned_and_run(pedigree: Pedigree, tmp_path: Path) -> None:
    write_family(tmp_path)
    file = tmp_path / "ties.yaml"
    file.write_text(TINY.RECIPES["ties"])
    ran = pedigree("surgery", "plan", str(file), "--out", str(tmp_path / "merged"), "--json")
    plan = json.loads(ran.out)
    assert ran.code == 0
    assert [step["operator"] for step in plan["steps"]] == ["merge", "cast"]
    stored = sum(tensor.numel() * 4 for model in MODELS.values() for tensor in model.values())
    assert plan["bytes"]["read"] == stored, "two looks and a pass over three models, which are held between them"
    assert not (tmp_path / "merged").exists()
    ran = pedigree("surgery", "run", str(file), "--out", str(tmp_path / "merged"))
    assert ran.code == 0
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_keys_that_mean_nothing_here_are_named(pedigree: Pedigree, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("merge_method: karcher\nmodules: {}\nmodels: [{model: a}]\n")
    ran = pedigree("surgery", "plan", str(file))
    assert ran.code == 2
    assert "karcher" in ran.err
    assert "modules" in ran.err


def test_a_plan_with_probe_texts_tells_the_damage(
    pedigree: Pedigree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    write_models(tmp_path)
    recipe = {"surgery": 1, "source": {"model": "model"}, "target": {"dir": "out"}, "allow": "nfp",
              "steps": [{"vocab.swap": {"tokenizer": "new", "init": "mean"}}]}  # fmt: skip
    (tmp_path / "swap.yaml").write_text(json.dumps(recipe))
    monkeypatch.setenv("PEDIGREE_PROBE", str(tmp_path / "probe.txt"))
    ran = pedigree("surgery", "plan", str(tmp_path / "swap.yaml"))
    assert ran.code == 0
    assert "277 copied, 33 made up" in ran.out
    assert "of tokens on copied rows" in ran.out
    assert "bits per byte" in ran.out
    assert not (tmp_path / "out").exists()
