"""The terminal answer: at most 25 lines, at most 100 columns, the verdict first."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from tests.comparison_examples import EXAMPLES, grown_child, inputs, simple

from pedigree.cli.answer import MAX_LINES, answer_lines
from pedigree.records.comparison import VERDICTS, Comparison, Transformation, Verdict

FORBIDDEN = "plag" + "iarism|th" + "eft|fr" + "aud|fa" + "ke|sto" + "len|sh" + "ell|copy" + "cat"


def text(comparison: Comparison, width: int = 100, unicode: bool = True) -> str:
    lines = answer_lines(comparison, width=width, unicode=unicode)
    return "".join("".join(span.text for span in line).rstrip() + "\n" for line in lines)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
@pytest.mark.parametrize("width", [80, 100])
def test_it_fits(name: str, width: int) -> None:
    lines = text(EXAMPLES[name], width).splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_verdict_stands_first_and_the_rest_is_there(name: str) -> None:
    told = text(EXAMPLES[name])
    assert EXAMPLES[name].result.verdict in told.splitlines()[0]
    for label in ("A ", "B ", "how sure", "error rate", "layers", "parts", "decoys", "read", "not checked"):
        assert re.search(rf"^{label}", told, re.MULTILINE), label
    assert not re.search(rf"\b({FORBIDDEN})\b", told, re.IGNORECASE)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_it_does_not_change_unseen(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"answer-{name}.txt", text(EXAMPLES[name]))


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("n", [1, 100])
@pytest.mark.parametrize("verdict", VERDICTS)
def test_it_fits_whatever_there_is_to_tell(verdict: Verdict, n: int, width: int) -> None:
    endless = " ".join(["words"] * n) + " " + "x" * n
    result = grown_child().result
    decoy, rate = result.controls.decoys[0], result.error_rate
    assert rate is not None
    changes = [Transformation.model_validate({"kind": f"kind {i} {endless}", "at": list(range(i))}) for i in range(n)]
    record = grown_child(
        verdict=verdict,
        strength=endless,
        transformations=[*result.transformations, *changes],
        layer_map=[i % 7 if i % 3 else None for i in range(n)],
        components={f"part {i}": result.components["attn"] for i in range(min(n, 40))},
        direction=result.direction.model_copy(update={"reasons": [endless] * n}),
        controls=result.controls.model_copy(update={"decoys": [decoy.model_copy(update={"location": endless})] * n}),
        error_rate=rate.model_copy(update={"benchmark": endless, "note": endless}),
        not_checked=[endless] * n,
        tests=[test.model_copy(update={"null": endless}) for test in result.tests],
    ).model_copy(update={"inputs": inputs(endless, "x" * n)})
    lines = text(record, width).splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= width
    assert verdict in lines[0]


def test_ascii_is_enough() -> None:
    assert text(grown_child(), unicode=False).isascii()


def test_what_is_cut_is_counted() -> None:
    told = text(EXAMPLES["largest"])
    assert "and 38 more (--report or --json has all)" in told
    assert "and 18 more (--report or --json has all)" in told


def test_a_long_location_keeps_both_ends() -> None:
    long = simple("related").model_copy(update={"inputs": inputs("begin/" + "x" * 200 + "/end", "b")})
    line = text(long).splitlines()[1]
    assert "begin/" in line
    assert "/end" in line


def test_names_in_hostile_files_do_not_steer_the_terminal() -> None:
    hostile = simple("related", strength="\x1b[2J\x1b]0;x\x07gone\nsecond line", not_checked=["\x9b31m"])
    hostile = hostile.model_copy(update={"inputs": inputs("\x1b[31mred", "b\r\nfake line")})
    told = text(hostile)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", told)
    assert len(told.splitlines()) <= MAX_LINES
