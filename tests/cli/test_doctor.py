"""`pedigree doctor`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable

import pytest
from source_tree import ROOT
from tests.cli.conftest import Ran

from pedigree.cli import doctor as doctor_module
from pedigree.cli import version
from pedigree.records.machine import Machine

Pedigree = Callable[..., Ran]


@pytest.fixture(autouse=True)
def torch_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch takes seconds and is not what is tested."""
    monkeypatch.setattr(doctor_module, "_torch_facts", lambda: (1, None, None))


def test_it_says_what_the_machine_can_do(pedigree: Pedigree) -> None:
    ran = pedigree("doctor")
    assert ran.code == 0
    for word in ("python", "memory", "torch", "transformers"):
        assert word in ran.out


def test_json_is_a_machine_record(pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.model_validate_json(pedigree("doctor", "--json").out)
    assert machine.result.able
    assert machine.result.cores >= 1
    monkeypatch.setenv("PEDIGREE_JSON", "1")
    assert json.loads(pedigree("doctor").out)["schema"] == "pedigree/machine"


def test_what_is_absent_is_named_with_what_is_skipped_and_the_cure(
    pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = version.installed_version
    monkeypatch.setattr(version, "installed_version", lambda name: None if name == "gguf" else known(name))
    ran = pedigree("doctor")
    assert ran.code == 0
    assert "skipped here quantized GGUF files: gguf is not installed; pip install gguf" in ran.out


@pytest.mark.parametrize("extra", ["hf", "web", "data", "eval", "log"])
def test_every_extra_is_listed_and_the_cure_is_the_extra(
    pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    names = [name for name, cure in doctor_module.EXTRAS.items() if f"[{extra}]" in cure]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert names
    assert {re.split(r"[\[>=]", word)[0] for word in declared[extra]} >= {*names}
    known = version.installed_version
    monkeypatch.setattr(version, "installed_version", lambda name: None if name in names else known(name))
    ran = pedigree("doctor")
    assert ran.code == 0
    for name in names:
        assert f"{name} is not installed; pip install 'llm-pedigree[{extra}]'" in ran.out


def test_a_machine_that_cannot_compare_could_not_run(pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "_torch_facts", lambda: (None, None, "torch does not start: no libgomp"))
    monkeypatch.setenv("PEDIGREE_COLOR", "0")
    ran = pedigree("doctor")
    assert ran.code == 2
    assert "torch does not start" in ran.out
