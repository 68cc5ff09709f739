"""One side of a comparison: a checkpoint with its anatomy, its vocabulary and the layers read so far."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from pedigree.forensics.sampling import Sample
from pedigree.forensics.views import LayerView, UnitKind, UnitSet, read_layer, read_units
from pedigree.tokenizers.vocabulary import Vocabulary, read_vocabulary
from pedigree.weights.anatomy import Anatomy, read_anatomy
from pedigree.weights.checkpoint import Checkpoint

T = TypeVar("T")

LAYERS_AHEAD = 12
"""Layers, or parts, that are read at the same time where they lie behind a network."""


class Side:
    """A model under comparison.

    Layers are read once and kept in canonical form; a lock per layer lets several threads read different layers.
    """

    def __init__(self, checkpoint: Checkpoint, sample: Sample, anatomy: Anatomy, vocabulary: Vocabulary | None) -> None:
        self.checkpoint = checkpoint
        self.sample = sample
        self.anatomy = anatomy
        self.vocabulary = vocabulary
        self._views: dict[int, LayerView] = {}
        self._whole: dict[tuple[UnitKind, int], UnitSet | None] = {}
        self._locks = [threading.Lock() for _ in range(self.anatomy.n_layers)]

    @classmethod
    def read(cls, checkpoint: Checkpoint, sample: Sample) -> Side:
        """A side with its anatomy and vocabulary read from the checkpoint."""
        return cls(checkpoint, sample, read_anatomy(checkpoint), read_vocabulary(checkpoint))

    def at(self, sample: Sample) -> Side:
        """The same model under another sample; anatomy and vocabulary are not read again."""
        return Side(self.checkpoint, sample, self.anatomy, self.vocabulary)

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

    def layer(self, number: int) -> LayerView:
        """Units of one layer, read on first use."""
        with self._locks[number]:
            if number not in self._views:
                self._views[number] = read_layer(self.anatomy, number, self.sample)
            return self._views[number]

    def whole_units(self, kind: UnitKind, number: int) -> UnitSet | None:
        """Units of one kind of a layer, most of them where the sample takes few, without what is stored as columns."""
        with self._locks[number]:
            if (kind, number) not in self._whole:
                self._whole[kind, number] = read_units(self.anatomy, number, kind, self.sample.all_units())
            return self._whole[kind, number]

    def forget_whole_units(self) -> None:
        """Let go of layers that were read whole, once the frame and the layer map are found."""
        self._whole.clear()

    def layers(self) -> list[LayerView]:
        """Units of all layers."""
        return map_in_order(self.layer, range(self.n_layers))


def map_in_order(function: Callable[[int], T], items: Iterable[int]) -> list[T]:
    """Apply a function to numbers on all cores; results in the order of the items.

    Each call runs single-threaded (see `single_thread`), so results do not depend on the number of cores.
    """
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_interop_threads())) as pool:
        return list(pool.map(function, items))
