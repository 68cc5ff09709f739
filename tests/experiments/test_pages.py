"""Pages and pictures: what people wrote stays, the same numbers give the same bytes."""

from __future__ import annotations

from pathlib import Path

from tests.experiments.scripts import script

pages = script("pages")


def test_only_the_measured_part_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    pages.put(page, "A title", "old numbers")
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("# A title", "# A title\n\nRead this.") + "\nAnd this.\n", encoding="utf-8")
    pages.put(page, "Another title", "new numbers")
    text = page.read_text(encoding="utf-8")
    assert "Read this." in text
    assert "And this." in text
    assert "new numbers" in text
    assert "old numbers" not in text
    assert "Another title" not in text
    pages.put(page, "", "new numbers")
    assert page.read_text(encoding="utf-8") == text


def test_a_bar_in_a_cell_does_not_break_the_table() -> None:
    assert pages.table(["a", "b"], [["x|y", 1]]).splitlines() == ["| a | b |", "|---|---|", "| x\\|y | 1 |"]


def test_the_same_numbers_give_the_same_picture(tmp_path: Path) -> None:
    drawn = []
    for name in ("one.svg", "other.svg"):
        figure, axes = pages.figure(1, 1, 2.0)
        axes[0][0].plot([1.0, 2.0, 4.0])
        axes[0][0].set_title("rate 0.005")
        pages.save(figure, tmp_path / name)
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(b"<?xml")
    assert b"rate 0.005" in drawn[0]
