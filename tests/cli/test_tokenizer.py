"""`pedigree tokenizer ...` on small texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.cli.conftest import Ran

from pedigree.cli.tokenizer import KIND_WORDS
from pedigree.records.schemas import json_schema
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.training import KINDS

Pedigree = Callable[..., Ran]
ROOT = Path(__file__).resolve().parents[2]
CHINESE = "床前明月光疑是地上霜举头望明月低头思故乡\n白日依山尽黄河入海流欲穷千里目更上一层楼\n" * 30


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with `english.txt`, `chinese.txt` and a small folder of parallel sentences."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "english.txt").write_text((ROOT / "LICENSE").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "chinese.txt").write_text(CHINESE, encoding="utf-8")
    (tmp_path / "ntrex").mkdir()
    (tmp_path / "ntrex" / "newstest2019-src.eng.txt").write_text("The moon is bright.\nThe river flows.\n" * 20)
    (tmp_path / "ntrex" / "newstest2019-ref.zho-CN.txt").write_text("明月光。\n黄河入海流。\n" * 20, encoding="utf-8")
    return tmp_path


@pytest.fixture
def first(texts: Path, pedigree: Pedigree) -> Path:
    """A byte-level tokenizer of English."""
    assert pedigree("tokenizer", "train", "english.txt", "--size", "600", "--out", "first").code == 0
    return texts / "first"


def record_of(ran: Ran, name: str) -> dict[str, Any]:
    """The record that was printed, held against its published schema."""
    assert ran.code == 0, ran.err
    record: dict[str, Any] = json.loads(ran.out)
    assert record["schema"] == f"pedigree/{name}"
    jsonschema.Draft202012Validator(json_schema(name)).validate(record)
    return record


def fits(text: str) -> bool:
    lines = text.splitlines()
    return 0 < len(lines) <= 25 and max(map(len, lines)) <= 100


def test_the_kinds_are_those_of_the_trainer() -> None:
    assert KIND_WORDS == KINDS


# -- train ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KIND_WORDS)
def test_train_writes_a_tokenizer_that_can_be_opened(pedigree: Pedigree, texts: Path, kind: str) -> None:
    words = ("eng=english.txt", "chinese.txt", "--kind", kind, "--size", "700", "--out", "new", "--json")
    ran = pedigree("tokenizer", "train", *words)
    record = record_of(ran, "tokenizer-training")
    encoder = open_encoder(texts / "new")
    assert record["tokenizer"]["digest"] == encoder.digest
    assert record["tokenizer"]["tokens"] == encoder.size <= 700
    assert [row["text"] for row in record["compression"]] == ["eng", "chinese"]
    assert record["files"] == ["new/tokenizer.json", "new/tokenizer_config.json"]
    assert "wrote new/tokenizer.json" in ran.err


def test_train_overwrites_nothing_unasked(pedigree: Pedigree, first: Path) -> None:
    before = (first / "tokenizer.json").read_bytes()
    again = ("tokenizer", "train", "english.txt", "--size", "500", "--out", "first")
    ran = pedigree(*again)
    assert ran.code == 2
    assert "the output file is there already" in ran.err
    assert (first / "tokenizer.json").read_bytes() == before
    assert pedigree(*again, "--force").code == 0
    assert (first / "tokenizer.json").read_bytes() != before


def test_train_says_what_it_cannot_do(pedigree: Pedigree, texts: Path) -> None:
    (texts / "empty.txt").write_text("\n")
    for words, message in (
        (("empty.txt", "--out", "x"), "no text in this file"),
        (("nothing.txt", "--out", "x"), "no such text file"),
        (("english.txt", "--out", "x", "--kind", "byte_levle"), "did you mean --kind byte-level?"),
        (("english.txt", "--out", "x", "--size", "100"), "too small for its kind"),
        (("english.txt", "--out", "no/such/x"), "folder of the output does not exist"),
        (("english.txt", "--out", "english.txt"), "output directory is a file"),
        (("english.txt", "--out", "x", "--pattern", "nothing"), "pattern that cuts words is not known"),
    ):
        ran = pedigree("tokenizer", "train", *words)
        assert ran.code == 2
        assert message in ran.err, words
    assert not (texts / "x").exists()


def test_train_warns_where_texts_are_too_small(pedigree: Pedigree, texts: Path) -> None:
    ran = pedigree("tokenizer", "train", "chinese.txt", "--size", "5000", "--out", "x")
    assert ran.code == 0
    assert "warning: the texts give" in ran.err
    assert fits(ran.out)


def test_train_takes_its_options_from_the_environment(
    pedigree: Pedigree, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("PEDIGREE_KIND", "byte-fallback"),
        ("PEDIGREE_SIZE", "512"),
        ("PEDIGREE_PATTERN", "qwen2"),
        ("PEDIGREE_OUT", "new"),
        ("PEDIGREE_SPECIAL", "<|x|>"),
    ):
        monkeypatch.setenv(name, value)
    assert pedigree("tokenizer", "train", "english.txt", "-q").out == "new/tokenizer.json\n"
    encoder = open_encoder(texts / "new")
    assert (encoder.kind, encoder.size, encoder.spellings[0]) == ("byte-fallback BPE", 512, "<|x|>")
    assert len(encoder.encode("12")) == 2  # qwen2 cuts digits apart


# -- audit ------------------------------------------------------------------------------------------------------------


def test_audit_answers_on_a_screen_and_as_a_record(pedigree: Pedigree, first: Path) -> None:
    words = ("tokenizer", "audit", "first", "--text", "zho/poetry=chinese.txt", "--ntrex", "ntrex")
    told = pedigree(*words)
    assert told.code == 0
    assert fits(told.out)
    assert "the same sentences cost" in told.out
    record = record_of(pedigree(*words, "--json"), "tokenizer-audit")
    rows = {row["text"]: row for row in record["result"]["compression"]}
    assert set(rows) == {"zho/poetry", "eng/news", "zho-CN/news"}
    assert rows["zho/poetry"]["domain"] == "poetry"
    assert rows["eng/news"]["parity"] == 1
    assert rows["zho-CN/news"]["tokens_per_byte"] > 0.9
    assert record["result"]["round_trip_losses"] == []
    assert pedigree(*words, "-q").out.startswith("the same sentences cost")


def test_audit_works_without_texts(pedigree: Pedigree, first: Path) -> None:
    told = pedigree("tokenizer", "audit", str(first))
    assert told.code == 0
    assert "no text was given" in told.out


def test_audit_takes_its_options_from_the_environment(
    pedigree: Pedigree, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEDIGREE_TEXT", "english.txt")
    monkeypatch.setenv("PEDIGREE_NTREX", "ntrex")
    record = record_of(pedigree("tokenizer", "audit", "first", "--json"), "tokenizer-audit")
    assert {text["name"] for text in record["texts"]} == {"english", "eng/news", "zho-CN/news"}


def test_audit_fails_on_what_it_was_asked_to_fail_on(
    pedigree: Pedigree, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("tokenizer", "audit", "first", "-q", "--fail-on")
    assert pedigree(*words, "unreachable", "--fail-on", "lost_text").code == 0
    definition = json.loads((first / "tokenizer.json").read_text(encoding="utf-8"))
    definition["normalizer"] = {"type": "NFKC"}
    (first / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    assert pedigree(*words, "unreachable").code == 0
    assert pedigree(*words, "lost-text").code == 1
    monkeypatch.setenv("PEDIGREE_AUDIT_FAIL_ON", "lost-text")
    assert pedigree("tokenizer", "audit", "first", "-q").code == 1
    assert "did you mean --fail-on unreachable?" in pedigree(*words, "unreachabel").err


def test_audit_refuses_what_is_no_tokenizer(pedigree: Pedigree, texts: Path) -> None:
    (texts / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}')
    ran = pedigree("tokenizer", "audit", "tokenizer.json")
    assert ran.code == 2
    assert ran.err.startswith("error: the tokenizer does not work")


# -- compare ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def second(texts: Path, pedigree: Pedigree) -> Path:
    """A byte-fallback tokenizer of Chinese."""
    words = ("chinese.txt", "--kind", "byte-fallback", "--size", "460", "--out", "second")
    assert pedigree("tokenizer", "train", *words).code == 0
    return texts / "second"


def test_compare_answers_on_a_screen_and_as_a_record(pedigree: Pedigree, first: Path, second: Path) -> None:
    words = ("tokenizer", "compare", "first", "second", "--text", "english.txt", "--text", "zho=chinese.txt")
    told = pedigree(*words)
    assert fits(told.out)
    assert "paired bootstrap" in told.out
    record = record_of(pedigree(*words, "--json"), "tokenizer-comparison")
    verdicts = {ratio["text"]: ratio["verdict"] for ratio in record["result"]["ratios"]}
    assert verdicts == {"english": "shorter", "zho": "longer"}
    assert record["result"]["overlap"][0]["shared"] > 100


def test_compare_may_find_no_difference(pedigree: Pedigree, first: Path, second: Path) -> None:
    same = pedigree("tokenizer", "compare", "first", "first", "--text", "english.txt", "-q")
    assert same.code == 0
    assert same.out.startswith("no difference between first and first#2 beyond 2.0%")
    three = pedigree("tokenizer", "compare", "first", "first", "second", "--text", "english.txt")
    assert three.code == 0
    assert fits(three.out)


def test_compare_may_not_know(pedigree: Pedigree, first: Path, second: Path) -> None:
    """Four lines that the one writes shorter and four that the other does: the interval is wide and holds 1."""
    Path("few.txt").write_text("copyright license\n" * 4 + "月光月光\n" * 4, encoding="utf-8")
    ran = pedigree("tokenizer", "compare", "first", "second", "--text", "few.txt", "-q")
    assert ran.code == 3, ran.out
    assert "cannot be told apart at a margin of 2.0%" in ran.out


def test_compare_takes_its_options_from_the_environment(
    pedigree: Pedigree, first: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PEDIGREE_MARGIN", "0.1"), ("PEDIGREE_DRAWS", "150"), ("PEDIGREE_SEED", "7")):
        monkeypatch.setenv(name, value)
    words = ("tokenizer", "compare", "first", "second", "--text", "english.txt", "--json")
    result = record_of(pedigree(*words), "tokenizer-comparison")["result"]
    assert (result["margin"], result["draws"], result["seed"]) == (0.1, 150, 7)


def test_compare_needs_two_tokenizers_and_a_text(pedigree: Pedigree, first: Path) -> None:
    assert "needs two tokenizers" in pedigree("tokenizer", "compare", "first", "--text", "english.txt").err
    assert "needs texts" in pedigree("tokenizer", "compare", "first", "first").err


# -- extend -----------------------------------------------------------------------------------------------------------


def test_extend_grows_and_tells_what_changed(pedigree: Pedigree, first: Path) -> None:
    words = ("tokenizer", "extend", "first", "zho=chinese.txt", "--add", "40", "--text", "english.txt")
    told = pedigree(*words, "--out", "grown")
    assert told.code == 0, told.err
    assert fits(told.out)
    record = record_of(pedigree(*words, "--out", "grown", "--force", "--json"), "tokenizer-extension")
    assert record["result"]["added"] == 40
    assert record["result"]["unreachable_added"]["count"] == 0
    assert "no new token is used in english" in record["result"]["verdict"]
    old, new = open_encoder("first"), open_encoder("grown")
    assert new.digest == record["tokenizer"]["digest"]
    assert new.spellings[: old.size] == old.spellings


def test_extend_adds_single_tokens_and_controls(pedigree: Pedigree, first: Path) -> None:
    words = ("--token", " Pedigree", "--special", "<|tool|>", "--out", "grown", "-q")
    ran = pedigree("tokenizer", "extend", "first", *words)
    assert (ran.code, ran.out) == (0, "grown/tokenizer.json\n")
    grown = open_encoder("grown")
    assert len(grown.encode(" Pedigree")) == 1
    assert grown.spellings[max(grown.specials)] == "<|tool|>"


def test_extend_takes_its_options_from_the_environment(
    pedigree: Pedigree, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEDIGREE_ADD", "7")
    monkeypatch.setenv("PEDIGREE_TOKEN", "Pedigree")
    ran = pedigree("tokenizer", "extend", "first", "chinese.txt", "--out", "grown", "--json")
    options = record_of(ran, "tokenizer-extension")["options"]
    assert options["add"] == 7
    assert options["tokens"] == ["Pedigree"]


def test_extend_says_what_it_cannot_do_before_it_writes(pedigree: Pedigree, first: Path) -> None:
    assert "nothing to add" in pedigree("tokenizer", "extend", "first", "--out", "grown").err
    assert "needs text" in pedigree("tokenizer", "extend", "first", "--add", "5", "--out", "grown").err
    assert not Path("grown").exists()
    ran = pedigree("tokenizer", "extend", "first", "chinese.txt", "--add", "5", "--out", "first")
    assert ran.code == 2
    assert "there already" in ran.err
    few = pedigree("tokenizer", "extend", "first", "chinese.txt", "--add", "5000", "--out", "grown")
    assert "warning: the texts give" in few.err


# -- concat -----------------------------------------------------------------------------------------------------------


def test_concat_writes_the_conflicts_beside_the_tokenizer(pedigree: Pedigree, first: Path, second: Path) -> None:
    told = pedigree("tokenizer", "concat", "first", "second", "--out", "both")
    assert told.code == 0, told.err
    assert fits(told.out)
    ran = pedigree("tokenizer", "concat", "first", "second", "--out", "both", "--force", "--json")
    record = record_of(ran, "tokenizer-concatenation")
    listed = json.loads(Path("both/conflicts.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(json_schema("tokenizer-conflicts")).validate(listed)
    assert len(listed["conflicts"]) == sum(record["result"]["conflicts"].values())
    both, b = open_encoder("both"), open_encoder("second")
    assert both.digest == record["tokenizer"]["digest"]
    for number, there in enumerate(listed["id_map"]["b"]):
        assert there is None or both.surfaces[there] == b.surfaces[number]


def test_concat_refuses_what_does_not_go_together(pedigree: Pedigree, first: Path) -> None:
    assert pedigree("tokenizer", "train", "english.txt", "--kind", "unigram", "--size", "450", "--out", "uni").code == 0
    ran = pedigree("tokenizer", "concat", "first", "uni", "--out", "both")
    assert ran.code == 2
    assert "cannot be put into one" in ran.err
    assert not Path("both").exists()


def test_a_seed_below_nothing_is_told(pedigree: Pedigree, tmp_path: Path) -> None:
    ran = pedigree("tokenizer", "compare", "a", "b", "--text", "c", "--seed", "-1")
    assert ran.code == 2
    assert "--seed" in ran.err
