"""One side of a comparison: a checkpoint with its anatomy, its vocabulary and the layers read so far."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from pedigree.forensics.sides.linear import row_weights
from pedigree.forensics.sides.sampling import Sample
from pedigree.forensics.sides.streamed_units import blocks, stream_units
from pedigree.forensics.sides.views import LayerView, UnitKind, UnitSet, read_ffn_rows, read_layer, read_units
from pedigree.tokenizers.vocabulary import Vocabulary, read_vocabulary
from pedigree.weights.anatomy import Anatomy, read_anatomy
from pedigree.weights.checkpoint import Checkpoint

T = TypeVar("T")

WIDEST_KEPT = 4096
"""Width up to which layers that were read whole are kept while frames are tried."""

LAYERS_AHEAD = 12
"""Layers, or parts, that are read at the same time where they lie behind a network."""


_ATTENTION: tuple[UnitKind, ...] = ("vo", "qk")

BLANK_ROWS = 16
"""Rows of a projection that are looked at first for a number that is not zero."""


class Side:
    """A model under comparison.

    Layers are read once and kept in canonical form; a lock per layer lets several threads read different layers. Of a
    large model that is read whole nothing is kept: feed-forward units are streamed, and attention is that of the layer
    that was asked for last, of one kind at a time.
    """

    def __init__(self, checkpoint: Checkpoint, sample: Sample, anatomy: Anatomy, vocabulary: Vocabulary | None) -> None:
        self.checkpoint = checkpoint
        self.sample = sample
        self.anatomy = anatomy
        self.vocabulary = vocabulary
        self._views: dict[int, LayerView] = {}
        self._whole: dict[tuple[UnitKind, int], UnitSet | None] = {}
        self._means: dict[tuple[UnitKind, int, str], Tensor] = {}
        self._last: tuple[UnitKind, int, UnitSet | None] | None = None
        self._reader: str | None = None
        self._lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(self.anatomy.n_layers)]

    @classmethod
    def read(cls, checkpoint: Checkpoint, sample: Sample, beside: Vocabulary | None = None) -> Side:
        """A side with its anatomy and vocabulary read from the checkpoint; `beside` is that of the other side, which
        need not be parsed twice."""
        return cls(checkpoint, sample, read_anatomy(checkpoint), read_vocabulary(checkpoint, beside))

    def beside(self, other: Side) -> Side:
        """The same model, cut into heads as the other one where its own file does not tell, and the other's does; that
        changes no number, and a foreign cut finds nothing."""
        if not self.anatomy.assumes_heads or other.anatomy.assumes_heads or other.anatomy.head_dim is None:
            return self
        anatomy = read_anatomy(self.checkpoint, other.anatomy.head_dim)
        return Side(self.checkpoint, self.sample, anatomy, self.vocabulary)

    def at(self, sample: Sample) -> Side:
        """The same model under another sample; anatomy and vocabulary are not read again."""
        return Side(self.checkpoint, sample, self.anatomy, self.vocabulary)

    @property
    def number_type(self) -> str:
        """Number type that holds most of the numbers of the layers; of all tensors where no layers are known.

        Programs that quantize leave tables of vocabulary rows as they are, which are half of a small model.
        """
        sizes: Counter[str] = Counter()
        for part in self.anatomy.parts():
            if part.layer is not None:
                sizes[part.dtype] += max(1, math.prod(part.shape))
        for info in self.checkpoint.tensors.values() if not sizes else ():
            sizes[info.dtype] += max(1, math.prod(info.shape))
        return sizes.most_common(1)[0][0] if sizes else "none"

    @property
    def width(self) -> int:
        """Residual width; 0 where it could not be told."""
        return self.anatomy.d_model or 0

    @property
    def is_remote(self) -> bool:
        """Whether the model lies behind a network."""
        return "://" in str(self.checkpoint.location)

    @property
    def vocabulary_rows(self) -> int:
        """Rows of the embedding table; 0 where there is none."""
        return self.anatomy.vocab_size or 0

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.anatomy.n_layers

    @property
    def reader(self) -> str | None:
        """The projection by which gated units are taken for plain ones; None where they are what they are."""
        return self._reader

    def read_units_by(self, reader: str) -> None:
        """Take gated feed-forward units for plain ones from now on, which read the stream by "gate" or by "up"."""
        self._reader = reader
        self._means.clear()

    def _as_read(self, units: UnitSet | None) -> UnitSet | None:
        if units is None or self._reader is None or units.kind != "ffn" or "gate" not in units.names:
            return units
        return units.read_by(self._reader)

    def _view_as_read(self, view: LayerView) -> LayerView:
        ffn = None if self._reader is None else self._as_read(view.units.get("ffn"))
        return view if ffn is None else LayerView(view.layer, {**view.units, "ffn": ffn})

    @property
    def is_blank(self) -> bool:
        """Whether no unit that can be read holds a number: all of them are zero, or not finite and read as zero."""
        first = torch.arange(BLANK_ROWS)
        for number in range(self.n_layers):
            for kind in ("ffn", *_ATTENTION):
                units = self.units(kind, number)
                if units is not None and units.count:
                    names, some = units.names, first[: units.count]
                    if any(bool(units.rows(name, some).any()) for name in names):
                        return False
                    if any(bool(units.rows(name).any()) for name in names):
                        return False
        return True

    def layer(self, number: int) -> LayerView:
        """Units of one layer, read on first use."""
        with self._locks[number]:
            if number not in self._views:
                self._views[number] = read_layer(self.anatomy, number, self.sample)
            return self._view_as_read(self._views[number])

    def units(self, kind: UnitKind, number: int) -> UnitSet | None:
        """Units of one kind of a layer, None where it has none; streamed where the sample says so."""
        if not self.sample.streamed:
            return self.layer(number).units.get(kind)
        if kind == "ffn":
            return self._as_read(stream_units(self.anatomy, number, self.sample))
        with self._lock:
            if self._last is None or self._last[:2] != (kind, number):
                self._last = None  # one goes before the other comes
                self._last = (kind, number, read_units(self.anatomy, number, kind, self.sample))
            return self._last[2]

    def mean_unit(self, units: UnitSet, number: int, name: str) -> Tensor:
        """The mean row of a projection of a layer, [D], worked out once (`linear.mean_row`); empty units count as
        zeros."""
        key = (units.kind, number, name)
        if key not in self._means:
            total_D, lengths = torch.zeros(units.width), []
            for pick_K in blocks(units.count, units.width):
                rows_KD = units.rows(name, pick_K)
                total_D += rows_KD.sum(dim=0)
                lengths.append(rows_KD.norm(dim=1))
            weight_U = row_weights(torch.cat(lengths)) if lengths else None
            if weight_U is None:
                self._means[key] = total_D / max(1, units.count)
            else:  # a second walk, for models in which some rows are far longer than others
                picks = blocks(units.count, units.width)
                parts = [weight_U[pick_K] @ units.rows(name, pick_K) for pick_K in picks]
                self._means[key] = torch.stack(parts).sum(dim=0) / weight_U.sum()
        return self._means[key]

    def whole_units(self, kind: UnitKind, number: int) -> UnitSet | None:
        """Units of one kind of a layer, most of them where the sample takes few, without what is stored as columns."""
        with self._locks[number]:
            if (kind, number) in self._whole:
                return self._as_read(self._whole[kind, number])
            units = read_units(self.anatomy, number, kind, self.sample.all_units())
            # Those that every frame is tried on stay; a layer that is looked at once more is read once more.
            if number in self.sample.whole_layers(self.n_layers) and self.width <= WIDEST_KEPT:
                self._whole[kind, number] = units
            return self._as_read(units)

    def ffn_rows(self, number: int, names: Sequence[str], index_K: Tensor, label_K: Tensor) -> list[Tensor]:
        """Given feed-forward units of a layer as they are read by, see `views.read_ffn_rows`."""
        stored = [self._reader if self._reader is not None and name == "up" else name for name in names]
        return read_ffn_rows(self.anatomy, number, stored, index_K, label_K)

    def forget_whole_units(self) -> None:
        """Let go of layers that were read whole, once the frame and the layer map are found."""
        self._whole.clear()

    def each_layer(self) -> Iterator[LayerView]:
        """Units of one layer after the other; of a streamed model those of the one before are let go."""
        for number in range(self.n_layers):
            if not self.sample.streamed:
                yield self.layer(number)
                continue
            found: dict[UnitKind, UnitSet | None] = {"ffn": self.units("ffn", number)}
            for kind in _ATTENTION:
                found[kind] = read_units(self.anatomy, number, kind, self.sample)
            yield LayerView(number, {kind: units for kind, units in found.items() if units is not None})

    def layers(self) -> list[LayerView]:
        """Units of all layers."""
        return map_in_order(self.layer, range(self.n_layers))


def map_in_order(function: Callable[[int], T], items: Iterable[int]) -> list[T]:
    """Apply a function to numbers on all cores; results in the order of the items.

    Each call runs single-threaded (see `single_thread`), so results do not depend on the number of cores.
    """
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_interop_threads())) as pool:
        return list(pool.map(function, items))
