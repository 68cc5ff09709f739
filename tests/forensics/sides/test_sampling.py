"""What is read at each depth is a function of shapes alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.forensics.sides.sampling import (
    MOST_EXPERT_UNITS,
    UNIT_NUMBERS,
    UNITS_OF_EXPERT,
    WHOLE_MODEL_BYTES,
    Depth,
    Sample,
    choose_sample,
)

BIG = WHOLE_MODEL_BYTES + 1


def test_small_models_are_read_whole_at_standard_depth_and_large_ones_by_sample() -> None:
    assert choose_sample("standard", WHOLE_MODEL_BYTES).max_units is None
    assert choose_sample("standard", BIG).max_units is not None
    assert choose_sample("full", BIG).max_units is None


def test_each_depth_reads_more_than_the_one_before() -> None:
    glance, standard, full = (choose_sample(depth, BIG) for depth in ("glance", "standard", "full"))
    assert glance.units(10_000) < standard.units(10_000) < full.units(10_000) == 10_000
    assert glance.max_anchors < standard.max_anchors < full.max_anchors
    assert sum(glance.attends(layer, 32) for layer in range(32)) == 4
    assert all(standard.attends(layer, 32) for layer in range(32))
    assert not glance.ladder
    assert standard.ladder


@given(total=st.integers(1, 5000), wanted=st.integers(1, 400))
def test_sampled_rows_are_inside_distinct_and_in_order(total: int, wanted: int) -> None:
    rows = Sample(wanted, None, True, True, 64).rows(total, wanted).tolist()
    assert rows == sorted(set(rows))
    assert rows[0] >= 0
    assert rows[-1] < total
    assert len(rows) <= max(wanted, 1)
    assert len(rows) >= min(total, wanted) // 2


@given(layers=st.integers(1, 100), wanted=st.integers(0, 8))
def test_columns_are_read_in_as_many_layers_as_said(layers: int, wanted: int) -> None:
    sample = Sample(64, wanted, True, True, 64)
    chosen = [layer for layer in range(layers) if sample.columns(layer, layers)]
    assert len(chosen) == min(wanted, layers)


@given(heads=st.integers(1, 128), head_dim=st.sampled_from([1, 8, 64, 128]), units=st.integers(1, 600))
def test_heads_are_read_whole_and_at_least_one(heads: int, head_dim: int, units: int) -> None:
    chosen = Sample(units, None, True, True, 64).heads(heads, head_dim)
    assert chosen == sorted(set(chosen))
    assert 1 <= len(chosen) <= heads
    assert chosen[0] >= 0
    assert chosen[-1] < heads


@pytest.mark.parametrize("total", [0, 1, 63, 64, 65])
def test_short_tables_are_read_whole(total: int) -> None:
    assert Sample(64, None, True, True, 64).rows(total, max(total, 1)).tolist() == list(range(total))


@given(
    layers=st.integers(1, 100), width=st.sampled_from([64, 2048, 7168, 16384]), experts=st.integers(1, 600),
    depth=st.sampled_from(["glance", "standard"]),
)  # fmt: skip
def test_experts_are_read_from_first_to_last_and_never_more_than_fit(
    layers: int, width: int, experts: int, depth: Depth
) -> None:
    sample = choose_sample(depth, BIG).fitted(layers, width)
    chosen = sample.experts(experts)
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
    assert chosen[-1] == experts - 1 or len(chosen) == 1
    read = UNITS_OF_EXPERT * len(chosen)
    assert read <= max(sample.max_units or 0, MOST_EXPERT_UNITS)
    assert 2 * layers * width * read <= max(UNIT_NUMBERS, 2 * layers * width * (sample.max_units or 0))


def test_whole_layers_and_whole_models_are_read_by_all_their_experts() -> None:
    sample = choose_sample("standard", BIG).fitted(58, 7168)
    assert len(sample.experts(257)) == 12
    assert sample.all_units().experts(257) == choose_sample("full", BIG).experts(257) == list(range(257))
