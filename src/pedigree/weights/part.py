"""Part: one role of one layer, read in canonical orientation from wherever it is stored.

A part is a row-wise concatenation of pieces. A piece says which rows of which stored tensor it takes, after the
stored tensor has been brought to [out, in]. That is enough to read any part of it, and to write it back.

Rules
- Canonical shapes: matrices [out, in], embeddings [vocabulary, d], gains and biases [n].
- Where storage allows it only the rows asked for are read; transposed storage is read whole (or, when columns are
  asked for, by those columns, which are its rows).
- `read` gives float32; `read_native` gives the stored numbers, uncast, for the comparison of bits.

Shapes: R = canonical rows, C = canonical columns, G = items of axis 0 in storage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pedigree.errors import UsageError
from pedigree.weights.layout import Rows
from pedigree.weights.roles import Axis

if TYPE_CHECKING:
    import torch

Selection = slice | Sequence[int] | None


class StoredTensor(Protocol):
    """What a part needs to know about a stored tensor."""

    @property
    def dtype(self) -> str:
        """Storage type, e.g. "BF16"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Stored shape."""


class TensorSource(Protocol):
    """What a part needs from a checkpoint; `pedigree.weights.checkpoint.Checkpoint` is one."""

    @property
    def tensors(self) -> Mapping[str, Any]:
        """Name, dtype and shape of every stored tensor (values like `StoredTensor`)."""

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The parsed config.json, None where there is none."""

    def read(self, name: str) -> torch.Tensor:
        """A whole tensor in its native dtype."""

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Items start..stop of axis 0."""

    def read_index(self, name: str, index: Sequence[int]) -> torch.Tensor:
        """Items of axis 0 in the order given."""


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """Some rows of a stored tensor, after it has been oriented [out, in].

    Orientation: an axis 0 of experts is entered at `lead`; `swapped` (stored [heads, in, head dimension]) exchanges
    the last two axes; leading axes are then merged into rows (all axes, for a `vector`), or trailing axes into columns
    (`tail`); `transposed` exchanges rows and columns at the end.
    Canonical row j of the piece is oriented row `order[j]`, or `start + j` where `order` is None.
    """

    source: str
    stored: tuple[int, ...]
    start: int
    stop: int
    order: Rows | None = None
    lead: int | None = None
    swapped: bool = False
    transposed: bool = False
    vector: bool = False
    tail: bool = False
    scale: str | None = None
    scale_block: tuple[int, int] | None = None

    @property
    def n_rows(self) -> int:
        """Canonical rows in this piece."""
        return self.stop - self.start if self.order is None else len(self.order)

    @property
    def row_contiguous(self) -> bool:
        """Whether a range of canonical rows is one range of stored bytes."""
        return self.order is None and not self.transposed and not self.swapped and self.rows_per_item == 1

    @property
    def rows_per_item(self) -> int:
        """Oriented rows in one item of the stored axis 0 (1 but for merged axes)."""
        if self.tail:
            return 1
        return math.prod(self.stored[1:] if self.vector else self.stored[1:-1])

    @property
    def stored_cols(self) -> int:
        """Columns after leading axes have been merged into rows (or trailing ones into columns), before any turn."""
        return math.prod(self.stored[1:]) if self.tail else self.stored[-1]

    def oriented_rows(self, rows: Rows) -> Rows:
        """Oriented row numbers of canonical rows of this piece."""
        return rows + self.start if self.order is None else self.order[rows]


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """One role of one layer (and expert) of a model.

    Attributes:
        role: the role's name, e.g. "attn.q".
        layer: layer number, None outside the layers; for "mtp." roles the number of the prediction layer.
        expert: expert number, None outside the experts.
        shape: canonical shape.
        axes: the space of each canonical axis and its part there.
        dtype: dtype of the first stored tensor, e.g. "BF16".
        pieces: where the rows are stored, in canonical order.
    """

    role: str
    layer: int | None
    expert: int | None
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    dtype: str
    pieces: tuple[Piece, ...]
    checkpoint: TensorSource = field(repr=False)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the stored tensors the part is read from, each once, in canonical order."""
        return tuple(dict.fromkeys(piece.source for piece in self.pieces))

    @property
    def row_contiguous(self) -> bool:
        """Whether a range of canonical rows is one range of stored bytes."""
        return len(self.pieces) == 1 and self.pieces[0].row_contiguous

    @property
    def turned(self) -> bool:
        """Whether canonical columns are what stands in a row of the file."""
        return any(piece.transposed for piece in self.pieces)

    def read(self, rows: Selection = None, cols: Selection = None) -> torch.Tensor:
        """The part as float32, canonical orientation.

        Args:
            rows: which rows: None (all), a slice, or row numbers in any order, duplicates allowed.
            cols: which columns, selected after the read; None for vectors.

        Returns:
            float32 [R, C], or [R] for gains and biases.

        Raises:
            UsageError: a row or column number lies outside the part.
        """
        import torch

        return self._read(rows, cols, scaled=True).to(torch.float32)

    def read_native(self, rows: Selection = None, cols: Selection = None) -> torch.Tensor:
        """The stored numbers without any cast or scale, canonical orientation; arguments as for `read`."""
        return self._read(rows, cols, scaled=False)

    def _read(self, rows: Selection, cols: Selection, *, scaled: bool) -> torch.Tensor:
        import torch

        row_list = _selected(rows, self.shape[0], f"rows of {self.role}")
        if len(self.shape) == 1 and cols is not None:
            raise UsageError("A vector has no columns to choose", where=self.role, got=cols)
        col_list = None if cols is None else _selected(cols, self.shape[1], f"columns of {self.role}")
        blocks: list[torch.Tensor] = []
        places: list[Rows] = []
        begin = 0
        for piece in self.pieces:
            end = begin + piece.n_rows
            if row_list is None:
                inside, place = np.arange(piece.n_rows, dtype=np.int64), None
            else:
                place = np.flatnonzero((row_list >= begin) & (row_list < end))
                inside = row_list[place] - begin
            if len(inside) or (len(self.pieces) == 1):
                blocks.append(fetch(self.checkpoint, piece, inside, col_list, scaled=scaled))
                if place is not None:
                    places.append(place)
            begin = end
        if not blocks:
            return fetch(self.checkpoint, self.pieces[0], np.empty(0, dtype=np.int64), col_list, scaled=scaled)
        merged = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        if len(blocks) > 1 and places:
            back = np.argsort(np.concatenate(places), kind="stable")
            merged = merged[torch.from_numpy(back)]
        return merged


def fetch(source: TensorSource, piece: Piece, rows: Rows, cols: Rows | None, *, scaled: bool) -> torch.Tensor:
    """Canonical rows (and columns) of one piece, reading as little as the storage allows.

    Args:
        source: the checkpoint.
        piece: where the rows are.
        rows: canonical row numbers inside the piece.
        cols: canonical column numbers, or None for all.
        scaled: whether block scales of 8-bit storage are multiplied in.
    """
    wanted = piece.oriented_rows(rows)
    if piece.transposed or piece.swapped:
        block = _read_turned(source, piece, wanted, cols)
    else:
        block = _read_straight(source, piece, wanted)
        if cols is not None:
            block = block[:, _as_index(cols)]
    if scaled and piece.scale is not None:
        block = _scale(source, piece, block, wanted, cols)
    return block


def _read_straight(source: TensorSource, piece: Piece, wanted: Rows) -> torch.Tensor:
    """Rows of a tensor whose leading axes merge into rows; reads whole items of axis 0 where it has three axes."""
    per_item = piece.rows_per_item
    items = wanted if per_item == 1 else np.unique(wanted // per_item)
    block = _read_items(source, piece, items)
    block = block.reshape(-1) if piece.vector else block.reshape(len(items) * per_item, piece.stored_cols)
    if per_item == 1:
        return block
    position = np.searchsorted(items, wanted // per_item) * per_item + wanted % per_item
    if len(position) == block.shape[0] and _is_range(position):
        return block
    return block[_as_index(position)]


def _read_items(source: TensorSource, piece: Piece, items: Rows) -> torch.Tensor:
    """Items of axis 0, by the cheapest call the checkpoint has for them."""
    if len(items) == 0:
        return source.read_rows(piece.source, 0, 0)
    if _is_range(items):
        first, last = int(items[0]), int(items[-1]) + 1
        if first == 0 and last == piece.stored[0]:
            return source.read(piece.source)
        return source.read_rows(piece.source, first, last)
    return source.read_index(piece.source, items.tolist())


def _read_turned(source: TensorSource, piece: Piece, wanted: Rows, cols: Rows | None) -> torch.Tensor:
    """Rows of a tensor that has to be turned first."""
    if piece.lead is None and not piece.swapped and len(piece.stored) == 2 and cols is not None:
        stored = _read_items(source, piece, cols)
        return stored[:, _as_index(wanted)].T.contiguous()
    if piece.lead is not None:
        stored = source.read_rows(piece.source, piece.lead, piece.lead + 1)[0]
    else:
        stored = source.read(piece.source)
    if piece.swapped:
        stored = stored.transpose(-1, -2)
    matrix = stored.reshape(-1, stored.shape[-1])
    if piece.transposed:
        matrix = matrix.T
    picked = matrix if len(wanted) == matrix.shape[0] and _is_range(wanted) else matrix[_as_index(wanted)]
    return (picked if cols is None else picked[:, _as_index(cols)]).contiguous()


def _scale(source: TensorSource, piece: Piece, block: torch.Tensor, rows: Rows, cols: Rows | None) -> torch.Tensor:
    """Multiply stored 8-bit numbers by the scale of their block (rows of the scale tensor cover `scale_block`)."""
    import torch

    if piece.scale is None or piece.scale_block is None:
        return block
    scale = source.read(piece.scale).to(torch.float32)
    scale = scale.reshape(scale.shape[0], -1) if scale.ndim else scale.reshape(1, 1)
    columns = np.arange(piece.stored[-1], dtype=np.int64) if cols is None else cols
    by_row = scale[_as_index(np.minimum(rows // piece.scale_block[0], scale.shape[0] - 1))]
    by_col = by_row[:, _as_index(np.minimum(columns // piece.scale_block[1], scale.shape[1] - 1))]
    return block.to(torch.float32) * by_col


def _is_range(rows: Rows) -> bool:
    return len(rows) > 0 and int(rows[-1]) - int(rows[0]) + 1 == len(rows) and bool(np.all(np.diff(rows) == 1))


def _as_index(rows: Rows) -> Any:
    import torch

    return torch.from_numpy(np.array(rows, dtype=np.int64))


def _selected(selection: Selection, size: int, where: str) -> Rows | None:
    """Row numbers of a selection; None stays None."""
    if selection is None:
        return None
    if isinstance(selection, slice):
        return np.arange(*selection.indices(size), dtype=np.int64)
    chosen = np.asarray(selection, dtype=np.int64).reshape(-1)
    if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= size):
        raise UsageError(
            "A selection lies outside the part",
            where=where,
            got=f"{int(chosen.min())}..{int(chosen.max())}",
            expected=f"0..{size - 1}",
        )
    return chosen
