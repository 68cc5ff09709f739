"""The header of a safetensors file, believed only after every check.

A file is 8 bytes (length N of the header, little endian), N bytes of JSON, then the data. The header maps each tensor
name to `{"dtype", "shape", "data_offsets"}`, the offsets counted from the start of the data, and `__metadata__` to a
map of strings. Nothing is allocated by a number that the file states before that number is known to fit the file.

Checked here: the length against the file and a cap, UTF-8, JSON without repeated keys, known dtypes, shapes without
overflow, offsets inside the data, bytes = elements x size, no two tensors that share bytes.
Not refused: bytes that belong to no tensor (they are reported as a note), and NaN among the values.
Source  safetensors format (README of huggingface/safetensors).
"""

from __future__ import annotations

import json
import struct
from typing import Any

from pedigree.errors import MalformedFile
from pedigree.weights.extent import Extent, TensorInfo, check_overlaps
from pedigree.weights.number_types import BITS

MAX_HEADER_BYTES = 100_000_000
MAX_JSON_VALUES = 5_000_000
MAX_AXES = 64
MAX_ELEMENTS = 2**62


class SafetensorsHeader:
    """The checked header of one file.

    Attributes:
        extents: tensors by name.
        metadata: the `__metadata__` map.
        notes: oddities that do not stop a reader.
    """

    def __init__(self, extents: dict[str, Extent], metadata: dict[str, str], notes: tuple[str, ...]) -> None:
        self.extents = extents
        self.metadata = metadata
        self.notes = notes


def header_length(prefix: bytes | bytearray, file_bytes: int, place: str) -> int:
    """The length of the JSON header, from the first 8 bytes of a file.

    Raises:
        MalformedFile: the file is too short for its header, or the header is absurdly long.
    """
    if file_bytes < 10 or len(prefix) < 8:
        raise MalformedFile(
            "too short to be a safetensors file",
            where=place,
            got=f"{file_bytes} bytes",
            expected="10 bytes or more",
            fix="get the file again: it is cut short",
        )
    (length,) = struct.unpack_from("<Q", prefix)
    limit = min(MAX_HEADER_BYTES, file_bytes - 8)
    if not 2 <= length <= limit:
        raise MalformedFile(
            "the header length does not fit the file",
            where=f"{place}: header length (first 8 bytes)",
            got=f"{length} bytes",
            expected=f"2 to {limit} bytes in a file of {file_bytes} bytes",
            fix="get the file again: it is cut short or not a safetensors file",
        )
    return int(length)


def parse_header(text: bytes | bytearray, file_bytes: int, file: str, place: str) -> SafetensorsHeader:
    """Check a header and lay out its tensors.

    Args:
        text: the JSON bytes, without the 8 bytes of length.
        file_bytes: size of the whole file.
        file: name of the file in the checkpoint, for `TensorInfo.file`.
        place: where the file lies, for messages and notes.

    Raises:
        MalformedFile: the header contradicts the format or the file; names the field.
    """
    entries = _json_object(text, place)
    metadata = _metadata(entries.pop("__metadata__", {}), place)
    data_start = 8 + len(text)
    extents = {name: _extent(name, entry, data_start, file_bytes, file, place) for name, entry in entries.items()}
    notes = check_overlaps(extents.values(), data_start, file_bytes, place)
    return SafetensorsHeader(extents, metadata, notes)


def check_density(text: bytes | bytearray, where: str) -> None:
    """Refuse JSON that would unfold to gigabytes of small objects; a real header has fewer than ten a tensor.

    Raises:
        MalformedFile: more values than any checkpoint has.
    """
    n_values = text.count(b"[") + text.count(b"{") + text.count(b",")
    if n_values > MAX_JSON_VALUES:
        raise MalformedFile(
            "an absurd number of JSON values", where=where, got=n_values, expected=f"{MAX_JSON_VALUES} or fewer"
        )


def _json_object(text: bytes | bytearray, place: str) -> dict[str, Any]:
    where = f"{place}: header"
    check_density(text, where)
    if text[:1] != b"{":
        raise MalformedFile("the header is not a JSON object", where=where, got=repr(bytes(text[:16])), expected="'{'")
    try:
        value = json.loads(bytes(text).decode("utf-8"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise MalformedFile("the header is not UTF-8", where=f"{where}, byte {error.start}") from error
    except RepeatedKey as error:
        raise MalformedFile("a name occurs twice in the header", where=where, got=repr(error.args[0])) from error
    except (ValueError, RecursionError) as error:
        raise MalformedFile("the header is not JSON", where=where, got=str(error) or "nested too deep") from error
    if not isinstance(value, dict):
        raise MalformedFile("the header is not a JSON object", where=where, got=type(value).__name__)
    return value


class RepeatedKey(ValueError):
    """A JSON object has one key twice."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Hook for `json.loads` that raises `RepeatedKey` where the standard library would keep the last value."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RepeatedKey(key)
            seen.add(key)
    return result


def _metadata(value: Any, place: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MalformedFile(
            "the metadata is not a map of strings", where=f"{place}: __metadata__", expected="text for each key"
        )
    return value


def _extent(name: str, entry: Any, data_start: int, file_bytes: int, file: str, place: str) -> Extent:
    where = f"{place}: tensor {name!r}"
    if not is_text(name):
        raise MalformedFile("a tensor name is not valid Unicode", where=where)
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise MalformedFile(
            "a tensor entry is incomplete", where=where, got=shorten(entry), expected="dtype, shape and data_offsets"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise MalformedFile(
            "unknown number type", where=f"{where}, field dtype", got=shorten(dtype), expected=", ".join(BITS)
        )
    n_bytes = _tensor_bytes(dtype, checked_shape(shape, where), where)
    n_data = file_bytes - data_start
    pair = isinstance(offsets, list) and len(offsets) == 2 and all(_is_size(offset) for offset in offsets)
    if not pair or not offsets[0] <= offsets[1] <= n_data:
        raise MalformedFile(
            "the offsets lie outside the data",
            where=f"{where}, field data_offsets",
            got=shorten(offsets),
            expected=f"0 <= begin <= end <= {n_data}",
            fix="get the file again: it is cut short or damaged",
        )
    if offsets[1] - offsets[0] != n_bytes:
        raise MalformedFile(
            "the offsets do not match the shape",
            where=f"{where}, field data_offsets",
            got=f"{offsets[1] - offsets[0]} bytes",
            expected=f"{n_bytes} bytes for {dtype} {shorten(shape)}",
        )
    return Extent(TensorInfo(name, dtype, tuple(shape), n_bytes, file), data_start + offsets[0])


def checked_sizes(sizes: Any, where: str, *, field: str = "shape") -> tuple[int, ...]:
    """Sizes or strides from a file, refused unless they are a short list of whole numbers of at most 62 bits.

    Raises:
        MalformedFile: not such a list.
    """
    short = isinstance(sizes, list | tuple) and len(sizes) <= MAX_AXES
    if not short or not all(_is_size(size) for size in sizes):
        raise MalformedFile(
            f"the {field} is not a list of sizes",
            where=f"{where}, field {field}",
            got=shorten(sizes),
            expected=f"at most {MAX_AXES} whole numbers from 0",
        )
    if any(size > MAX_ELEMENTS for size in sizes):
        raise MalformedFile(
            f"the {field} is absurd", where=f"{where}, field {field}", got=shorten(sizes), expected="2^62 or less"
        )
    return tuple(sizes)


def checked_shape(shape: Any, where: str) -> tuple[int, ...]:
    """A shape from a file, refused unless it is a short list of sizes whose product fits 62 bits.

    Raises:
        MalformedFile: not such a list.
    """
    n_elements = 1
    for size in checked_sizes(shape, where):
        n_elements *= size
        if n_elements > MAX_ELEMENTS:
            raise MalformedFile(
                "the shape is absurd",
                where=f"{where}, field shape",
                got=shorten(shape),
                expected="2^62 elements or fewer",
            )
    return tuple(shape)


def _tensor_bytes(dtype: str, shape: tuple[int, ...], where: str) -> int:
    n_bits = BITS[dtype]
    for size in shape:
        n_bits *= size
    if n_bits % 8:
        raise MalformedFile(
            "the tensor does not end on a byte", where=f"{where}, field shape", got=f"{dtype} {shorten(shape)}"
        )
    return n_bits // 8


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(name: str) -> bool:
    """Whether a string can be written as UTF-8 (JSON escapes can smuggle in half of a surrogate pair)."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def shorten(value: Any, limit: int = 80) -> str:
    """A value from a hostile file, short enough to print."""
    text = repr(value[:limit] if isinstance(value, str | list | tuple | bytes) else value)
    return text if len(text) <= limit else text[:limit] + "..."
