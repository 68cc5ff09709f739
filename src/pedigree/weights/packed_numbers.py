"""The arithmetic of packed weights: rows of a group of stored tensors, back to float32.

Shapes  O = rows, I = columns, G = groups of columns, N = rows asked for, W = words of 32 bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pedigree.errors import MalformedFile
from pedigree.weights.part import TensorSource

if TYPE_CHECKING:
    import torch

Index = npt.NDArray[np.int64]

_AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7], dtype=np.int64)
"""Where each of eight neighboring columns lies in its word."""

_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""Values of the sixteen codes of e2m1 (OCP Microscaling Formats 1.0, section 5.3.3)."""

_MOST_STATE = 1 << 16


def unpack_bits(words_NW: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Unsigned numbers of `bits` bits, a stream that begins at the lowest bit of each row; int64 [N, count]."""
    import torch

    wide_NW = words_NW.to(torch.int64) & 0xFFFFFFFF
    wide_NW = torch.nn.functional.pad(wide_NW, (0, 1))
    begin = np.arange(count, dtype=np.int64) * bits
    word, shift = torch.from_numpy(begin // 32), torch.from_numpy(begin % 32)
    both = wide_NW[:, word] | (wide_NW[:, word + 1] << 32)
    return (both >> shift) & ((1 << bits) - 1)


def misfit(source: TensorSource, name: str, got: str, expected: str) -> MalformedFile:
    """The refusal of a group of tensors, of which `name` is one, whose sizes clash."""
    return MalformedFile(
        "packed weights whose tensors do not fit each other",
        where=f"{getattr(source, 'location', 'checkpoint')}: tensor {name!r}",
        got=got,
        expected=expected,
        fix="get the file again, or name the model that it was made from",
    )


def _at(rows: Index) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(rows))


def _groups(source: TensorSource, order: str | None, n_cols: int, n_groups: int) -> torch.Tensor:
    """Group of each column, int64 [I]: as a tensor of the file says, else so many columns after the other."""
    import torch

    if order is not None:
        return source.read(order).to(torch.int64).remainder(n_groups)
    return torch.arange(n_cols) // -(-n_cols // n_groups)


@dataclass(frozen=True)
class AffineColumns:
    """GPTQ and AWQ, which store the matrix turned: [I, O], words down its columns (`down`) or along its rows.

    w = scale * (q - zero - zero_offset), scales and zeros by group of columns; without zeros the middle of the range.
    """

    label: str
    shape: tuple[int, ...]
    weight: str
    zeros: str | None
    scales: str
    order: str | None
    bits: int
    down: bool
    zero_offset: int

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the stored tensors."""
        named = (self.weight, self.zeros, self.scales, self.order)
        return tuple(name for name in named if name is not None)

    def rows(self, source: TensorSource, index: Index) -> torch.Tensor:
        """Rows of the matrix, float32 [N, I]; the words are read whole, since rows are columns of them."""
        import torch

        n_cols = self.shape[1]
        words = source.read(self.weight)
        if self.down:
            q_NI = unpack_bits(words[:, _at(index)].T, self.bits, n_cols)
        else:
            q_NI = _interleaved(words, index)
        scale_NG = source.read(self.scales)[:, _at(index)].T.float()
        if self.zeros is None:
            zero_NG = torch.full_like(scale_NG, 2 ** (self.bits - 1) - self.zero_offset)
        elif self.down:
            zero_NG = unpack_bits(source.read(self.zeros), self.bits, self.shape[0])[:, _at(index)].T.float()
        else:
            zero_NG = _interleaved(source.read(self.zeros), index).float()
        group_I = _groups(source, self.order, n_cols, scale_NG.shape[1])
        return scale_NG[:, group_I] * (q_NI.float() - zero_NG[:, group_I] - self.zero_offset)


def _interleaved(words_IW: torch.Tensor, index: Index) -> torch.Tensor:
    """Columns of AWQ words, int64 [N, I]."""
    import torch

    wide = words_IW[:, _at(index // 8)].to(torch.int64) & 0xFFFFFFFF
    return ((wide >> _at(4 * _AWQ_ORDER[index % 8])) & 15).T


@dataclass(frozen=True)
class AffineRows:
    """Words along the rows: w = scale * (q - zero), or scale * q + bias (`biased`), by group of columns."""

    label: str
    shape: tuple[int, ...]
    weight: str
    scales: str
    zeros: str | None
    order: str | None
    bits: int
    biased: bool
    size: str | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the stored tensors; `size` holds the shape."""
        named = (self.weight, self.scales, self.zeros, self.order, self.size)
        return tuple(name for name in named if name is not None)

    def rows(self, source: TensorSource, index: Index) -> torch.Tensor:
        """Rows of the matrix, float32 [N, I]."""

        n_cols = self.shape[1]
        words_NW = source.read_index(self.weight, index.tolist())
        if self.biased or 32 % self.bits == 0:
            q_NI = unpack_bits(words_NW, self.bits, n_cols)
        else:  # numbers do not run over the end of a word
            per = 32 // self.bits
            q_NI = unpack_bits(words_NW.reshape(-1, 1), self.bits, per).reshape(len(index), -1)[:, :n_cols]
        scale_NG = source.read_index(self.scales, index.tolist()).float().reshape(len(index), -1)
        n_groups = scale_NG.shape[1]
        group_I = _groups(source, self.order, n_cols, n_groups)
        if self.biased:
            bias_NG = source.read_index(self.zeros, index.tolist()).float() if self.zeros else scale_NG * 0
            return scale_NG[:, group_I] * q_NI.float() + bias_NG[:, group_I]
        return scale_NG[:, group_I] * (q_NI.float() - self._zero(source, index, n_groups)[:, group_I])

    def _zero(self, source: TensorSource, index: Index, n_groups: int) -> torch.Tensor:
        """Zero points, float32 [N, G]: packed down the rows; the middle of the range where none are stored."""
        import torch

        if self.zeros is None:
            return torch.full((len(index), n_groups), float(2 ** (self.bits - 1)))
        stored = source.read(self.zeros)
        return unpack_bits(stored.T, self.bits, self.shape[0])[:, _at(index)].T.float()


@dataclass(frozen=True)
class ScaledRows:
    """Whole numbers of 8 bits with one scale for each row."""

    label: str
    shape: tuple[int, ...]
    weight: str
    scales: str
    factor: float

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the stored tensors."""
        return (self.weight, self.scales)

    def rows(self, source: TensorSource, index: Index) -> torch.Tensor:
        """Rows of the matrix, float32 [N, I]."""
        scale_N = source.read(self.scales).float().reshape(-1)[_at(index)]
        return source.read_index(self.weight, index.tolist()).float() * (scale_N * self.factor)[:, None]


@dataclass(frozen=True)
class LengthsApart:
    """Rows whose lengths stand apart: each is its direction, whatever the length that it is stored with, times a length
    (Salimans and Kingma 2016, arXiv:1602.07868, section 2)."""

    label: str
    shape: tuple[int, ...]
    weight: str
    lengths: str

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the stored tensors."""
        return (self.weight, self.lengths)

    def rows(self, source: TensorSource, index: Index) -> torch.Tensor:
        """Rows of the matrix, float32 [N, I]."""
        length_N = source.read(self.lengths).float().reshape(-1)[_at(index)]
        row_NI = source.read_index(self.weight, index.tolist()).float()
        longer_N: torch.Tensor = length_N / row_NI.norm(dim=1).clamp_min(1e-30)
        return row_NI * longer_N[:, None]


@dataclass(frozen=True)
class FourBitFloats:
    """Numbers of e2m1, two in a byte, the lower half first, with a scale for each block of columns.

    Scales of one byte without a sign are powers of two (e8m0); others are numbers, and a scale of the whole tensor
    multiplies them, or divides them (`divide`).
    """

    label: str
    shape: tuple[int, ...]
    weight: str
    scales: str
    whole: str | None
    divide: bool

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the stored tensors."""
        return tuple(name for name in (self.weight, self.scales, self.whole) if name is not None)

    def rows(self, source: TensorSource, index: Index) -> torch.Tensor:
        """Items of axis 0, float32 [N, ..., I]."""
        import torch

        raw = source.read_index(self.weight, index.tolist())
        raw = raw.reshape(math.prod(raw.shape[:1]), -1).contiguous().view(torch.uint8).to(torch.int64)
        value = torch.tensor(_FP4)[torch.stack((raw & 15, raw >> 4), dim=-1)]
        scale = source.read_index(self.scales, index.tolist())
        if scale.dtype == torch.uint8:
            scale = torch.exp2(scale.float() - 127)
        scale = scale.float().reshape(len(index), -1)
        if self.whole is not None:
            whole = source.read(self.whole).float().reshape(-1)[0]
            scale = scale / whole if self.divide else scale * whole
        blocks = value.reshape(len(index), scale.shape[1], -1) * scale[:, :, None]
        return blocks.reshape(len(index), *self.shape[1:])


def read_state(source: TensorSource, name: str) -> Mapping[str, Any]:
    """The facts that bitsandbytes keeps as JSON in a tensor of bytes: shape, block size, kind.

    Raises:
        MalformedFile: no JSON object, or without a shape of two numbers.
    """
    where = f"{getattr(source, 'location', 'checkpoint')}: tensor {name!r}"
    if math.prod(source.tensors[name].shape) > _MOST_STATE:
        raise MalformedFile("the state of packed weights is too long", where=where)
    try:
        facts = json.loads(bytes(source.read(name).reshape(-1).tolist()))
    except (ValueError, TypeError) as error:
        raise MalformedFile("the state of packed weights is not JSON", where=where, got=str(error)[:80]) from error
    shape = facts.get("shape") if isinstance(facts, dict) else None
    good = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < 1 << 31 for n in shape)
    block = facts.get("blocksize", 64) if isinstance(facts, dict) else 0
    if not good or type(block) is not int or block <= 0:
        raise MalformedFile("the state of packed weights names no shape of two axes", where=where, got=repr(facts)[:80])
    return dict(facts)


class Codebook:
    """bitsandbytes: codes of four bits, two in a byte, the upper half first, in blocks along the whole matrix."""

    def __init__(self, source: TensorSource, weight: str, state: str, facts: Mapping[str, Any]) -> None:
        self.shape: tuple[int, ...] = tuple(facts["shape"])
        self.label = str(facts.get("quant_type", "4 bits")).upper()[:16]
        self.block = int(facts.get("blocksize", 64))
        self.nested_block = int(facts.get("nested_blocksize", 256) or 256)
        self.offset = float(facts.get("nested_offset", 0.0) or 0.0)
        self.weight = weight
        self.nested = f"{weight}.nested_absmax" in source.tensors
        beside = ["absmax", "quant_map", *(("nested_absmax", "nested_quant_map") if self.nested else ())]
        self.members: tuple[str, ...] = (weight, state, *(f"{weight}.{name}" for name in beside))
        n_bytes = math.prod(source.tensors[weight].shape)
        n_blocks = math.prod(source.tensors[f"{weight}.absmax"].shape)
        n_numbers = math.prod(self.shape)
        if n_bytes != -(-n_numbers // 2) or n_blocks != -(-n_numbers // self.block):
            got, expected = (
                f"{n_bytes} bytes, {n_blocks} scales",
                f"those of {n_numbers} numbers in blocks of {self.block}",
            )
            raise misfit(source, weight, got, expected)

    def rows(self, source: TensorSource, index: Index) -> torch.Tensor:
        """Rows of the matrix, float32 [N, I]; the bytes from the first to the last row are read."""
        import torch

        n_cols = self.shape[1]
        if len(index) == 0:
            return torch.empty(0, n_cols)
        first, stop = int(index.min()) * n_cols, (int(index.max()) + 1) * n_cols
        if math.prod(source.tensors[self.weight].shape) == source.tensors[self.weight].shape[0]:
            raw = source.read_rows(self.weight, first // 2, -(-stop // 2)).reshape(-1).to(torch.int64)
        else:
            raw = source.read(self.weight).reshape(-1)[first // 2 : -(-stop // 2)].to(torch.int64)
        code = torch.stack((raw >> 4, raw & 15), dim=-1).reshape(-1)[first % 2 :][: stop - first]
        value = source.read(f"{self.weight}.quant_map").float().reshape(-1)[code]
        block = torch.arange(first, stop) // self.block
        rows = (value * self._scales(source)[block]).reshape(-1, n_cols)
        return rows[_at(index - int(index.min()))]

    def _scales(self, source: TensorSource) -> torch.Tensor:
        """The largest magnitude of each block, float32."""
        import torch

        stored = source.read(f"{self.weight}.absmax").reshape(-1)
        if not self.nested:
            return stored.float()
        table = source.read(f"{self.weight}.nested_quant_map").float().reshape(-1)
        larger = source.read(f"{self.weight}.nested_absmax").float().reshape(-1)
        group = torch.arange(len(stored)) // self.nested_block
        return table[stored.to(torch.int64)] * larger[group] + self.offset
