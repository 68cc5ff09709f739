"""The families of the experiments: recipes that hold, and the work that their tables count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.experiments.scripts import script

from pedigree.family.recipe import read_recipe
from pedigree.training.config import SourceConfig

growth, swap, families = script("growth"), script("swap"), script("families")


@pytest.mark.parametrize("name", ["growth", "swap", "audited"])
def test_the_recipe_that_an_experiment_writes_is_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SourceConfig(kind="arithmetic", domain="documentation", held_out=0.03, path="documentation")
    monkeypatch.setattr(script(name), "documentation", lambda place: text)
    written = script(name).recipe(tmp_path, 2, 50_000)
    (tmp_path / "recipe.yaml").write_text(json.dumps(written), encoding="utf-8")
    read = read_recipe(tmp_path / "recipe.yaml")
    assert set(read.family("pico").members) == set(written["models"])


@pytest.mark.parametrize("arm", list(growth.ARMS))
def test_a_grown_model_gets_its_share_of_the_work_of_its_twin(arm: str) -> None:
    tokens = 600_000
    large = growth.work(growth.shape(**growth.ARMS[arm][1]))
    spent = growth.SMALL_SHARE * tokens * growth.work(growth.shape()) + growth.grown_tokens(arm, tokens) * large
    step = growth.LENGTH * growth.SEQUENCES
    assert abs(spent - growth.WORK_SHARE * tokens * large) <= large * step / 2


def test_curves_hold_evaluations_by_tokens(tmp_path: Path) -> None:
    folder = tmp_path / "family" / "one"
    folder.mkdir(parents=True)
    rows = [{"step": 9, "loss": 2.0}, {"step": 9, "bits_per_byte/text": 1.5}, {"step": 19, "bits_per_byte/text": 1.25}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert families.curve(tmp_path, "one", "text", 64) == [(640, 1.5), (1280, 1.25)]
