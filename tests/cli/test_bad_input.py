"""What a user gets wrong: told with a way out, with exit code 2, before any step where it can be known."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Ran
from tokenizers import Tokenizer, models, pre_tokenizers

from pedigree.training import checkpoint

Pedigree = Callable[..., Ran]

RECIPE = """\
recipe: 1
family: tiny
corpora:
  first: {kind: arithmetic, max_documents: 60}
  second: SECOND
tokenizers:
  letters: LETTERS
models:
  base:
    kind: train
    model: {member: llama-3-8b}
    tokenizer: letters
    corpus: first
    training: {tokens: 1280, sequence_length: 32, batch_sequences: 4, checkpoint: {every: 5}}
  more:
    kind: train
    from: base
    corpus: second
    training: {tokens: 128, sequence_length: 32, batch_sequences: 4}
"""
SUMS, TRAINED = "{kind: arithmetic, max_documents: 60}", "{kind: byte-level, corpus: first, vocabulary: 300}"
FILE = "{kind: file, path: tokenizer.json, vocabulary: 257}"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.chdir(tmp_path)

    def written(second: str = SUMS, letters: str = TRAINED) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(RECIPE.replace("SECOND", second).replace("LETTERS", letters), encoding="utf-8")
        return path

    return written


def byte_tokenizer(path: Path, separator: str) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={separator: 0} | {letter: i + 1 for i, letter in enumerate(letters)}, merges=[]))
    made.add_special_tokens([separator])
    made.save(str(path))


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file grows beyond `limit` bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("name", "content", "source", "what", "fix"),
    [
        ("", b"", "{kind: text, path: absent.txt}", "the corpus is not there", "correct the path"),
        ("a.txt", b" \n", "{kind: text, path: a.txt}", "holds no text", "remove it"),
        ("a.txt", bytes(range(256)), "{kind: text, path: a.txt}", "a zero byte at character 0", "iconv"),
        ("a.txt", "река течёт".encode("cp1251"), "{kind: text, path: a.txt}", "is not UTF-8 text", "iconv"),
        ("a.jsonl", b"", "{kind: jsonl, path: a.jsonl}", "this corpus holds no text", "another file"),
        ("a.jsonl", b'{"text": ""}\n', "{kind: jsonl, path: a.jsonl}", "this corpus holds no text", "text_field"),
        ("a.jsonl", b'{"txt": "a"}\n', "{kind: jsonl, path: a.jsonl}", "this row has no text - got txt", "text_field"),
        ("a.jsonl", b"plain\n", "{kind: jsonl, path: a.jsonl}", "this line is not JSON - got plain", "kind: text"),
    ],
)
def test_the_corpus_of_the_last_step_is_looked_at_before_the_first(
    pedigree: Pedigree, write: Callable[..., Path], tmp_path: Path, name: str, content: bytes, source: str, what: str,
    fix: str,
) -> None:  # fmt: skip
    if name:
        (tmp_path / name).write_bytes(content)
    write(second=source)
    ran = pedigree("train", "tiny.yaml")
    assert (ran.code, ran.out) == (2, "")
    lines = ran.err.splitlines()
    assert what in lines[0]
    assert lines[1].startswith(f"  in: {name or 'absent.txt'}")
    assert fix in lines[2]
    assert not (tmp_path / "runs").exists()


def test_a_few_broken_bytes_are_no_reason_to_stop(tmp_path: Path) -> None:
    from pedigree.training.config import SourceConfig
    from pedigree.training.sources import check_source, documents

    path = tmp_path / "a.txt"
    path.write_bytes(b"the river flows, " * 20 + b"\xff\xfe" + b" the moon is bright")
    source = SourceConfig(kind="text", path=str(path))
    check_source(source)
    assert "\ufffd" in next(iter(documents(source)))


@pytest.mark.parametrize(
    ("separator", "letters", "what", "fix"),
    [
        (None, FILE, "the tokenizer is not there", "pedigree tokenizer train"),
        ("<doc>", FILE, "no token that separates documents - got control tokens <doc>", 'separator: "<doc>"'),
        ("<|end|>", FILE.replace("257", "200"), "knows more ids than the recipe says", "vocabulary: 257"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_told_before_any_work(
    pedigree: Pedigree, write: Callable[..., Path], tmp_path: Path, separator: str | None, letters: str, what: str,
    fix: str,
) -> None:  # fmt: skip
    if separator:
        byte_tokenizer(tmp_path / "tokenizer.json", separator)
    write(letters=letters)
    ran = pedigree("train", "tiny.yaml")
    assert ran.code == 2
    assert what in ran.err
    assert f"fix: {fix}" in ran.err or fix in ran.err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("word", "what", "fix"),
    [
        ("mesh.dp_shard=3", "got 1 process, expected 3 processes", "torchrun --nproc-per-node 3"),
        ("mesh.ep=2", "the data ranks cannot be grouped for the experts", "ep: 1"),
    ],
)
def test_an_impossible_mesh_leaves_nothing_behind(
    pedigree: Pedigree, write: Callable[..., Path], tmp_path: Path, word: str, what: str, fix: str
) -> None:
    write()
    ran = pedigree("train", "tiny.yaml", "--set", word)
    assert ran.code == 2
    assert what in ran.err
    assert fix in ran.err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_batch_that_cannot_be_dealt_names_one_that_can() -> None:
    from pedigree.errors import UsageError
    from pedigree.training.config import SourceConfig, TrainingConfig
    from pedigree.training.ranks import check_mesh

    config = TrainingConfig(sources=(SourceConfig(kind="arithmetic"),), tokens=10, batch_sequences=10, accumulation=2)
    with pytest.raises(UsageError, match="cannot be dealt evenly") as caught:
        check_mesh(config, 4)
    assert caught.value.fix == "batch_sequences: 16"
    check_mesh(config.model_copy(update={"batch_sequences": 16}), 4)


def test_a_recipe_that_is_not_there_names_the_nearest(pedigree: Pedigree, write: Callable[..., Path]) -> None:
    write()
    for command in ("plan", "train"):
        ran = pedigree(command, "tyni.yaml")
        assert (ran.code, ran.err.splitlines()[-1]) == (2, "  fix: did you mean tiny.yaml?")


def test_a_full_disk_is_known_before_the_first_step(
    pedigree: Pedigree, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from types import SimpleNamespace

    write()
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(total=10**9, used=10**9, free=1000))
    ran = pedigree("train", "tiny.yaml")
    assert ran.code == 2
    assert "too small for the checkpoints of this run - got 1,000 bytes free, expected" in ran.err
    assert "fix: free some space" in ran.err
    assert not list(tmp_path.rglob("step-*"))


@pytest.mark.parametrize(
    ("limit", "what"),
    [(2_000, "the system refused to read or write - got file too large"), (400_000, "a checkpoint could not be")],
)
def test_a_disk_that_fills_at_the_start_is_no_crash(
    pedigree: Pedigree, write: Callable[..., Path], tmp_path: Path, limit: int, what: str
) -> None:
    write()
    with small_files(limit):
        ran = pedigree("train", "tiny.yaml")
    assert ran.code == 2
    assert what in ran.err
    assert "  in: runs/tiny" in ran.err
    assert "fix: free some space" in ran.err
    assert not list(tmp_path.rglob("*step-*"))  # the half of a checkpoint would keep the disk full


def test_a_disk_that_fills_on_the_way_keeps_the_last_checkpoint(
    pedigree: Pedigree, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    saved, save = [], checkpoint.save

    def save_twice(*words: Any, **more: Any) -> Any:
        saved.append(1)
        with small_files(100_000 if len(saved) == 3 else resource.RLIM_INFINITY):
            return save(*words, **more)

    monkeypatch.setattr(checkpoint, "save", save_twice)
    ran = pedigree("train", "tiny.yaml", "--only", "base")
    assert ran.code == 2
    assert "a checkpoint could not be written - got file too large" in ran.err
    assert "the same command goes on from step 5" in ran.err
    left = sorted(path.name for path in (tmp_path / "runs/tiny/base/checkpoints").iterdir())
    assert left == ["step-00000000", "step-00000005"]
    again = pedigree("train", "tiny.yaml", "--only", "base", "--json")
    assert again.code == 0, again.err
    (result,) = json.loads(again.out)["result"]
    assert (result["first_step"], result["steps"]) == (5, 10)


def test_weights_that_find_no_room_leave_no_half_model(tmp_path: Path) -> None:
    from tests.model.pico import decoder

    from pedigree.errors import InputError
    from pedigree.model.hf_checkpoint import export_checkpoint

    with small_files(2_000), pytest.raises(InputError, match="could not be written") as caught:
        export_checkpoint(decoder("llama-3-8b-pico"), tmp_path / "model")
    assert "File too large" in str(caught.value.got)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_is_refused_with_what_differs(
    pedigree: Pedigree, write: Callable[..., Path]
) -> None:
    recipe = write()
    words = ("train", "tiny.yaml", "--only", "base", "--set", "tokens=128")
    assert pedigree(*words).code == 0
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("llama-3-8b", "qwen3-8b"), encoding="utf-8")
    ran = pedigree(*words)
    assert ran.code == 2
    assert "model.attention.q_norm: False there, True here" in ran.err
    assert "in: runs/tiny/base/checkpoints/step-00000001" in ran.err
    assert "fix: another output directory, or --fresh" in ran.err
    ran = pedigree("eval", "runs/tiny/base")
    assert (ran.code, ran.err.splitlines()[-1]) == (2, "  fix: did you mean runs/tiny/base/model?")
    config = Path("runs/tiny/base/model/config.json")
    config.write_text(config.read_text(encoding="utf-8").replace('"vocab_size": 300', '"vocab_size": 301'))
    ran = pedigree("eval", "runs/tiny/base/model", "--corpus", "sums", "--arithmetic", "0")
    assert ran.code == 2
    assert "got (300, 64), expected (301, 64)" in ran.err
    assert "fix: take config.json and weights of one model" in ran.err


def test_tensorboard_without_its_library_is_told_before_any_work(
    pedigree: Pedigree, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    write()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    ran = pedigree("train", "tiny.yaml", "--set", "tensorboard=true")
    assert ran.code == 2
    assert ran.err.splitlines()[-1] == "  fix: pip install 'llm-pedigree[log]'"
    assert not (tmp_path / "runs").exists()
