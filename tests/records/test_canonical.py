"""Canonical JSON: one value, one sequence of bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.errors import UsageError
from pedigree.records.canonical import canonical_bytes, canonical_digest, readable_json, stable, stable_float

NOT_FINITE = st.sampled_from([float("nan"), float("inf"), float("-inf")])
VALUES = st.recursive(
    # Doubles from 2**53 on are written as whole numbers that no reader can be sure of; records have none.
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.floats(-9e15, 9e15) | NOT_FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_stabilizing_twice_changes_nothing_and_loses_nothing_more(value: Any) -> None:
    once, _ = stable(value)
    twice, lost = stable(once)
    assert once == twice
    assert lost == []


@given(VALUES)
def test_canonical_bytes_survive_reading_and_writing(value: Any) -> None:
    first = canonical_bytes(value)
    assert canonical_bytes(json.loads(first)) == first


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_a_rounded_float_is_within_one_part_in_two_hundred_thousand(value: float) -> None:
    rounded = stable_float(value)
    assert rounded is not None
    assert math.isclose(rounded, value, rel_tol=5e-6, abs_tol=1e-300)


def test_the_last_bits_of_a_sum_do_not_reach_the_record() -> None:
    assert canonical_bytes({"x": 0.1 + 0.2}) == canonical_bytes({"x": 0.3}) == b'{"x":0.3}'


def test_keys_are_sorted_and_text_is_utf8() -> None:
    assert canonical_bytes({"b": 1, "a": "\u00e9"}) == '{"a":"\u00e9","b":1}'.encode()


def test_negative_zero_is_zero() -> None:
    assert readable_json({"x": -0.0}) == readable_json({"x": 0.0})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_becomes_null_and_its_path_is_told(bad: float) -> None:
    plain, lost = stable({"tests": [{"statistic": 1.0}, {"statistic": bad}]})
    assert plain == {"tests": [{"statistic": 1.0}, {"statistic": None}]}
    assert lost == ["tests[1].statistic"]


def test_a_name_that_is_not_utf8_can_be_written() -> None:
    name = b"model-\xff".decode("utf-8", "surrogateescape")
    assert stable({name: [name]})[0] == {"model-\ufffd": ["model-\ufffd"]}
    assert canonical_bytes(name) == '"model-\ufffd"'.encode()


def test_scalars_of_numpy_are_numbers() -> None:
    assert stable([np.float32(0.5), np.int64(3)])[0] == [0.5, 3]


def test_an_integer_that_doubles_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="too large for canonical JSON"):
        canonical_bytes({"bytes": 2**53})


def test_a_key_that_is_not_text_is_refused() -> None:
    with pytest.raises(UsageError, match="key must be text"):
        stable({1: 2})


def test_a_value_without_json_form_is_refused_with_its_path() -> None:
    with pytest.raises(UsageError, match=r"no JSON form, in a\[0\], got set"):
        stable({"a": [{1, 2}]})


def test_in_a_digest_numbers_are_text() -> None:
    assert canonical_digest({"x": 1.5}) == canonical_digest({"x": "1.5"})
    assert canonical_digest({"x": 1.5}) != canonical_digest({"x": 1.6})
    assert canonical_digest({"x": True}) != canonical_digest({"x": 1})
