"""LayerNorm and RMSNorm, with statistics in float32, and where they stand.

On a CPU `torch.nn.functional.rms_norm` is a chain of plain operations; `_RootMeanSquare` does the same in half the time
or less (docs/LOG.md) and keeps only its input and one number a token for the way back.

Shapes: N = tokens (any leading axes), d = channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pedigree.model.config import ModelConfig
from pedigree.model.groups import copied


class _RootMeanSquare(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * gain in float32, forward and backward by hand."""

    @staticmethod
    def forward(ctx: Any, x_Nd: Tensor, gain_d: Tensor, eps: float) -> Tensor:
        norm_N1: Tensor = torch.linalg.vector_norm(x_Nd, dim=-1, keepdim=True)
        scale_N1 = norm_N1.square_().div_(x_Nd.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_Nd, gain_d, scale_N1)
        return (x_Nd * scale_N1).mul_(gain_d)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x_Nd, gain_d, scale_N1 = ctx.saved_tensors
        (dy_Nd,) = grads
        unit_Nd = x_Nd * scale_N1
        product_Nd = (dy_Nd * unit_Nd).reshape(-1, x_Nd.shape[-1])
        share_N1 = torch.mv(product_Nd, gain_d).div_(-x_Nd.shape[-1]).view(scale_N1.shape)
        dx_Nd = (dy_Nd * gain_d).addcmul_(unit_Nd, share_N1).mul_(scale_N1)
        return dx_Nd, product_Nd.sum(0), None


_root_mean_square: Callable[..., Tensor] = _RootMeanSquare.apply


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain (Zhang and Sennrich 2019, arXiv 1910.07467).

    `tensor_group` is set where each process of a tensor group norms other heads with the same gain.
    """

    tensor_group: Any = None

    def __init__(self, width: int, eps: float, *, bias: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x_Nd: Tensor) -> Tensor:
        """The normalized input times the gain, in the type of the input; plus the bias, where there is one."""
        scaled_Nd = self._scaled(x_Nd)
        return scaled_Nd if self.bias is None else (scaled_Nd.float() + self.bias.float()).to(x_Nd.dtype)

    def _scaled(self, x_Nd: Tensor) -> Tensor:
        gain_d = copied(self.weight.float(), self.tensor_group)
        if x_Nd.device.type == "cpu" and not torch.compiler.is_compiling():  # a compiler fuses the plain chain itself
            return _root_mean_square(x_Nd.float(), gain_d, self.eps).to(x_Nd.dtype)
        return functional.rms_norm(x_Nd.float(), (x_Nd.shape[-1],), gain_d, self.eps).to(x_Nd.dtype)


class LayerNorm(nn.Module):
    """LayerNorm with gain and bias (Ba et al. 2016, arXiv 1607.06450)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_Nd: Tensor) -> Tensor:
        """The centered and normalized input times the gain plus the bias; half types compute in float32 inside."""
        return functional.layer_norm(x_Nd, (x_Nd.shape[-1],), self.weight, self.bias, self.eps)


def build_norm(config: ModelConfig, *, final: bool = False) -> RMSNorm | LayerNorm:
    """A norm over the residual stream, of the kind that the config names; `final`: the one in front of the head."""
    if config.norm.kind == "layer":
        return LayerNorm(config.d_model, config.norm.eps)
    return RMSNorm(config.d_model, config.norm.eps, bias=final and config.norm.final_bias)


def mixed(x_Nd: Tensor, norm: Callable[[Tensor], Tensor], share: float) -> Tensor:
    """(1 - share) x + share norm(x); 0 and 1 compute one of both."""
    if not share:
        return x_Nd
    normed_Nd = norm(x_Nd)
    return normed_Nd if share == 1 else torch.lerp(x_Nd, normed_Nd.to(x_Nd.dtype), share)


def post_gains(config: ModelConfig) -> tuple[float, float]:
    """Where the gains behind attention and feed-forward start: c / sqrt(n_layers) for depth-scaled sandwich norm.

    Source: Pangu Ultra, arXiv 2504.07866. With TinyInit a branch is so small at the start that eps rules the norm: its
    output is x / sqrt(eps), not of unit size. That is how the published configs behave and is kept (tested).
    """
    if config.norm.placement != "depth-scaled-sandwich":
        return 1.0, 1.0
    root = float(config.n_layers**-0.5)
    return config.norm.c_attention * root, config.norm.c_feed_forward * root
