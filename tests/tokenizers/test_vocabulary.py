"""Vocabularies of every format: the same tokens are the same bytes."""

from __future__ import annotations

import base64
import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_checkpoint import MemoryCheckpoint

from pedigree.errors import MalformedFile
from pedigree.tokenizers.sentencepiece_model import read_pieces
from pedigree.tokenizers.surface import (
    byte_alphabet,
    byte_level,
    guess_spelling,
    is_byte_token,
    looks_special,
    sentencepiece,
    word_piece,
)
from pedigree.tokenizers.vocabulary import MOST_TOKENS, Vocabulary, read_vocabulary
from pedigree.weights.checkpoint import open_checkpoint


def vocabulary(files: dict[str, bytes | dict[str, Any]], metadata: dict[str, Any] | None = None) -> Vocabulary | None:
    data = {name: file if isinstance(file, bytes) else json.dumps(file).encode() for name, file in files.items()}
    return read_vocabulary(MemoryCheckpoint({}, files=data, metadata=metadata))


def tokens_of(files: dict[str, bytes | dict[str, Any]], metadata: dict[str, Any] | None = None) -> dict[bytes, int]:
    found = vocabulary(files, metadata)
    assert found is not None
    return dict(found.tokens)


class Folder(MemoryCheckpoint):
    """Files of a directory, under other names where wanted."""

    def __init__(self, folder: Path, **renamed: str) -> None:
        super().__init__({})
        self.folder, self.renamed = folder, renamed

    def sibling_bytes(self, filename: str, max_bytes: int) -> bytes | None:
        path = self.folder / self.renamed.get(filename.replace(".", "_"), filename)
        return path.read_bytes() if path.is_file() else None


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def sentencepiece_file(pieces: list[tuple[str, int]]) -> bytes:
    """A sentencepiece model with pieces of (text, type)."""
    body = b"".join(
        field(1, field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", -1.5) + varint(3 << 3) + varint(kind))
        for text, kind in pieces
    )
    return body + field(2, field(1, b"trainer"))


# -- formats ----------------------------------------------------------------------------------------------------------


def test_no_tokenizer_is_no_vocabulary() -> None:
    assert vocabulary({}) is None
    assert vocabulary({"vocab.json": {"vocab": ["not", "ours"]}}) is None
    assert vocabulary({"vocab.json": {}}) is None


def test_byte_level_tokens_are_decoded_and_controls_set_apart() -> None:
    vocab = {"\u0120the": 0, "the": 1, "\u010a": 2, "\u00c3\u00a9": 3, "<|endoftext|>": 4}
    found = vocabulary({
        "tokenizer.json": {
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]},
            "added_tokens": [
                {"id": 4, "content": "<|endoftext|>", "special": True},
                {"id": 5, "content": "  ", "special": False},
                {"id": 9, "content": "<tool>", "special": True},
            ],
        }
    })  # fmt: skip
    assert found is not None
    assert dict(found.tokens) == {b" the": 0, b"the": 1, b"\n": 2, "é".encode(): 3, b"  ": 5}
    assert dict(found.specials) == {"<|endoftext|>": 4, "<tool>": 9}
    assert (found.size, found.kind, found.file) == (10, "byte-level", "tokenizer.json")


def test_unigram_and_metaspace_tokens_have_their_spaces_and_no_byte_pieces() -> None:
    vocab = [["<unk>", 0.0], ["\u2581the", -1.0], ["the", -2.0], ["<0x41>", -3.0], ["\u2581", -4.0]]
    tokenizer = {
        "model": {"type": "Unigram", "vocab": vocab, "unk_id": 0},
        "decoder": {"type": "Metaspace"},
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}],
    }
    assert tokens_of({"tokenizer.json": tokenizer}) == {b" the": 1, b"the": 2, b" ": 4}


def test_word_pieces_start_words_unless_they_continue_them() -> None:
    vocab = {"[PAD]": 0, "play": 1, "##ing": 2, "##": 3}
    tokenizer = {"model": {"type": "WordPiece", "vocab": vocab, "continuing_subword_prefix": "##"}}
    assert tokens_of({"tokenizer.json": tokenizer}) == {b" play": 1, b"ing": 2, b" ##": 3}
    assert tokens_of({"vocab.txt": b"[PAD]\nplay\r\n##ing\n##er\nof\n"}) == {
        b" play": 1,
        b"ing": 2,
        b"er": 3,
        b" of": 4,
    }


def test_a_bare_vocab_json_takes_its_controls_from_the_tokenizer_config() -> None:
    vocab = {"\u0120a": 0, "\u0120b": 1, "<s>": 2, "<role>": 3}
    config = {"added_tokens_decoder": {"3": {"content": "<role>", "special": True}, "x": {"content": "y"}}}
    found = vocabulary({"vocab.json": vocab, "tokenizer_config.json": config})
    assert found is not None
    assert dict(found.tokens) == {b" a": 0, b" b": 1, b"<s>": 2}
    assert dict(found.specials) == {"<role>": 3}


def test_characters_of_a_character_model_stand_for_themselves() -> None:
    assert tokens_of({"vocab.json": {"\n": 0, " ": 1, "a": 2, "й": 3}}) == {b"\n": 0, b" ": 1, b"a": 2, "й".encode(): 3}


def test_sentencepiece_models_are_read_by_type_of_piece() -> None:
    pieces = [("<unk>", 2), ("<s>", 3), ("\u2581a", 1), ("b", 1), ("<0x0A>", 6), ("<user>", 4), ("never", 5)]
    found = vocabulary({"tokenizer.model": sentencepiece_file(pieces)})
    assert found is not None
    assert dict(found.tokens) == {b" a": 2, b"b": 3, b"<user>": 5}
    assert dict(found.specials) == {"<unk>": 0, "<s>": 1, "never": 6}
    assert (found.size, found.kind) == (7, "sentencepiece")


def test_pangu_alpha_marks_space_and_newline_itself() -> None:
    pieces = [("<unk>", 2), ("\u2583", 4), ("\u2582", 4), ("\u2581的", 1), ("的", 1)]
    assert tokens_of({"vocab.model": sentencepiece_file(pieces)}) == {b"\n": 1, b" ": 2, "的".encode(): 3}


@pytest.mark.parametrize("name", ["tokenizer.model", "qwen.tiktoken"])
def test_tiktoken_files_are_told_from_sentencepiece_by_their_first_line(name: str) -> None:
    lines = [base64.b64encode(token) + f" {n}".encode() for n, token in enumerate([b"!", b" the", b"\xe7\x9a"])]
    found = vocabulary({name: b"\n".join(lines) + b"\n"})
    assert found is not None
    assert dict(found.tokens) == {b"!": 0, b" the": 1, b"\xe7\x9a": 2}
    assert found.kind == "tiktoken"


@pytest.mark.parametrize(
    ("model", "tokens", "wanted"),
    [
        ("llama", ["<s>", "\u2581a", "<0x41>", "b"], {b" a": 1, b"b": 3}),
        ("gpt2", ["<s>", "\u0120a", "\u0120b", "b"], {b" a": 1, b" b": 2, b"b": 3}),
        ("bert", ["[CLS]", "\u2581a", "\u2581b", "b"], {b" a": 1, b" b": 2, b"b": 3}),
        ("bert", ["[CLS]", "a", "##b", "b"], {b" a": 1, b"b": 2, b" b": 3}),
    ],
)
def test_gguf_metadata_hold_the_vocabulary(model: str, tokens: list[str], wanted: dict[bytes, int]) -> None:
    metadata = {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 1, 1, 1],
    }
    if model == "llama":
        metadata["tokenizer.ggml.token_type"] = [3, 1, 6, 1]
    assert tokens_of({}, metadata) == wanted


def test_of_two_tokens_with_one_surface_the_lower_number_counts() -> None:
    vocab = {"\u2581a": 7, "x\u2581b": 3, " a": 5, "\u2581c": 8, "\u2581d": 9}
    tokenizer = {"model": {"type": "BPE", "vocab": vocab}, "decoder": {"type": "Metaspace"}}
    assert tokens_of({"tokenizer.json": tokenizer})[b" a"] == 5


# -- real tokenizers --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "tokenizers"


def read(folder: Path, **renamed: str) -> Vocabulary:
    found = read_vocabulary(Folder(folder, **renamed))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "renamed", "kind", "size"),
    [
        ("llama2", {}, "sentencepiece", 32000),
        ("llama3", {}, "tiktoken", 128000),
        ("qwen1", {}, "tiktoken", 151643),
        ("qwen2", {}, "byte-level", 151646),
        ("gpt2", {}, "byte-level", 50257),
        ("gpt-neox-20b", {"tokenizer_json": "20B_tokenizer.json"}, "byte-level", 50277),
        ("t5", {}, "sentencepiece", 32000),
        ("bert-base-uncased", {}, "wordpiece", 30522),
        ("pangu-alpha", {}, "sentencepiece", 40000),
        ("fineweb-bpe", {"tokenizer_model": "fineweb_1024_bpe.model"}, "sentencepiece", 1024),
    ],
)
def test_real_tokenizers_are_read_whole(folder: Path, name: str, renamed: dict[str, str], kind: str, size: int) -> None:
    found = read(folder / name, **renamed)
    assert (found.kind, found.size) == (kind, size)
    assert len(found.tokens) > 0.7 * size
    if name != "pangu-alpha":
        assert b" the" in found.tokens


def test_llama2_and_its_gguf_agree_on_every_token(folder: Path) -> None:
    with open_checkpoint(folder / "ggml-vocab-llama-spm" / "ggml-vocab-llama-spm.gguf") as checkpoint:
        found = read_vocabulary(checkpoint)
    assert found is not None
    assert found.tokens == read(folder / "llama2").tokens
    assert found.specials == {"<unk>": 0, "<s>": 1, "</s>": 2}


def test_two_files_of_one_tokenizer_agree(folder: Path) -> None:
    for name, absent in (("bert-base-uncased", "vocab.txt"), ("gpt2", "vocab.json")):
        whole, bare = read(folder / name), read(folder / name, tokenizer_json="absent")
        assert (whole.file, bare.file) == ("tokenizer.json", absent)
        assert whole.tokens == bare.tokens


def test_qwen_1_and_2_have_one_vocabulary_and_llama_3_most_of_it(folder: Path) -> None:
    qwen1, qwen2, llama3 = (set(read(folder / name).tokens) for name in ("qwen1", "qwen2", "llama3"))
    assert qwen1 == qwen2
    assert len(qwen2 & llama3) > 0.85 * len(llama3)


def test_our_reader_finds_the_pieces_that_sentencepiece_finds(folder: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    for path in (folder / "llama2" / "tokenizer.model", folder / "t5" / "sentencepiece.model"):
        theirs = library.SentencePieceProcessor(model_file=str(path))
        ours = read_pieces(path.read_bytes(), path.name)
        assert len(ours) == theirs.get_piece_size()
        assert [piece.text for piece in ours] == [theirs.id_to_piece(n) for n in range(len(ours))]
        assert all((piece.type == 6) == theirs.is_byte(n) for n, piece in enumerate(ours))


# -- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tokenizer.json", b"{", "not JSON"),
        ("tokenizer.json", b"\xff\xfe", "not UTF-8"),
        ("tokenizer.json", b"[" * 200_000, "nested too deep|not JSON"),
        ("tokenizer.json", b'{"a":' * 200_000 + b"1", "nested too deep|not JSON"),
        ("tokenizer.json", b"[]", "not an object"),
        ("tokenizer.json", b"{}", "no model"),
        ("tokenizer.json", b'{"model": {"vocab": 3}}', "no vocabulary"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": -1}}}', "impossible number"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 1.5}}}', "impossible number"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": []}}}', "impossible number"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": true}}}', "impossible number"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": ' + str(MOST_TOKENS).encode() + b"}}}", "impossible number"),
        ("tokenizer.json", b'{"model": {"vocab": [[1, 2]]}}', "not a string"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}}, "added_tokens": {"b": 1}}', "not a list"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}', "no text"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "x"}]}', "impossible number"),
        ("vocab.txt", b"\xff\xff\n", "not UTF-8"),
        ("tokenizer.model", b"", "no pieces"),
        ("tokenizer.model", b"\x0a\xff\xff\xff\xff\x0f", "past the end"),
        ("tokenizer.model", b"\xff" * 20, "does not end"),
        ("tokenizer.model", b"\x0b\x00", "unknown wire type"),
        ("tokenizer.model", field(1, field(1, b"\xff\xff")), "not UTF-8"),
        ("qwen.tiktoken", b"IQ== 0\nIg== x\n", "line 2"),
        ("qwen.tiktoken", b"!!! 0\n", "not a token and its number"),
        ("qwen.tiktoken", b"IQ== 99999999999999999999\n", "not a token and its number"),
        ("qwen.tiktoken", b"IQ== -1\n", "impossible number"),
    ],
)
def test_a_damaged_tokenizer_file_is_named_with_what_is_wrong(name: str, data: bytes, message: str) -> None:
    with pytest.raises(MalformedFile, match=message) as caught:
        vocabulary({name: data})
    assert name in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("types", [["normal"], 3, [None]])
def test_token_types_of_a_gguf_must_be_integers(types: object) -> None:
    with pytest.raises(MalformedFile, match="types of tokens"):
        vocabulary({}, {"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.token_type": types})


def test_a_decoder_nested_deep_is_looked_through() -> None:
    decoder: dict[str, Any] = {"type": "ByteLevel"}
    for _ in range(400):
        decoder = {"type": "Sequence", "decoders": [decoder]}
    tokenizer = {"model": {"type": "BPE", "vocab": {"\u0120a": 0}}, "decoder": decoder}
    assert tokens_of({"tokenizer.json": tokenizer}) == {b" a": 0}


def test_huge_integers_and_lone_surrogates_are_no_way_in() -> None:
    with pytest.raises(MalformedFile, match="not JSON"):
        vocabulary({"tokenizer.json": b'{"model": {"vocab": {"a": ' + b"9" * 10_000 + b"}}}"})
    assert len(tokens_of({"vocab.json": b'{"\\ud800": 0, "a": 1}'})) == 2


@given(st.binary(max_size=200))
def test_any_bytes_are_a_vocabulary_or_malformed(data: bytes) -> None:
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "qwen.tiktoken"):
        try:
            found = vocabulary({name: data})
        except MalformedFile:
            continue
        assert found is None or all(0 <= number < found.size for number in found.tokens.values())


@given(st.lists(st.tuples(st.text(min_size=1, max_size=6), st.integers(1, 6)), min_size=1, max_size=20), st.data())
def test_a_sentencepiece_file_reads_as_written_and_cut_short_is_malformed(
    pieces: list[tuple[str, int]], data: st.DataObject
) -> None:
    written = sentencepiece_file(pieces)
    assert [(piece.text, piece.type) for piece in read_pieces(written, "x")] == pieces
    cut = data.draw(st.integers(1, len(written) - 1))
    with suppress(MalformedFile):
        assert len(read_pieces(written[:cut], "x")) <= len(pieces)


# -- surface forms ----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=40))
def test_byte_level_spelling_is_undone_exactly(raw: bytes) -> None:
    spelled = {byte: letter for letter, byte in byte_alphabet().items()}
    assert len(spelled) == 256
    assert byte_level("".join(spelled[byte] for byte in raw)) == raw


def test_spellings_of_one_word_start_agree() -> None:
    assert byte_level("\u0120word") == sentencepiece("\u2581word") == word_piece("word") == b" word"
    assert word_piece("##word") == sentencepiece("word") == b"word"
    assert word_piece("##") == b" ##"


@pytest.mark.parametrize("token", ["<|im_start|>", "[CLS]", "[unused12]", "</s>", "<pad>", "<extra_id_3>", "<｜end｜>"])
def test_control_tokens_are_known_by_their_spelling(token: str) -> None:
    assert looks_special(token)


@pytest.mark.parametrize("token", ["the", "<html>", "[x]", "<s>text", "<0x41>", "<|", "|>"])
def test_ordinary_tokens_are_not_controls(token: str) -> None:
    assert not looks_special(token)


def test_markup_is_text_where_controls_are_declared() -> None:
    assert looks_special("<s>")
    assert not looks_special("<s>", declared=True)
    assert looks_special("<|x|>", declared=True)
    assert is_byte_token("<0x0a>")
    assert not is_byte_token("<0x0aa>")


def test_the_spelling_of_a_bare_list_is_guessed_by_its_commonest_mark() -> None:
    assert guess_spelling(["\u0120a", "\u0120b", "c"])[0] == "byte-level"
    assert guess_spelling(["\u2581a", "\u2581b", "##c"])[0] == "sentencepiece"
    assert guess_spelling(["a", "##b", "##c"])[0] == "wordpiece"
    assert guess_spelling(["a", "b", " "])[0] == "plain"
    assert guess_spelling([])[0] == "plain"
