"""Explanations: complete, held against the tests themselves and against the methods guide."""

from __future__ import annotations

from pathlib import Path

import pytest

from pedigree.forensics.exact import (
    fixed_points,
    gram_agreement,
    head_agreement,
    increasing,
    plane_agreement,
    sign_flip,
)
from pedigree.report.explanation import ALIASES, explanations, guide_section, resolve

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "methods.md"


def test_every_text_has_a_paragraph_a_page_and_mathematics() -> None:
    for entry in explanations().values():
        assert entry.title
        assert 100 < len(entry.paragraph) < 600, entry.name
        assert "**Null.**" in entry.page, entry.name
        assert len(entry.page) < 3000, entry.name
        assert "Code in" in entry.mathematics or "Proof in" in entry.mathematics, entry.name


@pytest.mark.parametrize(
    "module", [fixed_points, gram_agreement, head_agreement, increasing, plane_agreement, sign_flip]
)
def test_the_null_of_an_exact_test_is_the_one_the_test_states(module: object) -> None:
    card = module.CARD  # type: ignore[attr-defined]
    page = " ".join(explanations()[card.name].page.split()).lower()
    assert card.null.lower() in page


def test_the_methods_guide_repeats_the_paragraphs() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    inside = text.partition("<!-- tests -->\n")[2].partition("\n<!-- end of tests -->")[0]
    assert inside == guide_section(), "put what pedigree.report.explanation.guide_section() returns between the marks"


def test_names_as_results_print_them_are_understood() -> None:
    known = explanations()
    for printed in (
        "fixed-points, body-fixed-points", "sign-flip, body-signs", "survival of learned directions",
        "matched units, feed-forward", "matched dimensions, query/key", "matched heads, value/output subspaces",
    ):  # fmt: skip
        assert resolve(printed) in known, printed
    assert set(ALIASES.values()) <= set(known)
