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


def test_audit_refuses_what_is_no_tokenizer(pedigree: Pedigree, texts: Path) -> None:
    (texts / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}')
    ran = pedigree("tokenizer", "audit", "tokenizer.json")
    assert ran.code == 2
    assert ran.err.startswith("error: the tokenizer cannot be built")
