"""Numbers as people read them."""

from __future__ import annotations

import pytest

from pedigree.report.numbers import (
    bytes_text,
    number_text,
    p_text,
    percent_text,
    plural,
    ranges_text,
    seconds_text,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (1.2e8, "120 MB"), (3.1e9, "3.1 GB"), (4.4e11, "440 GB")],
)
def test_sizes_are_decimal(size: float, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.00001, "under 0.01 %"),
        (0.004, "0.4 %"),
        (0.12, "12 %"),
        (0.9999, "over 99.9 %"),
        (1.0, "100 %"),
    ],
)
def test_percent_is_never_rounded_to_nothing_or_to_all(share: float, text: str) -> None:
    assert percent_text(share) == text


@pytest.mark.parametrize(
    ("log10_p", "text"),
    [
        (0.0, "p = 1"),
        (0.1, "p = 1"),
        (-0.3, "p = 0.5"),
        (-2.5, "p = 0.0032"),
        (-4.52, "p = 10^-4.52"),
        (-99.96, "p = 10^-100"),
        (-1234.56, "p below 10^-1234"),
        (-6000.0, "p below 10^-6000"),
    ],
)
def test_a_p_value_is_a_number_then_a_power_of_ten_then_a_bound(log10_p: float, text: str) -> None:
    assert p_text(log10_p) == text


def test_neighbours_are_joined() -> None:
    assert ranges_text([5, 0, 1, 2, 7, 8]) == "0-2, 5, 7-8"
    assert ranges_text([]) == ""


def test_times_counts_and_numbers_read_well() -> None:
    assert [seconds_text(s) for s in (0.42, 42, 185)] == ["0.4 s", "42 s", "3 min 5 s"]
    assert [plural(n, "layer") for n in (1, 2, 32000)] == ["1 layer", "2 layers", "32,000 layers"]
    assert [number_text(x) for x in (3.0, 0.70912, 1.5e-7)] == ["3", "0.709", "1.5e-07"]
