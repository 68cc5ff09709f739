"""`pedigree unmerge`: what a user types and sees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import yaml
from tests.cli.conftest import Ran
from tests.forensics.merge_shop import Shop, linear

from pedigree.cli.unmerge import WORDS
from pedigree.records.unmerging import UnmergeVerdict

Pedigree = Callable[..., Ran]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("merges"))
    shop.add("merge", linear((0.6, shop["A"]), (0.4, shop["B"])))
    for name in ("A", "B", "C", "stranger"):
        shop.path(name)
    return shop


def test_the_words_of_the_command_are_those_of_the_record() -> None:
    assert get_args(UnmergeVerdict) == WORDS


def test_verdict_weights_and_what_was_not_checked(pedigree: Pedigree, shop: Shop, tmp_path: Path) -> None:
    recipe = tmp_path / "merge.yaml"
    paths = [str(shop.folder / name) for name in "ABC"]
    ran = pedigree("unmerge", str(shop.folder / "merge"), "--parents", *paths, "-o", str(recipe))
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "merge by linear"
    assert lines[2].split()[:2] == ["parent", "0.6000"]
    assert lines[4].split()[:2] == ["parent", "0.0000"]
    assert "parents that were not among the candidates" in ran.out
    assert f"wrote {recipe}" in ran.err
    assert yaml.safe_load(recipe.read_text())["models"][0]["parameters"]["weight"] == 0.6
    again = pedigree("unmerge", str(shop.folder / "merge"), "--parents", *paths, "-o", str(recipe))
    assert again.code == 2
    assert "is there already" in again.err


def test_what_is_odd_about_the_files_is_told(pedigree: Pedigree, shop: Shop, tmp_path: Path) -> None:
    """A second file of weights beside the one that is read."""
    folder = tmp_path / "two"
    shutil.copytree(shop.folder / "merge", folder)
    shutil.copy(shop.folder / "C" / "model.safetensors", folder / "older.safetensors")
    ran = pedigree("unmerge", str(folder), "--parents", str(shop.folder / "A"), str(shop.folder / "B"))
    assert ran.code == 0
    assert f"warning: {folder}: older.safetensors is there too and was not read" in ran.err


def test_json_and_exit_codes(pedigree: Pedigree, shop: Shop) -> None:
    words = ("--parents", str(shop.folder / "A"), str(shop.folder / "B"))
    ran = pedigree("unmerge", str(shop.folder / "merge"), *words, "--json", "--fail-on", "merge")
    record = json.loads(ran.out)
    assert (ran.code, record["schema"], record["version"]) == (1, "pedigree/unmerging", 1)
    assert [round(s["weight"], 3) for s in record["result"]["sources"]] == [0.6, 0.4]
    away = pedigree("unmerge", str(shop.folder / "stranger"), *words, "--quiet")
    assert (away.code, away.out) == (3, "not-in-frame\n")


def test_no_parents_and_absent_parents_are_told_before_any_work(pedigree: Pedigree, shop: Shop) -> None:
    ran = pedigree("unmerge", str(shop.folder / "merge"))
    assert (ran.code, "no candidate parents" in ran.err) == (2, True)
    ran = pedigree("unmerge", str(shop.folder / "merge"), "--parents", str(shop.folder / "A"), "nowhere")
    assert (ran.code, "no such file or directory for --parents" in ran.err) == (2, True)
