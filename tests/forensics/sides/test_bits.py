"""Equality of numbers: what is equal, equal up to a cast, constant, or without counterpart."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from forensics.tiny_models import Sizes, llama, side
from torch import Tensor

from pedigree.forensics.sides.bits import BitPass, compare_bits

PLAIN: list[int | None] = [0, 1, 2]
PARENT = llama(0)


def compared(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], layers: list[int | None] | None = None, whole: bool = True
) -> BitPass:
    return compare_bits(side(a), side(b), layers or PLAIN, whole)


@pytest.mark.parametrize("whole", [True, False])
def test_a_copy_is_equal_part_by_part(whole: bool) -> None:
    found = compared(PARENT, dict(reversed(PARENT.items())), whole=whole)
    assert found.all_equal
    assert len(found.equal) == len(PARENT)
    assert found.equal_share == 1.0
    assert found.whole is whole
    assert {"embed", "head", "layers.2.mlp.gate", "layers.0.norm.attn"} <= set(found.equal)


def test_strangers_share_no_tensor() -> None:
    found = compared(PARENT, llama(1))
    assert not found.equal
    assert not found.all_equal
    assert len(found.different) == len(PARENT)
    assert found.equal_share < 1e-3


def test_one_changed_number_is_seen() -> None:
    changed = {**PARENT, "lm_head.weight": PARENT["lm_head.weight"].clone()}
    changed["lm_head.weight"][57, 3] += 1e-6
    found = compared(PARENT, changed)
    assert found.different == ["head"]
    assert not found.all_equal


def test_some_rows_do_not_prove_that_all_are_equal() -> None:
    changed = {**PARENT, "lm_head.weight": PARENT["lm_head.weight"].clone()}
    changed["lm_head.weight"][57, 3] += 1.0
    found = compared(PARENT, changed, whole=False)
    assert "head" in found.equal
    assert not found.whole


@pytest.mark.parametrize(
    ("dtype", "swapped"), [(torch.bfloat16, False), (torch.float16, False), (torch.bfloat16, True)]
)
def test_a_cast_is_told_from_a_change_and_the_coarser_side_is_named(dtype: torch.dtype, swapped: bool) -> None:
    cast = {name: tensor.to(dtype) for name, tensor in PARENT.items()}
    found = compared(cast, PARENT) if swapped else compared(PARENT, cast)
    assert not found.different
    assert len(found.equal_after_cast) == len(PARENT)
    assert found.coarser == ("a" if swapped else "b")
    assert not found.all_equal


def test_a_cast_that_loses_nothing_leaves_everything_equal() -> None:
    coarse = {name: tensor.to(torch.bfloat16) for name, tensor in PARENT.items()}
    found = compared(coarse, {name: tensor.float() for name, tensor in coarse.items()})
    assert found.all_equal


def test_tensors_that_are_constant_in_both_say_nothing() -> None:
    def with_plain_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: torch.ones_like(t) if t.ndim == 1 else t for n, t in tensors.items()}

    found = compared(with_plain_norms(PARENT), with_plain_norms(llama(1)))
    assert not found.equal
    assert len(found.constant) == 7
    assert found.equal_share < 1e-3


def test_frozen_tensors_are_named_among_trained_ones() -> None:
    child = llama(1) | {n: PARENT[n] for n in PARENT if "embed" in n or "layers.0.self_attn" in n}
    found = compared(PARENT, child)
    assert set(found.equal) == {"embed", *(f"layers.0.attn.{n}" for n in "qkvo")}


def test_layers_are_compared_along_the_layer_map() -> None:
    order: list[int | None] = [0, 2, None, 1]
    child = {n: t for n, t in PARENT.items() if ".layers." not in n}
    fresh = llama(9)
    for j, i in enumerate(order):
        source = fresh if i is None else PARENT
        for name, tensor in source.items():
            if name.startswith(f"model.layers.{0 if i is None else i}."):
                child[f"model.layers.{j}.{name.split('.', 3)[3]}"] = tensor
    found = compare_bits(side(PARENT), side(child, {**Sizes().config(), "num_hidden_layers": 4}), order, True)
    assert not found.different
    assert len(found.equal) == len(PARENT)
    assert {name.split(".")[1] for name in found.unpaired} == {"2"}
    assert not found.all_equal


def test_what_only_one_side_has_is_named() -> None:
    biased = {**PARENT, "model.layers.1.self_attn.q_proj.bias": torch.randn(32)}
    found = compared(PARENT, biased)
    assert found.unpaired == ["layers.1.attn.q.bias"]
    assert not found.all_equal
    back = compared(biased, PARENT)
    assert back.missing == ["layers.1.attn.q.bias"]
    assert not back.all_equal


def test_a_part_of_another_shape_has_no_counterpart() -> None:
    longer = {**PARENT, "lm_head.weight": torch.cat([PARENT["lm_head.weight"], torch.zeros(8, 32)])}
    found = compared(PARENT, longer)
    assert "head" in found.unpaired
    assert "head" in found.missing


def test_numbers_that_are_not_finite_are_not_equal_to_anything() -> None:
    broken = {**PARENT, "lm_head.weight": PARENT["lm_head.weight"].clone()}
    broken["lm_head.weight"][0, 0] = float("nan")
    found = compared(broken, broken)
    assert found.different == ["head"]


def test_two_constants_that_differ_are_different_and_equal_ones_say_nothing() -> None:
    ones = {**PARENT, "model.norm.weight": torch.ones_like(PARENT["model.norm.weight"])}
    twos = {**ones, "model.norm.weight": 2 * ones["model.norm.weight"]}
    assert "norm.final" in compared(ones, ones).constant
    found = compared(ones, twos)
    assert found.different == ["norm.final"]
    assert not found.all_equal


def test_bands_count_what_one_look_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {**PARENT, "lm_head.weight": PARENT["lm_head.weight"].clone()}
    changed["lm_head.weight"][57, 3] += 1e-6
    at_once = compared(PARENT, changed)
    monkeypatch.setattr("pedigree.forensics.sides.bits.BAND_NUMBERS", 100)
    assert compared(PARENT, changed) == at_once


@pytest.mark.parametrize("shape", [(2, 8), (70,)])
def test_a_small_tensor_without_a_role_decides_whether_files_are_the_same(shape: tuple[int, ...]) -> None:
    first = {**PARENT, "score.weight": torch.ones(shape)}
    found = compared(first, {**PARENT, "score.weight": torch.ones(shape) * 3})
    assert found.unpaired == ["score.weight"]
    assert not found.all_equal
    assert compared(first, first).all_equal
