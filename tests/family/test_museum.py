"""The museum: every recipe plans, every exhibit has its words, and (slow) shows what it is there to show."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from source_tree import ROOT

from pedigree.family.recipe import read_recipe

MUSEUM = ROOT / "recipes" / "museum"
RECIPES = sorted(path.stem for path in MUSEUM.glob("*.yaml"))
FORBIDDEN = "plag" + "iari|th" + "eft|fr" + "aud|fa" + "ke|sto" + "len|copy" + "cat"


@pytest.fixture(scope="module")
def museum() -> ModuleType:
    """The script of the folder as a module."""
    spec = importlib.util.spec_from_file_location("museum", MUSEUM / "museum.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["museum"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_plans_and_is_small(name: str) -> None:
    family = read_recipe(MUSEUM / f"{name}.yaml").family("pico")
    assert family.name == name
    trained = [step.training.tokens for step in family.steps.values()]
    assert sum(trained) <= 250_000
    assert all(member.model.d_model == 64 for member in family.members.values())


def test_recipes_exhibits_and_the_table_are_the_same(museum: ModuleType) -> None:
    told = re.findall(r"^\| `([\w-]+)` \|", (MUSEUM / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(exhibit.name for exhibit in museum.EXHIBITS) == RECIPES


def test_every_pair_of_an_exhibit_is_made_by_its_recipe_or_by_its_script(museum: ModuleType) -> None:
    for exhibit in museum.EXHIBITS:
        members = read_recipe(MUSEUM / f"{exhibit.name}.yaml").family("pico").members
        made = {*members, *(["renamed"] if exhibit.before is museum.rename else [])}
        assert {name for pair in exhibit.pairs for name in pair} <= made


def test_the_page_says_where_an_answer_is_not_the_one_it_should_be(museum: ModuleType) -> None:
    exhibit = museum.EXHIBITS[0]
    shown = museum.Shown(exhibit, 1.0, {("first", "second"): "related"}, ["a <line>"], right=False)
    page = museum.index([shown])
    assert "related (expected: unrelated)" in page
    assert "a &lt;line&gt;" in page
    assert not re.search(FORBIDDEN, page + (MUSEUM / "README.md").read_text(encoding="utf-8"), re.IGNORECASE)


def test_an_exhibit_that_is_not_there_is_refused(
    museum: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert museum.main([str(tmp_path), "no-such"]) == 2
    assert "no such exhibit: no-such" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_an_exhibit_shows_what_it_is_there_to_show(museum: ModuleType, name: str, tmp_path: Path) -> None:
    assert museum.main([str(tmp_path), name]) == 0
    kept = json.loads((tmp_path / name / "exhibit.json").read_text(encoding="utf-8"))
    assert kept["right"]
    assert f'href="{name}/family.html"' in (tmp_path / "index.html").read_text(encoding="utf-8")
    for a, b, _ in kept["verdicts"]:
        report = (tmp_path / name / "compare" / f"{a}--{b}.html").read_text(encoding="utf-8")
        assert "Circumstantial, and no part of the result" in report
