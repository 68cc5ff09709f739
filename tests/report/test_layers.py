"""The layer map as runs and as a strip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pedigree.records.comparison import LayerMatch
from pedigree.report.layers import layer_runs, layer_strip, split_sentence

MAPS = st.lists(st.none() | st.integers(0, 9), max_size=20)


@pytest.mark.parametrize(
    ("layer_map", "strip"),
    [
        ([0, 1, 2, 3], "0-3, each in its own place"),
        ([0, 1, 2, 2, 3, 4, 5, None], "0-2 | 2 (copied) | 3-5 | new"),
        ([0, 1, 2, 3, 1, 2, 3, 4], "0-3 | 1-3 (copied) | 4"),
        ([0, 3, 4], "0 | 3-4"),
        ([None, None, 0, 1], "new x2 | 0-1"),
        ([None, None], "none of the 2 layers of B was found in A"),
        ([], "not compared layer by layer"),
        ([1, 2], "1-2"),
    ],
)
def test_the_strip_tells_inserted_copied_dropped_and_new_layers(layer_map: list[int | None], strip: str) -> None:
    assert layer_strip(layer_map) == strip


@given(MAPS)
def test_runs_lose_nothing(layer_map: list[int | None]) -> None:
    unfolded: list[int | None] = []
    for run in layer_runs(layer_map):
        assert run.start == len(unfolded)
        unfolded += [None if run.source is None else run.source + i for i in range(run.length)]
    assert unfolded == layer_map


@given(MAPS, st.integers(44, 100))
def test_the_strip_fits_its_width(layer_map: list[int | None], width: int) -> None:
    assert len(layer_strip(layer_map, width=width)) <= width


def test_a_strip_that_is_cut_says_how_long_it_is() -> None:
    strip = layer_strip([(7 * i) % 50 for i in range(50)], width=60)
    assert strip.endswith("... 50 runs in all")


def test_halves_of_a_layer_from_different_places_are_told() -> None:
    detail = [LayerMatch(layer=0, ffn=0, attn=0), LayerMatch(layer=1, ffn=1, attn=None, attn_score=0.01)]
    assert split_sentence(detail) == "feed-forward and attention have different sources in 1"
    assert split_sentence(detail[:1]) is None
    not_compared = LayerMatch(layer=1, ffn=1, attn=None)
    assert split_sentence([not_compared]) is None
