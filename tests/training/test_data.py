"""Corpora, their tokens on disk, and the batches cut from them."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tests.training.tiny import settings, write_text, write_tokenizer

from pedigree.errors import InputError, MalformedFile, MissingInput
from pedigree.training.arithmetic import LANGUAGES, arithmetic_documents, questions
from pedigree.training.batches import Batches, open_batches
from pedigree.training.config import SourceConfig
from pedigree.training.shards import Vocabulary, is_held_out, tokenize
from pedigree.training.sources import documents


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    return Vocabulary.load(write_tokenizer(tmp_path))


def text_source(path: Path, **changes: object) -> SourceConfig:
    return SourceConfig.model_validate({"kind": "text", "path": str(path), "document": "line", **changes})


# -- sources ----------------------------------------------------------------------------------------------------------


def test_jsonl_gives_its_texts_and_names_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two"}\n{"other": 3}\n', encoding="utf-8")
    source = SourceConfig(kind="jsonl", path=str(path))
    stream = documents(source)
    assert [next(stream), next(stream)] == ["one", "two"]
    with pytest.raises(MalformedFile, match=r"this row has no text, in .*a\.jsonl:4, got other"):
        next(stream)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(MalformedFile, match=r"not JSON, in .*a\.jsonl:1"):
        list(documents(source))


def test_a_directory_and_a_pattern_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert list(documents(SourceConfig(kind="text", path=str(tmp_path)))) == ["a.txt", "b.txt", "c.md"]
    assert list(documents(SourceConfig(kind="text", path=str(tmp_path / "*.txt")))) == ["a.txt", "b.txt"]


def test_a_missing_corpus_and_an_empty_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="the corpus is not there"):
        list(documents(text_source(tmp_path / "none.txt")))
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(MalformedFile, match="holds no text"):
        list(documents(text_source(tmp_path / "empty.txt")))


def test_parquet_is_read_or_names_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    source = SourceConfig(kind="parquet", path=str(path))
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(MissingInput, match="pyarrow"):
            list(documents(source))
        return
    parquet.write_table(pyarrow.table({"text": ["one", "two"], "n": [1, 2]}), path)
    assert list(documents(source)) == ["one", "two"]
    with pytest.raises(MalformedFile, match="lack the field"):
        list(documents(source.model_copy(update={"text_field": "body"})))


def test_the_sources_of_python_are_always_there_in_one_order() -> None:
    source = SourceConfig(kind="python-stdlib", max_documents=5)
    first = list(documents(source))
    assert len(first) == 5
    assert first == list(documents(source))


def test_sums_are_right_and_questions_are_never_shown_in_training() -> None:
    text = "".join(arithmetic_documents(0, 400))
    assert "assert " in text
    for line in text.splitlines():
        if line.startswith("assert "):
            left, right = line.removeprefix("assert ").split(" == ")
            a, operator, b = left.split(" ")
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operator] == int(right)
    asked = questions(0, 200)
    assert {question.language for question in asked} == set(LANGUAGES)
    lines = set(text.splitlines())
    assert not any(f"{q.prompt}{q.answer}{q.end}".strip() in lines for q in asked)
    assert asked == questions(0, 200)


# -- tokens on disk ---------------------------------------------------------------------------------------------------


def test_tokens_decode_to_the_documents_and_count_their_bytes(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = tmp_path / "t.txt"
    path.write_text("one\nдва\n三\n", encoding="utf-8")
    shard = tokenize(text_source(path), vocabulary, tmp_path / "cache").train
    assert shard.ids.dtype == np.uint16
    assert shard.bytes.tolist() == [3, 6, 3]
    pieces = [shard.ids[a + 1 : b].tolist() for a, b in zip(shard.starts, shard.starts[1:], strict=False)]
    assert [len(piece) for piece in pieces] == [3, 6, 3]
    assert all(shard.ids[start] == vocabulary.separator for start in shard.starts)


def test_tokens_are_used_again_until_an_input_changes(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = write_text(tmp_path / "t.txt", 50)
    cache = tmp_path / "cache"
    first = tokenize(text_source(path), vocabulary, cache)
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("*") if p.is_file()}
    assert tokenize(text_source(path, weight=3.0, domain="x"), vocabulary, cache).digest == first.digest
    assert before == {p: p.stat().st_mtime_ns for p in cache.rglob("*") if p.is_file()}
    path.write_text(path.read_text(encoding="utf-8") + "more\n", encoding="utf-8")
    assert tokenize(text_source(path), vocabulary, cache).digest != first.digest


def test_a_shortened_file_of_tokens_is_made_anew(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path, cache = write_text(tmp_path / "t.txt", 50), tmp_path / "cache"
    first = tokenize(text_source(path), vocabulary, cache).train.ids.tolist()
    file = next(cache.rglob("train.bin"))
    file.write_bytes(file.read_bytes()[:-7])
    assert tokenize(text_source(path), vocabulary, cache).train.ids.tolist() == first


def test_held_out_documents_are_in_no_batch(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = write_text(tmp_path / "t.txt", 200)
    corpus = tokenize(text_source(path, held_out=0.2), vocabulary, tmp_path / "cache")
    lines = path.read_text(encoding="utf-8").splitlines()
    kept_back = [line for line in lines if is_held_out(line.encode(), 0.2)]
    assert 20 < len(kept_back) < 60
    assert corpus.held_out.n_documents == len(kept_back)
    assert corpus.train.n_documents == len(lines) - len(kept_back)


@pytest.mark.parametrize(("text", "words"), [("{", "not JSON"), ("[1]", "not an object"), ("{}", "not a tokenizer")])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(MalformedFile, match=words):
        Vocabulary.load(tmp_path)


def test_a_separator_that_the_tokenizer_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no token that separates"):
        Vocabulary.load(write_tokenizer(tmp_path), separator="<none>")


# -- batches ----------------------------------------------------------------------------------------------------------


def test_targets_follow_tokens_and_documents_begin_at_separators(tmp_path: Path, vocabulary: Vocabulary) -> None:
    batch = open_batches(settings(tmp_path), vocabulary, tmp_path / "cache").window(3)
    assert batch.tokens_BT.shape == batch.document_BT.shape == batch.domain_BT.shape == (4, 32)
    assert np.array_equal(batch.tokens_BT[:, 1:], batch.targets_BT[:, :-1])
    begins_BT = batch.tokens_BT == vocabulary.separator
    assert begins_BT.any()
    steps_BT = np.diff(batch.document_BT, axis=1)
    assert np.array_equal(steps_BT == 1, begins_BT[:, 1:])
    assert (batch.document_BT[:, 0] == 0).all()


def test_ranks_share_the_window_of_one(tmp_path: Path, vocabulary: Vocabulary) -> None:
    window = open_batches(settings(tmp_path), vocabulary, tmp_path / "cache").window(5)
    parts = [window.part(rank, 2).part(i, 2) for rank in range(2) for i in range(2)]
    assert np.array_equal(window.tokens_BT, np.concatenate([part.tokens_BT for part in parts]))


def test_one_epoch_reads_every_sequence_once(tmp_path: Path, vocabulary: Vocabulary) -> None:
    batches = open_batches(settings(tmp_path), vocabulary, tmp_path / "cache")
    size = int(batches.order.sizes[0])
    seen = np.concatenate([batches.window(n).sequence_B for n in range(size // 4)])
    assert size > 100
    assert len(np.unique(seen)) == len(seen)


def test_a_corpus_shorter_than_one_sequence_is_an_error(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = tmp_path / "short.txt"
    path.write_text("a b c", encoding="utf-8")
    config = settings(tmp_path, sources=(text_source(path),))
    with pytest.raises(
        InputError, match=r"shorter than one sequence, in .*short\.txt, got 6 tokens, expected at least"
    ):
        open_batches(config, vocabulary, tmp_path / "cache")


def test_a_window_can_be_named(tmp_path: Path, vocabulary: Vocabulary) -> None:
    batches = open_batches(settings(tmp_path), vocabulary, tmp_path / "cache")
    assert isinstance(batches, Batches)
    assert "text.txt (en): 4 sequences, numbers " in batches.named(0)[0]
    assert json.dumps(batches.named(0))


def test_rows_of_the_hub_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def load_dataset(name: str | None, **options: object) -> list[dict[str, object]]:
        asked.update(options, name=name)
        return [{"body": "one"}, {"body": "two"}, {"body": 3}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    source = SourceConfig(kind="hf", path="some/data", text_field="body", split="test", max_documents=2)
    assert list(documents(source)) == ["one", "two"]
    assert asked == {"name": "some/data", "split": "test", "streaming": True}
    with pytest.raises(MalformedFile, match="this row has no text, in some/data, row 2"):
        list(documents(source.model_copy(update={"max_documents": 0})))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingInput, match="need the library datasets"):
        list(documents(source))


def test_text_that_spells_the_separator_is_no_separator(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = tmp_path / "t.txt"
    path.write_text("one<|end|>two", encoding="utf-8")
    shard = tokenize(text_source(path), vocabulary, tmp_path / "cache").train
    assert (shard.ids == vocabulary.separator).sum() == 2


@pytest.mark.parametrize("name", ["tinyshakespeare", "english-classics", "russian-classics", "chinese-poetry"])
def test_real_corpora_are_read(shared_data: Path, tmp_path: Path, vocabulary: Vocabulary, name: str) -> None:
    folder = shared_data / "corpora" / name
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".jsonl") and path.stat().st_size)
    if not found:
        pytest.skip(f"no text in {name}")
    kind = "jsonl" if found[0].suffix == ".jsonl" else "text"
    source = SourceConfig.model_validate(
        {"kind": kind, "path": str(found[0]), "document": "line", "max_documents": 200, "held_out": 0.1}
    )
    corpus = tokenize(source, vocabulary, tmp_path / "cache")
    assert corpus.train.n_documents + corpus.held_out.n_documents == 200
    assert int(corpus.train.bytes.sum()) == len(corpus.train.ids) - corpus.train.n_documents - 1
