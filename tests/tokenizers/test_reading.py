"""Every format as a working encoder: golden vectors, known counts, the libraries that own the formats."""

from __future__ import annotations

import base64
import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizers.test_vocabulary import sentencepiece_file

from pedigree.errors import InputError, MalformedFile, MissingInput, PedigreeError, UsageError
from pedigree.tokenizers.definition import spell_bytes
from pedigree.tokenizers.derivation import derive_merges
from pedigree.tokenizers.encoder import Encoder, build_encoder
from pedigree.tokenizers.hostile_texts import HOSTILE
from pedigree.tokenizers.reading import gguf_definition, open_encoder
from pedigree.tokenizers.surface import byte_alphabet


@cache
def opened(path: Path) -> Encoder:
    return open_encoder(path)


# -- real tokenizers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenizer", "vectors"),
    [
        ("llama3", "ggml-vocab-llama-bpe"),
        ("qwen2", "ggml-vocab-qwen2"),
        ("qwen1", "ggml-vocab-qwen2"),
        ("llama2", "ggml-vocab-llama-spm"),
        ("ggml-vocab-llama-spm", "ggml-vocab-llama-spm"),
        ("ggml-vocab-deepseek-llm", "ggml-vocab-deepseek-llm"),
    ],
)
def test_all_47_golden_vectors_are_reproduced(real: Path, tokenizer: str, vectors: str) -> None:
    given_file = next((real / vectors).glob("*.inp"))
    texts = given_file.read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    wanted = [list(map(int, line.split())) for line in given_file.with_suffix(".out").read_text().split("\n")]
    encoder = opened(real / tokenizer)
    assert len(texts) == 47
    for text, numbers in zip(texts, wanted, strict=False):
        assert encoder.encode(text) == numbers, repr(text)


@pytest.mark.parametrize(
    ("tokenizer", "counts"),
    [
        ("llama3", (52_379, 68_815, 87_915)),
        ("qwen2", (53_196, 54_827, 96_580)),
        ("llama2", (63_324, 122_775, 103_617)),
        ("gpt2", (54_125, 169_849, 296_430)),
        ("pangu-alpha", (98_057, 70_199, 250_223)),
    ],
)
def test_parallel_sentences_cost_what_is_known(
    real: Path, shared_data: Path, tokenizer: str, counts: tuple[int, ...]
) -> None:
    folder = shared_data / "corpora" / "ntrex128"
    texts = [next(folder.glob(f"*.{name}.txt")).read_text(encoding="utf-8") for name in ("eng", "zho-CN", "rus")]
    assert tuple(map(len, opened(real / tokenizer).encode_all(texts))) == counts


def test_truncation_in_a_file_is_switched_off_and_told(real: Path) -> None:
    encoder = opened(real / "gpt2")
    assert encoder.notes == ("truncation in the file is switched off",)
    assert len(encoder.encode("word " * 1000)) > 128


def test_two_files_of_one_tokenizer_encode_alike(real: Path) -> None:
    assert opened(real / "llama2").digest == opened(real / "ggml-vocab-llama-spm").digest
    whole, bare = opened(real / "gpt2"), opened(real / "gpt2" / "vocab.json")
    texts = list(HOSTILE.values())
    assert whole.encode_all(texts) == bare.encode_all(texts)


def test_sentencepiece_itself_encodes_alike(real: Path, shared_data: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    folder = shared_data / "corpora" / "ntrex128"
    lines = [
        line
        for name in ("eng", "rus", "zho-CN", "arb", "kor")
        for line in next(folder.glob(f"*.{name}.txt")).read_text(encoding="utf-8").splitlines()[:200]
    ]
    names = ["llama2/tokenizer.model", "t5/sentencepiece.model", "pangu-alpha/vocab.model"]
    names += [f"fineweb-bpe/fineweb_{size}_bpe.model" for size in ("1024", "8192nb")]
    for path in names:
        theirs = library.SentencePieceProcessor(model_file=str(real / path))
        ours = opened(real / path).encode_all(lines)
        wanted = theirs.encode(lines)
        differing = [line for line, a, b in zip(lines, ours, wanted, strict=True) if a != b]
        assert not differing, (path, len(differing), differing[0])


def test_what_was_read_can_be_written_and_read_again(real: Path, tmp_path: Path) -> None:
    texts = list(HOSTILE.values())
    for name in ("llama2", "qwen1", "t5"):
        encoder = opened(real / name)
        (tmp_path / "tokenizer.json").write_text(json.dumps(encoder.definition), encoding="utf-8")
        again = open_encoder(tmp_path)
        assert again.digest == encoder.digest
        assert again.encode_all(texts) == encoder.encode_all(texts)


def test_numbers_of_published_controls_are_kept_free(real: Path) -> None:
    llama = opened(real / "llama3")
    assert llama.size == 128_256
    assert llama.spellings[128_000] == "<|begin_of_text|>"
    assert llama.spellings[128_009] == "<|eot_id|>"
    assert llama.spellings[128_255] == "<|reserved_special_token_250|>"
    assert opened(real / "qwen1").spellings[151_645] == "<|im_end|>"


# -- laws -------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(max_size=60))
def test_byte_level_and_byte_fallback_bring_back_any_text(small: dict[str, Encoder], text: str) -> None:
    for kind, encoder in small.items():
        assert encoder.decode(encoder.encode(text)) == text, kind


def test_the_spelling_of_a_control_is_text(small: dict[str, Encoder]) -> None:
    for encoder in small.values():
        numbers = encoder.encode("a<|endoftext|>b")
        assert not set(numbers) & encoder.specials
        assert encoder.decode(numbers) == "a<|endoftext|>b"


def test_half_a_surrogate_pair_is_refused(small: dict[str, Encoder]) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        small["byte-level"].encode("a\ud800b")


def test_merges_are_found_from_ranks_even_where_an_operand_comes_later() -> None:
    rank = {b"a": 0, b"b": 1, b"c": 2, b"abc": 3, b"bc": 4, b"cab": 5}
    merges, orphans = derive_merges([b"abc", b"bc", b"cab"], rank)
    assert merges == [(b"a", b"bc"), (b"b", b"c")]
    assert orphans == [b"cab"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abc", min_size=2, max_size=5), unique=True, max_size=12), st.text("abc", max_size=20))
def test_derived_merges_encode_like_the_ranks(tokens: list[str], text: str) -> None:
    rank = {letter.encode(): n for n, letter in enumerate("abc")}
    rank |= {token.encode(): n + 3 for n, token in enumerate(tokens)}
    merges, _ = derive_merges([token.encode() for token in tokens], rank)
    model: dict[str, Any] = {
        "type": "BPE",
        "vocab": {token.decode(): n for token, n in rank.items()},
        "merges": [[a.decode(), b.decode()] for a, b in merges],
    }
    definition = {"model": model, "added_tokens": [], "pre_tokenizer": None, "normalizer": None, "decoder": None}
    encoder = build_encoder(definition, name="x", location="x", format="x")
    assert encoder.encode(text) == joined_by_rank(text.encode(), rank)


def joined_by_rank(data: bytes, rank: dict[bytes, int]) -> list[int]:
    """The rule of tiktoken, word by word as it is written there."""
    parts = [data[i : i + 1] for i in range(len(data))]
    while len(parts) > 1:
        ranks = [rank.get(a + b, 1 << 30) for a, b in pairwise(parts)]
        if min(ranks) == 1 << 30:
            break
        at = ranks.index(min(ranks))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [rank[part] for part in parts]


def test_bytes_are_spelled_as_they_are_read() -> None:
    alphabet = byte_alphabet()
    assert [alphabet[letter] for letter in spell_bytes(bytes(range(256)))] == list(range(256))


# -- hostile and unclear files ----------------------------------------------------------------------------------------


def write(folder: Path, **files: bytes | dict[str, Any]) -> Path:
    for name, content in files.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ({"model": {**BPE, "merges": [["a", "c"]]}}, "does not work"),
        ({"model": {**BPE, "merges": "a b"}}, "does not work"),
        ({"model": {**BPE, "type": "Oracle"}}, "does not work"),
        ({"model": BPE, "pre_tokenizer": {"type": "Nonsense"}}, "does not work"),
        ({"model": BPE, "added_tokens": [{"id": 7, "content": "<x>", "special": True}]}, "does not work"),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}}, "two tokens have one number"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "without tokens"),
    ],
)
def test_a_tokenizer_json_that_cannot_work_is_malformed(tmp_path: Path, root: dict[str, Any], message: str) -> None:
    write(tmp_path, tokenizer__json=root)
    with pytest.raises(MalformedFile, match=message) as caught:
        open_encoder(tmp_path)
    assert "tokenizer.json" in str(caught.value)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}, "b"),
        ({"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": None}, "b"),
    ],
)
def test_a_tokenizer_that_fails_on_a_text_is_malformed_and_no_bug(
    tmp_path: Path, model: dict[str, Any], text: str
) -> None:
    write(tmp_path, tokenizer__json={"model": model})
    encoder = open_encoder(tmp_path)
    assert encoder.encode("a") == [0]
    with pytest.raises(MalformedFile, match="does not work"):
        encoder.encode(text)


def test_where_the_library_panics_the_file_is_malformed(tmp_path: Path) -> None:
    charsmap = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    write(tmp_path, tokenizer__json={"model": BPE, "normalizer": charsmap})
    with pytest.raises(MalformedFile, match="does not work"):
        open_encoder(tmp_path)
    strip = {"type": "Strip", "content": "a", "start": 1 << 40, "stop": 7}
    write(tmp_path, tokenizer__json={"model": BPE, "decoder": strip})
    encoder = open_encoder(tmp_path)
    with pytest.raises(MalformedFile, match="does not work"):
        encoder.decode(encoder.encode("a"))


def test_an_added_token_with_another_number_than_the_library_gives_it_is_malformed(tmp_path: Path) -> None:
    added = {"id": 9, "content": "<x>", "special": True, "single_word": False, "lstrip": False, "rstrip": False}
    write(tmp_path, tokenizer__json={"model": BPE, "added_tokens": [{**added, "normalized": False}]})
    with pytest.raises(MalformedFile, match="does not have the number"):
        open_encoder(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer.model", "x.tiktoken", "x.gguf"])
def test_noise_is_refused_with_the_name_of_the_file(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"\x07\x00noise" * 50)
    with pytest.raises(PedigreeError, match="x.gguf" if file == "x.gguf" else file):
        open_encoder(tmp_path / file)


def test_a_file_larger_than_any_tokenizer_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as stream:
        stream.truncate(65_000_000)
    with pytest.raises(MalformedFile, match="larger than any tokenizer"):
        open_encoder(tmp_path)


def test_where_words_are_cut_must_be_known(tmp_path: Path) -> None:
    lines = b"".join(base64.b64encode(bytes([n])) + f" {n}\n".encode() for n in range(256))
    write(tmp_path, x__tiktoken=lines)
    with pytest.raises(UsageError, match="does not say how words are cut") as caught:
        open_encoder(tmp_path)
    assert caught.value.fix is not None
    assert "--pattern" in caught.value.fix
    assert open_encoder(tmp_path, pattern="gpt2").encode("az") == [97, 122]
    with pytest.raises(UsageError, match="pattern that cuts words is not known"):
        open_encoder(tmp_path, pattern="gtp2")


def test_a_tokenizer_is_called_by_its_directory_or_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder, tokenizer__json={"model": BPE}, other__json={"model": BPE})
    monkeypatch.chdir(folder)
    names = [open_encoder(place).name for place in (".", "tokenizer.json", folder, "other.json")]
    assert names == ["mine", "mine", "mine", "other"]


def test_places_without_a_tokenizer_are_told(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such file"):
        open_encoder(tmp_path / "nothing")
    with pytest.raises(MissingInput, match="no tokenizer in this directory"):
        open_encoder(tmp_path)
    with pytest.raises(UsageError, match="this machine only"):
        open_encoder("hf://org/name")
    write(tmp_path, a__model=b"x", b__model=b"y")
    with pytest.raises(InputError, match="more than one tokenizer"):
        open_encoder(tmp_path)


def test_sentencepiece_files_without_an_unknown_piece_or_with_twins_are_malformed(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_file([("a", 1)]))
    with pytest.raises(MalformedFile, match="no unknown piece"):
        open_encoder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_file([("<unk>", 2), ("a", 1), ("a", 1)]))
    with pytest.raises(MalformedFile, match="one spelling"):
        open_encoder(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({}, MissingInput, "no vocabulary in this GGUF"),
        ({"tokenizer.ggml.tokens": ["a", 1]}, MissingInput, "no vocabulary in this GGUF"),
        ({"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.model": "bert"}, UsageError, "no exact conversion"),
        (
            {"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [1, 2]},
            MalformedFile,
            "does not fit",
        ),
        (
            {"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a"]},
            MalformedFile,
            "not a merge",
        ),
        (
            {"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": []},
            MalformedFile,
            "one spelling",
        ),
    ],
)
def test_gguf_arrays_that_do_not_fit_are_told(
    metadata: dict[str, Any], error: type[PedigreeError], message: str
) -> None:
    with pytest.raises(error, match=message):
        gguf_definition(metadata, "x.gguf")


@pytest.mark.parametrize("declared", [[1], "x", {"0": 5}, {"0": None}, {"x": {"content": "y"}}])
def test_declarations_beside_a_bare_vocabulary_that_are_none_are_passed_over(tmp_path: Path, declared: object) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("a b\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": declared}), encoding="utf-8")
    assert open_encoder(tmp_path, pattern="gpt2").encode("ab") == [2]
