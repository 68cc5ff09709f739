"""In which type a product is computed, where autocast does not decide it alone.

The meta device knows no autocast; a forward pass on it counts operations and allocates nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_WITHOUT_AUTOCAST = ("meta",)


def product_type(x: Tensor) -> torch.dtype:
    """The type in which autocast would multiply a tensor here; its own without autocast."""
    kind = x.device.type
    if kind in _WITHOUT_AUTOCAST or not torch.is_autocast_enabled(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A block in which types stay as they are written."""
    kind = x.device.type
    return nullcontext() if kind in _WITHOUT_AUTOCAST else torch.autocast(kind, enabled=False)
