"""Gains that were multiplied into the matrices behind them are still there, as the scale of columns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from forensics.tiny_models import (
    Sizes,
    Tensors,
    generator,
    llama,
    random_rotation,
    shaken,
    side,
    signed_permutation,
)

from pedigree.forensics.descent.folded_gains import folded_side
from pedigree.forensics.sides.gauge import Gauge, identity_gauge
from pedigree.forensics.units.unit_map import UnitMap

SIZES = Sizes()
MAP = list(range(SIZES.layers))
READERS = {"input_layernorm": ("q", "k", "v"), "post_attention_layernorm": ("gate", "up")}


def in_place() -> dict[int, UnitMap]:
    """Every unit comes from the one in its place."""
    n = torch.arange(SIZES.inner)
    zero, one = torch.zeros_like(n), torch.ones(SIZES.inner)
    rest = (n, zero, n, zero, zero.bool(), 0.0 * one, one, SIZES.inner, SIZES.inner)
    return {j: UnitMap(j, j, n, one, *rest) for j in MAP}


def learned(seed: int) -> Tensors:
    """One start with gains that training moved by a tenth."""
    g = generator(seed)
    return {k: 1.0 + 0.1 * torch.randn(SIZES.d, generator=g) if v.ndim == 1 else v for k, v in llama(0).items()}


def folded(model: Tensors) -> Tensors:
    out = dict(model)
    for i in MAP:
        for norm, letters in READERS.items():
            gain = f"model.layers.{i}.{norm}.weight"
            for letter in letters:
                name = f"model.layers.{i}.{'self_attn' if len(letter) == 1 else 'mlp'}.{letter}_proj.weight"
                out[name] = out[name] * model[gain]
            out[gain] = torch.ones(SIZES.d)
    return out


def with_other_attention(model: Tensors, seed: int) -> Tensors:
    other = llama(seed)
    return {name: other[name] if "self_attn" in name else tensor for name, tensor in model.items()}


def side_that_holds(a: Tensors, b: Tensors) -> str | None:
    return folded_side(side(a), side(b), MAP, in_place(), identity_gauge(SIZES.d, SIZES.d))


def moved(model: Tensors, move_DD: torch.Tensor) -> Tensors:
    """Coordinates of the residual stream permuted and negated, gains with them."""
    out = {}
    for name, tensor in model.items():
        writes = name.endswith(("o_proj.weight", "down_proj.weight"))
        out[name] = tensor @ move_DD.abs() if tensor.ndim == 1 else move_DD.T @ tensor if writes else tensor @ move_DD
    return out


def as_experts(model: Tensors, order: list[int]) -> Tensors:
    """The feed-forward units as two experts of a Mixtral, in an order of experts."""
    out, half = {n: t for n, t in model.items() if ".mlp." not in n}, SIZES.inner // 2
    for i in MAP:
        prefix = f"model.layers.{i}."
        out[prefix + "block_sparse_moe.gate.weight"] = torch.zeros(2, SIZES.d)
        for e, source in enumerate(order):
            rows = slice(source * half, (source + 1) * half)
            for name, old in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
                tensor = model[f"{prefix}mlp.{old}_proj.weight"]
                part = tensor[:, rows] if old == "down" else tensor[rows]
                out[f"{prefix}block_sparse_moe.experts.{e}.{name}.weight"] = part
    return out


@pytest.mark.parametrize("seed", range(3))
def test_folded_gains_are_found_though_attention_was_drawn_anew(seed: int) -> None:
    """Rows that have nothing in common have a scale of zero by chance: relative to it they would drown the others."""
    parent = learned(10 + seed)
    child = shaken(with_other_attention(folded(parent), 50 + seed), 20 + seed, 0.1)
    child = {name: torch.ones(SIZES.d) if tensor.ndim == 1 else tensor for name, tensor in child.items()}
    assert side_that_holds(parent, child) == "b"
    assert side_that_holds(child, parent) == "a"


def test_folded_gains_are_found_in_a_stream_whose_coordinates_were_permuted_and_negated() -> None:
    parent, move_DD = learned(10), signed_permutation(SIZES.d, 3)
    frame = Gauge("signed-permutation", move_DD, "vocabulary rows of shared tokens")
    child = moved(shaken(folded(parent), 20, 0.1), move_DD)
    twin = moved(shaken(learned(40), 30, 0.1), move_DD)
    assert folded_side(side(parent), side(child), MAP, in_place(), frame) == "b"
    assert folded_side(side(child), side(parent), MAP, in_place(), frame.inverse()) == "a"
    assert folded_side(side(parent), side(twin), MAP, in_place(), frame) is None
    turn = Gauge("orthogonal", random_rotation(SIZES.d, 5), "vocabulary rows of shared tokens")
    assert folded_side(side(parent), side(child), MAP, in_place(), turn) is None


def test_folded_gains_are_found_in_experts_in_another_order_beside_foreign_attention() -> None:
    parent, config = learned(11), {**SIZES.config("mixtral"), "num_local_experts": 2}
    child = shaken(with_other_attention(folded(parent), 51), 21, 0.1)
    child = {name: torch.ones(SIZES.d) if tensor.ndim == 1 else tensor for name, tensor in child.items()}
    a, b = (side(as_experts(m, order), config) for m, order in ((parent, [0, 1]), (child, [1, 0])))
    half = SIZES.inner // 2
    at, label = torch.arange(SIZES.inner) % half, torch.arange(SIZES.inner) // half
    maps = {
        j: replace(units, origin_N=torch.arange(SIZES.inner).roll(half), index_a_M=at, label_a_M=label, index_b_N=at,
                   label_b_N=label)
        for j, units in in_place().items()
    }  # fmt: skip
    plain = identity_gauge(SIZES.d, SIZES.d)
    assert folded_side(a, b, MAP, maps, plain) == "b"
    twin = side(as_experts(shaken(with_other_attention(learned(41), 61), 31, 0.1), [1, 0]), config)
    assert folded_side(a, twin, MAP, maps, plain) is None


@pytest.mark.parametrize("seed", range(3))
def test_columns_of_a_twin_hold_no_gains(seed: int) -> None:
    twin = shaken(with_other_attention(learned(40 + seed), 60 + seed), 30 + seed, 0.1)
    assert side_that_holds(learned(10 + seed), twin) is None
    assert side_that_holds(learned(10 + seed), folded(learned(70 + seed))) is None
