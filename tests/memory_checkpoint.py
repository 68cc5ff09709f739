"""A checkpoint in memory, for tests of what reads checkpoints: names, shapes, tensors, and how much was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float8_e4m3fn: "F8_E4M3"}


@dataclass(frozen=True)
class Info:
    """Name, dtype and shape of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class MemoryCheckpoint:
    """Tensors in memory behind the interface of a checkpoint."""

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.stored = {name: tensors[name].detach() for name in sorted(tensors)}
        self.tensors = {
            name: Info(name, DTYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
            for name, tensor in self.stored.items()
        }
        self.config = config
        self.files = dict(files or {})
        self.metadata = dict(metadata or {})
        self.location = "memory"
        self.numbers_read = 0

    def read(self, name: str) -> torch.Tensor:
        return self._count(self.stored[name])

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        assert 0 <= start <= stop <= self.stored[name].shape[0]
        return self._count(self.stored[name][start:stop])

    def read_index(self, name: str, index: Sequence[int]) -> torch.Tensor:
        return self._count(self.stored[name][torch.tensor(list(index), dtype=torch.long)])

    def sibling_bytes(self, filename: str, max_bytes: int) -> bytes | None:
        return self.files.get(filename)

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        self.numbers_read += tensor.numel()
        return tensor.clone()
