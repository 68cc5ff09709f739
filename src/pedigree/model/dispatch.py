"""Tokens to their experts and back: a sort, two permutations, no loop over experts.

Choices are sorted by expert, so that each expert finds its tokens in one block; a grouped matrix product then does all
experts at once. Both permutations know their inverse: their way back is a permutation too, not a scatter, so it is
exact, deterministic and quick.

Shapes: N = tokens, K = choices of a token, M = N * K rows sorted by expert, E = experts, d = channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Order(NamedTuple):
    """How the choices lie when sorted by expert."""

    source_M: Tensor
    """Sorted row -> flat choice (token * K + place)."""
    place_M: Tensor
    """Flat choice -> sorted row."""
    load_E: Tensor
    """Rows of each expert."""
    n_choices: int


def order_by_expert(experts_NK: Tensor, n_experts: int) -> Order:
    """The stable order of all choices by expert."""
    flat_M = experts_NK.flatten()
    source_M = flat_M.argsort(stable=True)
    place_M = torch.empty_like(source_M)
    place_M[source_M] = torch.arange(source_M.numel(), device=flat_M.device)
    load_E = torch.zeros(n_experts, dtype=torch.int64, device=flat_M.device)
    load_E.scatter_add_(0, flat_M, torch.ones_like(flat_M))
    return Order(source_M, place_M, load_E, experts_NK.shape[1])


class _Send(torch.autograd.Function):
    """Rows of the tokens in sorted order; back: each token sums the gradients of its rows."""

    @staticmethod
    def forward(ctx: Any, x_Nd: Tensor, source_M: Tensor, place_M: Tensor, n_choices: int) -> Tensor:
        ctx.save_for_backward(place_M)
        ctx.n_choices = n_choices
        return x_Nd.index_select(0, source_M.div(n_choices, rounding_mode="floor"))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (place_M,) = ctx.saved_tensors
        back_Md = grads[0].index_select(0, place_M)
        summed = back_Md if ctx.n_choices == 1 else torch.unflatten(back_Md, 0, (-1, ctx.n_choices)).sum(1)
        return summed, None, None, None


class _Collect(torch.autograd.Function):
    """Weighted sum of the rows of each token."""

    @staticmethod
    def forward(ctx: Any, y_Md: Tensor, weights_NK: Tensor, source_M: Tensor, place_M: Tensor) -> Tensor:
        rows_NKd = torch.unflatten(y_Md.index_select(0, place_M), 0, weights_NK.shape)
        ctx.save_for_backward(rows_NKd, weights_NK, source_M)
        return torch.bmm(weights_NK[:, None], rows_NKd)[:, 0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows_NKd, weights_NK, source_M = ctx.saved_tensors
        (dy_Nd,) = grads
        d_weights_NK = torch.bmm(rows_NKd, dy_Nd[..., None])[..., 0]
        d_sorted_Md = dy_Nd.index_select(0, source_M.div(weights_NK.shape[1], rounding_mode="floor"))
        d_sorted_Md.mul_(weights_NK.flatten().index_select(0, source_M)[:, None])
        return d_sorted_Md, d_weights_NK, None, None


_send: Callable[..., Tensor] = _Send.apply
_collect: Callable[..., Tensor] = _Collect.apply


def send(x_Nd: Tensor, order: Order) -> Tensor:
    """Copies of the tokens, sorted by expert: [M, d]."""
    return _send(x_Nd, order.source_M, order.place_M, order.n_choices)


def permuted(x_Md: Tensor, source_M: Tensor, place_M: Tensor) -> Tensor:
    """Row `source_M[i]` at place i; `place_M` is the inverse, by which gradients go back."""
    return _send(x_Md, source_M, place_M, 1)


def collect(y_Md: Tensor, weights_NK: Tensor, order: Order) -> Tensor:
    """What the experts answered, summed for each token with its weights: [N, d]."""
    return _collect(y_Md, weights_NK.to(y_Md.dtype), order.source_M, order.place_M)
