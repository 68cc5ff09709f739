"""The comparison record: the JSON contract, byte stability, unknown fields."""

from __future__ import annotations

import json
from collections.abc import Callable

import jsonschema
import pytest
from pydantic import ValidationError
from tests.comparison_examples import EXAMPLES, grown_child, simple

from pedigree.errors import MalformedFile
from pedigree.records.comparison import Comparison, TestRecord
from pedigree.records.machine import Library, Machine, MachineResult
from pedigree.records.schemas import SCHEMAS, json_schema

NAMES = sorted(EXAMPLES)


def test_the_contract_names_stand() -> None:
    record = json.loads(grown_child().to_json())
    result = record["result"]
    assert record["schema"] == "pedigree/comparison"
    assert record["version"] == 1
    assert {"schema", "version", "inputs", "result", "warnings"} <= set(record)
    assert {"digest", "bytes", "location"} <= set(record["inputs"]["a"])
    assert {
        "verdict", "log10_p", "direction", "gauge", "layer_map", "components", "transformations", "tests", "controls",
        "error_rate", "read", "not_checked",
    } <= set(result)  # fmt: skip
    assert {"verdict", "log_odds", "reasons"} <= set(result["direction"])
    assert {"kind", "held_out"} <= set(result["gauge"])
    test_names = {"name", "version", "null", "assumes", "statistic", "n", "log10_p", "applicable", "why_not"}
    assert test_names <= set(result["tests"][0])
    assert {"decoys", "off_diagonal"} <= set(result["controls"])
    assert {"false_positive_upper_95", "pairs", "benchmark"} <= set(result["error_rate"])
    assert {"bytes", "of", "seconds"} <= set(result["read"])
    assert result["layer_map"][3] == 2
    assert result["layer_map"][8] is None
    assert result["transformations"][1]["from"] == 384


@pytest.mark.parametrize("name", NAMES)
def test_reading_and_rewriting_gives_the_same_bytes(name: str) -> None:
    text = EXAMPLES[name].to_json()
    assert Comparison.from_json(text).to_json() == text


@pytest.mark.parametrize("name", NAMES)
def test_records_obey_their_published_schema(name: str) -> None:
    jsonschema.Draft202012Validator(json_schema("comparison")).validate(json.loads(EXAMPLES[name].to_json()))


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_published_schemas_are_schemas_and_do_not_change_unseen(name: str, golden: Callable[[str, str], None]) -> None:
    schema = json_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    golden(f"schema-{name}.json", json.dumps(schema, indent=1) + "\n")


@pytest.mark.parametrize("name", ["related", "unrelated", "identical"])
def test_json_does_not_change_unseen(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"comparison-{name}.json", EXAMPLES[name].to_json() + "\n")


def test_unknown_fields_are_kept_at_every_level() -> None:
    record = json.loads(grown_child().to_json())
    record["from_the_future"] = {"x": 1}
    record["result"]["tests"][0]["power"] = 0.8
    record["inputs"]["a"]["license"] = "Apache-2.0"
    rewritten = json.loads(Comparison.from_json(json.dumps(record)).to_json())
    assert rewritten == record


def test_two_runs_that_saw_the_same_have_one_digest() -> None:
    record = grown_child()
    read = record.result.read.model_copy(update={"seconds": 99.0})
    later = record.model_copy(
        update={"created": "2030-01-01T00:00:00Z", "result": record.result.model_copy(update={"read": read})}
    )
    assert later.content_digest() == record.content_digest()
    assert grown_child(log10_p=-1234.6).content_digest() != record.content_digest()


def test_a_number_that_is_none_is_null_with_a_warning() -> None:
    record = simple("related", log10_p=float("-inf"), tests=[TestRecord(name="t", statistic=float("nan"))])
    written = record.to_dict()
    assert written["result"]["log10_p"] is None
    assert written["warnings"] == [
        "result.log10_p was not a finite number and is written as null",
        "result.tests[0].statistic was not a finite number and is written as null",
    ]


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        grown_child().result.verdict = "unrelated"  # type: ignore[misc]


def test_a_verdict_outside_the_seven_words_is_refused() -> None:
    text = simple("related").to_json().replace('"verdict": "related"', '"verdict": "guilty"')
    with pytest.raises(
        MalformedFile, match=r"not a comparison record: input should be .*, in comparison record: result\.verdict"
    ):
        Comparison.from_json(text)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(MalformedFile, match="not a comparison record"):
        Comparison.from_json("{")


def test_a_machine_record_is_written_like_any_other() -> None:
    result = MachineResult(python="3.11", platform="Linux", cores=2, libraries=[Library(name="torch", version="2")])
    text = Machine(result=result).to_json()
    jsonschema.Draft202012Validator(json_schema("machine")).validate(json.loads(text))
