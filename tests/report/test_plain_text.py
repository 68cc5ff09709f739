"""Text from hostile files, before it is shown."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from pedigree.report.plain_text import escaped_json, printable, printable_lines


@given(st.text())
def test_printable_text_is_one_printable_line_of_the_same_length(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert len(shown.splitlines()) <= 1
    assert not any(character in shown for character in "\x00\x07\x1b\x7f\x9b\u200b\u202e\u2066\ud800")


def test_what_is_not_printable_is_replaced_and_breaks_become_spaces() -> None:
    assert printable("a\x1b[2J\nb\tc\u202e") == "a\ufffd[2J b c\ufffd"
    assert printable_lines("a\x07\nb") == "a\ufffd\nb"
    assert printable("\u4e2d \u0436 \u00e9") == "\u4e2d \u0436 \u00e9"


@given(st.text())
def test_escaped_json_reads_back_as_the_same_value(text: str) -> None:
    shown = escaped_json(json.dumps({"name": text}, indent=1, ensure_ascii=False))
    assert json.loads(shown) == {"name": text}
    assert not any(character in shown for character in "\x00\x07\x1b\x7f\x9b\u200b\u202e\u2066\ud800")
