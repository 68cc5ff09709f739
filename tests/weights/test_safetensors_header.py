"""Headers that lie: every check by itself, then random headers and random damage."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from weight_examples import damaged, entry, example_tensors, open_and_read_all, raw_safetensors, same

from pedigree.errors import MalformedFile
from pedigree.weights.checkpoint import open_checkpoint
from pedigree.weights.number_types import BITS
from pedigree.weights.safetensors_header import MAX_HEADER_BYTES, header_length, parse_header

GOOD = {"a": entry()}


def parse(header: bytes | dict[str, Any], n_data: int = 8) -> Any:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return parse_header(text, 8 + len(text) + n_data, "f.safetensors", "m/f.safetensors")


def test_a_true_header_is_laid_out() -> None:
    header = parse({"__metadata__": {"format": "pt"}, **GOOD})
    assert header.metadata == {"format": "pt"}
    assert header.extents["a"].info.shape == (2,)
    assert header.notes == ()


LIES: list[tuple[str, bytes | dict[str, Any], str]] = [
    ("not an object", b"[1, 2]  ", "not a JSON object"),
    ("not JSON", b'{"a": ', "not JSON"),
    ("not UTF-8", b'{"\xff\xfe": 1}', "not UTF-8"),
    ("millions of empty lists", b'{"a": [' + b"[]," * 6_000_000 + b"[]]}", "absurd number of JSON values"),
    ("nested too deep", b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "not JSON"),
    ("a number of a million digits", b'{"a": ' + b"9" * 1_000_000 + b"}", "not JSON"),
    (
        "a repeated name",
        b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}",
        "twice",
    ),
    ("a repeated field", b'{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', "twice"),
    ("half a surrogate pair", b'{"\\ud800":' + json.dumps(entry()).encode() + b"}", "not valid Unicode"),
    ("an entry that is a list", {"a": [1]}, "incomplete"),
    ("an entry without offsets", {"a": {"dtype": "F32", "shape": [2]}}, "incomplete"),
    ("an unknown number type", {"a": entry("F33")}, "field dtype"),
    ("a number type that is a list", {"a": {**entry(), "dtype": ["F32"]}}, "field dtype"),
    ("a negative size", {"a": entry(shape=(-2,))}, "field shape"),
    ("a size that is a fraction", {"a": entry(shape=(2.0,))}, "field shape"),
    ("a size that is a truth value", {"a": entry(shape=(True, 2))}, "field shape"),
    ("a size that is text", {"a": entry(shape=("2",))}, "field shape"),
    ("a shape that is a number", {"a": {**entry(), "shape": 2}}, "field shape"),
    ("a product that overflows", {"a": entry(shape=(2**40, 2**40))}, "field shape"),
    ("a product that wraps to the right size", {"a": entry(shape=(2**33, 2**31, 2), offsets=(0, 0))}, "field shape"),
    ("zero times infinity", {"a": entry(shape=(0, 2**70), offsets=(0, 0))}, "field shape"),
    ("a hundred axes", {"a": entry(shape=(1,) * 100)}, "field shape"),
    ("bits that end inside a byte", {"a": entry("F4", (3,), (0, 2))}, "field shape"),
    ("negative offsets", {"a": entry(offsets=(-8, 0))}, "field data_offsets"),
    ("offsets in the wrong order", {"a": entry(offsets=(8, 0))}, "field data_offsets"),
    ("offsets past the end", {"a": entry(offsets=(8, 16))}, "field data_offsets"),
    ("three offsets", {"a": entry(offsets=(0, 4, 8))}, "field data_offsets"),
    ("offsets that do not match the shape", {"a": entry(offsets=(0, 4))}, "offsets do not match"),
    ("two tensors on the same bytes", {"a": entry(), "b": entry()}, "share bytes"),
    ("two tensors that overlap", {"a": entry("U8", (5,), (0, 5)), "b": entry("U8", (5,), (3, 8))}, "share bytes"),
    ("metadata that is a list", {"__metadata__": [], **GOOD}, "__metadata__"),
    ("metadata with a number", {"__metadata__": {"n": 1}, **GOOD}, "__metadata__"),
]


@pytest.mark.parametrize(("header", "words"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES])
def test_a_lying_header_is_refused_with_file_and_field(header: bytes | dict[str, Any], words: str) -> None:
    with pytest.raises(MalformedFile, match=words) as caught:
        parse(header)
    assert caught.value.where is not None
    assert caught.value.where.startswith("m/f.safetensors")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [0, 1, 2**63, 2**64 - 1, MAX_HEADER_BYTES + 1, 10**9])
def test_an_absurd_header_length_is_refused_before_anything_is_read(length: int) -> None:
    with pytest.raises(MalformedFile, match="header length"):
        header_length(struct.pack("<Q", length), 10**12, "f.safetensors")


@pytest.mark.parametrize("content", [b"", b"1234567", b"12345678", raw_safetensors(b"{}", length=3)])
def test_a_file_shorter_than_its_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(MalformedFile, match=r"model\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_file_cut_short_is_refused_at_opening(tmp_path: Path) -> None:
    content = save(example_tensors())
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(MalformedFile, match="outside the data"):
        open_checkpoint(tmp_path)


def test_a_file_cut_short_after_opening_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw_safetensors(GOOD, bytes(8)))
    with open_checkpoint(tmp_path) as ck:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4)
        with pytest.raises(MalformedFile, match="ends before"):
            ck.read("a")


def test_bytes_of_no_tensor_are_reported_and_not_refused() -> None:
    header = parse({"a": entry(offsets=(4, 12)), "b": entry("U8", (2,), (14, 16))}, n_data=20)
    assert header.notes == ("m/f.safetensors: 10 bytes belong to no tensor",)


def test_a_claim_of_terabytes_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw_safetensors({"a": entry("F64", (2**37,), (0, 2**40))}, bytes(8)))
    tracemalloc.start()
    with pytest.raises(MalformedFile, match="outside the data"):
        open_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


_TORCH_TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.int8, torch.float64]


@st.composite
def _tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    names = draw(st.lists(st.text(min_size=1, max_size=8).filter(_encodes), unique=True, min_size=1, max_size=5))
    result = {}
    for name in names:
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        dtype = draw(st.sampled_from(_TORCH_TYPES))
        seed = draw(st.integers(0, 99))
        result[name] = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return result


def _encodes(text: str) -> bool:
    return text != "__metadata__" and text.isprintable() and "\x00" not in text


@settings(max_examples=40, deadline=None)
@given(tensors=_tensors(), data=st.data())
def test_whatever_safetensors_writes_is_read_back_whole_and_in_slices(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("round")
    (folder / "model.safetensors").write_bytes(save(tensors))
    with open_checkpoint(folder) as ck:
        assert set(ck.tensors) == set(tensors)
        for name, tensor in tensors.items():
            assert same(ck.read(name), tensor)
            if tensor.dim():
                start = data.draw(st.integers(0, len(tensor)))
                stop = data.draw(st.integers(start, len(tensor)))
                assert same(ck.read_rows(name, start, stop), tensor[start:stop])
                rows = data.draw(st.lists(st.integers(0, len(tensor) - 1), max_size=6)) if len(tensor) else []
                assert same(ck.read_index(name, rows), tensor[rows])


_VALID = save(example_tensors())


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(_VALID) // 2), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, len(_VALID)),
)
def test_no_damage_does_more_than_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    path.write_bytes(damaged(_VALID, changes, cut))
    tracemalloc.start()
    error = open_and_read_all(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
    assert error is None or "model.safetensors" in str(error)


def _agrees_with_the_library(content: bytes) -> bool:
    try:
        load(content)
    except Exception:  # noqa: BLE001 the library raises a type of its own, and torch's
        return False
    return True


@settings(max_examples=100, deadline=None)
@given(
    dtype=st.sampled_from([*BITS, "F33"]),
    shape=st.lists(st.integers(-1, 4), max_size=3),
    begin=st.integers(-1, 3),
    n_bytes=st.integers(-1, 40),
    n_data=st.integers(0, 40),
)
def test_nothing_is_refused_that_the_safetensors_library_accepts(
    dtype: str, shape: list[int], begin: int, n_bytes: int, n_data: int
) -> None:
    content = raw_safetensors({"a": entry(dtype, shape, (begin, begin + n_bytes))}, bytes(n_data))
    if _agrees_with_the_library(content):
        length = header_length(content, len(content), "f")
        assert parse_header(content[8 : 8 + length], len(content), "f", "f").extents
