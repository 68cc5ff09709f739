"""Cross-entropy of a vocabulary without its logits: chunks of tokens, gradients made on the way.

The logits of a chunk live only until the next one, so memory is bounded by the chunk, not by tokens * vocabulary.
Gradients are computed in the forward pass, where the logits are at hand, unscaled and in [-1, 1]: safe for float16,
whose loss scale arrives with the backward pass.

Shapes: N = tokens, C = tokens of a chunk, V = vocabulary, d = channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pedigree.model.groups import place_in, total
from pedigree.model.precision import product_type, without_autocast

IGNORED = -100
CHUNK_BYTES = {"cpu": 8 * 2**20}
"""Float32 logits that exist at one time, by device type: a CPU is quickest with what fits its cache (docs/LOG.md)."""
CHUNK_BYTES_ELSEWHERE = 512 * 2**20
LEAST_TOKENS = 256
"""Tokens of a chunk at least: with fewer, adding to a large weight's gradient costs more than its product."""
LINE_BYTES = 2**20
"""Float32 logits that a CPU turns into slopes together: of half types no larger copy in float32 exists."""


def chunk_tokens(vocab_size: int, device_type: str) -> int:
    """Tokens whose logits are made together."""
    return max(LEAST_TOKENS, CHUNK_BYTES.get(device_type, CHUNK_BYTES_ELSEWHERE) // (4 * vocab_size))


class _ChunkedSum(torch.autograd.Function):
    """Sum of the cross-entropies, and the unscaled gradients for states and weight."""

    @staticmethod
    def forward(ctx: Any, x_Nd: Tensor, weight_Vd: Tensor, targets_N: Tensor, factor: Tensor) -> Tensor:
        wants = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        dx_Nd = torch.empty_like(x_Nd) if wants else None
        dw_Vd = torch.zeros_like(weight_Vd, dtype=torch.float32) if wants else None
        total = torch.zeros((), dtype=torch.float32, device=x_Nd.device)
        vocab_size = weight_Vd.shape[0]
        size = min(chunk_tokens(vocab_size, x_Nd.device.type), x_Nd.shape[0])
        in_lines = x_Nd.device.type == "cpu" and not torch.compiler.is_compiling()  # a compiler would unroll them
        lines = max(1, LINE_BYTES // (4 * vocab_size)) if in_lines else size
        buffer_CV = x_Nd.new_empty(size, vocab_size)  # one for all chunks: fresh pages cost more than they seem to
        for start in range(0, x_Nd.shape[0], size):
            x_Cd, targets_C1 = x_Nd[start : start + size], targets_N[start : start + size, None]
            counts_C1 = targets_C1 != IGNORED
            safe_C1 = targets_C1.masked_fill(~counts_C1, 0)
            slope_CV = buffer_CV[: x_Cd.shape[0]]
            torch.mm(x_Cd, weight_Vd.T, out=slope_CV)
            for rows in zip(*(torch.split(t, lines) for t in (slope_CV, safe_C1, counts_C1)), strict=True):
                total += _turned_to_slopes(*rows, slopes=wants)
            if dx_Nd is None or dw_Vd is None:
                continue
            torch.mm(slope_CV, weight_Vd, out=dx_Nd[start : start + size])
            if dw_Vd.dtype == x_Nd.dtype:
                dw_Vd.addmm_(slope_CV.T, x_Cd)
            else:
                dw_Vd += slope_CV.T @ x_Cd
        ctx.save_for_backward(dx_Nd, dw_Vd, factor)
        ctx.kinds = x_Nd.dtype, weight_Vd.dtype
        return total * factor

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dx_Nd, dw_Vd, factor = ctx.saved_tensors
        scale = grads[0] * factor
        x_kind, weight_kind = ctx.kinds
        dx_Nd = (dx_Nd * scale) if dx_Nd.dtype == torch.float32 else (dx_Nd.float() * scale).to(x_kind)
        return dx_Nd, (dw_Vd * scale).to(weight_kind), None, None


def _turned_to_slopes(logits_RV: Tensor, targets_R1: Tensor, counts_R1: Tensor, *, slopes: bool) -> Tensor:
    """Sum of the cross-entropies of some rows; their logits become, in place, softmax minus the target."""
    slope_RV = logits_RV.float()  # the logits themselves, where they are float32
    aimed_R1 = slope_RV.gather(-1, targets_R1)  # before they are overwritten
    top_R1 = slope_RV.amax(-1, keepdim=True)
    slope_RV.sub_(top_R1).exp_()
    sum_R1 = slope_RV.sum(-1, keepdim=True)
    loss = ((sum_R1.log() + top_R1 - aimed_R1) * counts_R1).sum()
    if slopes:
        slope_RV.mul_(counts_R1 / sum_R1).scatter_add_(-1, targets_R1, -counts_R1.float())
        if slope_RV.dtype != logits_RV.dtype:
            logits_RV.copy_(slope_RV)
    return loss


_chunked_sum: Callable[..., Tensor] = _ChunkedSum.apply


def count_targets(targets: Tensor) -> Tensor:
    """Targets that count, as a float32 scalar."""
    return (targets != IGNORED).sum().to(torch.float32)


def mean_count(n_targets: Tensor, group: Any = None) -> Tensor:
    """What a process divides its sum over targets by, so that the mean over processes weighs every target alike."""
    return total(n_targets, group).clamp_min(1) / place_in(group)[1]


def cross_entropy(x_Nd: Tensor, weight_Vd: Tensor, targets_N: Tensor, group: Any = None) -> Tensor:
    """Mean cross-entropy in float32 of softmax(x W^T) over the targets that are not -100; 0 where there are none.

    With a group the mean of the results of its processes is the mean over all their targets.

    Args:
        x_Nd: states, normalized.
        weight_Vd: output projection.
        targets_N: token ids, or -100 for tokens that do not count.
        group: processes that have other targets.
    """
    factor = mean_count(count_targets(targets_N), group).reciprocal()
    kind = product_type(x_Nd)
    with without_autocast(x_Nd):
        return _chunked_sum(x_Nd.to(kind), weight_Vd.to(kind), targets_N, factor)
