"""The templates of the pages, with the filters that all of them share. Nothing here looks at a clock or a locale."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.report.numbers import count_text, number_text, ranges_text
from pedigree.report.words import rest_sentence

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
_NOTHING = "-"


def page_environment() -> Environment:
    """Templates that escape what they print and refuse names that do not exist."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(
        sentence=sentence_text, number=number_or_nothing, log10=log10_text, powers=raised_powers, count=count_text,
        ranges=ranges_text, rest=rest_sentence,
    )  # fmt: skip
    return environment


def page_style() -> str:
    """The style sheet of every page."""
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


def number_or_nothing(value: float | None) -> str:
    """A number at three digits, a dash where there is none."""
    return _NOTHING if value is None else number_text(value)


def log10_text(value: float | None) -> str:
    """A power of ten with one decimal, a dash where there is none."""
    return _NOTHING if value is None else f"{value:.1f}"


def raised_powers(text: str) -> str:
    """HTML: `10^-1234` with its exponent raised, everything else escaped."""
    return re.sub(r"10\^(-?[\d.]*\d)", r"10<sup>\1</sup>", escape(text))


def sentence_text(text: str) -> str:
    """First letter large, a full stop at the end; a letter that stands alone (z, p) is a symbol and stays."""
    text = text.strip()
    if not text:
        return text
    first = text[0] if text[1:2] == " " else text[0].upper()
    return first + text[1:] + ("" if text[-1] in ".!?" else ".")
