"""Every file of the corpus is refused with the sentence written beside it.

`fuzz_corpus/refusals.json` maps a file (or a directory) to the class of the error and to words of its message. To add
one: put the file there, and a line with what a reader of the message should learn. The files are damaged or hostile on
purpose; none of them runs anything.
"""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from weight_examples import open_and_read_all

CORPUS = Path(__file__).parent / "fuzz_corpus"
REFUSALS: dict[str, list[str]] = json.loads((CORPUS / "refusals.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_a_file_of_the_corpus_is_refused_as_written(name: str) -> None:
    kind, words = REFUSALS[name]
    tracemalloc.start()
    error = open_and_read_all(CORPUS / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error is not None
    assert (type(error).__name__, words in str(error)) == (kind, True), str(error)
    assert error.where
    assert peak < 3_000_000


def test_no_file_of_the_corpus_is_left_out() -> None:
    assert {path.name for path in CORPUS.iterdir()} == {*REFUSALS, "refusals.json"}
