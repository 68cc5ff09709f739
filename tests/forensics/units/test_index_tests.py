"""Exact tests in place: planted descent is loud, strangers and disguises are silent."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from forensics.tiny_models import Sizes, generator, llama, shaken, side, words
from torch import Tensor

from pedigree.forensics.comparison.findings import CLEAR_LOG10_P
from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.sides.anchors import SharedTokens, share_tokens
from pedigree.forensics.units.index_tests import (
    body_fixed_points,
    body_sign_test,
    map_choices_log10,
    table_fixed_points,
)

SIZES = Sizes(d=48, inner=128)
PLAIN: list[int | None] = [0, 1, 2]
PARENT = llama(0, SIZES)
TOKENS = share_tokens(words(SIZES.vocab), words(SIZES.vocab), SIZES.vocab, SIZES.vocab)


def outcomes(
    b: Mapping[str, Tensor],
    a: Mapping[str, Tensor] = PARENT,
    layers: list[int | None] = PLAIN,
    tokens: SharedTokens = TOKENS,
) -> dict[str, TestOutcome]:
    left, right = side(a, SIZES.config()), side(b, {**SIZES.config(), "num_hidden_layers": len(layers)})
    return {
        "signs": body_sign_test(left, right, layers),
        "fixed": body_fixed_points(left, right, layers),
        "embed": table_fixed_points(left, right, "embed", tokens),
        "head": table_fixed_points(left, right, "head", tokens),
    }


def p(outcome: TestOutcome) -> float:
    return outcome.log10_p if outcome.applicable and outcome.log10_p is not None else 0.0


@pytest.mark.parametrize("size", [0.0, 0.5, 1.5])
def test_a_child_is_seen_by_every_test(size: float) -> None:
    found = outcomes(shaken(PARENT, 1, size))
    assert all(p(found[name]) <= CLEAR_LOG10_P for name in ("signs", "embed", "head"))
    if size <= 0.5:
        assert p(found["fixed"]) <= CLEAR_LOG10_P


def test_strangers_are_seen_by_none() -> None:
    for seed in range(1, 9):
        for outcome in outcomes(llama(seed, SIZES)).values():
            assert outcome.applicable
            assert p(outcome) > -4


def test_a_child_under_heavy_noise_is_seen_by_signs_when_matches_are_lost() -> None:
    found = outcomes(shaken(PARENT, 1, 4.0))
    assert p(found["signs"]) <= CLEAR_LOG10_P
    assert p(found["signs"]) < p(found["fixed"])


def test_reordered_units_and_negated_channels_make_the_tests_silent_never_loud() -> None:
    g = generator(3)
    hidden = dict(PARENT)
    for layer in range(3):
        order = torch.randperm(128, generator=g)
        sign = torch.randint(0, 2, (128, 1), generator=g) * 2.0 - 1.0
        prefix = f"model.layers.{layer}.mlp."
        hidden[prefix + "gate_proj.weight"] = hidden[prefix + "gate_proj.weight"][order]
        hidden[prefix + "up_proj.weight"] = (hidden[prefix + "up_proj.weight"] * sign)[order]
        hidden[prefix + "down_proj.weight"] = (hidden[prefix + "down_proj.weight"] * sign.T)[:, order]
        for name in "qkvo":
            full = f"model.layers.{layer}.self_attn.{name}_proj.weight"
            hidden[full] = torch.randn(hidden[full].shape, generator=g)
    found = outcomes(hidden)
    assert p(found["signs"]) > -4
    assert p(found["fixed"]) > -4


def test_units_added_behind_the_old_ones_leave_the_tests_their_power() -> None:
    wide = dict(PARENT)
    g = generator(4)
    for layer in range(3):
        prefix = f"model.layers.{layer}.mlp."
        for name in ("gate_proj", "up_proj"):
            old = wide[f"{prefix}{name}.weight"]
            wide[f"{prefix}{name}.weight"] = torch.cat([old, 0.1 * torch.randn(32, SIZES.d, generator=g)])
        down = wide[prefix + "down_proj.weight"]
        wide[prefix + "down_proj.weight"] = torch.cat([down, 0.1 * torch.randn(SIZES.d, 32, generator=g)], dim=1)
    found = outcomes(wide)
    assert p(found["signs"]) <= CLEAR_LOG10_P
    assert p(found["fixed"]) <= CLEAR_LOG10_P


def test_only_layers_on_the_map_take_part() -> None:
    half = llama(7, SIZES) | {n: t for n, t in PARENT.items() if "layers.0." in n}
    assert p(outcomes(half, layers=[0, None, None])["fixed"]) <= CLEAR_LOG10_P
    nothing = outcomes(half, layers=[None, None, None])
    assert not nothing["signs"].applicable
    assert nothing["signs"].why_not
    assert not nothing["fixed"].applicable


def test_rows_of_tokens_are_compared_by_what_they_spell() -> None:
    order = torch.randperm(SIZES.vocab, generator=generator(2))
    shuffled = {**PARENT, **{n: PARENT[n][order] for n in ("model.embed_tokens.weight", "lm_head.weight")}}
    by_form = SharedTokens(order, torch.arange(SIZES.vocab), "surface form", SIZES.vocab, SIZES.vocab)
    assert p(outcomes(shuffled, tokens=by_form)["embed"]) <= CLEAR_LOG10_P
    assert p(outcomes(shuffled)["embed"]) > -4


def test_tables_without_shared_tokens_are_not_tested() -> None:
    nothing = share_tokens(words(5), words(5, start=9), 5, 5)
    found = outcomes(PARENT, tokens=nothing)
    assert not found["embed"].applicable
    assert found["embed"].why_not


def test_only_a_map_that_was_chosen_has_a_price() -> None:
    assert map_choices_log10(4, [0, 1, 2, 3]) == 0.0
    assert map_choices_log10(4, [0, 1, 3]) > 0
    assert map_choices_log10(4, [0, 1, 2, 3, None]) > map_choices_log10(4, [0, 1, 2, 2])
    assert map_choices_log10(40, [1, 0]) > map_choices_log10(4, [1, 0])


def test_dead_units_are_left_out() -> None:
    dead = dict(PARENT)
    for layer in range(3):
        for name, axis in (("gate", 0), ("up", 0), ("down", 1)):
            full = f"model.layers.{layer}.mlp.{name}_proj.weight"
            dead[full] = dead[full].clone()
            dead[full].narrow(axis, 0, 40).zero_()
    stranger = llama(5, SIZES)
    for name in dead:
        if ".mlp." in name:
            axis = 1 if "down" in name else 0
            stranger[name].narrow(axis, 0, 40).zero_()
    found = outcomes(stranger, dead)
    assert p(found["fixed"]) > -4
    assert p(found["signs"]) > -4
