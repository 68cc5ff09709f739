"""Attention over short rows on a CPU: whole blocks of scores by matrix products, the future left out.

The fused kernel of a CPU is made for long rows and reaches a tenth of the rate of a matrix product for short ones. Here
a block of queries meets the keys up to its own end, which leaves out nearly half of the work, and the weights are kept
for the way back: H T (T + C) / 2 numbers a row, so only where T is small (docs/LOG.md has what it gains). Scores and
softmax are float32 whatever the products are, as the fused kernel has them.

Shapes: B = batch, T = tokens, H = heads, K = key heads, G = H / K, D = channels of a key, V = channels of a value,
C = queries of a block, S = keys that they meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LONGEST = 512
"""Tokens: beyond, the kept weights cost more memory than the time is worth."""
_BLOCK = 64
"""Queries of a block."""


class _ShortAttention(torch.autograd.Function):
    """softmax(scale q k + bias) v; the bias hides what lies ahead and knows no gradient."""

    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTV: Tensor, bias_x1TT: Tensor, scale: float) -> Tensor:
        n_batch, n_heads, n_tokens = q_BHTD.shape[:3]
        k_NTD, v_NTV = k_BKTD.flatten(0, 1), v_BKTV.flatten(0, 1)  # N = B * K
        wide_NDT = k_NTD.float().transpose(1, 2)
        out_BHTV = q_BHTD.new_empty(n_batch, n_heads, n_tokens, v_NTV.shape[2])
        weights = []
        for start in range(0, n_tokens, _BLOCK):
            end = min(start + _BLOCK, n_tokens)
            rows_NRD = _rows(q_BHTD, k_NTD, start, end).float()
            scores_BHCS = torch.bmm(rows_NRD, wide_NDT[..., :end]).view(n_batch, n_heads, end - start, end)
            scores_BHCS.mul_(scale).add_(bias_x1TT[:, :, start:end, :end])
            weight_NRS = scores_BHCS.softmax(-1).to(v_NTV.dtype).view(k_NTD.shape[0], -1, end)
            mixed_NRV = torch.bmm(weight_NRS, v_NTV[:, :end])
            out_BHTV[:, :, start:end] = mixed_NRV.view(n_batch, n_heads, end - start, -1)
            weights.append(weight_NRS)
        ctx.save_for_backward(q_BHTD, k_NTD, v_NTV, *weights)
        ctx.scale = scale
        return out_BHTV

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_BHTD, k_NTD, v_NTV, *weights = ctx.saved_tensors
        (d_out_BHTV,) = grads
        n_batch, n_heads, n_tokens = q_BHTD.shape[:3]
        d_q_BHTD = torch.empty_like(q_BHTD)
        d_k_NTD, d_v_NTV = torch.zeros_like(k_NTD), torch.zeros_like(v_NTV)
        for start, weight_NRS in zip(range(0, n_tokens, _BLOCK), weights, strict=True):
            end = weight_NRS.shape[2]
            rows_NRD, d_mixed_NRV = _rows(q_BHTD, k_NTD, start, end), _rows(d_out_BHTV, k_NTD, start, end)
            d_v_NTV[:, :end].baddbmm_(weight_NRS.transpose(1, 2), d_mixed_NRV)
            d_weight_NRS = torch.bmm(d_mixed_NRV, v_NTV[:, :end].transpose(1, 2))
            d_scores_NRS = torch._softmax_backward_data(d_weight_NRS, weight_NRS, -1, weight_NRS.dtype)
            d_rows_NRD = torch.bmm(d_scores_NRS, k_NTD[:, :end])
            d_q_BHTD[:, :, start:end] = d_rows_NRD.view(n_batch, n_heads, end - start, -1)
            d_k_NTD[:, :end].baddbmm_(d_scores_NRS.transpose(1, 2), rows_NRD)
        d_k_BKTD, d_v_BKTV = (torch.unflatten(part, 0, (n_batch, -1)) for part in (d_k_NTD, d_v_NTV))
        return d_q_BHTD.mul_(ctx.scale), d_k_BKTD.mul_(ctx.scale), d_v_BKTV, None, None


def _rows(x_BHTD: Tensor, k_NTD: Tensor, start: int, end: int) -> Tensor:
    """A block of queries by key head, those of all its query heads below one another: [N, G * C, D]."""
    return x_BHTD[:, :, start:end].reshape(k_NTD.shape[0], -1, x_BHTD.shape[3])


_attend: Callable[..., Tensor] = _ShortAttention.apply


def short_attention(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTV: Tensor, bias_x1TT: Tensor, scale: float) -> Tensor:
    """softmax(scale q k + bias) v, where no query sees what lies ahead: [B, H, T, V].

    Args:
        q_BHTD, k_BKTD, v_BKTV: all of one type; H is a multiple of K.
        bias_x1TT: 0 where a query sees a key and -inf where not, float32; x = B or 1.
        scale: on the scores.
    """
    return _attend(q_BHTD, k_BKTD, v_BKTV, bias_x1TT, scale)


def is_short(q_BTHD: Tensor, k_BSKD: Tensor) -> bool:
    """Whether these are rows to train on that are quicker here than through the fused kernel."""
    return (
        q_BTHD.device.type == "cpu"
        and q_BTHD.requires_grad
        and q_BTHD.shape[1] == k_BSKD.shape[1] <= LONGEST
        and not torch.compiler.is_compiling()
    )
