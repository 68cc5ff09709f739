"""Gains that were multiplied into the matrices behind them are still there, as the scale of columns."""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import Sizes, Tensors, generator, llama, shaken, side

from pedigree.forensics.descent.folded_gains import folded_side
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
    return folded_side(side(a), side(b), MAP, in_place())


@pytest.mark.parametrize("seed", range(3))
def test_folded_gains_are_found_though_attention_was_drawn_anew(seed: int) -> None:
    """Rows that have nothing in common have a scale of zero by chance: relative to it they would drown the others."""
    parent = learned(10 + seed)
    child = shaken(with_other_attention(folded(parent), 50 + seed), 20 + seed, 0.1)
    child = {name: torch.ones(SIZES.d) if tensor.ndim == 1 else tensor for name, tensor in child.items()}
    assert side_that_holds(parent, child) == "b"
    assert side_that_holds(child, parent) == "a"


@pytest.mark.parametrize("seed", range(3))
def test_columns_of_a_twin_hold_no_gains(seed: int) -> None:
    twin = shaken(with_other_attention(learned(40 + seed), 60 + seed), 30 + seed, 0.1)
    assert side_that_holds(learned(10 + seed), twin) is None
    assert side_that_holds(learned(10 + seed), folded(learned(70 + seed))) is None
