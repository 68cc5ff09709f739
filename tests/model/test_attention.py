"""Attention against its formula: rotation layouts, partial rotation, norms on heads, latent attention."""

from __future__ import annotations

import math

import pytest
import torch
from model.pico import config, decoder, logits, tokens
from torch import Tensor

from pedigree.model.attention import Attention
from pedigree.model.config_parts import Rope, RopeScaling
from pedigree.model.context import build_context, restarting_positions, runs_of
from pedigree.model.latent_attention import MultiHeadLatentAttention
from pedigree.model.rope import frequencies, rotate, rotation


def turned_by_hand(x_D: Tensor, place: int, theta: float, width: int, layout: str) -> Tensor:
    y = x_D.clone()
    for pair in range(width // 2):
        a, b = (2 * pair, 2 * pair + 1) if layout == "interleaved" else (pair, pair + width // 2)
        angle = place * theta ** (-2 * pair / width)
        y[a] = x_D[a] * math.cos(angle) - x_D[b] * math.sin(angle)
        y[b] = x_D[b] * math.cos(angle) + x_D[a] * math.sin(angle)
    return y


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rotation_is_the_formula_and_leaves_the_rest_of_the_head(layout: str, fraction: float) -> None:
    owner = config("llama-2-7b-pico", rope={"theta": 50.0, "layout": layout, "fraction": fraction})
    assert owner.attention.kind == "gqa"
    width = owner.attention.head_dim
    x = torch.randn(1, 5, 2, width, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 9, 4]])
    mine = rotate(x, rotation(owner, positions))
    for t, place in enumerate(positions[0].tolist()):
        for head in range(2):
            expected = turned_by_hand(x[0, t, head], place, 50.0, int(width * fraction), layout)
            assert torch.allclose(mine[0, t, head], expected, atol=1e-5)


def test_scaling_slows_long_waves_keeps_short_ones_and_joins_them() -> None:
    scaling = RopeScaling(factor=8.0, low=1.0, high=4.0, original_positions=64)
    plain = frequencies(Rope(theta=1e4), 32, torch.device("cpu"))
    scaled = frequencies(Rope(theta=1e4, scaling=scaling), 32, torch.device("cpu"))
    turns = plain * 64 / (2 * math.pi)
    assert torch.equal(scaled[turns > 4], plain[turns > 4])
    assert torch.allclose(scaled[turns < 1], plain[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert 0 < between.sum() < len(turns)
    ratio = (scaled / plain)[between]
    assert ((ratio > 1 / 8) & (ratio < 1)).all()


def test_the_two_layouts_are_one_after_a_permutation_of_channels() -> None:
    half = config("llama-2-7b-pico")
    apart = config("llama-2-7b-pico", rope={"layout": "interleaved"})
    width = half.attention.v_dim
    x = torch.randn(1, 4, 1, width, generator=torch.Generator().manual_seed(0))
    order = torch.arange(width).view(2, -1).T.flatten()  # interleaved channel -> half channel
    positions = torch.arange(4)[None]
    assert torch.allclose(
        rotate(x, rotation(half, positions))[..., order], rotate(x[..., order], rotation(apart, positions)), atol=1e-6
    )


def attention_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[T, H, D] each, causal, key heads shared by neighboring query heads."""
    share = q.shape[1] // k.shape[1]
    rows = []
    for t in range(q.shape[0]):
        heads = []
        for h in range(q.shape[1]):
            scores = k[: t + 1, h // share] @ q[t, h] / math.sqrt(q.shape[-1])
            heads.append(scores.softmax(0) @ v[: t + 1, h // share])
        rows.append(torch.cat(heads))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["qwen3-8b-pico", "qwen2.5-14b-pico", "pangu-embedded-7b-pico", "llama-2-7b-pico"])
def test_grouped_attention_is_the_formula(name: str) -> None:
    model = decoder(name)
    a, part = model.config.attention, next(model.blocks()).attn
    assert a.kind == "gqa"
    assert isinstance(part, Attention)
    assert (part.q_norm is not None) == a.q_norm
    x = torch.randn(1, 7, model.config.d_model, generator=torch.Generator().manual_seed(0))
    context = build_context(
        model.config, tokens(model, 1, 7), document_BT=None, domain_BT=None, cache=None, restart_positions=True
    )
    q, k, v = (layer(x)[0].view(7, -1, a.head_dim) for layer in (part.q, part.k, part.v))
    if part.q_norm is not None and part.k_norm is not None:
        q, k = (
            t / (t.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
            for t, norm in ((q, part.q_norm), (k, part.k_norm))
        )
    assert model.config.rope is not None
    theta = model.config.rope.theta
    q, k = (
        torch.stack(
            [torch.stack([turned_by_hand(h, t, theta, a.head_dim, "half") for h in row]) for t, row in enumerate(m)]
        )
        for m in (q, k)
    )
    assert torch.allclose(part(x, context)[0], part.o(attention_by_hand(q, k, v)), atol=1e-5)


@pytest.mark.parametrize("q_rank", [16, None])
@pytest.mark.parametrize("v_dim", [16, 8, 40])
def test_latent_attention_is_the_formula(q_rank: int | None, v_dim: int) -> None:
    base = config("deepseek-v3-pico").attention
    model = decoder("deepseek-v3-pico", attention={**base.model_dump(), "q_rank": q_rank, "v_dim": v_dim})
    a, part = model.config.attention, next(model.blocks()).attn
    assert a.kind == "mla"
    assert isinstance(part, MultiHeadLatentAttention)
    x = torch.randn(1, 6, model.config.d_model, generator=torch.Generator().manual_seed(0))
    context = build_context(
        model.config, tokens(model, 1, 6), document_BT=None, domain_BT=None, cache=None, restart_positions=True
    )

    def normed(t: Tensor, gain: Tensor) -> Tensor:
        return t / (t.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain

    queries = part.q(x) if q_rank is None else part.q_b(normed(part.q_a(x), part.q_a_norm.weight))
    q = queries[0].view(6, a.n_heads, -1)
    down = part.kv_a(x)[0]
    latent, shared_key = normed(down[:, : a.kv_rank], part.kv_a_norm.weight), down[:, a.kv_rank :]
    kv = part.kv_b(latent).view(6, a.n_heads, -1)
    turn = [turned_by_hand(shared_key[t], t, 1e4, a.rope_dim, "interleaved") for t in range(6)]
    k = torch.cat([kv[..., : a.nope_dim], torch.stack(turn)[:, None].expand(-1, a.n_heads, -1)], -1)
    turned = [
        [turned_by_hand(q[t, h, a.nope_dim :], t, 1e4, a.rope_dim, "interleaved") for h in range(a.n_heads)]
        for t in range(6)
    ]
    q = torch.cat([q[..., : a.nope_dim], torch.stack([torch.stack(row) for row in turned])], -1)
    expected = part.o(attention_by_hand(q, k, kv[..., a.nope_dim :]))
    assert torch.allclose(part(x, context)[0], expected, atol=1e-5)


def test_positions_restart_with_each_run_of_equal_ids() -> None:
    document = torch.tensor([[4, 4, 4, 1, 1, 4, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0]])
    runs = runs_of(document)
    assert runs.tolist() == [[0, 0, 0, 1, 1, 2, 3, 3], [0] * 8]
    assert restarting_positions(runs).tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [*range(8)]]


def test_rotary_logits_depend_on_distance_only() -> None:
    """A prefix that no token attends to shifts all positions and changes nothing."""
    model = decoder("llama-3-8b-pico")
    ids = tokens(model, 1, 12)
    document = torch.tensor([[0] * 4 + [1] * 8])
    model.restart_positions = False
    shifted = logits(model, ids, document_BT=document)[:, 4:]
    assert torch.allclose(shifted, logits(model, ids[:, 4:]), atol=1e-4)
