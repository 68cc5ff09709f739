"""`pedigree audit` and `pedigree clear`, as they are typed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from audited_family import Family, family
from tests.cli.conftest import Ran

from pedigree.ledger.verdict import WORST_LAST
from pedigree.records import audit as records

Pedigree = Callable[..., Ran]

__all__ = ["family"]


@pytest.fixture
def project(family: Family, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Family:
    """The family, with a ledger that a test may write."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(family.project / ".pedigree", tmp_path / ".pedigree")
    monkeypatch.setenv("PEDIGREE_LEDGER", str(tmp_path / ".pedigree" / "ledger.db"))
    return family


def test_the_words_of_an_edge_are_those_of_the_ledger() -> None:
    assert records.WORST_LAST == WORST_LAST


def test_a_family_is_audited_edge_by_edge(pedigree: Pedigree, project: Family, tmp_path: Path) -> None:
    ran = pedigree("audit", str(project.folder), "--html", "page.html")
    assert ran.code == 1, ran.err
    lines = ran.out.splitlines()
    assert lines[0].startswith(
        "CONTRADICTED   8 models, 12 edges: 1 contradicted, 1 unknown, 1 declared, 9 corroborated"
    )
    assert any(line.startswith("CONTRADICTED grown-more <- random weights") for line in lines)
    assert any("not-from-scratch: said to begin with random weights" in line for line in lines)
    assert max(map(len, lines)) <= 100
    assert "wrote page.html" in ran.err
    again = pedigree("audit", str(project.folder), "--html", "page.html")
    assert again.code == 2
    assert "there already" in again.err


def test_a_model_is_audited_with_what_is_recorded_of_it(
    pedigree: Pedigree, project: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEDIGREE_WITH", str(project.model("base")))
    ran = pedigree("audit", str(project.model("left")), "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert (record["schema"], record["result"]["verdict"]) == ("pedigree/audit", "DECLARED")
    edges = {edge["child_name"]: edge for edge in record["result"]["edges"]}
    assert (edges["left"]["verdict"], edges["left"]["recorded"]) == ("CORROBORATED", "DECLARED")
    # Its parent is not at hand, so nothing can be said.
    monkeypatch.delenv("PEDIGREE_WITH")
    assert pedigree("audit", str(project.model("left")), "--quiet").code == 3
    assert pedigree("audit", str(project.model("left")), "--quiet", "--fail-on", "declared").code == 1


def test_what_was_found_can_be_signed_and_is_told_by_why(
    pedigree: Pedigree, project: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("audit", str(project.folder), "--quiet")
    assert "audit" not in pedigree("why", str(project.model("left-more"))).out
    monkeypatch.setenv("PEDIGREE_RECORD", "1")
    first = pedigree(*words)
    monkeypatch.delenv("PEDIGREE_RECORD")
    assert (first.code, first.err) == (1, "")
    assert "0 findings were signed" in pedigree(*words[:2], "--record").err
    told = pedigree("why", str(project.model("left-more"))).out.splitlines()
    assert len(told) <= 10
    assert any(line.startswith("audit       left-more CORROBORATED in entry") for line in told)
    verified = json.loads(pedigree("ledger", "verify", "--json").out)["result"]
    assert verified["verdicts"]["CORROBORATED"] == 8


def test_a_folder_without_models_cannot_be_audited(
    pedigree: Pedigree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.delenv("PEDIGREE_LEDGER")
    monkeypatch.chdir(tmp_path)
    ran = pedigree("audit", str(tmp_path / "empty"))
    assert ran.code == 2
    assert "no model is here" in ran.err
    assert pedigree("audit", str(tmp_path / "nowhere")).code == 2


def test_a_model_is_cleared_against_a_library(
    pedigree: Pedigree, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pedigree("library", "add", "strangers", str(family.model("stranger")), "--quiet").code == 0
    monkeypatch.setenv("PEDIGREE_HTML", "sheet.html")
    ran = pedigree("clear", str(family.model("left")), "--against", "strangers")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("\u25cb unrelated   tested against 1 model, no relation found")
    assert "would see" in ran.out
    sheet = Path("sheet.html").read_text(encoding="utf-8")
    assert re.search(r"Sharing \d+(\.\d)? % of its units or more", sheet)
    assert str(tmp_path) not in sheet


def test_a_relative_in_the_library_is_named(
    pedigree: Pedigree, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pedigree("library", "add", "bases", str(family.model("base")), str(family.model("left")), "--quiet")
    ran = pedigree("clear", str(family.model("left")), "--against", "bases", "--json")
    result = json.loads(ran.out)["result"]
    assert (ran.code, result["verdict"], result["against"][0]["name"]) == (1, "related", "base")
    assert result["left_out"] == ["left: it is the model itself"]
    assert result["multiplicity"]["tried"] == 1


def test_a_model_that_cannot_be_read_is_no_open_question_about_the_library(
    pedigree: Pedigree, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compare` could not run on it either; which model of the library it is held against does not matter."""
    monkeypatch.chdir(tmp_path)
    pedigree("library", "add", "bases", str(family.model("base")), "--quiet")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    ran = pedigree("clear", "pickled", "--against", "bases")
    assert ran.code == 2
    assert "--allow-pickle" in ran.err


def test_fingerprints_alone_clear_nothing(
    pedigree: Pedigree, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pedigree("fingerprint", str(family.model("stranger")), "-o", "s.fingerprint", "--quiet").code == 0
    assert pedigree("library", "add", "prints", "s.fingerprint", "--quiet").code == 0
    ran = pedigree("clear", str(family.model("left")), "--against", "prints")
    assert ran.code == 3
    assert ran.out.startswith("? inconclusive   not cleared: a relation to 1 of 1 models could not be excluded")
    assert "fingerprints see units in place and exclude no relation" in ran.out
    assert pedigree("clear", str(family.model("left"))).code == 2


def test_the_library_is_at_hand_in_an_audit_too(pedigree: Pedigree, project: Family) -> None:
    pedigree("library", "add", "all", str(project.model("base")), "--quiet")
    ran = pedigree("audit", str(project.model("left")), "--against", "all", "--quiet")
    assert (ran.code, ran.out) == (0, "DECLARED\n")
