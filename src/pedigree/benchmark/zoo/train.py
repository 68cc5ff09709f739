"""The training loop of the zoo: AdamW, warm-up and cosine, float32, one thread if the caller says so.

Law  the same start, data, seed and step count give the same weights on the same machine and thread count.

Shapes  B = sequences per batch, T = tokens per sequence, V = vocabulary
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

MASK_ID = 1
IGNORED = -100


@dataclass(frozen=True)
class Training:
    """How long and on what to train.

    Args:
        steps: optimizer steps.
        lr: peak learning rate; falls by a cosine to a tenth.
        part: part of the corpus.
        order: seed of the order in which batches are drawn.
        n_sequences, n_tokens: shape of a batch.
        warmup: steps of linear warm-up.
        frozen: regular expressions; parameters whose name one of them finds are not trained.
        masked: predict 15 percent masked tokens instead of the next one.
        stop: end after this many steps with the schedule of the full length (an intermediate checkpoint).
    """

    steps: int = 400
    lr: float = 3e-3
    part: int | str = 0
    order: int = 0
    n_sequences: int = 16
    n_tokens: int = 128
    warmup: int = 20
    frozen: tuple[str, ...] = ()
    masked: bool = False
    stop: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The settings as a JSON-ready mapping."""
        return asdict(self)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * done)))


def draw_batch(ids: np.ndarray, training: Training, step: int) -> torch.Tensor:
    """Batch number `step`: [B, T] ids cut at places that depend on `order` and `step` only."""
    import numpy as np
    import torch

    generator = np.random.default_rng([training.order, step])
    starts = generator.integers(0, len(ids) - training.n_tokens, size=training.n_sequences)
    return torch.from_numpy(np.stack([ids[start : start + training.n_tokens] for start in starts]))


def train(
    model: Any,
    ids: np.ndarray,
    training: Training,
    *,
    teacher: Any | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train a model in place.

    Args:
        model: a transformers model with a language-model head.
        ids: flat token ids.
        training: settings.
        teacher: when given, the loss is the divergence from the teacher's predictions instead of that from the text.
        progress: called with (steps done, loss) after each step.

    Returns:
        The loss of each step, in nats per token.
    """
    import torch

    names = [name for name, _ in model.named_parameters()]
    for name, parameter in zip(names, model.parameters(), strict=True):
        parameter.requires_grad_(not any(re.search(pattern, name) for pattern in training.frozen))
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=training.lr,
        betas=(0.9, 0.95),
        fused=True,
    )
    model.train()
    losses: list[float] = []
    for step in range(training.steps if training.stop is None else training.stop):
        for group in optimizer.param_groups:
            group["lr"] = training.rate(step)
        batch_BT = draw_batch(ids, training, step)
        loss = _distillation_loss(model, teacher, batch_BT) if teacher else _text_loss(model, batch_BT, training, step)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(matrices + vectors, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(step + 1, losses[-1])
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return losses


def _text_loss(model: Any, batch_BT: torch.Tensor, training: Training, step: int) -> torch.Tensor:
    import torch

    if not training.masked:
        loss: torch.Tensor = model(input_ids=batch_BT, labels=batch_BT).loss
        return loss
    generator = torch.Generator().manual_seed(training.order * 1_000_003 + step)
    masked_BT = torch.rand(batch_BT.shape, generator=generator) < 0.15
    inputs_BT = batch_BT.masked_fill(masked_BT, MASK_ID)
    labels_BT = batch_BT.masked_fill(~masked_BT, IGNORED)
    masked_loss: torch.Tensor = model(input_ids=inputs_BT, labels=labels_BT).loss
    return masked_loss


def _distillation_loss(model: Any, teacher: Any, batch_BT: torch.Tensor) -> torch.Tensor:
    import torch
    from torch.nn import functional

    with torch.no_grad():
        target_BTV = teacher(input_ids=batch_BT).logits.log_softmax(-1)
    output_BTV = model(input_ids=batch_BT).logits.log_softmax(-1)
    return functional.kl_div(output_BTV.flatten(0, 1), target_BTV.flatten(0, 1), log_target=True, reduction="batchmean")


def smoothed(losses: Sequence[float], n: int = 20) -> tuple[float, float]:
    """Mean of the first and of the last `n` losses."""
    n = min(n, len(losses))
    return (sum(losses[:n]) / n, sum(losses[-n:]) / n) if n else (0.0, 0.0)
