"""A training loop of a dozen lines, as nanoGPT has it: random windows, AdamW, clipping, no guard, no records."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def plain_steps(
    model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], ids: np.ndarray, batch: int, length: int
) -> Callable[[], float]:
    """A function that takes one step and gives its seconds.

    Args:
        model: what is trained.
        loss_of: mean cross entropy of tokens and targets.
        ids: flat token ids.
        batch, length: sequences in a step, tokens in a sequence.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    generator = np.random.default_rng(0)

    def step() -> float:
        begin = time.perf_counter()
        starts = generator.integers(0, len(ids) - length - 1, size=batch)
        window = torch.from_numpy(np.stack([ids[s : s + length + 1] for s in starts]).astype(np.int64))
        loss = loss_of(window[:, :-1].contiguous(), window[:, 1:].contiguous())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return time.perf_counter() - begin

    return step
