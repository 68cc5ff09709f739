"""`fingerprint`, `library`, `scan`, `tree`, `explain`: what a user types and sees, and the environment they obey."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Ran
from tests.forensics.merge_shop import Shop, linear, tuned

Pedigree = Callable[..., Ran]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    shop.add("child", tuned(shop["A"], 0.2, 50))
    shop.add("merge", linear((0.6, shop["A"]), (0.4, shop["B"])))
    for name in ("base", "A", "B", "stranger"):
        shop.path(name)
    return shop


def where(shop: Shop, name: str) -> str:
    return str(shop.folder / name)


def test_a_fingerprint_stands_for_its_model(pedigree: Pedigree, shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "a.fingerprint"
    made = pedigree("fingerprint", where(shop, "A"), "-o", str(file), "--json")
    record = json.loads(made.out)
    assert (made.code, record["schema"]) == (0, "pedigree/fingerprint-made")
    assert record["result"]["bytes"] == file.stat().st_size
    assert pedigree("compare", str(file), where(shop, "child"), "--quiet").out == "related\n"
    away = pedigree("compare", str(file), where(shop, "stranger"), "--quiet")
    assert (away.code, away.out) == (3, "inconclusive\n")
    again = pedigree("fingerprint", where(shop, "A"), "-o", str(file))
    assert (again.code, "is there already" in again.err) == (2, True)


def test_a_salt_that_is_missing_is_named(
    pedigree: Pedigree, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.fingerprint"
    monkeypatch.setenv("PEDIGREE_OUTPUT", str(file))
    monkeypatch.setenv("PEDIGREE_SALT", "word")
    assert pedigree("fingerprint", where(shop, "A")).code == 0
    assert pedigree("compare", str(file), where(shop, "child"), "--quiet").out == "related\n"
    monkeypatch.delenv("PEDIGREE_SALT")
    ran = pedigree("compare", str(file), where(shop, "child"))
    assert (ran.code, "another salt" in ran.err) == (2, True)


def test_library_and_scan(pedigree: Pedigree, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path / "lib")
    monkeypatch.setenv("PEDIGREE_RETRY", "1")
    ran = pedigree("library", "add", folder, where(shop, "A"), where(shop, "stranger"), "nowhere")
    assert ran.code == 3
    assert "nowhere was left out: no such file or directory" in ran.err
    listed = json.loads(pedigree("library", "list", folder, "--json").out)
    assert [bool(model["error"]) for model in listed["result"]] == [False, False, True]
    monkeypatch.setenv("PEDIGREE_LIBRARY", folder)
    monkeypatch.setenv("PEDIGREE_CANDIDATES", "2")
    monkeypatch.setenv("PEDIGREE_CONFIRM", "0")
    ran = pedigree("scan", where(shop, "child"))
    assert ran.out.startswith("relatives-found   2 models tried, 2 compared\n")
    assert pedigree("scan", where(shop, "child"), "--quiet").out == where(shop, "A") + "\n"
    ran = pedigree("scan", where(shop, "child"), "--json", "--fail-on", "relatives-found")
    assert (ran.code, json.loads(ran.out)["result"]["multiplicity"]["tried"]) == (1, 2)
    kept = tmp_path / "scan.jsonl"
    whole = pedigree("scan", where(shop, "child"), "--confirm", "2", "--keep", str(kept), "--workers", "1", "--json")
    assert len(kept.read_text().splitlines()) == 3, "two comparisons, and what the nearest leaves"
    with monkeypatch.context() as patched:
        for name in ("compare", "compare_rest"):
            patched.setattr(f"pedigree.forensics.scanning.scan.{name}", lambda *a, **k: {}["compared again"])
        again = pedigree("scan", where(shop, "child"), "--confirm", "2", "--keep", str(kept), "--json")
        broken = pedigree("scan", where(shop, "child"), "--confirm", "2")
    first, second = (json.loads(ran.out)["result"] for ran in (whole, again))
    assert first["relatives"] == second["relatives"]
    assert [candidate["compared"] for candidate in first["relatives"]] == ["weights"]
    assert broken.err.count("was not compared: could not be compared: KeyError") == 2
    monkeypatch.setenv("PEDIGREE_CONFIRM", "1")
    with monkeypatch.context() as patched:
        patched.setattr("pedigree.forensics.spread.has_ray", lambda: False)
        away = pedigree("scan", where(shop, "child"), "--fleet", "auto")
    assert (away.code, "pip install 'llm-pedigree[fleet]'" in away.err) == (2, True)
    monkeypatch.setenv("PEDIGREE_CONFIRM", "0")
    shared = tmp_path / "shared"
    assert pedigree("library", "export", folder, "-o", str(shared)).code == 0
    other = str(tmp_path / "other")
    files = sorted(map(str, shared.glob("*.fingerprint")))
    assert len(files) == 2
    assert pedigree("library", "add", other, *files).code == 0
    assert json.loads(pedigree("scan", where(shop, "child"), "--against", other, "--json").out)["result"]["relatives"]


def test_many_models_come_from_a_list_and_go_to_a_fleet(
    pedigree: Pedigree, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, names = str(tmp_path / "lib"), tmp_path / "models.txt"
    names.write_text(f"# two models\n{where(shop, 'A')}\n\n{where(shop, 'B')}\n")
    monkeypatch.setenv("PEDIGREE_LIST", str(names))
    ran = pedigree("library", "add", folder, "--workers", "1", "--quiet")
    assert (ran.code, ran.out) == (0, f"{where(shop, 'A')}\n{where(shop, 'B')}\n")
    monkeypatch.setenv("PEDIGREE_WORKERS", "none")
    assert pedigree("library", "add", folder).code == 2
    monkeypatch.setenv("PEDIGREE_WORKERS", "1")
    monkeypatch.setenv("PEDIGREE_FLEET", "auto")
    monkeypatch.setattr("pedigree.forensics.spread.has_ray", lambda: False)
    ran = pedigree("library", "add", folder, where(shop, "stranger"))
    assert (ran.code, "pip install 'llm-pedigree[fleet]'" in ran.err) == (2, True)
    missing = pedigree("library", "add", folder, "--list", str(tmp_path / "none"))
    assert (missing.code, "the list cannot be read" in missing.err) == (2, True)


def test_a_tree_in_words_and_as_a_picture(pedigree: Pedigree, shop: Shop, tmp_path: Path) -> None:
    picture = tmp_path / "tree.svg"
    models = [where(shop, name) for name in ("A", "base", "child", "stranger")]
    ran = pedigree("tree", *models, "-o", str(picture))
    assert ran.code == 0
    assert "base -> A " in ran.out
    assert "A -> child " in ran.out
    assert "stranger   no relative among them" in ran.out
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    assert {element.text for element in root.iter() if element.tag.endswith("}text")} >= {"A", "base", "child"}
    assert pedigree("tree", models[0]).code == 2
    for run, place in zip(("first", "second"), models, strict=False):
        shutil.copytree(place, tmp_path / run / "model")
    ran = pedigree("tree", *(str(tmp_path / run / "model") for run in ("first", "second")))
    assert "second -> first " in ran.out  # named by the step where every folder has one name


def test_a_tree_goes_on_from_kept_pairs_and_past_a_bad_model(
    pedigree: Pedigree, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\xff" * 100)
    kept = tmp_path / "pairs.jsonl"
    monkeypatch.setenv("PEDIGREE_KEEP", str(kept))
    models = [where(shop, "base"), where(shop, "A"), str(bad)]
    first = pedigree("tree", *models, "--workers", "1")
    assert (first.code, "base -> A " in first.out) == (3, True)  # a model that cannot be read is not a "no"
    assert first.err.count("not compared: ") == 1
    assert "bad.safetensors   could not be compared" in first.out
    assert len(kept.read_text().splitlines()) == 1
    kept.write_text(kept.read_text() + "cut off {\n")
    monkeypatch.setattr("pedigree.forensics.trees.kinship.measure_pair", lambda *a, **k: {}["compared again"])
    again = pedigree("tree", *models)
    assert "base -> A " in again.out
    monkeypatch.setenv("PEDIGREE_FLEET", "auto")
    monkeypatch.setattr("pedigree.forensics.spread.has_ray", lambda: False)
    ran = pedigree("tree", *models)
    assert (ran.code, "pip install 'llm-pedigree[fleet]'" in ran.err) == (2, True)
    monkeypatch.setenv("PEDIGREE_WORKERS", "none")
    assert pedigree("tree", *models).code == 2


def test_unmerge_listens_to_the_environment(pedigree: Pedigree, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEDIGREE_PARENTS", f"{where(shop, 'A')} {where(shop, 'B')}")
    monkeypatch.setenv("PEDIGREE_BASE", where(shop, "base"))
    assert pedigree("unmerge", where(shop, "merge"), "--quiet").out == "merge\n"


def test_explain(pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sign-flip" in pedigree("explain").out
    short = pedigree("explain", "sign-flip", "--length", "paragraph").out
    page = pedigree("explain", "sign-flip, body-signs").out
    monkeypatch.setenv("PEDIGREE_LENGTH", "full")
    full = pedigree("explain", "sign-flip").out
    assert len(short) < len(page) < len(full)
    assert "exp(-s^2 / (2 sum a_b^2))" in full
    record = json.loads(pedigree("explain", "sign-flip", "--json").out)
    assert set(record["result"]) == {"name", "title", "paragraph", "page", "mathematics"}
    ran = pedigree("explain", "sign")
    assert (ran.code, "pedigree explain sign-flip" in ran.err) == (2, True)
