"""GGUF: rows of every quantization, metadata under Hugging Face names, and headers that lie."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weight_examples import damaged, open_and_read_all

from pedigree.errors import InputError, MalformedFile, MissingInput
from pedigree.weights.checkpoint import open_checkpoint
from pedigree.weights.extent import TensorInfo
from pedigree.weights.gguf_config import config_from_metadata
from pedigree.weights.quantization import BLOCKS, is_quantized

gguf = pytest.importorskip("gguf")
KINDS = [name for name, block, _ in BLOCKS.values() if block > 1 and name not in ("Q8_1", "Q8_K", "Q1_0")]


@pytest.fixture(autouse=True)
def _quiet_gguf() -> Iterator[None]:
    # Random blocks hold infinite scales; the package under test switches the warning off, the package gguf does not.
    with np.errstate(all="ignore"):
        yield


def write_gguf(path: Path, tensors: dict[str, tuple[str, np.ndarray]], **metadata: Any) -> Path:
    """A GGUF of (quantization, float32 values or raw blocks)."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    for key, value in metadata.items():
        writer.add_uint32(f"llama.{key.replace('__', '.')}", value)
    for name, (kind, values) in tensors.items():
        number = gguf.GGMLQuantizationType[kind]
        raw = values if values.dtype == np.uint8 else gguf.quants.quantize(values, number)
        writer.add_tensor(name, raw, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(kind: str, n_rows: int, n_columns: int) -> np.ndarray:
    _, block, block_bytes = next(entry for entry in BLOCKS.values() if entry[0] == kind)
    shape = (n_rows, n_columns // block * block_bytes)
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def test_our_table_of_blocks_is_that_of_the_gguf_package() -> None:
    for number, (name, block, block_bytes) in BLOCKS.items():
        if number in iter(gguf.GGMLQuantizationType):
            kind = gguf.GGMLQuantizationType(number)
            assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (name, block, block_bytes)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_quantization_equal_the_whole_tensor_decoded(tmp_path: Path, kind: str) -> None:
    raw = random_blocks(kind, 6, 512)
    path = write_gguf(tmp_path / "m.gguf", {"w": (kind, raw)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
        with open_checkpoint(path) as ck:
            assert ck.tensors["w"] == TensorInfo("w", kind, (6, 512), raw.size, "m.gguf")
            assert np.array_equal(ck.read("w").numpy(), expected, equal_nan=True)
            assert np.array_equal(ck.read_rows("w", 2, 4).numpy(), expected[2:4], equal_nan=True)
            assert np.array_equal(ck.read_index("w", [5, 0, 0]).numpy(), expected[[5, 0, 0]], equal_nan=True)
            assert ck.read("w").dtype == torch.float32


def test_rows_of_a_quantized_tensor_fetch_their_blocks_only(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"w": ("Q8_0", np.ones((64, 512), np.float32))})
    with open_checkpoint(path) as ck:
        before = ck.meter.read
        ck.read_rows("w", 3, 5)
        assert ck.meter.read - before == 2 * 512 // 32 * 34


def test_plain_number_types_and_three_axes_keep_torch_order(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 3, 64)).astype(np.float32)
    tensors = {"f": ("F32", values), "h": ("F16", values), "b": ("BF16", values), "q": ("Q8_0", values)}
    with open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors)) as ck:
        assert ck.tensors["q"].shape == (4, 3, 64)
        assert np.array_equal(ck.read("f").numpy(), values)
        assert ck.read("h").dtype == torch.float16
        assert ck.read("b").dtype == torch.bfloat16
        assert np.abs(ck.read_rows("q", 1, 3).numpy() - values[1:3]).max() < 0.03


def test_a_quantized_vector_is_read_whole_and_sliced(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 64, dtype=np.float32)
    with open_checkpoint(write_gguf(tmp_path / "m.gguf", {"v": ("Q8_0", values)})) as ck:
        assert ck.read("v").shape == (64,)
        assert ck.read_rows("v", 10, 20).equal(ck.read("v")[10:20])
        assert ck.read_index("v", [3, 1]).equal(ck.read("v")[[3, 1]])


@pytest.mark.parametrize("shape", [(0, 32), (2, 0), (0,), (3, 0, 32)])
def test_an_empty_quantized_tensor_has_its_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(tensors=[tensor(shape=shape[::-1], kind=8)]))
    with open_checkpoint(tmp_path) as ck:
        assert ck.read("w").shape == shape
        assert ck.read_rows("w", 0, 0).shape == (0, *shape[1:])


def test_a_quantization_without_arithmetic_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"w": ("Q8_K", random_blocks("Q8_K", 2, 256))})
    with open_checkpoint(path) as ck, pytest.raises(InputError, match="Q8_K"):
        ck.read("w")


def test_a_split_file_is_read_as_one_and_its_missing_part_is_named(tmp_path: Path) -> None:
    one = np.ones((2, 64), np.float32)
    for number in (1, 2):
        write_gguf(tmp_path / f"m-{number:05d}-of-00002.gguf", {f"w{number}": ("F32", one)}, n=2)
    for location in (tmp_path, tmp_path / "m-00001-of-00002.gguf"):
        with open_checkpoint(location) as ck:
            assert list(ck.tensors) == ["w1", "w2"]
            assert ck.read("w2").equal(torch.ones(2, 64))
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(MissingInput, match="m-00002-of-00002"):
        open_checkpoint(tmp_path)


def test_metadata_appear_under_hugging_face_names(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_block_count(3)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv([2, 2, 1])
    writer.add_key_length(32)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_expert_count(8)
    writer.add_expert_used_count(2)
    writer.add_token_list(["a", "b", "ä"])
    writer.add_bos_token_id(1)
    writer.add_tensor("token_embd.weight", np.ones((5, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(path) as ck:
        assert ck.config is not None
        expected = {
            "model_type": "qwen3_moe",
            "gguf.architecture": "qwen3moe",
            "num_hidden_layers": 3,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": [2, 2, 1],
            "head_dim": 32,
            "rope_theta": 1e6,
            "num_experts": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "vocab_size": 5,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
        }
        assert expected.items() <= ck.config.items()
        assert ck.metadata["tokenizer.ggml.tokens"] == ["a", "b", "ä"]


@pytest.mark.parametrize(
    ("metadata", "model_type"),
    [
        ({"general.architecture": "llama"}, "llama"),
        ({"general.architecture": "llama", "llama.expert_count": 8}, "mixtral"),
        ({"general.architecture": "deepseek2"}, "deepseek_v2"),
        ({"general.architecture": "deepseek2", "deepseek2.expert_gating_func": 2}, "deepseek_v3"),
        ({"general.architecture": "gptneox"}, "gpt_neox"),
        ({"general.architecture": "something-new"}, "something-new"),
        ({}, ""),
    ],
)
def test_the_model_type_follows_the_architecture(metadata: dict[str, Any], model_type: str) -> None:
    assert config_from_metadata(metadata, [])["model_type"] == model_type


def test_latent_attention_states_its_parts() -> None:
    metadata = {
        "general.architecture": "deepseek2",
        "deepseek2.rope.dimension_count": 64,
        "deepseek2.attention.key_length_mla": 192,
        "deepseek2.attention.value_length_mla": 128,
        "deepseek2.attention.kv_lora_rank": 512,
    }
    config = config_from_metadata(metadata, [])
    assert (config["qk_rope_head_dim"], config["qk_nope_head_dim"], config["v_head_dim"]) == (64, 128, 128)
    assert config["kv_lora_rank"] == 512


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes = b"w", shape: tuple[int, ...] = (32, 2), kind: int = 0, offset: int = 0) -> bytes:
    axes = struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in shape)
    return text(name) + axes + struct.pack("<IQ", kind, offset)


def gguf_bytes(
    pairs: list[bytes] = [],  # noqa: B006 never changed
    tensors: list[bytes] = [],  # noqa: B006 never changed
    *,
    n_pairs: int | None = None,
    n_tensors: int | None = None,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_data: int = 256,
) -> bytes:
    counts = struct.pack(
        "<QQ", len(tensors) if n_tensors is None else n_tensors, len(pairs) if n_pairs is None else n_pairs
    )
    head = magic + struct.pack("<I", version) + counts + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32 + n_data)


def test_the_builder_of_this_file_makes_a_valid_one(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf_bytes([text(b"a.b") + struct.pack("<II", 4, 7)], [tensor()]))
    with open_checkpoint(tmp_path) as ck:
        assert ck.metadata == {"a.b": 7}
        assert ck.tensors["w"].shape == (2, 32)
        assert ck.notes == ()


HUGE = 2**63
LIES = [
    ("other magic", gguf_bytes(magic=b"GGML"), "magic"),
    ("version 1", gguf_bytes(version=1), "version"),
    ("big endian", gguf_bytes(version=3 << 24), "version"),
    ("more tensors than bytes", gguf_bytes(n_tensors=HUGE), "tensor count"),
    ("more keys than bytes", gguf_bytes(n_pairs=HUGE), "key-value count"),
    ("a key of exabytes", gguf_bytes([struct.pack("<Q", HUGE)]), "key 0"),
    ("a key that is not UTF-8", gguf_bytes([text(b"\xff") + struct.pack("<II", 4, 7)]), "not UTF-8"),
    ("a key twice", gguf_bytes([text(b"k") + struct.pack("<II", 4, 7)] * 2), "twice"),
    ("an unknown value type", gguf_bytes([text(b"k") + struct.pack("<I", 99)]), "unknown value type"),
    ("a text of exabytes", gguf_bytes([text(b"k") + struct.pack("<IQ", 8, HUGE)]), "value of 'k'"),
    ("an array of exabytes", gguf_bytes([text(b"k") + struct.pack("<IIQ", 9, 4, HUGE)]), "length"),
    ("an array of texts without bytes", gguf_bytes([text(b"k") + struct.pack("<IIQ", 9, 8, 10**6)]), "length"),
    ("an array of arrays", gguf_bytes([text(b"k") + struct.pack("<IIQ", 9, 9, 1)]), "unknown value type"),
    ("an alignment of zero", gguf_bytes([text(b"general.alignment") + struct.pack("<II", 4, 0)]), "alignment"),
    ("an alignment of three", gguf_bytes([text(b"general.alignment") + struct.pack("<II", 4, 3)]), "alignment"),
    (
        "an alignment that is text",
        gguf_bytes([text(b"general.alignment") + struct.pack("<I", 8) + text(b"x")]),
        "alignment",
    ),
    ("a tensor name that is not UTF-8", gguf_bytes(tensors=[tensor(b"\xfe\xff")]), "not UTF-8"),
    ("a tensor name twice", gguf_bytes(tensors=[tensor(), tensor()]), "twice"),
    ("a billion axes", gguf_bytes(tensors=[text(b"w") + struct.pack("<I", 10**9)]), "n_dimensions"),
    ("an unknown tensor type", gguf_bytes(tensors=[tensor(kind=4)]), "field type"),
    ("a shape that overflows", gguf_bytes(tensors=[tensor(shape=(2**40, 2**40))]), "field shape"),
    ("rows that end inside a block", gguf_bytes(tensors=[tensor(shape=(33, 2), kind=8)]), "do not end on a block"),
    ("a tensor past the end", gguf_bytes(tensors=[tensor(shape=(32, 3))]), "field offset"),
    ("an offset past the end", gguf_bytes(tensors=[tensor(offset=HUGE)]), "field offset"),
    ("an offset that is not aligned", gguf_bytes(tensors=[tensor(shape=(8, 1), offset=8)]), "field offset"),
    ("two tensors on the same bytes", gguf_bytes(tensors=[tensor(), tensor(b"v")]), "share bytes"),
]


@pytest.mark.parametrize(("content", "words"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES])
def test_a_lying_header_is_refused_with_file_and_field(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(MalformedFile, match=words) as caught:
        open_checkpoint(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    assert (caught.value.where or "").startswith(str(tmp_path / "m.gguf"))


_VALID = gguf_bytes(
    [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
        text(b"llama.block_count") + struct.pack("<II", 4, 2),
        text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b"),
        text(b"tokenizer.ggml.scores") + struct.pack("<IIQff", 9, 6, 2, 0.5, 1.5),
        text(b"flag") + struct.pack("<IB", 7, 1),
    ],
    [tensor(b"token_embd.weight", (32, 1)), tensor(b"q", (32, 2), 8, 128)],
)


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(_VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, len(_VALID)),
)
def test_no_damage_does_more_than_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "m.gguf"
    path.write_bytes(damaged(_VALID, changes, cut))
    tracemalloc.start()
    error = open_and_read_all(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
    assert error is None or error.where


def test_every_block_type_has_a_name_of_its_own() -> None:
    names = [name for name, _, _ in BLOCKS.values()]
    assert len(set(names)) == len(names)
    assert is_quantized("Q4_K")
    assert not is_quantized("F32")
