"""The YAML reader: places, the core schema, and refusal of hostile text."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.errors import MissingInput, ProblemsFound
from pedigree.records.places import Mark, Node
from pedigree.records.problems import Problems
from pedigree.records.yaml_tree import MAX_BYTES, MAX_DEPTH, MAX_VALUES, parse_tree, read_text


def read(text: str) -> Any:
    problems = Problems("r.yaml")
    tree = parse_tree(text, problems)
    problems.stop()
    assert tree is not None
    return tree.plain()


def places(text: str) -> list[str]:
    """`line:column what` of every problem."""
    problems = Problems("r.yaml")
    parse_tree(text, problems)
    return [f"{mark.line}:{mark.column} {error.what}" for mark, error in problems.found]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5E-5", 5e-5),
        ("13.2e12", 13_200_000_000_000),
        ("1_000_000", 1_000_000),
        ("-3", -3),
        ("0x1f", 31),
        ("0.5", 0.5),
        (".5", 0.5),
        ("4.0", 4.0),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-11-25", "2026-11-25"),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("_1", "_1"),
        ("null", None),
        ("~", None),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        ("text with: colon", {"text with": "colon"}),
        ("[1, [2, {a: b}]]", [1, [2, {"a": "b"}]]),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("1: x\n2: y", {"1": "x", "2": "y"}),
    ],
)
def test_plain_values_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_whole_numbers_with_an_exponent_are_integers_and_others_are_not() -> None:
    assert [type(read(text)) for text in ("1e3", "1.5e3", "1.5e0", "1.0")] == [int, int, float, float]


def test_each_value_and_key_knows_its_place() -> None:
    problems = Problems("r.yaml")
    tree = parse_tree("models:\n  base:\n    steps: [1, 22]\n", problems)
    assert tree is not None
    assert tree.find(("models", "base", "steps"))[0].mark == Mark(3, 12)
    assert tree.find(("models", "base", "steps"))[1] == Mark(3, 5)
    assert tree.find(("models", "base", "steps", 1))[0].mark == Mark(3, 16)
    assert tree.find(("models", "base", "absent"))[1] == Mark(2, 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2\n", ["2:1 this key stands here twice"]),
        ("a: &x 1\nb: *x\n", [f"{place} anchors and aliases are not allowed in recipes" for place in ("1:4", "2:4")]),
        ("a: !!python/object/apply:os.system [echo]\n", ["1:4 tags are not allowed in recipes"]),
        ("a: !!str 1\n", ["1:4 tags are not allowed in recipes"]),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", ["1:1 tags are not allowed in recipes"]),
        ("a: 1\n---\nb: 2\n", ["2:1 a second document begins here"]),
        ("? [a]\n: 1\n", ["1:3 a key must be a word"]),
        ("a: .inf\n", ["1:4 numbers must be finite"]),
        ("a: 1e999\n", ["1:4 numbers must be finite"]),
        ("a: 9007199254740992\n", ["1:4 this number is too large"]),
        ("a: 0xfffffffffffffff\n", ["1:4 this number is too large"]),
        ("a: " + "9" * 5000 + "\n", ["1:4 this number has too many digits"]),
        ("", ["1:1 the file is empty"]),
        ("# nothing\n", ["1:1 the file is empty"]),
    ],
)  # fmt: skip
def test_what_a_recipe_may_not_hold_is_told_with_its_place(text: str, told: list[str]) -> None:
    assert places(text) == told


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1, 2\nb: 3\n", "2:2"),
        ("a: 'open\n", "2:1"),
        ("\tb: 1\n", "1:1"),
        ("a: b: c\n", "1:5"),
        ("a: \x07\n", "1:4"),
    ],
)
def test_broken_yaml_is_told_with_its_place(text: str, place: str) -> None:
    (only,) = places(text)
    assert only.startswith(place), only


def test_problems_of_different_kinds_are_told_together() -> None:
    text = "a: &x 1\nb: !!set {}\nb: .nan\n"
    assert [line.partition(" ")[0] for line in places(text)] == ["1:4", "2:4", "3:1", "3:4"]


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    start = time.process_time()
    found = places("\n".join(lines))
    assert len(found) == 12 + 110
    assert {line.partition(" ")[2] for line in found} == {"anchors and aliases are not allowed in recipes"}
    assert time.process_time() - start < 5


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 100_000, "? " * 100_000])
def test_deep_nesting_costs_no_recursion(text: str) -> None:
    found = places(text)
    assert len(found) == 1
    assert "nested too deeply" in found[0] or "a key must be a word" in found[0]


def test_depth_and_number_of_values_are_limited_exactly() -> None:
    assert not places("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert places("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)) == [f"1:{MAX_DEPTH + 1} this is nested too deeply"]
    assert not places("[" + "1," * (MAX_VALUES - 1) + "]")
    assert "there are too many values" in places("[" + "1," * MAX_VALUES + "]")[0]


def told_for(content: bytes, tmp_path: Path) -> list[str]:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    problems = Problems("r.yaml")
    assert read_text(path, problems) is None
    return [f"{mark.line}:{mark.column} {error.what}" for mark, error in problems.found]


def test_a_file_that_is_not_utf8_is_told_with_the_place_of_the_byte(tmp_path: Path) -> None:
    assert told_for("a: ä\nb: ü".encode() + b"\xff", tmp_path) == ["2:5 this is not UTF-8"]


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # sparse: a terabyte of nothing
    problems = Problems("r.yaml")
    assert read_text(path, problems) is None
    assert problems.found[0][1].expected == f"at most {MAX_BYTES:,} bytes"


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="there is no such recipe"):
        read_text(tmp_path / "absent.yaml", Problems("r"))
    with pytest.raises(MissingInput, match=r"a recipe is a file.*a directory"):
        read_text(tmp_path, Problems("r"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MissingInput, match=r"a recipe is a file.*no regular file"):
        read_text(tmp_path / "pipe", Problems("r"))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_text(tmp_path / "r.yaml", Problems("r")) == "a: 1\n"


def test_all_problems_are_raised_in_the_order_of_the_file() -> None:
    problems = Problems("r.yaml")
    problems.add(Mark(9, 1), "second")
    problems.add(Mark(2, 3), "first", path=("models", "base", 2))
    with pytest.raises(ProblemsFound, match="2 problems to mend") as caught:
        problems.stop()
    assert [error.where for error in caught.value.problems] == ["r.yaml:2:3 (models.base[2])", "r.yaml:9:1"]
    assert [problem["what"] for problem in caught.value.to_dict()["problems"]] == ["first", "second"]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.text(alphabet="ab:-[]{}&*!|>'\"#%?, \n\t10.e", max_size=120)))
def test_any_text_gives_a_tree_or_a_problem(text: str) -> None:
    problems = Problems("r.yaml")
    tree = parse_tree(text, problems)
    assert isinstance(tree, Node) or problems.found
