"""The zip directory of a torch archive (.bin, .pt, .pth), held against the file before torch sees any of it.

A torch archive is a zip of uncompressed records under one folder: `data.pkl`, the pickle that describes the tensors,
and `data/KEY` for each storage. A zip can lie: compressed records can unfold to any size, records can overlap so that
few bytes pretend to be many, and the two headers of a record can differ. All three are refused here.
Source  zip application note 6.3; torch/serialization.py and caffe2/serialize/inline_container.cc for the layout.
"""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
from dataclasses import dataclass

from pedigree.errors import MalformedFile, UnsafeFile
from pedigree.weights.safetensors_header import shorten
from pedigree.weights.source import Range, Source, read_range
from pedigree.weights.stand_in import PREFIX_BYTES, refuse_stand_in

MAX_RECORDS = 1_000_000
MAX_PICKLE_BYTES = 32_000_000
_LOCAL_HEADER_BYTES = 30
_CONVERT = "convert it to safetensors on a machine you trust: safetensors.torch.save_file(state_dict, path)"


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the archive: first byte in the file, and size."""

    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class TorchArchive:
    """A checked archive.

    Attributes:
        pickle: bytes of `data.pkl`.
        storages: records of `data/KEY`, by KEY.
    """

    pickle: bytes
    storages: dict[str, Record]


def read_archive(source: Source, file: str, file_bytes: int) -> TorchArchive:
    """Read and check the directory of an archive and fetch its pickle.

    Raises:
        UnsafeFile: not an archive (a bare pickle), compressed or overlapping records, or a TorchScript program.
        MalformedFile: the directory contradicts itself or the file.
    """
    place = source.place(file)
    _check_magic(source, file, file_bytes)
    infos = _directory(source, file, file_bytes)
    roots = {info.filename.split("/", 1)[0] for info in infos}
    if len(roots) != 1:
        raise MalformedFile("not one folder of records", where=place, got=shorten(sorted(roots)), expected="one folder")
    root = roots.pop() + "/"
    _check_sizes(infos, place, file_bytes)
    records = _records(source, file, file_bytes, infos)
    if root + "constants.pkl" in records:
        raise UnsafeFile("a TorchScript program, not plain weights", where=place, fix=_CONVERT)
    pickle = records.get(root + "data.pkl")
    if pickle is None:
        raise MalformedFile("no pickle in the archive", where=place, expected=root + "data.pkl", fix=_CONVERT)
    if pickle.nbytes > MAX_PICKLE_BYTES:
        raise UnsafeFile(
            "the pickle is absurdly large",
            where=f"{place}: {root}data.pkl",
            got=f"{pickle.nbytes} bytes",
            expected=f"{MAX_PICKLE_BYTES} bytes or fewer",
            fix=_CONVERT,
        )
    _check_byte_order(source, file, records.get(root + "byteorder"))
    text = bytes(read_range(source, file, pickle.offset, pickle.offset + pickle.nbytes))
    prefix = root + "data/"
    storages = {name.removeprefix(prefix): record for name, record in records.items() if name.startswith(prefix)}
    return TorchArchive(text, storages)


def _check_magic(source: Source, file: str, file_bytes: int) -> None:
    place = source.place(file)
    begin = read_range(source, file, 0, min(PREFIX_BYTES, file_bytes))
    refuse_stand_in(begin, place)
    magic = bytes(begin[:4])
    if magic == b"PK\x03\x04":
        return
    if magic[:1] == b"\x80":
        raise UnsafeFile(
            "a bare pickle (torch before 1.6, or plain Python), which cannot be read in slices",
            where=place,
            got=repr(magic),
            expected="a torch archive (zip)",
            fix=_CONVERT,
        )
    raise MalformedFile(
        "not a torch archive",
        where=place,
        got=repr(magic),
        expected="a zip (b'PK\\x03\\x04')",
        fix="name the file with the weights",
    )


def _directory(source: Source, file: str, file_bytes: int) -> list[zipfile.ZipInfo]:
    place = source.place(file)
    try:
        with zipfile.ZipFile(_RangeFile(source, file, file_bytes)) as archive:
            infos = archive.infolist()
    # What zipfile raises on damaged directories, besides its own error.
    except (zipfile.BadZipFile, ValueError, struct.error, EOFError, OverflowError, IndexError) as error:
        raise MalformedFile("the zip directory is damaged", where=place, got=str(error)) from error
    except (NotImplementedError, RuntimeError) as error:
        raise UnsafeFile("the zip uses features that torch never writes", where=place, got=str(error)) from error
    if not 0 < len(infos) <= MAX_RECORDS:
        raise MalformedFile(
            "an absurd number of records", where=place, got=len(infos), expected=f"1 to {MAX_RECORDS} records"
        )
    return infos


def _check_sizes(infos: list[zipfile.ZipInfo], place: str, file_bytes: int) -> None:
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise UnsafeFile(
                "a compressed or encrypted record: it could unfold to any size",
                where=f"{place}: record {shorten(info.filename)}",
                got=f"{info.compress_size} bytes that claim to be {info.file_size}",
                expected="stored records, as torch.save writes them",
                fix=_CONVERT,
            )
    total = sum(info.file_size for info in infos)
    if total > file_bytes:
        raise UnsafeFile(
            "the records claim more bytes than the file has",
            where=place,
            got=f"{total} bytes in {len(infos)} records",
            expected=f"{file_bytes} bytes or fewer",
            fix="get the file again; if it stays so it was made to mislead",
        )


def _records(source: Source, file: str, file_bytes: int, infos: list[zipfile.ZipInfo]) -> dict[str, Record]:
    """Where the bytes of each record begin, by its local header; refuses overlaps and differing headers."""
    place = source.place(file)
    headers = bytearray(_LOCAL_HEADER_BYTES * len(infos))
    view = memoryview(headers)
    ranges: list[Range] = []
    for number, info in enumerate(infos):
        start = info.header_offset
        if not 0 <= start <= file_bytes - _LOCAL_HEADER_BYTES:
            raise _outside(place, info)
        slot = view[number * _LOCAL_HEADER_BYTES : (number + 1) * _LOCAL_HEADER_BYTES]
        ranges.append((start, start + _LOCAL_HEADER_BYTES, slot))
    source.fill(file, ranges)
    records: dict[str, Record] = {}
    spans: list[tuple[int, int, str]] = []
    for (start, _, header), info in zip(ranges, infos, strict=True):
        name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
        offset = start + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        if bytes(header[:4]) != b"PK\x03\x04" or offset + info.file_size > file_bytes:
            raise _outside(place, info)
        if info.filename in records:
            raise MalformedFile("a record occurs twice", where=f"{place}: record {shorten(info.filename)}")
        records[info.filename] = Record(offset, info.file_size)
        spans.append((start, offset + info.file_size, info.filename))
    spans.sort()
    for (_, stop, first), (start, _, second) in itertools.pairwise(spans):
        if start < stop:
            raise UnsafeFile(
                "two records share bytes",
                where=f"{place}: record {shorten(second)}",
                got=f"begins {stop - start} bytes before the end of {shorten(first)}",
                expected="records one after the other",
            )
    return records


def _outside(place: str, info: zipfile.ZipInfo) -> MalformedFile:
    return MalformedFile(
        "a record does not lie inside the file",
        where=f"{place}: record {shorten(info.filename)}",
        got=f"{info.file_size} bytes from byte {info.header_offset}",
        fix="get the file again: it is cut short or damaged",
    )


def _check_byte_order(source: Source, file: str, record: Record | None) -> None:
    if record is None:
        return
    value = bytes(read_range(source, file, record.offset, record.offset + min(record.nbytes, 16)))
    if value != b"little":
        raise MalformedFile(
            "not little endian", where=f"{source.place(file)}: byteorder", got=repr(value), expected="b'little'"
        )


class _RangeFile(io.RawIOBase):
    """A file of a source as Python's zipfile wants it; the end of the file, where the directory is, in one window."""

    _WINDOW_BYTES = 1 << 16

    def __init__(self, source: Source, file: str, file_bytes: int) -> None:
        self._source = source
        self._file = file
        self._file_bytes = file_bytes
        self._position = 0
        self._window_start = max(0, file_bytes - self._WINDOW_BYTES)
        self._window = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file_bytes}[whence]
        if base + offset < 0:
            raise ValueError("a seek before the start of the file")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = min(self._position, self._file_bytes)
        stop = self._file_bytes if size < 0 else min(start + size, self._file_bytes)
        self._position = stop
        if start >= self._window_start:
            if not self._window:
                self._window = bytes(read_range(self._source, self._file, self._window_start, self._file_bytes))
            return self._window[start - self._window_start : stop - self._window_start]
        return bytes(read_range(self._source, self._file, start, stop))
