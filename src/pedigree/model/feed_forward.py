"""The dense feed-forward part: SwiGLU or GELU, and the series-informed activation of PanGu-pi.

Shapes: N = tokens (any leading axes), d = channels, f = inner channels, n = terms of the series.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import FeedForward
from pedigree.model.groups import copied, own
from pedigree.model.linear import Linear


def activate(kind: str, x: Tensor) -> Tensor:
    """The scalar function of a feed-forward kind: silu for `swiglu`, the tanh form of gelu for `gelu`."""
    return functional.silu(x) if kind == "swiglu" else functional.gelu(x, approximate="tanh")


class SeriesActivation(nn.Module):
    """sum over i of s(a_i x + b_i), one learned a and b for each term and channel (PanGu-pi, arXiv 2312.17276).

    Starts at a_1 = 1 and all else 0: the plain activation, for functions with s(0) = 0. The further terms are not stuck
    there, since s'(0) is not 0.
    """

    def __init__(self, kind: str, n_terms: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.slope = nn.Parameter(torch.zeros(n_terms, width))
        self.shift = nn.Parameter(torch.zeros(n_terms, width))

    def forward(self, x_Nf: Tensor) -> Tensor:
        """The sum of the terms."""
        terms = zip(own(self.slope).unbind(), own(self.shift).unbind(), strict=True)
        total = [activate(self.kind, torch.addcmul(b_f, a_f, x_Nf)) for a_f, b_f in terms]
        return torch.stack(total).sum(0) if len(total) > 2 else total[0] + total[1]


class DenseFeedForward(nn.Module):
    """down(s(gate x) * up x), or down(s(up x)).

    Args:
        width: channels of the stream.
        part: kind, biases and series.
        inner: inner channels, where they are not the part's own (shared experts).
    """

    def __init__(self, width: int, part: FeedForward, inner: int | None = None) -> None:
        super().__init__()
        f = inner or part.d_inner
        self.kind = part.kind
        self.gate = Linear(width, f, bias=part.bias) if part.kind == "swiglu" else None
        self.up = Linear(width, f, bias=part.bias)
        self.down = Linear(f, width, bias=part.bias)
        self.series = SeriesActivation(part.kind, part.series, f) if part.series > 1 and inner is None else None

    def forward(self, x_Nd: Tensor) -> Tensor:
        """The branch's output."""
        x_Nd = copied(x_Nd, self.down.tensor_group)
        inner = self.up(x_Nd) if self.gate is None else self.gate(x_Nd)
        inner = activate(self.kind, inner) if self.series is None else self.series(inner)
        if self.gate is not None:
            inner = inner * self.up(x_Nd)
        out: Tensor = self.down(inner)
        return out


class AugmentedShortcut(nn.Module):
    """A bottleneck beside attention: leave(gelu(enter(x))) (PanGu-pi). `leave` starts at 0, so the start is neutral."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_model // (1 if config.shortcut is None else config.shortcut.reduction)
        self.enter = Linear(config.d_model, width, bias=False)
        self.leave = Linear(width, config.d_model, bias=False)

    def forward(self, x_Nd: Tensor) -> Tensor:
        """The shortcut's output."""
        out: Tensor = self.leave(functional.gelu(self.enter(x_Nd), approximate="tanh"))
        return out
