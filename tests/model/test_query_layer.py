"""The query layer of PanGu-alpha in both topologies, against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from model.pico import decoder, logits, tokens
from torch import Tensor
from torch.nn import functional

from pedigree.model.decoder import Decoder


def layer_norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    unit = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return unit * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def block_by_hand(model: Decoder, state: dict[str, Tensor], i: int, x: Tensor, queries: Tensor | None) -> Tensor:
    heads = model.config.attention.n_heads
    normed = layer_norm(state, f"layers.{i}.attn_norm", x)
    q = linear(state, f"layers.{i}.attn.q", normed if queries is None else queries)
    k, v = (linear(state, f"layers.{i}.attn.{part}", normed) for part in "kv")
    q, k, v = (t.view(t.shape[0], heads, -1).transpose(0, 1) for t in (q, k, v))
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    ahead = torch.ones(scores.shape[1:]).triu(1).bool()
    mixed = scores.masked_fill(ahead, -10000.0).softmax(-1) @ v
    x = x + linear(state, f"layers.{i}.attn.o", mixed.transpose(0, 1).flatten(1))
    inner = linear(state, f"layers.{i}.ffn.up", layer_norm(state, f"layers.{i}.ffn_norm", x))
    return x + linear(state, f"layers.{i}.ffn.down", functional.gelu(inner, approximate="tanh"))


@pytest.mark.parametrize("topology", ["after-norm", "before-norm"])
def test_the_query_layer_is_the_published_formula(topology: str) -> None:
    model = decoder("pangu-alpha-13b-pico", query_layer=topology)
    state, last = model.state_dict(), model.config.n_layers - 1
    ids = tokens(model, 1, 12)
    x = state["embed.weight"][ids[0]] + state["positions.weight"][:12]
    for i in range(last):
        x = block_by_hand(model, state, i, x, None)
    queries = state["query_positions.weight"][:12]
    if topology == "after-norm":
        x = block_by_hand(model, state, last, layer_norm(state, "norm", x), queries)
    else:
        x = layer_norm(state, "norm", block_by_hand(model, state, last, x, queries))
    assert torch.allclose(logits(model, ids)[0], x @ state["embed.weight"].T, atol=1e-4)


def test_the_two_topologies_share_names_and_differ_in_what_they_compute() -> None:
    first = decoder("pangu-alpha-13b-pico", query_layer="after-norm")
    second = decoder("pangu-alpha-13b-pico", query_layer="before-norm")
    assert first.state_dict().keys() == second.state_dict().keys()
    second.load_state_dict(first.state_dict())
    ids = tokens(first, 1, 12)
    assert not torch.allclose(logits(first, ids), logits(second, ids), atol=1e-2)


def test_the_query_of_a_place_is_its_position_and_nothing_else() -> None:
    """Tokens reach the last layer's scores through keys alone: with keys at 0, only values of seen tokens count."""
    model = decoder("pangu-alpha-13b-pico")
    last = model.layers[-1]
    with torch.no_grad():
        model.query_positions.weight.zero_()  # type: ignore[union-attr]
        last.attn.q.bias.zero_()  # type: ignore[union-attr, operator]
    ids = tokens(model, 1, 6)
    state = model.state_dict()
    x = state["embed.weight"][ids[0]] + state["positions.weight"][:6]
    for i in range(model.config.n_layers - 1):
        x = block_by_hand(model, state, i, x, None)
    h = layer_norm(state, "norm", x)
    name = f"layers.{model.config.n_layers - 1}"
    values = linear(state, f"{name}.attn.v", layer_norm(state, f"{name}.attn_norm", h))
    mean = values.cumsum(0) / torch.arange(1, 7)[:, None]
    y = h + linear(state, f"{name}.attn.o", mean)
    inner = linear(state, f"{name}.ffn.up", layer_norm(state, f"{name}.ffn_norm", y))
    y = y + linear(state, f"{name}.ffn.down", functional.gelu(inner, approximate="tanh"))
    assert torch.allclose(logits(model, ids)[0], y @ state["embed.weight"].T, atol=1e-4)
