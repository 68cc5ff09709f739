"""A checkpoint, wherever it lies and whatever its format: names, shapes and slices of its tensors.

Opening reads headers only. Every read fetches just the rows that were asked for, is counted by the meter before it
happens, is remembered for the read digest, and may come from any thread.

Shapes  N = rows asked for (axis 0), B = bytes of one row; a tensor keeps its further axes.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pedigree.errors import InputError, MalformedFile, MissingInput, UnsafeFile, UsageError
from pedigree.weights.contents import Contents
from pedigree.weights.decoding import Bytes, decode, decode_strided
from pedigree.weights.digest import ReadLog, header_digest, span_text
from pedigree.weights.extent import Extent, TensorInfo
from pedigree.weights.gguf_files import open_gguf
from pedigree.weights.http_source import open_http
from pedigree.weights.hub import open_hub
from pedigree.weights.meter import ByteMeter
from pedigree.weights.safetensors_files import open_safetensors
from pedigree.weights.source import LocalSource, Range, Source, confined_name, read_range
from pedigree.weights.torch_files import open_torch
from pedigree.weights.weight_files import Choice, choose, choose_file, read_json

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]

MAX_CONFIG_BYTES = 10_000_000


class Checkpoint:
    """Opened weight files; make one with `open_checkpoint`.

    Attributes:
        location: as the user wrote it.
        format: "safetensors", "gguf" or "torch".
        tensors: what the files declare, by name, sorted by name.
        config: `config.json` beside the weights, or GGUF metadata under the same key names; None where absent.
        metadata: key-values inside the weight files (all of GGUF's, tokenizer included).
        meter: counts the bytes that were fetched.
        notes: oddities that did not stop the reader, one sentence each.
    """

    def __init__(
        self, location: str, source: Source, meter: ByteMeter, contents: Contents, config: Mapping[str, Any] | None
    ) -> None:
        self.location = location
        self.format = contents.format
        self.config = config
        self.metadata = contents.metadata
        self.meter = meter
        self.notes = contents.notes
        self._source = source
        self._extents = contents.extents
        self._file_bytes = contents.file_bytes
        self._log = ReadLog()
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {name: contents.extents[name].info for name in sorted(contents.extents)}
        )
        meter.set_total(sum(contents.file_bytes.values()))

    def read(self, name: str) -> torch.Tensor:
        """A whole tensor in the number type of the file (quantized GGUF types as float32).

        Raises:
            MissingInput: no tensor of that name.
            BudgetExceeded: the budget does not cover it.
        """
        extent = self._extent(name)
        if extent.stride is not None:
            return self._read_strided(extent)
        if extent.info.shape and extent.row_bytes is not None:
            return self.read_rows(name, 0, extent.info.shape[0])
        raw_B = self._fetch(extent, [(0, extent.info.nbytes)])
        self._log.add(name, "all", raw_B.data)
        return decode(extent.info, raw_B, extent.info.shape, self._where(extent))

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` (exclusive) of axis 0, read as one range.

        Where rows are not stored one after the other (views in torch files) the whole tensor is read.

        Raises:
            MissingInput: no tensor of that name.
            UsageError: the rows are not inside the tensor.
            BudgetExceeded: the budget does not cover them.
        """
        extent = self._extent(name)
        self._check_rows(extent, start, stop)
        if extent.row_bytes is None:
            return self.read(name)[start:stop].clone()
        return decode(
            extent.info,
            self._raw_rows(extent, start, stop),
            (stop - start, *extent.info.shape[1:]),
            self._where(extent),
        )

    def read_index(self, name: str, index: Sequence[int] | npt.NDArray[np.int64] | torch.Tensor) -> torch.Tensor:
        """Rows of axis 0 in the order given, duplicates allowed; neighbours are fetched as one range.

        Raises:
            MissingInput: no tensor of that name.
            UsageError: a row is not inside the tensor.
            BudgetExceeded: the budget does not cover them.
        """
        extent = self._extent(name)
        rows_N = np.asarray(index, dtype=np.int64).reshape(-1)
        if rows_N.size:
            self._check_rows(extent, int(rows_N.min()), int(rows_N.max()) + 1)
        else:
            self._check_rows(extent, 0, 0)
        if extent.row_bytes is None:
            import torch

            return self.read(name)[torch.from_numpy(rows_N)]
        unique_U, inverse_N = np.unique(rows_N, return_inverse=True)
        raw_UB = self._fetch_rows(extent, unique_U, extent.row_bytes)
        self._log.add(name, span_text(unique_U), raw_UB.reshape(-1).data)
        if unique_U.size != rows_N.size or not np.array_equal(unique_U, rows_N):
            raw_UB = raw_UB[inverse_N]
        return decode(extent.info, raw_UB, (rows_N.size, *extent.info.shape[1:]), self._where(extent))

    def stored_blocks(self, name: str, block_bytes: int) -> Iterator[memoryview]:
        """The bytes of a tensor in row-major order, as the file stores its numbers, a block at a time.

        A view inside a torch file is read whole and put in order; everything else takes the memory of a block.

        Raises:
            MissingInput: no tensor of that name.
            BudgetExceeded: the budget does not cover the next block.
        """
        extent = self._extent(name)
        if extent.stride is not None:
            import torch

            whole_B = self.read(name).contiguous().reshape(-1).view(torch.uint8).numpy()
            yield from (whole_B[i : i + block_bytes].data for i in range(0, whole_B.size, block_bytes))
            return
        for start in range(0, extent.info.nbytes, block_bytes):
            yield self._fetch(extent, [(start, min(start + block_bytes, extent.info.nbytes))]).data

    def read_bytes(self, name: str, start: int, stop: int) -> Bytes:
        """Bytes `start` to `stop` of a tensor as its file holds them, uint8 [B]; they are charged, not logged.

        Raises:
            MissingInput: no tensor of that name.
            UsageError: the bytes are not inside the tensor.
            BudgetExceeded: the budget does not cover them.
        """
        extent = self._extent(name)
        if not 0 <= start <= stop <= extent.info.nbytes:
            raise UsageError("bytes outside the tensor", where=self._where(extent), got=f"{start} to {stop}")
        return self._fetch(extent, [(start, stop)])

    def extent(self, name: str) -> Extent:
        """Where a tensor lies in its file.

        Raises:
            MissingInput: no tensor of that name.
        """
        return self._extent(name)

    def local_file(self, file: str) -> Path | None:
        """A weight file on this machine, links resolved; None where it lies elsewhere."""
        if not isinstance(self._source, LocalSource) or file not in self._file_bytes:
            return None
        return Path(self._source.place(file)).resolve()

    @property
    def file_bytes(self) -> Mapping[str, int]:
        """Size of each weight file, by name."""
        return MappingProxyType(dict(self._file_bytes))

    def header_digest(self) -> str:
        """Digest of the declared names, dtypes, shapes and file sizes; reads no weights."""
        return header_digest(self.tensors.values(), self._file_bytes)

    def stamp(self) -> str:
        """Digest of what the place says of the state of the weight files; reads no weights.

        Size and time of change of local files, the tag or commit of remote ones: equal stamps and headers mean that
        nothing was written in between, other ones say nothing about the numbers.
        """
        lines = [f"{file}\n{self._source.stamp(file)}\n" for file in sorted(self._file_bytes)]
        return "sha256:" + hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def content_digest(self) -> str:
        """Digest of the headers and of everything that was read so far: differs where a number that was read does."""
        both = f"{self.header_digest()}\n{self.read_digest()}"
        return "sha256:" + hashlib.sha256(both.encode("ascii")).hexdigest()

    def read_digest(self) -> str:
        """Digest of everything that was read so far, whatever the order and the threads."""
        return self._log.digest()

    def sibling_bytes(self, filename: str, max_bytes: int) -> bytes | None:
        """A side file from the same place (tokenizer.json and the like), None where absent; counted by the meter.

        Raises:
            UnsafeFile: the name leaves the place.
            MalformedFile: the file is larger than `max_bytes`.
        """
        size = self._source.size(confined_name(filename, self.location))
        if size is None:
            return None
        if size > max_bytes:
            raise MalformedFile(
                "the file is too large",
                where=self._source.place(filename),
                got=f"{size} bytes",
                expected=f"up to {max_bytes} bytes",
            )
        return bytes(read_range(self._source, filename, 0, size))

    def sibling_names(self) -> tuple[str, ...]:
        """Names of the files of the same place, sorted; empty where a place cannot be listed."""
        return self._source.names() or ()

    def sibling_head(self, filename: str, max_bytes: int) -> bytes | None:
        """The first bytes of a side file, at most `max_bytes`; None where it is absent; counted by the meter.

        Raises:
            UnsafeFile: the name leaves the place, or it is no regular file.
        """
        size = self._source.size(confined_name(filename, self.location))
        return None if size is None else bytes(read_range(self._source, filename, 0, min(size, max_bytes)))

    def renamed(self, names: Mapping[str, str], config: Mapping[str, Any] | None) -> Checkpoint:
        """The same bytes under other names: some of the tensors, and another config beside them.

        Args:
            names: new name -> name here.
            config: what `config` of the result says.
        """
        extents = {}
        for new, old in names.items():
            extent = self._extent(old)
            extents[new] = replace(extent, info=replace(extent.info, name=new))
        contents = Contents(self.format, extents, dict(self._file_bytes))
        return Checkpoint(self.location, self._source, self.meter, contents, config)

    def close(self) -> None:
        """Give back open files and connections."""
        self._source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _extent(self, name: str) -> Extent:
        extent = self._extents.get(name)
        if extent is None:
            close = difflib.get_close_matches(name, self._extents, n=3)
            raise MissingInput(
                "no such tensor",
                where=self.location,
                got=repr(name),
                expected=" or ".join(map(repr, close)) if close else f"one of {len(self._extents)} names",
            )
        return extent

    def _where(self, extent: Extent) -> str:
        return f"{self._source.place(extent.info.file)}: tensor {extent.info.name!r}"

    def _check_rows(self, extent: Extent, start: int, stop: int) -> None:
        shape = extent.info.shape
        if not shape or not 0 <= start <= stop <= shape[0]:
            raise UsageError(
                "rows outside the tensor" if shape else "a scalar has no rows",
                where=self._where(extent),
                got=f"rows {start} to {stop}",
                expected=f"rows within 0 to {shape[0]}" if shape else "read() without rows",
            )

    def _row_bytes(self, extent: Extent) -> int:
        row_bytes = extent.row_bytes
        if row_bytes is None:
            raise InputError(
                "the rows of the tensor are not stored one after the other",
                where=self._where(extent),
                got=f"{extent.info.dtype} {extent.info.shape}",
                fix="read the whole tensor",
            )
        return row_bytes

    def _raw_rows(self, extent: Extent, start: int, stop: int) -> Bytes:
        row_bytes = self._row_bytes(extent)
        raw_NB = self._fetch(extent, [(start * row_bytes, stop * row_bytes)]).reshape(stop - start, row_bytes)
        self._log.add(extent.info.name, f"{start}:{stop}" if stop > start else "", raw_NB.reshape(-1).data)
        return raw_NB

    def _read_strided(self, extent: Extent) -> torch.Tensor:
        """A tensor whose rows are interleaved: everything from its first to its last element, then the view."""
        raw_B = self._fetch(extent, [(0, extent.span_bytes)])
        self._log.add(extent.info.name, "all", raw_B.data)
        return decode_strided(extent, raw_B, self._where(extent))

    def _fetch_rows(self, extent: Extent, rows_U: npt.NDArray[np.int64], row_bytes: int) -> Bytes:
        """Sorted distinct rows as [U, B]; rows with small gaps between them share a range."""
        if rows_U.size == 0 or row_bytes == 0:
            return np.empty((rows_U.size, row_bytes), np.uint8)
        gap_rows = 1 + self._source.gap_bytes // row_bytes
        breaks = np.flatnonzero(np.diff(rows_U) > gap_rows)
        starts = rows_U[np.concatenate(([0], breaks + 1))]
        stops = rows_U[np.concatenate((breaks, [rows_U.size - 1]))] + 1
        spans = list(zip((starts * row_bytes).tolist(), (stops * row_bytes).tolist(), strict=True))
        raw_RB = self._fetch(extent, spans).reshape(-1, row_bytes)
        if raw_RB.shape[0] == rows_U.size:
            return raw_RB
        fetched_R = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
        return np.ascontiguousarray(raw_RB[np.searchsorted(fetched_R, rows_U)])

    def _fetch(self, extent: Extent, spans: Sequence[tuple[int, int]]) -> Bytes:
        """Spans of bytes, counted from the start of the tensor, one after the other in a fresh buffer."""
        raw_B = np.empty(sum(stop - start for start, stop in spans), np.uint8)
        view, position = raw_B.data, 0
        ranges: list[Range] = []
        for start, stop in spans:
            if stop > start:
                after = position + stop - start
                ranges.append((extent.offset + start, extent.offset + stop, view[position:after]))
                position = after
        if ranges:
            self._source.fill(extent.info.file, ranges)
        return raw_B


def open_checkpoint(
    location: str | os.PathLike[str], *, allow_pickle: bool = False, budget_bytes: int | None = None
) -> Checkpoint:
    """Open weights and read their headers, nothing more.

    Args:
        location: a directory, a .safetensors file, a *.index.json, a .gguf, a .bin, .pt or .pth (with `allow_pickle`),
            hf://org/name[@revision][/path], or https://host/path of a file or of a directory with an index.
        allow_pickle: read torch pickles, weights only.
        budget_bytes: most bytes that may be fetched in the life of the checkpoint, headers included.

    Raises:
        MissingInput: nothing there, or a shard is missing.
        MalformedFile: a file contradicts its format; names the file and the field.
        UnsafeFile: a pickle without `allow_pickle`, or a file outside its directory.
        SourceError: a remote place did not answer as expected.
        BudgetExceeded: the headers alone pass the budget.
    """
    meter = ByteMeter(budget_bytes)
    source, name = _source(os.fspath(location), meter)
    try:
        choice = choose(source) if name is None else choose_file(source, name)
        contents = _contents(source, choice, allow_pickle)
        config = contents.config if contents.config is not None else read_json(source, "config.json", MAX_CONFIG_BYTES)
    except BaseException:
        source.close()
        raise
    return Checkpoint(os.fspath(location), source, meter, contents, config)


def _source(location: str, meter: ByteMeter) -> tuple[Source, str | None]:
    """The place, and the file in it that was named, None for the whole place."""
    if location.startswith("hf://"):
        return open_hub(location, meter)
    if location.startswith(("http://", "https://")):
        return open_http(location, meter)
    path = Path(location)
    try:
        if path.is_dir():
            return LocalSource(path, meter), None
        if path.exists():
            return LocalSource(path.parent, meter, named_file=path.name), path.name
    except (OSError, ValueError) as error:
        raise MissingInput("the place cannot be reached", where=location, got=error) from error
    scheme, mark, _ = location.partition(":")
    if mark and scheme.isalnum() and len(scheme) > 1:
        raise UsageError(
            "no such file, and not a kind of address that is read",
            where=location,
            got=f"{scheme}:",
            expected="a path, hf://org/name[@revision], http://... or https://...",
        )
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", location) and not location.startswith((".", "/"))
    raise MissingInput(
        "no such file or directory",
        where=location,
        fix=f"hf://{location} if it is a model on the Hugging Face Hub" if on_hub else None,
    )


def _contents(source: Source, choice: Choice, allow_pickle: bool) -> Contents:
    if choice.format == "safetensors":
        return open_safetensors(source, choice)
    if choice.format == "gguf":
        return open_gguf(source, choice)
    if not allow_pickle:
        raise UnsafeFile(
            "torch files are pickles and are not read unless asked for",
            where=source.place(choice.files[0]),
            expected="safetensors or GGUF",
            fix="--allow-pickle (weights only, no code is run), or convert the file to safetensors",
        )
    return open_torch(source, choice)
