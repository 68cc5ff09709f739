"""The header of a GGUF file, believed only after every check.

A file is magic, version, two counts, key-values, tensor infos, padding, data. Nothing in it says how long the header
is, so it is read in growing windows; every count and length is compared with the bytes that are left in the file
before anything is allocated for it.

Shapes are stored innermost first and presented here in torch order (outermost first).
Source  GGUF specification (ggml/docs/gguf.md), versions 2 and 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from pedigree.errors import MalformedFile, PedigreeError
from pedigree.weights.extent import Extent, TensorInfo, check_overlaps
from pedigree.weights.quantization import BLOCKS
from pedigree.weights.safetensors_header import checked_shape, shorten
from pedigree.weights.source import Source, read_range
from pedigree.weights.stand_in import refuse_stand_in

MAX_HEADER_BYTES = 256_000_000
MAX_NAME_BYTES = 65_535
MAX_AXES = 8
MAX_TENSORS = 1_000_000
MAX_KEY_VALUES = 1_000_000
MAX_STRINGS = 10_000_000
_MIN_KEY_VALUE_BYTES = 13  # empty key, type, one byte
_MIN_TENSOR_BYTES = 24  # empty name, no axes, type, offset
_WINDOW_BYTES = 1 << 18
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The checked header of one file.

    Attributes:
        extents: tensors by name.
        metadata: key-values; arrays of numbers as numpy arrays, arrays of strings as lists. Bytes of a string that are
            not UTF-8 are kept as surrogates in arrays (`encode("utf-8", "surrogateescape")` gives them back).
        notes: oddities that do not stop a reader.
    """

    extents: dict[str, Extent]
    metadata: dict[str, Any]
    notes: tuple[str, ...]


def read_gguf_header(source: Source, file: str, file_bytes: int) -> GgufHeader:
    """Read and check the header of one file.

    Raises:
        MalformedFile: the file contradicts the format; names the field.
    """
    cursor = _Cursor(source, file, file_bytes)
    magic = bytes(cursor.take(4, "magic"))
    if magic != b"GGUF":
        refuse_stand_in(cursor.buffer, cursor.place)
        raise MalformedFile("not a GGUF file", where=f"{cursor.place}: magic", got=repr(magic), expected="b'GGUF'")
    version = cursor.u32("version")
    if version not in (2, 3):
        raise MalformedFile(
            "the GGUF version is not one we read",
            where=f"{cursor.place}: version",
            got=f"{version:#x}" if version > 99 else version,
            expected="2 or 3, little endian",
            fix="convert the file with a current llama.cpp",
        )
    n_tensors = cursor.count("tensor count", _MIN_TENSOR_BYTES, MAX_TENSORS)
    n_pairs = cursor.count("key-value count", _MIN_KEY_VALUE_BYTES, MAX_KEY_VALUES)
    metadata: dict[str, Any] = {}
    for number in range(n_pairs):
        key = cursor.name(f"key {number}")
        if key in metadata:
            raise MalformedFile("a key occurs twice", where=f"{cursor.place}: key {number}", got=repr(key))
        metadata[key] = _value(cursor, f"value of {key!r}")
    declared = [_tensor(cursor, f"tensor {number}") for number in range(n_tensors)]
    return _lay_out(declared, metadata, cursor, file_bytes, file)


class _Cursor:
    """A position in a file that is fetched in growing windows and never past its end."""

    def __init__(self, source: Source, file: str, file_bytes: int) -> None:
        self.position = 0
        self.place = source.place(file)
        self._file = file
        self.limit = min(file_bytes, MAX_HEADER_BYTES)
        self.buffer = bytearray()
        self._source = source

    def need(self, n_bytes: int, field: str) -> None:
        """Make sure that the next bytes are in the buffer."""
        stop = self.position + n_bytes
        if stop <= len(self.buffer):
            return
        if stop > self.limit:
            raise MalformedFile(
                "the header ends too early",
                where=f"{self.place}: {field}",
                got=f"{n_bytes} bytes wanted at byte {self.position}",
                expected=f"{max(0, self.limit - self.position)} bytes or fewer",
                fix="get the file again: it is cut short or damaged",
            )
        grown = min(self.limit, max(stop, 2 * len(self.buffer), _WINDOW_BYTES))
        self.buffer += read_range(self._source, self._file, len(self.buffer), grown)

    def take(self, n_bytes: int, field: str) -> memoryview:
        """The next bytes."""
        self.need(n_bytes, field)
        # A copy of the slice: a view would forbid the buffer to grow.
        piece = memoryview(bytes(self.buffer[self.position : self.position + n_bytes]))
        self.position += n_bytes
        return piece

    def u32(self, field: str) -> int:
        """The next unsigned 32-bit number."""
        return int.from_bytes(self.take(4, field), "little")

    def u64(self, field: str) -> int:
        """The next unsigned 64-bit number."""
        return int.from_bytes(self.take(8, field), "little")

    def count(self, field: str, item_bytes: int, most: int = MAX_HEADER_BYTES) -> int:
        """The next unsigned 64-bit number, a count of items that must fit the rest of the file."""
        value = self.u64(field)
        fits = min(most, (self.limit - self.position) // item_bytes)
        if value > fits:
            raise MalformedFile(
                "the count does not fit the file",
                where=f"{self.place}: {field}",
                got=value,
                expected=f"{fits} or fewer",
            )
        return value

    def name(self, field: str) -> str:
        """A key or tensor name: short and valid UTF-8."""
        length = self.u64(field)
        if length > MAX_NAME_BYTES:
            raise MalformedFile(
                "the name is absurdly long",
                where=f"{self.place}: {field}",
                got=f"{length} bytes",
                expected=f"{MAX_NAME_BYTES} bytes or fewer",
                fix="get the file again: it is damaged, or not a GGUF",
            )
        raw = bytes(self.take(length, field))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedFile("the name is not UTF-8", where=f"{self.place}: {field}", got=shorten(raw)) from error

    def strings(self, n: int, field: str) -> list[str]:
        """The next n strings; written for speed, since vocabularies have hundreds of thousands."""
        result: list[str] = []
        for _ in range(n):
            self.need(8, field)
            (length,) = struct.unpack_from("<Q", self.buffer, self.position)
            self.position += 8
            self.need(length, field)
            raw = self.buffer[self.position : self.position + length]
            result.append(raw.decode("utf-8", "surrogateescape"))
            self.position += length
        return result


def _value(cursor: _Cursor, field: str) -> Any:
    kind = cursor.u32(f"{field}, type")
    if kind == _STRING:
        length = cursor.u64(f"{field}, length")
        return bytes(cursor.take(length, field)).decode("utf-8", "replace")
    if kind == _ARRAY:
        return _array(cursor, field)
    dtype = _SCALARS.get(kind)
    if dtype is None:
        raise _unknown_type(cursor, field, kind)
    number = np.frombuffer(cursor.take(np.dtype(dtype).itemsize, field), dtype)[0].item()
    return bool(number) if kind == _BOOL else number


def _array(cursor: _Cursor, field: str) -> Any:
    kind = cursor.u32(f"{field}, item type")
    if kind == _STRING:
        return cursor.strings(cursor.count(f"{field}, length", 8, MAX_STRINGS), field)
    dtype = _SCALARS.get(kind)
    if dtype is None:
        raise _unknown_type(cursor, field, kind)
    item_bytes = np.dtype(dtype).itemsize
    n = cursor.count(f"{field}, length", item_bytes)
    return np.frombuffer(cursor.take(n * item_bytes, field), np.dtype(bool) if kind == _BOOL else dtype)


def _unknown_type(cursor: _Cursor, field: str, kind: int) -> PedigreeError:
    return MalformedFile(
        "unknown value type", where=f"{cursor.place}: {field}, type", got=kind, expected="0 to 12 (no arrays of arrays)"
    )


@dataclass(frozen=True, slots=True)
class _Declared:
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


def _tensor(cursor: _Cursor, field: str) -> _Declared:
    name = cursor.name(f"{field}, field name")
    field = f"tensor {name!r}"
    n_axes = cursor.u32(f"{field}, field n_dimensions")
    if n_axes > MAX_AXES:
        raise MalformedFile(
            "too many axes",
            where=f"{cursor.place}: {field}, field n_dimensions",
            got=n_axes,
            expected=f"{MAX_AXES} or fewer",
        )
    shape = tuple(cursor.u64(f"{field}, field dimensions") for _ in range(n_axes))[::-1]
    return _Declared(name, shape, cursor.u32(f"{field}, field type"), cursor.u64(f"{field}, field offset"))


def _lay_out(
    declared: list[_Declared], metadata: dict[str, Any], cursor: _Cursor, file_bytes: int, file: str
) -> GgufHeader:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise MalformedFile(
            "the alignment is not a power of two", where=f"{cursor.place}: general.alignment", got=shorten(alignment)
        )
    data_start = -(-cursor.position // alignment) * alignment
    extents: dict[str, Extent] = {}
    for tensor in declared:
        if tensor.name in extents:
            raise MalformedFile("a tensor name occurs twice", where=f"{cursor.place}: tensor {tensor.name!r}")
        extents[tensor.name] = _extent(tensor, data_start, file_bytes, file, cursor.place, alignment)
    notes = check_overlaps(extents.values(), data_start, file_bytes, cursor.place, alignment) if extents else ()
    return GgufHeader(extents, metadata, notes)


def _extent(tensor: _Declared, data_start: int, file_bytes: int, file: str, place: str, alignment: int) -> Extent:
    where = f"{place}: tensor {tensor.name!r}"
    if tensor.kind not in BLOCKS:
        raise MalformedFile(
            "unknown tensor type",
            where=f"{where}, field type",
            got=tensor.kind,
            expected=f"a ggml type up to {max(BLOCKS)}",
            fix="a newer release of this program may know it",
        )
    dtype, block, block_bytes = BLOCKS[tensor.kind]
    shape = checked_shape(tensor.shape, where)
    if (shape[-1] if shape else 1) % block:
        raise MalformedFile(
            "the rows do not end on a block", where=f"{where}, field dimensions", got=f"{dtype} {shape}"
        )
    n_elements = 1
    for size in shape:
        n_elements *= size
    n_bytes = n_elements // block * block_bytes
    if tensor.offset % alignment or data_start + tensor.offset + n_bytes > file_bytes:
        raise MalformedFile(
            "the tensor does not lie inside the file",
            where=f"{where}, field offset",
            got=f"{n_bytes} bytes ({dtype} {shorten(shape)}) from byte {data_start + tensor.offset}",
            expected=f"a multiple of {alignment}, ending by byte {file_bytes}",
            fix="get the file again: it is cut short or damaged",
        )
    return Extent(TensorInfo(tensor.name, dtype, shape, n_bytes, file), data_start + tensor.offset)
