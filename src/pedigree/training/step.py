"""One step: forward and backward over its parts, one look at the numbers, then the update or none.

Rules
1. The host waits for the device once in a step, for one small tensor with every number that is watched.
2. Gradient norms, clipping and unscaling run over all the weights at once (foreach), never weight by weight.
3. Random numbers of a step come from (seed, window, place on the data axis): no state of a generator has to be saved,
   and the ranks of a tensor group, which see the same tokens, drop the same numbers of the stream.

Shapes  B = sequences, T = tokens, P = weights (tensors), K = blocks and, last, everything outside them,
        L = sparse layers, E = experts
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from pedigree.training.batches import Batch
from pedigree.training.config import TrainingConfig
from pedigree.training.guard import Signals
from pedigree.training.interface import Trainable
from pedigree.training.optimizer import Optimizers
from pedigree.training.order import mix
from pedigree.training.precision import LossScaler, autocast, found_nonfinite
from pedigree.training.ranks import Ranks


class Stepper:
    """Takes the steps of a run.

    Args:
        model: what is trained.
        optimizers: its update rules.
        config: the run.
        device: where the model lies.
        ranks: who else takes part.
        forward: what is called instead of the model (a compiled one).
    """

    def __init__(
        self,
        model: Trainable,
        optimizers: Optimizers,
        config: TrainingConfig,
        device: torch.device,
        ranks: Ranks,
        forward: Trainable | None = None,
    ) -> None:
        self.model, self.optimizers, self.config = model, optimizers, config
        self.scaler = LossScaler(enabled=config.precision == "fp16")
        self._forward = model if forward is None else forward  # a compiled module has a length, and may have none
        self._device, self._ranks = device, ranks
        self._parameters = optimizers.parameters()
        block_of = {p: i for i, block in enumerate(model.blocks()) for p in block.parameters()}
        n_blocks = 1 + max(block_of.values(), default=-1)
        self._block_P = torch.tensor([block_of.get(p, n_blocks) for p in self._parameters], device=device)
        self._n_blocks = n_blocks
        self._load_LE: Tensor | None = None

    def measure(self, batch: Batch, step: int, window: int, update_ratio: float | None = None) -> Signals:
        """Forward and backward; the gradients are left for `apply`.

        Args:
            batch: this rank's part of the window.
            step, window: numbers of the step and of its data.
            update_ratio: of the last measured update, for the guard.
        """
        torch.manual_seed(mix(self.config.seed, window, self._ranks.data_rank) % 2**63)
        self.optimizers.zero_grad()
        self._load_LE = None
        parts, totals = self.config.accumulation, []
        for i in range(parts):
            totals.append(self._part(batch.part(i, parts) if parts > 1 else batch, parts))
        loss_2 = torch.stack(totals).sum(0)
        grads = [p.grad for p in self._parameters if p.grad is not None]
        square_K = self._squares()
        overflow = found_nonfinite(grads, square_K.sum()).to(loss_2.dtype)
        numbers = torch.cat([self._ranks.mean(loss_2), self._ranks.largest(overflow).reshape(1), square_K])
        loss, cross_entropy, found, *squares = numbers.tolist()
        scale = self.scaler.scale
        norms = tuple(math.sqrt(square) / scale if square >= 0 else math.nan for square in squares)
        return Signals(
            step=step, window=window, loss=loss, cross_entropy=cross_entropy,
            grad_norm=math.sqrt(sum(squares)) / scale if not found else math.inf,
            block_norms=norms, scale=scale, overflow=bool(found), update_ratio=update_ratio,
        )  # fmt: skip

    def _part(self, batch: Batch, parts: int) -> Tensor:
        """One forward and backward pass; loss and cross entropy, each divided by the number of parts."""
        tensors = [
            torch.from_numpy(array).to(self._device)
            for array in (batch.tokens_BT, batch.targets_BT, batch.document_BT, batch.domain_BT.copy())
        ]
        tokens_BT, targets_BT, document_BT, domain_BT = tensors
        documents = document_BT if self.config.document_mask else None
        with autocast(self._device, self.config.precision, pure=self.config.pure):
            output = self._forward(tokens_BT, targets_BT=targets_BT, document_BT=documents, domain_BT=domain_BT)
        torch.autograd.backward(output.loss * (self.scaler.scale / parts))
        if output.routing is not None:
            load_LE = output.routing.load_LE
            self._load_LE = load_LE if self._load_LE is None else self._load_LE + load_LE
        return torch.stack([output.loss.detach().float(), output.cross_entropy.detach().float()]) / parts

    def _squares(self) -> Tensor:
        """Squared gradient norms of the blocks and of everything outside them, still scaled."""
        square_K = torch.zeros(self._n_blocks + 1, dtype=torch.float32, device=self._device)
        with_grad = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        if with_grad:
            local = [_local(self._parameters[i].grad) for i in with_grad]
            square_P = torch.stack([norm.float() for norm in torch._foreach_norm(local)]).square()
            square_P = square_P * self._ranks.share_of([self._parameters[i] for i in with_grad], self._device)
            block_P = self._block_P if len(with_grad) == len(self._block_P) else self._block_P[with_grad]
            square_K.index_add_(0, block_P, square_P)
        return self._ranks.total(square_K)

    def apply(self, signals: Signals, share: float, clip_to: float | None) -> None:
        """Unscale and clip the gradients of `measure`, then update.

        Args:
            signals: what `measure` gave.
            share: learning rate as a share of its peak.
            clip_to: a norm to clip to beside the one of the settings.
        """
        limit = self.config.optimizer.clip if clip_to is None else min(clip_to, self.config.optimizer.clip)
        factor = min(1.0, limit / (signals.grad_norm + 1e-6)) / signals.scale
        if factor != 1.0:
            torch._foreach_mul_([_local(p.grad) for p in self._parameters if p.grad is not None], factor)
        self.optimizers.set_share(share)
        self.optimizers.step()
        if self._load_LE is not None:
            self.model.update_expert_biases(self._ranks.total(self._load_LE.float()))
        self.scaler.update(overflow=False)

    def skip(self, signals: Signals) -> None:
        """Leave the weights as they are."""
        self.scaler.update(overflow=signals.overflow)

    def copy_weights(self) -> list[Tensor]:
        """The weights of this rank as they are now."""
        return [_local(p.detach()).clone() for p in self._parameters]

    def update_ratio(self, before: Sequence[Tensor]) -> float:
        """Size of the change since `before` relative to the size of the weights then."""
        now = [_local(p.detach()) for p in self._parameters]
        share_P = self._ranks.share_of(self._parameters, self._device)
        moved = torch.stack(torch._foreach_norm(torch._foreach_sub(now, list(before)))).float().square() * share_P
        size = torch.stack(torch._foreach_norm(list(before))).float().square() * share_P
        moved_2 = self._ranks.total(torch.stack([moved.sum(), size.sum()]))
        change, whole = moved_2.tolist()
        return math.sqrt(change / whole) if whole else 0.0


def _local(tensor: Tensor | None) -> Tensor:
    """This rank's part of a tensor."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    return tensor if tensor is not None else torch.zeros(0)
