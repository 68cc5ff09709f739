"""Pictures: reproducible, legible in light and dark, never color alone."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from tests.comparison_examples import EXAMPLES, grown_child, simple, strangers

from pedigree.records.comparison import Comparison, Controls, EvidenceMap
from pedigree.report.figures import (
    COMPONENT_STYLES,
    component_figure,
    decoy_figure,
    evidence_figure,
    layers_figure,
)


def drawn(comparison: Comparison) -> list[str]:
    result = comparison.result
    figures = [
        component_figure(result),
        layers_figure(result, 12),
        evidence_figure(comparison),
        decoy_figure(comparison),
    ]
    return [figure for figure in figures if figure is not None]


def test_the_same_record_gives_the_same_bytes() -> None:
    assert drawn(grown_child()) == drawn(grown_child())


@pytest.mark.parametrize(("name", "count"), [("related", 4), ("unrelated", 3)])
def test_figures_are_well_formed_and_ask_for_nothing(name: str, count: int) -> None:
    figures = drawn(EXAMPLES[name])
    assert len(figures) == count  # without a matched layer there is no ribbon to draw
    for figure in figures:
        ElementTree.fromstring(figure)
        assert "http" not in figure
        assert "<script" not in figure
        assert "<image" not in figure
        assert "currentColor" in figure
        assert "#0a0b0c" not in figure


def test_names_inside_figures_do_not_collide_on_a_page() -> None:
    names = [name for figure in drawn(grown_child()) for name in re.findall(r'\bid="([^"]+)"', figure)]
    assert len(names) == len(set(names))


def test_component_styles_differ_without_color() -> None:
    hatches = [hatch for fill, hatch in COMPONENT_STYLES.values() if hatch]
    assert len(hatches) == len(set(hatches))


def test_what_is_not_there_is_not_drawn() -> None:
    empty = simple("inconclusive")
    assert drawn(empty) == []
    hollow = empty.model_copy(update={"evidence_map": EvidenceMap(rows=[0], columns=[0], z=[[None]])})
    assert evidence_figure(hollow) is None


def test_decoys_stand_on_one_axis_with_the_pair() -> None:
    record = grown_child()
    by_evidence = decoy_figure(record)
    assert by_evidence is not None
    assert "strongest layer pair" in by_evidence
    by_chance = decoy_figure(record.model_copy(update={"evidence_map": None}))
    assert by_chance is not None
    assert "p under independence" in by_chance
    assert decoy_figure(grown_child(controls=Controls())) is None


def test_one_layer_and_gaps_can_be_drawn() -> None:
    record = strangers()
    small = EvidenceMap(rows=[0, 1], columns=[0], z=[[None], [3.0]])
    assert evidence_figure(record.model_copy(update={"evidence_map": small})) is not None


def test_a_ragged_matrix_does_not_break_the_page() -> None:
    ragged = EvidenceMap(rows=[0, 1], columns=[0, 1], z=[[1.0], [2.0, 3.0]])
    assert evidence_figure(strangers().model_copy(update={"evidence_map": ragged})) is not None
