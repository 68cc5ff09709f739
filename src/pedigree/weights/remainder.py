"""A model without another one's part: tensors minus a share of the other's, read as from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.contents import Contents
from pedigree.weights.number_types import WIDE_FLOATS
from pedigree.weights.part import TensorSource

if TYPE_CHECKING:
    import torch


class Remainder(Checkpoint):
    """What another model does not explain. Nothing is written or held: rows of both are read when rows are asked for.

    Args:
        whole: the model. Tensors without a share are its own; so are config, meter and side files.
        other: what is taken out: another model, which stays open as long as this one is read and pays for its own
            bytes, or numbers that are laid out as in `whole`.
        shares: by tensor, how much of the other is taken out; see `can_be_taken_out` for the tensors that may stand
            here.
    """

    def __init__(self, whole: Checkpoint, other: TensorSource, shares: Mapping[str, float]) -> None:
        contents = Contents(whole.format, dict(whole._extents), dict(whole._file_bytes), whole.metadata)
        super().__init__(whole.location, whole._source, whole.meter, contents, whole.config)
        self._other, self._shares = other, dict(shares)

    def read(self, name: str) -> torch.Tensor:
        """A whole tensor, float32 where something was taken out; errors as for the model itself."""
        if name not in self._shares:
            return super().read(name)
        return self.read_rows(name, 0, self.tensors[name].shape[0])

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of axis 0, float32 where something was taken out; errors as for the model itself."""
        mine = super().read_rows(name, start, stop)
        return self._less(name, mine, self._other.read_rows(name, start, stop)) if name in self._shares else mine

    def read_index(self, name: str, index: Sequence[int] | npt.NDArray[np.int64] | torch.Tensor) -> torch.Tensor:
        """Rows of axis 0 in the order given, float32 where something was taken out; errors as for the model itself."""
        mine = super().read_index(name, index)
        if name not in self._shares:
            return mine
        return self._less(name, mine, self._other.read_index(name, [int(row) for row in index]))

    def _less(self, name: str, mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        return mine.float() - self._shares[name] * theirs.float()


def may_lose_a_part(whole: Checkpoint) -> list[str]:
    """Tensors of two or more axes, of floating numbers, whose rows can be read one by one."""
    return [
        name
        for name, info in whole.tensors.items()
        if len(info.shape) > 1 and info.dtype in WIDE_FLOATS and whole.extent(name).row_bytes
    ]


def can_be_taken_out(whole: Checkpoint, other: Checkpoint) -> list[str]:
    """Such tensors that the other model has, too, under the same name and in the same shape."""
    theirs = set(may_lose_a_part(other))
    return [n for n in may_lose_a_part(whole) if n in theirs and other.tensors[n].shape == whole.tensors[n].shape]
