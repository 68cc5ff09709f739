"""A model without another one's part: tensors minus a share of those of the same name, read as from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.contents import Contents
from pedigree.weights.number_types import WIDE_FLOATS

if TYPE_CHECKING:
    import torch


class Remainder(Checkpoint):
    """What another model does not explain. Nothing is written or held: rows of both are read when rows are asked for.

    Args:
        whole: the model. Tensors without a share are its own; so are config, meter and side files.
        other: the model that is taken out. It stays open as long as this one is read, and pays for its own bytes.
        shares: by tensor, how much of the other is taken out; see `can_be_taken_out` for the tensors that may stand
            here.
    """

    def __init__(self, whole: Checkpoint, other: Checkpoint, shares: Mapping[str, float]) -> None:
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
        return self._less(name, mine, self._other.read_index(name, index)) if name in self._shares else mine

    def _less(self, name: str, mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        return mine.float() - self._shares[name] * theirs.float()


def can_be_taken_out(whole: Checkpoint, other: Checkpoint) -> list[str]:
    """Tensors of two or more axes, of floating numbers, that both models have under one name and of one shape."""
    return [
        name
        for name, info in whole.tensors.items()
        if len(info.shape) > 1
        and info.dtype in WIDE_FLOATS
        and (there := other.tensors.get(name)) is not None
        and there.shape == info.shape
        and there.dtype in WIDE_FLOATS
        and all(model.extent(name).row_bytes for model in (whole, other))
    ]
