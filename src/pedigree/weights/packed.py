"""Weights of few bits that a file holds as several tensors: found by their names and shapes, read as what they mean.

Programs that quantize store a matrix as packed whole numbers with scales and zero points beside it. `unpacked` shows
such a group as one tensor under the name that the matrix had, in float32; all other tensors pass through.

    GPTQ          X.qweight [I/p, O], X.qzeros [G, O/p], X.scales [G, O], X.g_idx [I]     zeros stored less one
    AWQ           X.qweight [I, O/p], X.qzeros [G, O/p], X.scales [G, O]                  eight columns interleaved
    bitsandbytes  X.weight [n/2, 1], .absmax, .quant_map, .quant_state.* (its shape as JSON), .nested_* where the
                  scales are quantized too; X.weight int8 [O, I] with X.SCB [O]
    packed ints   X.weight_packed [O, I/p], X.weight_scale [O, G], .weight_zero_point [O/p, G], .weight_g_idx [I]
                  (compressed-tensors)
    MLX           X.weight [O, I/p], X.scales [O, G], X.biases [O, G]
    MXFP4         X_blocks [..., I/32, 16], X_scales [..., I/32] (gpt-oss; X.blocks, X.scales in its first release)
    NVFP4         X.weight_packed or X.weight [O, I/2], X.weight_scale fp8 [O, I/16] and a scale of the whole tensor
    lengths apart X.weight_v [O, I], X.weight_g [O, 1]; X.parametrizations.weight.original1 and .original0 (torch)

Shapes  O = rows (out), I = columns (in), G = groups of columns, p = numbers in a word, n = all numbers, N = rows asked
Source  the packing code of AutoGPTQ, AutoAWQ, bitsandbytes 0.50, compressed-tensors 0.13, mlx 0.29, gpt-oss, Model
        Optimizer; OCP Microscaling Formats 1.0, section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pedigree.errors import InputError, MalformedFile
from pedigree.weights.extent import TensorInfo
from pedigree.weights.packed_numbers import (
    AffineColumns,
    AffineRows,
    Codebook,
    FourBitFloats,
    LengthsApart,
    ScaledRows,
    misfit,
    read_state,
)
from pedigree.weights.part import TensorSource

if TYPE_CHECKING:
    import torch

UNREAD = {
    ".q_weight": "EXL2",
    ".trellis": "EXL3",
    ".Qidxs": "QuIP#",
    ".codebooks": "AQLM",
    ".W_q": "HQQ",
    ".q_perm": "EXL2",
}
"""Endings of tensors of packings that are not read, by the name of the packing."""


class Group(Protocol):
    """Some tensors that are one matrix."""

    @property
    def label(self) -> str:
        """How the numbers are stored, such as "GPTQ 4"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what they mean."""

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the stored tensors."""

    def rows(self, source: TensorSource, index: np.ndarray[Any, np.dtype[np.int64]]) -> torch.Tensor:
        """Items of axis 0, float32."""


class Unpacked:
    """A checkpoint whose packed groups look like the matrices that they mean.

    Attributes:
        tensors: name, dtype and shape of every matrix; packed ones have the label of their packing as dtype.
        config: that of the checkpoint.
    """

    def __init__(self, source: TensorSource, groups: Mapping[str, Group]) -> None:
        self._source = source
        self._groups = dict(groups)
        hidden = {member for group in groups.values() for member in group.members}
        shown = {name: info for name, info in source.tensors.items() if name not in hidden}
        for name, group in groups.items():
            first = source.tensors[group.members[0]]
            n_bytes = sum(getattr(source.tensors[member], "nbytes", 0) for member in group.members)
            shown[name] = TensorInfo(name, group.label, group.shape, n_bytes, getattr(first, "file", ""))
        self.tensors: Mapping[str, Any] = dict(sorted(shown.items()))
        self.config = source.config

    def members(self, name: str) -> tuple[str, ...]:
        """The stored tensors that hold one of `tensors`."""
        group = self._groups.get(name)
        return (name,) if group is None else group.members

    def read(self, name: str) -> torch.Tensor:
        """A whole tensor; a packed one as float32."""
        group = self._groups.get(name)
        return self._source.read(name) if group is None else self.read_rows(name, 0, group.shape[0])

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Items start..stop of axis 0."""
        group = self._groups.get(name)
        if group is None:
            return self._source.read_rows(name, start, stop)
        return self._rows(group, np.arange(start, stop, dtype=np.int64))

    def read_index(self, name: str, index: Sequence[int]) -> torch.Tensor:
        """Items of axis 0 in the order given."""
        group = self._groups.get(name)
        if group is None:
            return self._source.read_index(name, index)
        return self._rows(group, np.asarray(index, dtype=np.int64).reshape(-1))

    def _rows(self, group: Group, index: np.ndarray[Any, np.dtype[np.int64]]) -> torch.Tensor:
        try:
            return group.rows(self._source, index)
        except (IndexError, RuntimeError, ZeroDivisionError) as error:  # sizes come from strangers and must not clash
            shapes = (f"{member} {list(self._source.tensors[member].shape)}" for member in group.members)
            expected = f"{group.label} of shape {list(group.shape)}"
            raise misfit(self._source, group.members[0], "; ".join(shapes), expected) from error


def unpacked(source: TensorSource) -> TensorSource:
    """The source itself where nothing is packed; else one that shows packed groups as matrices.

    Raises:
        InputError: the file is packed in a way that is not read; names the tensor and the way.
        MalformedFile: the tensors of a group do not fit each other.
    """
    groups: dict[str, Group] = {}
    for name in source.tensors:
        packing = next((way for end, way in UNREAD.items() if name.endswith(end)), None)
        if packing is not None:
            raise InputError(
                "the weights are packed in a way that is not read",
                where=f"{getattr(source, 'location', 'checkpoint')}: tensor {name!r}",
                got=packing,
                expected="GGUF, GPTQ, AWQ, bitsandbytes, compressed-tensors, MLX, MXFP4, NVFP4, or weights as they are",
                fix="name the model that it was made from, or a GGUF of it",
            )
        found = _group_at(source, name)
        if found is not None:
            groups[found[0]] = found[1]
    return Unpacked(source, groups) if groups else source


def stored_tensors(source: TensorSource, names: Iterable[str]) -> tuple[str, ...]:
    """The tensors of a file in which the tensors of these names lie, as `unpacked` names them."""
    seen = unpacked(source)
    return tuple(member for name in names for member in (seen.members(name) if isinstance(seen, Unpacked) else (name,)))


def _group_at(source: TensorSource, name: str) -> tuple[str, Group] | None:
    """The matrix that a stored tensor is the main part of, by the name it had; None for all other tensors."""
    stem, dot, last = name.rpartition(".")
    base = stem + dot
    if last == "qweight":
        return _int_columns(source, base, name)
    if last == "weight_packed":
        return _packed_rows(source, base, name)
    if last in ("weight_v", "original1"):
        return _lengths_apart(source, base, name)
    if last == "blocks" and f"{base}scales" in source.tensors:
        return _microscaled(source, stem, name, f"{base}scales")
    if last.endswith("_blocks") and name.removesuffix("_blocks") + "_scales" in source.tensors:
        return _microscaled(source, name.removesuffix("_blocks"), name, name.removesuffix("_blocks") + "_scales")
    return _plain_name(source, base, name) if last == "weight" else None


def _has(source: TensorSource, name: str, rank: int | None = None) -> bool:
    info = source.tensors.get(name)
    return info is not None and (rank is None or len(info.shape) == rank)


def _misfit(source: TensorSource, name: str, expected: str) -> MalformedFile:
    return misfit(source, name, f"shape {tuple(source.tensors[name].shape)}", expected)


def _int_columns(source: TensorSource, base: str, name: str) -> tuple[str, Group] | None:
    """GPTQ (words run down the columns) or AWQ (along the rows), told apart by the shape of the scales."""
    zeros, scales, order = f"{base}qzeros", f"{base}scales", f"{base}g_idx"
    if not (_has(source, name, rank=2) and _has(source, scales, rank=2)):
        return None
    words, (groups, rows) = tuple(source.tensors[name].shape), tuple(source.tensors[scales].shape)
    z_shape = tuple(source.tensors[zeros].shape) if _has(source, zeros, rank=2) else (0, 0)
    if not rows:
        raise _misfit(source, name, "words beside scales [groups, rows], and rows")
    down = words[1] == rows
    if down and z_shape[1]:
        bits = 32 * z_shape[1] // rows
    elif not down and words[1]:
        bits = 32 * words[1] // rows
    else:
        bits = 4
    cols = 32 * words[0] // bits if down and bits else words[0]
    if bits not in (2, 3, 4, 8) or not groups or (not down and bits != 4) or z_shape[0] not in (0, groups):
        raise _misfit(source, name, "words of 2, 3, 4 or 8 bits beside scales [groups, rows]")
    quantization = (source.config or {}).get("quantization_config")
    second = isinstance(quantization, Mapping) and quantization.get("checkpoint_format") == "gptq_v2"
    has_order = down and _has(source, order, rank=1) and tuple(source.tensors[order].shape) == (cols,)
    return f"{base}weight", AffineColumns(
        f"{'GPTQ' if down else 'AWQ'} {bits}", (rows, cols), name, zeros if z_shape[0] else None, scales,
        order if has_order else None, bits, down=down, zero_offset=1 if down and not second else 0,
    )  # fmt: skip


def _packed_rows(source: TensorSource, base: str, name: str) -> tuple[str, Group] | None:
    """compressed-tensors: whole numbers of few bits, or four-bit floats with fp8 scales."""
    scale = f"{base}weight_scale"
    if not (_has(source, name, rank=2) and _has(source, scale)):
        return None
    rows, words = source.tensors[name].shape
    if source.tensors[name].dtype in ("U8", "torch.uint8"):
        return f"{base}weight", FourBitFloats(
            "NVFP4", (rows, 2 * words), name, scale, _first(source, f"{base}weight_global_scale"), divide=True
        )
    shape = f"{base}weight_shape"
    stored = source.read(shape).reshape(-1).tolist() if _has(source, shape, rank=1) else []
    cols = int(stored[-1]) if stored else 8 * words
    bits = next((n for n in (4, 8, 2, 3) if cols and -(-cols // (32 // n)) == words), 0)
    if not bits:
        raise _misfit(source, name, f"{cols} columns of 2, 3, 4 or 8 bits")
    zero, order = _first(source, f"{base}weight_zero_point"), _first(source, f"{base}weight_g_idx")
    if zero is not None and not _has(source, zero, rank=2):
        raise _misfit(source, zero, "zero points [rows, groups]")
    return f"{base}weight", AffineRows(
        f"INT{bits}", (rows, cols), name, scale, zero, order, bits, biased=False, size=_first(source, shape)
    )


def _lengths_apart(source: TensorSource, base: str, name: str) -> tuple[str, Group] | None:
    """A matrix under weight normalization, in either spelling of torch."""
    new = base.endswith(".parametrizations.weight.")
    lengths = f"{base}original0" if new else f"{base}weight_g"
    info = source.tensors[name]
    shape = tuple(info.shape)
    if len(shape) != 2 or not _has(source, lengths) or tuple(source.tensors[lengths].shape) != (shape[0], 1):
        return None
    stem = base.removesuffix("parametrizations.weight.") if new else base
    return f"{stem}weight", LengthsApart(str(info.dtype), shape, name, lengths)


def _first(source: TensorSource, name: str) -> str | None:
    return name if _has(source, name) else None


def _microscaled(source: TensorSource, stem: str, name: str, scales: str) -> tuple[str, Group] | None:
    shape = tuple(source.tensors[name].shape)
    if len(shape) < 3 or shape[-1] != 16 or tuple(source.tensors[scales].shape) != shape[:-1]:
        return None
    return stem, FourBitFloats("MXFP4", (*shape[:-2], 32 * shape[-2]), name, scales, None, divide=False)


def _plain_name(source: TensorSource, base: str, name: str) -> tuple[str, Group] | None:
    """Packings that keep the name "weight": bitsandbytes, MLX, Model Optimizer."""
    shape, dtype = tuple(source.tensors[name].shape), source.tensors[name].dtype.removeprefix("torch.").upper()
    if dtype in ("U32", "UINT32") and len(shape) == 2 and _has(source, f"{base}scales", rank=2):
        return _grouped_words(source, base, name)
    if dtype in ("U8", "UINT8"):
        state = next((n for n in source.tensors if n.startswith(f"{name}.quant_state.")), None)
        if state is not None and _has(source, f"{name}.absmax") and _has(source, f"{name}.quant_map"):
            facts = read_state(source, state)
            return name, Codebook(source, name, state, facts)
        if len(shape) == 2 and _has(source, f"{base}weight_scale_2"):
            return name, FourBitFloats(
                "NVFP4", (shape[0], 2 * shape[1]), name, f"{base}weight_scale", f"{base}weight_scale_2", divide=False
            )
    if dtype in ("I8", "INT8") and len(shape) == 2 and _has(source, f"{base}SCB"):
        return name, ScaledRows("INT8", (shape[0], shape[1]), name, f"{base}SCB", 1 / 127)
    return None


def _grouped_words(source: TensorSource, base: str, name: str) -> tuple[str, Group]:
    rows, words = source.tensors[name].shape
    groups = source.tensors[f"{base}scales"].shape[1]
    if source.tensors[f"{base}scales"].dtype in ("U8", "torch.uint8"):
        return name, FourBitFloats("MXFP4", (rows, 8 * words), name, f"{base}scales", None, divide=False)
    settings = (source.config or {}).get("quantization")
    settings = settings if isinstance(settings, Mapping) else {}
    own = settings.get(base.removesuffix("."))
    own = own if isinstance(own, Mapping) else settings
    bits, size = own.get("bits", 4), own.get("group_size", 64)
    if type(bits) is not int or type(size) is not int or bits not in (2, 3, 4, 5, 6, 8):
        raise _misfit(source, name, "2, 3, 4, 5, 6 or 8 bits and a group size, as config.json's `quantization` says")
    if groups * size * bits != 32 * words:
        raise _misfit(source, name, f"{groups} groups of {size} numbers of {bits} bits")
    bias = _first(source, f"{base}biases")
    label = f"MLX {bits}"
    return name, AffineRows(label, (rows, groups * size), name, f"{base}scales", bias, None, bits, biased=True)
