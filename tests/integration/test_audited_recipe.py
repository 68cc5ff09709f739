"""`pedigree audit` over the family of a recipe: every planted lie is found by name, and no true edge is in doubt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_family import run_pedigree

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "pangu.yaml"


@pytest.mark.slow
def test_the_wrapped_model_of_the_letter_is_found_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".pedigree").mkdir()
    words = ("pedigree", "run", str(RECIPE), "--only", "dense-135b-v2", "--only", "dense-38b-v3", "--no-compare", "-q")
    place = {"PEDIGREE_LEDGER": str(tmp_path / ".pedigree" / "ledger.db")}
    ran = run_pedigree(words, tmp_path, 1800, **place)
    assert ran.returncode == 0, ran.stderr
    ran = run_pedigree(("pedigree", "audit", "runs/pangu", "--json"), tmp_path, 1800, **place)
    assert ran.returncode == 1, ran.stderr
    edges = json.loads(ran.stdout)["result"]["edges"]
    no = {(e["source"], e["child_name"]): e for e in edges if e["verdict"] in ("STALE", "SUSPECT", "CONTRADICTED")}
    assert set(no) == {("family", "dense-135b-v2")}
    lie = no["family", "dense-135b-v2"]
    assert lie["lies"] == ["not-from-scratch"]
    assert "qwen1.5-110b" in lie["why"]
    made = {(e["child_name"], e["parent_name"]): e["verdict"] for e in edges if e["source"] == "ledger" and e["parent"]}
    assert len(made) == 4
    assert set(made.values()) == {"CORROBORATED"}
