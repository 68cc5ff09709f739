"""Latent attention out of grouped heads: exact with one key/value head, close where keys share a direction."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.surgery.converting import OLD, convert, drawn, small

from pedigree.errors import PedigreeError
from pedigree.model.decoder import Decoder
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.latent import latent_factors

FEW = settings(
    max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


@FEW
@given(st.integers(1, 4), st.sampled_from([4, 6]), st.integers(1, 3), st.booleans())
def test_one_key_value_head_becomes_a_latent_exactly(heads: int, dim: int, layers: int, tied: bool) -> None:
    config = small(heads=heads, kv=1, dim=dim, width=16, layers=layers, rope={"theta": 5000}, tied=tied)
    made = convert(config, "convert.latent")
    assert made.claimed is Exactness.FP1
    assert made.apart < 1e-4
    assert made.after.config.attention.kind == "mla"
    assert made.after.config.attention.kv_rank == dim


def with_shared_keys(noise: float = 0.0) -> Decoder:
    """A model whose second key head is the first one, turned in its planes and larger."""
    model = drawn(small(heads=4, kv=2, dim=4, width=24, rope={}))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for block in model.layers:
            first = block.attn.k.weight[:4]
            pairs = torch.complex(first[:2], first[2:]) * torch.polar(torch.ones(2), torch.tensor([0.4, 2.0]))[:, None]
            block.attn.k.weight[4:] = torch.cat([pairs.real, pairs.imag]) * 1.7
            block.attn.k.weight.add_(noise * torch.randn(8, 24, generator=generator))
    return model


def test_heads_whose_keys_are_one_up_to_a_turn_lose_nothing() -> None:
    made = convert(with_shared_keys(), {"convert.latent": {"rank": 12}}, nfp=True)
    assert made.claimed is Exactness.NFP
    assert made.apart < 1e-3


def test_the_wider_the_latent_the_closer() -> None:
    model = with_shared_keys(noise=1e-3)
    apart = [convert(model, {"convert.latent": {"rank": rank}}, nfp=True).apart for rank in (4, 8, 12)]
    assert 1e-4 < apart[2] < 0.1
    assert apart[1] < 0.5 * apart[0]


def test_factors_give_back_keys_and_values() -> None:
    generator = torch.Generator().manual_seed(2)
    keys, values = (torch.randn(12, 40, generator=generator) for _ in range(2))
    found = latent_factors(keys, values, 4, 24)
    latent, shared = found.down_Ld[:24].double(), found.down_Ld[24:].double()
    both = (found.up_RC.double() @ latent).unflatten(0, (3, 8))
    assert torch.allclose(both[:, 4:].flatten(0, 1), values.double(), atol=1e-5)
    turned = found.shares_KP[:, :, None] * torch.complex(shared[:2], shared[2:])
    again = both[:, :4] + torch.cat([turned.real, turned.imag], 1)
    assert torch.allclose(again.flatten(0, 1), keys.double(), atol=1e-5)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"bias": "qkv", "rope": {}}, "no biases"),
        (OLD | {"bias": ""}, "must turn"),
        ({"rope": {"fraction": 0.5}}, "turn"),
    ],
)
def test_what_latent_attention_does_not_have_is_refused(more: dict[str, object], match: str) -> None:
    with pytest.raises(PedigreeError, match=match):
        convert(small(**more), "convert.latent", nfp=True)  # type: ignore[arg-type]
