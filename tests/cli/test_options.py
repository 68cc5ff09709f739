"""Sizes and suggestions."""

from __future__ import annotations

import pytest

from pedigree.cli.options import closest, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("300MB", 300_000_000),
        ("1000", 1000),
        ("12B", 12),
        ("1.5 GiB", 1_610_612_736),
        ("2k", 2000),
        ("3 tb", 3 * 10**12),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_a_suggestion_is_near_or_absent() -> None:
    assert closest("Unrelatd", ["related", "unrelated"]) == "unrelated"
    assert closest("zzz", ["related"]) is None
