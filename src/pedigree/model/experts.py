"""Expert weights, stacked, and their computation as grouped matrix products.

`torch.nn.functional.grouped_mm` multiplies each block of rows with its own matrix. Where torch or the device has none,
blocks are padded to the longest and multiplied as one batch. Both beat a loop over experts (docs/LOG.md). On a CPU a
half type makes a program for every new length of a block, in time and memory: each block is padded to one of few
lengths there, once for all the products of a layer.

Shapes: M = rows sorted by expert, P = those rows with padding behind each block, E = experts, L = longest load,
d = channels, f = inner channels (F = f or 2f).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pedigree.errors import InternalError
from pedigree.model.config_parts import Experts, FeedForward
from pedigree.model.feed_forward import activate
from pedigree.model.groups import own
from pedigree.model.precision import product_type

_HAVE_GROUPED = ("cpu", "cuda", "meta")
_GROUPED: Callable[..., Tensor] | None = getattr(functional, "grouped_mm", None)
_HALF = (torch.bfloat16, torch.float16)
_STRIDE, _SHORT_STRIDE = 64, 16
"""Padded lengths are multiples of the first, or of the second where blocks are shorter than that: so there are few."""


class _Lay(torch.autograd.Function):
    """Rows in their places among padding; back: the rows of these places."""

    @staticmethod
    def forward(ctx: Any, x_Md: Tensor, slot_M: Tensor, n_padded: int) -> Tensor:
        ctx.save_for_backward(slot_M)
        return x_Md.new_zeros(n_padded, x_Md.shape[1]).index_copy_(0, slot_M, x_Md)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slot_M,) = ctx.saved_tensors
        return grads[0].index_select(0, slot_M), None, None


class _Lift(torch.autograd.Function):
    """The rows of these places; back: zeros in the padding, so that it moves no weight."""

    @staticmethod
    def forward(ctx: Any, y_Pd: Tensor, slot_M: Tensor) -> Tensor:
        ctx.save_for_backward(slot_M)
        ctx.n_padded = y_Pd.shape[0]
        return y_Pd.index_select(0, slot_M)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slot_M,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.n_padded, grads[0].shape[1]).index_copy_(0, slot_M, grads[0]), None


_lay: Callable[..., Tensor] = _Lay.apply
_lift: Callable[..., Tensor] = _Lift.apply


def grouped_product(x_Mi: Tensor, weight_Eoi: Tensor, load_E: Tensor) -> Tensor:
    """Each block of rows times the transposed matrix of its expert: [M, o]."""
    if _GROUPED is None or x_Mi.device.type not in _HAVE_GROUPED or not _aligned(x_Mi, weight_Eoi):
        return padded_product(x_Mi, weight_Eoi, load_E)
    ends_E = load_E.cumsum(0).to(torch.int32)
    if torch.compiler.is_compiling() and x_Mi.dtype != torch.bfloat16:  # the compiler knows it in bfloat16 only
        return _uncompiled(x_Mi, weight_Eoi, ends_E)
    return _GROUPED(x_Mi, weight_Eoi.transpose(1, 2), offs=ends_E)


def _aligned(x_Mi: Tensor, weight_Eoi: Tensor) -> bool:
    """Whether all rows begin at multiples of 16 bytes, as the grouped product of torch demands."""
    n_out, n_in = weight_Eoi.shape[1:]
    return n_in * x_Mi.element_size() % 16 == 0 and n_out * x_Mi.element_size() % 16 == 0


def _outside(x_Mi: Tensor, weight_Eoi: Tensor, ends_E: Tensor) -> Tensor:
    if _GROUPED is None:
        raise InternalError("A grouped product was asked of a torch that has none")
    return _GROUPED(x_Mi, weight_Eoi.transpose(1, 2), offs=ends_E)


_uncompiled: Callable[..., Tensor] = torch.compiler.disable(_outside)  # type: ignore[no-untyped-call]


def _slots(load_E: Tensor, padded_E: Tensor, n_rows: int) -> Tensor:
    """Where each of the sorted rows lies among padded blocks: [M]."""
    before_E = (padded_E - load_E).cumsum(0) - (padded_E - load_E)
    return torch.arange(n_rows, device=load_E.device) + before_E.repeat_interleave(load_E, output_size=n_rows)


def padded_product(x_Mi: Tensor, weight_Eoi: Tensor, load_E: Tensor) -> Tensor:
    """The same through one batched product over blocks padded to the longest load."""
    n_experts, longest = load_E.numel(), int(load_E.max())
    longest += -longest % _STRIDE
    slot_M = _slots(load_E, torch.full_like(load_E, longest), x_Mi.shape[0])
    padded_Pi = _lay(x_Mi, slot_M, n_experts * longest)
    product_ELo = torch.bmm(torch.unflatten(padded_Pi, 0, (n_experts, longest)), weight_Eoi.transpose(1, 2))
    return _lift(product_ELo.flatten(0, 1), slot_M)


class StackedExperts(nn.Module):
    """All experts of a layer: `enter` holds gate above up (or up alone), `down` leads back.

    Args:
        width: channels of the stream.
        part: kind and biases of the feed-forward part, which experts share.
        experts: their number and inner width.

    Spread over processes each holds the blocks of experts that are its own, and gets rows of those only.
    """

    def __init__(self, width: int, part: FeedForward, experts: Experts) -> None:
        super().__init__()
        n, f = experts.n_experts, experts.d_expert
        ways_in = 2 if part.kind == "swiglu" else 1
        self.kind = part.kind
        self.enter = nn.Parameter(torch.empty(n, ways_in * f, width))
        self.down = nn.Parameter(torch.empty(n, width, f))
        self.enter_bias = nn.Parameter(torch.zeros(n, ways_in * f)) if part.bias else None
        self.down_bias = nn.Parameter(torch.zeros(n, width)) if part.bias else None

    def forward(self, x_Md: Tensor, load_E: Tensor) -> Tensor:
        """Answers of the experts to rows that lie sorted by expert: [M, d]."""
        kind = product_type(x_Md)  # grouped products know no autocast
        x_Md, enter, down = x_Md.to(kind), own(self.enter).to(kind), own(self.down).to(kind)
        if kind in _HALF and x_Md.device.type == "cpu" and not torch.compiler.is_compiling():
            stride = _STRIDE if x_Md.shape[0] >= _STRIDE * load_E.numel() else _SHORT_STRIDE
            padded_E = load_E + -load_E % stride
            slot_M = _slots(load_E, padded_E, x_Md.shape[0])
            y_Pd = self._answers(_lay(x_Md, slot_M, int(padded_E.sum())), enter, down, padded_E)
            return _lift(y_Pd, slot_M)
        return self._answers(x_Md, enter, down, load_E)

    def _answers(self, x_Md: Tensor, enter: Tensor, down: Tensor, load_E: Tensor) -> Tensor:
        inner_MF = _shifted(grouped_product(x_Md, enter, load_E), self.enter_bias, load_E)
        if self.kind == "swiglu":
            gate_Mf, up_Mf = inner_MF.chunk(2, -1)
            inner_Mf = activate(self.kind, gate_Mf) * up_Mf
        else:
            inner_Mf = activate(self.kind, inner_MF)
        return _shifted(grouped_product(inner_Mf, down, load_E), self.down_bias, load_E)


def _shifted(y_Mo: Tensor, bias_Eo: Tensor | None, load_E: Tensor) -> Tensor:
    """Rows plus the bias of their expert."""
    if bias_Eo is None:
        return y_Mo
    return y_Mo + own(bias_Eo).to(y_Mo.dtype).repeat_interleave(load_E, dim=0, output_size=y_Mo.shape[0])
