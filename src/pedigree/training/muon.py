"""Muon: momentum whose matrices are brought near an orthogonal matrix before they are applied.

All matrices of one shape are handled in one batch of matrix products; stacked experts [E, R, C] count as E matrices.

Rules
1. Five Newton-Schulz steps of fifth order, in bfloat16 on accelerators and float32 on a processor.
2. Stacks that are cut or sharded along their first axis are updated where they lie; matrices are gathered for it.
3. An update of a [R, C] matrix is scaled by 0.2 sqrt(max(R, C)), so that its entries are as large as AdamW's and both
   share rate and weight decay.

Source  Jordan et al. 2024 (Muon); the scale: Liu et al. 2025, arXiv:2502.16982, equation 4.
Shapes  M = matrices of one shape, R = rows, C = columns
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5


def orthogonalized(update_MRC: Tensor) -> Tensor:
    """Matrices with the singular vectors of `update_MRC` and singular values near one (0.7 to 1.2).

    Args:
        update_MRC: a batch of matrices.
    """
    low = torch.float32 if update_MRC.device.type == "cpu" else torch.bfloat16
    x_MRC = update_MRC.to(low)
    flip = x_MRC.shape[-2] > x_MRC.shape[-1]
    if flip:
        x_MRC = x_MRC.mT
    x_MRC = x_MRC / (torch.linalg.matrix_norm(x_MRC, keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram_MRR = x_MRC @ x_MRC.mT
        poly_MRR = torch.baddbmm(gram_MRR, gram_MRR, gram_MRR, beta=_B, alpha=_C)
        x_MRC = torch.baddbmm(x_MRC, poly_MRR, x_MRC, beta=_A, alpha=1.0)
    return (x_MRC.mT if flip else x_MRC).to(update_MRC.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized.

    Args:
        params: matrices, or stacks of matrices.
        lr: rate.
        momentum: of Nesterov kind.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one update to every matrix that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads: list[Tensor] = [p.grad for p in params]
            for p in params:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            buffers: list[Tensor] = [self.state[p]["momentum"] for p in params]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            updates = torch._foreach_lerp(grads, buffers, group["momentum"])
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            self._apply(params, list(updates), group)

    def _apply(self, params: list[Any], updates: list[Tensor], group: dict[str, Any]) -> None:
        """Orthogonalize all the updates of one shape together, then subtract them."""
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, p in enumerate(params):
            alike[tuple(p.shape[-2:])].append(i)
        for (rows, columns), members in alike.items():
            whole = [_whole_matrices(updates[i]) for i in members]
            stacked_MRC = torch.cat([u.reshape(-1, rows, columns) for u in whole])
            scale = -group["lr"] * 0.2 * max(rows, columns) ** 0.5
            moved_MRC = orthogonalized(stacked_MRC).mul_(scale)
            counts = [u.numel() // (rows * columns) for u in whole]
            for i, piece in zip(members, torch.split(moved_MRC, counts), strict=True):
                params[i].add_(_spread_like(params[i], piece))


def _stacked(tensor: DTensor) -> list[Shard | Replicate]:
    """Placements under which every matrix of a stack is whole somewhere; a single matrix is whole everywhere."""
    by_stack = [tensor.ndim > 2 and isinstance(p, Shard) and p.dim == 0 for p in tensor.placements]
    return [Shard(0) if stays else Replicate() for stays in by_stack]


def _whole_matrices(update: Tensor) -> Tensor:
    """The matrices of an update that this rank has to orthogonalize."""
    if not isinstance(update, DTensor):
        return update
    return update.redistribute(placements=_stacked(update)).to_local()


def _spread_like(parameter: Tensor, piece_MRC: Tensor) -> Tensor:
    """Orthogonalized matrices of `_whole_matrices`, spread as their weight is."""
    if not isinstance(parameter, DTensor):
        return piece_MRC.reshape(parameter.shape)
    mesh, kept = parameter.device_mesh, _stacked(parameter)
    piece = piece_MRC if parameter.ndim > 2 else piece_MRC[0]
    whole = DTensor.from_local(
        piece, mesh, kept, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )  # fmt: skip
    return whole.redistribute(placements=parameter.placements)
