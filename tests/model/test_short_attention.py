"""Attention over short rows on a CPU: the same as the fused kernel, forth and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pedigree.model.attention import attend
from pedigree.model.context import Context, build_context
from pedigree.model.members import member
from pedigree.model.short_attention import LONGEST, is_short, short_attention

Pieces = tuple[Tensor, Tensor, Tensor]


def pieces(n_tokens: int, heads: tuple[int, int], channels: tuple[int, int], kind: torch.dtype) -> Pieces:
    """Queries, keys and values, [B, T, H, D]."""
    generator = torch.Generator().manual_seed(n_tokens)
    shapes = [(heads[0], channels[0]), (heads[1], channels[0]), (heads[1], channels[1])]
    q, k, v = (torch.randn(2, n_tokens, *shape, generator=generator).to(kind).requires_grad_() for shape in shapes)
    return q, k, v


def context_of(n_tokens: int, *, documents: bool) -> Context:
    ids = torch.zeros(2, n_tokens, dtype=torch.int64)
    document_BT = torch.arange(n_tokens).div(7, rounding_mode="floor").expand(2, -1) if documents else None
    return build_context(
        member("llama-2-7b-pico"), ids, document_BT=document_BT, domain_BT=None, cache=None,
        restart_positions=True,
    )  # fmt: skip


def forth_and_back(call: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    out = call(q, k, v)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out.dtype)
    return [out, *torch.autograd.grad(out, (q, k, v), direction)]


@pytest.mark.parametrize("documents", [False, True], ids=["causal", "documents"])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)], ids=["MHA", "GQA"])
@pytest.mark.parametrize("n_tokens", [1, 63, 64, 150])
def test_it_equals_the_fused_kernel(n_tokens: int, heads: tuple[int, int], documents: bool) -> None:
    q, k, v = pieces(n_tokens, heads, (16, 24), torch.float32)
    context = context_of(n_tokens, documents=documents)
    mask = context.mask_B1TS

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask, is_causal=mask is None, scale=0.3, enable_gqa=True
        )

    def short(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return short_attention(*(x.transpose(1, 2) for x in (q, k, v)), context.bias_x1TS, 0.3)

    for mine, theirs in zip(forth_and_back(short, q, k, v), forth_and_back(fused, q, k, v), strict=True):
        assert torch.allclose(mine, theirs, atol=2e-6, rtol=1e-5)


def test_half_products_err_no_more_than_the_fused_kernel_does() -> None:
    q, k, v = pieces(128, (4, 4), (64, 64), torch.bfloat16)
    context = context_of(128, documents=False)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True)

    def short(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return short_attention(*(x.transpose(1, 2) for x in (q, k, v)), context.bias_x1TS, 64**-0.5)

    truth = forth_and_back(fused, *exact)
    ours, theirs = forth_and_back(short, q, k, v), forth_and_back(fused, q, k, v)
    for right, mine, other in zip(truth, ours, theirs, strict=True):
        assert (mine - right).square().mean() < 2 * (other - right).square().mean()


def test_only_short_rows_on_a_cpu_that_are_trained_take_this_way() -> None:
    q, k, _ = pieces(8, (2, 2), (4, 4), torch.float32)
    assert is_short(q, k)
    assert not is_short(q.detach(), k)
    assert not is_short(q[:, -1:], k), "a cache holds more keys than there are new queries"
    long = torch.empty(1, LONGEST + 1, 1, 1, requires_grad=True)
    assert not is_short(long, long)


def test_attend_gives_the_same_with_and_without_gradients() -> None:
    q, k, v = pieces(40, (4, 2), (8, 8), torch.float32)
    context = context_of(40, documents=True)
    with torch.no_grad():
        plain = attend(q.detach(), k.detach(), v.detach(), context, 0.0)
    assert torch.allclose(attend(q, k, v, context, 0.0), plain, atol=1e-6)
