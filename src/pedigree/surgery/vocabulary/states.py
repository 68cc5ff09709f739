"""What enters the output head on average: one forward pass of the old model over a text, where it fits in memory.

Shapes  B = windows at a time, T = tokens of a window, d = width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from pedigree.model.decoder import Decoder

MOST_BYTES = 6 << 30
"""Models with more bytes of weights are not run for a mean."""
MOST_TOKENS = 1 << 16
WINDOW, BATCH = 256, 8


def windows(documents: Sequence[npt.NDArray[np.int64]], length: int = WINDOW) -> npt.NDArray[np.int64]:
    """Documents one after the other, cut into windows of one length; int64 [N, T], the rest of the last is left out."""
    flat = np.concatenate([*documents, np.zeros(0, np.int64)]).astype(np.int64)[:MOST_TOKENS]
    if len(flat) < length:
        return flat.reshape(1, -1) if len(flat) else np.zeros((0, length), np.int64)
    return flat[: len(flat) // length * length].reshape(-1, length)


def mean_state(model: Decoder, documents: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
    """The mean of the normalized states over all places, float32 [d]; zeros without text."""
    import torch

    sum_d = torch.zeros(model.config.d_model, dtype=torch.float64)
    tokens_NT = torch.from_numpy(windows(documents))
    with torch.no_grad():
        for start in range(0, len(tokens_NT), BATCH):
            batch_BT = tokens_NT[start : start + BATCH]
            sum_d += model.states(batch_BT).double().sum((0, 1))
    return (sum_d / max(1, tokens_NT.numel())).float()
