"""The report: one file, everything in it, the same bytes for the same record."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.comparison_examples import EXAMPLES, grown_child, inputs, largest

from pedigree.records.comparison import Comparison
from pedigree.report.page import render_comparison
from pedigree.report.plain_text import printable

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = "plag" + "iarism|th" + "eft|fr" + "aud|fa" + "ke|sto" + "len|sh" + "ell|copy" + "cat"
VOID = {"meta", "br", "img", "hr", "input", "link"}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render_comparison(record) for name, record in EXAMPLES.items()}


class Balance(HTMLParser):
    """Checks that every element is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_page_is_whole_and_alone(name: str, pages: dict[str, str]) -> None:
    page = pages[name]
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert not balance.tags & {"script", "link", "img", "iframe", "object", "image"}
    outside_text = re.sub(r"<code>.*?</code>|<pre>.*?</pre>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#)|url\((?!#)|@import|https?://', outside_text)
    assert EXAMPLES[name].result.verdict in page


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_page_speaks_of_files(name: str, pages: dict[str, str]) -> None:
    assert not re.search(rf"\b({FORBIDDEN})\b", pages[name], re.IGNORECASE)


@pytest.mark.parametrize("name", ["related", "unrelated", "partly-related"])
def test_the_page_does_not_change_unseen(name: str, pages: dict[str, str], golden: Callable[[str, str], None]) -> None:
    # Paths inside pictures depend on the version of matplotlib; that they are reproducible is tested apart.
    drawn = re.sub(r"(<svg [^>]*>).*?</svg>", r"\1 ... </svg>", pages[name], flags=re.DOTALL)
    golden(f"report-{name}.html", drawn)


def test_another_process_gives_the_same_bytes(pages: dict[str, str]) -> None:
    code = (
        "import sys; from pedigree.records.comparison import Comparison; from pedigree.report.page import *\n"
        "sys.stdout.buffer.write(render_comparison(Comparison.from_json(sys.stdin.read())).encode())"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], input=grown_child().to_json().encode(), capture_output=True, env=env, check=True
    )
    assert done.stdout.decode() == pages["related"]


def test_the_whole_record_can_be_taken_from_the_page(pages: dict[str, str]) -> None:
    for name in ("related", "largest"):
        text = unescape(re.findall(r"<pre>(.*?)</pre>", pages[name], re.DOTALL)[-1])
        assert Comparison.from_json(text).to_json() == EXAMPLES[name].to_json()


def test_everything_a_reader_needs_is_on_the_page(pages: dict[str, str]) -> None:
    page = pages["related"]
    record = grown_child()
    for text in (
        "Do the trained weights of A and B share ancestry?",
        "at most 1 % of independent pairs",
        "the copied layer 3 of B repeats layer 2 of A".capitalize(),
        "Illustration, no weight",
        "neither model has experts",
        "pedigree compare models/parent models/child",
        record.content_digest(),
        "sha256:" + "a1" * 32,
        "distillation (leaves no trace in weights)",
        "permuted or rotated weights; inserted layers",
    ):
        assert text.lower() in page.lower(), text


def test_a_symbol_keeps_its_letter_at_the_start_of_a_sentence(pages: dict[str, str]) -> None:
    assert "<p>z 118 and effect" in pages["related"]
    assert "<p>p below 10<sup>-1234</sup>" in pages["related"]
    assert "<p>Hidden" in pages["related"] or "<li>Hidden" in pages["related"]


def test_names_in_a_hostile_record_are_only_text() -> None:
    record = grown_child(strength="<script>alert(1)</script>", not_checked=["<img src=x onerror=alert(1)>"])
    page = render_comparison(record)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


HOSTILE = "a\x1b[2J\x9b31m\x07\u202eb\x00"


def test_no_control_character_reaches_the_page_and_the_record_on_it_is_whole() -> None:
    record = grown_child(strength=HOSTILE).model_copy(update={"inputs": inputs(HOSTILE, "b")})
    page = render_comparison(record)
    assert all(line.isprintable() for line in page.split("\n"))
    text = unescape(re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)[-1])
    assert Comparison.from_json(text).to_json() == record.to_json()


@pytest.mark.parametrize("name", ["$\\foo$", "$", "models/\u6a21\u578b", HOSTILE, "\ud800", "_^{}\\"])
def test_any_name_of_a_decoy_can_be_drawn(name: str) -> None:
    decoys = [largest().result.controls.decoys[0].model_copy(update={"location": name})]
    controls = grown_child().result.controls.model_copy(update={"decoys": decoys})
    page = render_comparison(grown_child(controls=controls))
    assert printable(name) in unescape(
        re.sub(r"<[^>]*>", "", page[page.index("<h3>Decoys") : page.index("Not checked")])
    )


def test_a_hostile_decoy_name_is_only_text_in_the_picture() -> None:
    decoys = [largest().result.controls.decoys[0].model_copy(update={"location": "</text><script>alert(1)</script>"})]
    controls = grown_child().result.controls.model_copy(update={"decoys": decoys})
    assert "<script" not in render_comparison(grown_child(controls=controls))
