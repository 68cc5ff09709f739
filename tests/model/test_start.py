"""How weights start: by name, by depth, and what the norms make of a tiny start."""

from __future__ import annotations

import math

import pytest
import torch
from model.pico import config, tokens

from pedigree.model.block import Block
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import FeedForward
from pedigree.model.decoder import Decoder
from pedigree.model.feed_forward import AugmentedShortcut, DenseFeedForward, SeriesActivation
from pedigree.model.init import starting_value
from pedigree.model.members import member
from pedigree.model.norm import LayerNorm, RMSNorm, post_gains


def test_a_tensor_starts_the_same_whatever_stands_beside_it() -> None:
    shallow = Decoder(config("llama-2-7b-pico", init={"kind": "normal"}), seed=5)
    deep = Decoder(config("llama-2-7b-pico", init={"kind": "normal"}, n_layers=6), seed=5)
    other = Decoder(config("llama-2-7b-pico", init={"kind": "normal"}), seed=6)
    state, deeper, changed = shallow.state_dict(), deep.state_dict(), other.state_dict()
    assert state.keys() < deeper.keys()
    assert all(torch.equal(state[name], deeper[name]) for name in state)
    assert not torch.equal(state["layers.0.attn.q.weight"], changed["layers.0.attn.q.weight"])
    assert not torch.equal(state["layers.0.attn.q.weight"], state["layers.1.attn.q.weight"])


def test_construction_touches_no_global_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    Decoder(member("pangu-pro-moe-72b-pico"))
    assert torch.equal(torch.rand(1), expected)


def test_tiny_start_is_the_published_standard_deviation() -> None:
    ultra = member("pangu-ultra-135b")
    assert ultra.matrix_std == pytest.approx(6.58e-4, rel=1e-3)
    assert member("pangu-ultra-moe-718b").matrix_std == pytest.approx(1.033e-3, rel=1e-3)
    small = config("pangu-ultra-135b-pico")
    model = Decoder(small)
    for name in ("layers.0.attn.o.weight", "layers.1.ffn.down.weight", "head.weight"):
        assert model.state_dict()[name].std().item() == pytest.approx(small.matrix_std, rel=0.05)
    assert model.embed.weight.std().item() == pytest.approx(0.5, rel=0.05)


def test_gpt2_start_shrinks_what_writes_into_the_stream() -> None:
    model = Decoder(config("pangu-alpha-13b-pico", n_layers=8))
    state = model.state_dict()
    for name in ("layers.0.attn.o.weight", "layers.0.ffn.down.weight"):
        assert state[name].std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert state["layers.0.ffn.up.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert state["layers.0.attn.q.weight"].std().item() == pytest.approx(0.01, rel=0.05)
    assert not state["layers.0.attn.q.bias"].any()


def test_depth_scaled_gains_are_the_published_ones() -> None:
    attention, feed_forward = post_gains(member("pangu-ultra-135b"))
    assert (attention, feed_forward) == (pytest.approx(0.02919, rel=1e-3), pytest.approx(0.04456, rel=1e-3))
    attention, feed_forward = post_gains(member("pangu-ultra-moe-718b"))
    assert (attention, feed_forward) == (pytest.approx(0.03623, rel=1e-3), pytest.approx(0.05531, rel=1e-3))
    small = member("pangu-ultra-moe-718b-pico")
    model = Decoder(small)
    blocks = [*model.blocks()]
    assert len(blocks) == small.n_layers + 1
    for block in blocks:
        assert block.attn_post_norm is not None
        assert block.ffn_post_norm is not None
        assert block.attn_post_norm.weight.tolist() == pytest.approx([0.283 / math.sqrt(small.n_layers)] * 64)
        assert block.ffn_post_norm.weight.tolist() == pytest.approx([0.432 / math.sqrt(small.n_layers)] * 64)
        assert set(block.attn_norm.weight.tolist()) == {1.0}


def test_plain_sandwich_gains_start_at_one() -> None:
    assert post_gains(config("pangu-ultra-135b-pico", norm={"placement": "sandwich"})) == (1.0, 1.0)


def test_eps_rules_the_norm_behind_a_tiny_branch_and_is_not_mended() -> None:
    """With TinyInit at 94 layers the MLP answers with about 3e-4: the norm gives x / sqrt(eps), far below one."""
    wide = member("pangu-ultra-135b").replace(d_model=384, feed_forward={"d_inner": 896}, init={"kind": "tiny"})
    part = DenseFeedForward(wide.d_model, wide.feed_forward)
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            parameter.copy_(starting_value(wide, f"layers.0.ffn.{name}", parameter.shape, 0))
        x = torch.randn(256, 384, generator=torch.Generator().manual_seed(0))
        branch = part(x)
        behind = RMSNorm(384, wide.norm.eps)(branch)
    rms = branch.square().mean().sqrt().item()
    assert rms == pytest.approx(3.0e-4, rel=0.05)
    assert rms**2 < wide.norm.eps / 50
    assert behind.square().mean().sqrt().item() == pytest.approx(0.093, rel=0.05)
    assert torch.allclose(behind, branch / math.sqrt(wide.norm.eps), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 3, 16), (64,)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_rms_norm_equals_the_reference_in_value_and_gradient(shape: tuple[int, ...], size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(shape[-1], 1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(shape[-1], generator=generator))
    x = (torch.randn(shape, generator=generator) * size).requires_grad_()
    direction = torch.randn(shape, generator=generator)
    mine = torch.autograd.grad(norm(x), (x, norm.weight), direction)
    reference = torch.nn.functional.rms_norm(x, (shape[-1],), norm.weight, 1e-5)
    theirs = torch.autograd.grad(reference, (x, norm.weight), direction)
    assert torch.allclose(norm(x), reference, rtol=1e-5, atol=1e-6)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_rms_norm_takes_gradients_that_do_not_lie_in_order() -> None:
    norm = RMSNorm(6, 1e-5)
    x = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    norm(x).t().contiguous().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_bfloat16_norm_computes_its_statistics_in_float32() -> None:
    x = torch.full((1, 4096), 256.0, dtype=torch.bfloat16)
    x[0, 0] = 1.0  # the sum of squares needs more than 8 bits
    for norm in (RMSNorm(4096, 1e-5), LayerNorm(4096, 1e-5)):
        out = norm.to(torch.bfloat16)(x)
        assert out.dtype == torch.bfloat16
        assert torch.allclose(out.float(), norm.float()(x.float()), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["swiglu", "gelu"])
@pytest.mark.parametrize("terms", [2, 3])
def test_a_series_starts_as_the_plain_activation_and_its_new_terms_can_move(kind: str, terms: int) -> None:
    plain = DenseFeedForward(16, FeedForward.model_validate({"kind": kind, "d_inner": 24}))
    series = DenseFeedForward(16, FeedForward.model_validate({"kind": kind, "d_inner": 24, "series": terms}))
    owner = config("pangu-pi-1b-pico", feed_forward={"kind": kind, "d_inner": 24, "series": terms})
    with torch.no_grad():
        for module in (plain, series):
            for name, parameter in module.named_parameters():
                parameter.copy_(starting_value(owner, f"layers.0.ffn.{name}", parameter.shape, 0))
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(plain(x), series(x), atol=1e-7)
    series(x).square().sum().backward()
    assert isinstance(series.series, SeriesActivation)
    slope = series.series.slope.grad
    assert slope is not None
    assert slope[1].abs().sum() > 0


def test_a_series_is_the_sum_of_its_terms() -> None:
    series = SeriesActivation("swiglu", 3, 4)
    with torch.no_grad():
        series.slope.copy_(torch.arange(12.0).view(3, 4) / 5)
        series.shift.copy_(torch.arange(12.0).view(3, 4) / 7 - 1)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    expected = sum(torch.nn.functional.silu(series.slope[i] * x + series.shift[i]) for i in range(3))
    assert torch.allclose(series(x), expected, atol=1e-6)


def test_augmented_shortcuts_start_neutral_and_can_move() -> None:
    with_shortcut = Decoder(config("pangu-pi-1b-pico"))
    without = Decoder(config("pangu-pi-1b-pico", shortcut=None))
    ids = tokens(without, 1, 9)
    out = with_shortcut(ids, targets_BT=ids)
    assert torch.allclose(out.loss, without(ids, targets_BT=ids).loss)
    out.loss.backward()
    first = with_shortcut.layers[0]
    assert isinstance(first, Block)
    shortcut = first.shortcuts[0]
    assert isinstance(shortcut, AugmentedShortcut)
    assert shortcut.leave.weight.grad is not None
    assert shortcut.leave.weight.grad.any()


def test_initial_logits_of_attention_are_nearly_uniform_at_a_tiny_start() -> None:
    deep = ModelConfig.model_validate({**member("pangu-ultra-135b-pico").model_dump(), "n_layers": 24})
    model = Decoder(deep)
    first = model.layers[0]
    assert isinstance(first, Block)
    x = torch.randn(64, deep.d_model, generator=torch.Generator().manual_seed(0))
    head = first.attn.head_dim
    assert isinstance(head, int)
    q, k = first.attn.q(x)[:, :head], first.attn.k(x)[:, :head]  # type: ignore[operator]
    assert (q @ k.T / head**0.5).std().item() == pytest.approx(1 / (2 * 24), rel=0.35)
