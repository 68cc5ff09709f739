"""Digests depend on content and on nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.weights.digest import ReadLog, header_digest, span_text
from pedigree.weights.extent import TensorInfo

INFO = TensorInfo("a", "F32", (2, 3), 24, "f")
BASE = header_digest([INFO], {"f": 100})


@given(rows=st.sets(st.integers(0, 60)))
def test_the_text_of_a_span_names_exactly_its_rows(rows: set[int]) -> None:
    text = span_text(np.array(sorted(rows), dtype=np.int64))
    named = [tuple(map(int, part.split(":"))) for part in text.split(",") if part]
    assert {row for start, stop in named for row in range(start, stop)} == rows
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(named))


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (TensorInfo("a", "F32", (2, 3), 24, "other"), True),
        (TensorInfo("b", "F32", (2, 3), 24, "f"), False),
        (TensorInfo("a", "I32", (2, 3), 24, "f"), False),
        (TensorInfo("a", "F32", (3, 2), 24, "f"), False),
    ],
)
def test_the_header_digest_sees_names_types_and_shapes_and_not_files(changed: TensorInfo, same: bool) -> None:
    assert (header_digest([changed], {"f": 100}) == BASE) is same


def test_the_header_digest_sees_sizes_of_files_and_not_their_names() -> None:
    assert header_digest([INFO], {"g": 100}) == BASE
    assert header_digest([INFO], {"f": 101}) != BASE


def test_the_header_digest_stays_what_it_is() -> None:
    assert BASE == "sha256:99b8b49fba715cfddcc61ffa75fc7f0f227f9fd8beea34076fc6f2dfe010d49d"


@given(reads=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["0:1", "1:2"])), max_size=6))
def test_the_read_digest_ignores_order_and_repetition(reads: list[tuple[str, str]]) -> None:
    one, two = ReadLog(), ReadLog()
    for name, span in reads:
        one.add(name, span, memoryview(span.encode()))
    for name, span in [*reads[::-1], *reads]:
        two.add(name, span, memoryview(span.encode()))
    assert one.digest() == two.digest()


def test_the_read_digest_sees_names_rows_and_bytes() -> None:
    digests = set()
    for name, span, content in [("a", "0:1", b"x"), ("b", "0:1", b"x"), ("a", "0:2", b"x"), ("a", "0:1", b"y")]:
        log = ReadLog()
        log.add(name, span, memoryview(content))
        digests.add(log.digest())
    assert len(digests) == 4
