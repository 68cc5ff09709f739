"""`pedigree schema`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.cli.conftest import Ran

from pedigree.records.schemas import SCHEMAS, json_schema

Pedigree = Callable[..., Ran]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_it_prints_the_schema_of_a_record(pedigree: Pedigree, name: str) -> None:
    ran = pedigree("schema", name)
    assert ran.code == 0
    assert json.loads(ran.out) == json_schema(name)


def test_without_a_name_it_lists_them(pedigree: Pedigree) -> None:
    lines = pedigree("schema").out.splitlines()
    assert [line.split()[0] for line in lines] == list(SCHEMAS)


def test_the_list_is_json_when_asked(pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = json.loads(pedigree("schema", "--json").out)
    assert [entry["name"] for entry in listed["result"]] == list(SCHEMAS)
    monkeypatch.setenv("PEDIGREE_JSON", "1")
    assert json.loads(pedigree("schema").out) == listed


def test_an_unknown_record_gets_a_suggestion(pedigree: Pedigree) -> None:
    ran = pedigree("schema", "comparisson")
    assert ran.code == 2
    assert "fix: pedigree schema comparison" in ran.err
