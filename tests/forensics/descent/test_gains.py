"""Gains begin at one: their deviations were learned, if nobody chose them."""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import Tensors, generator, llama, side
from torch import Tensor

from pedigree.forensics.descent.gains import LearnedGains, compare_gains
from pedigree.forensics.sides.gauge import Gauge, identity_gauge

D, MAP = 32, [0, 1, 2]
PLAIN = identity_gauge(D, D)


def with_gains(seed: int, base: Tensors | None = None, size: float = 0.1, keep: float = 1.0) -> Tensors:
    """A model whose gains are one plus `keep` of the base's deviations and new ones of its own."""
    g = generator(seed)
    out = dict(llama(0))
    for name, tensor in out.items():
        if tensor.ndim == 1:
            before = torch.zeros(D) if base is None else base[name] - 1.0
            out[name] = 1.0 + keep * before + size * torch.randn(D, generator=g)
    return out


def compared(a: Tensors, b: Tensors, gauge: Gauge = PLAIN) -> LearnedGains | None:
    return compare_gains(side(a), side(b), MAP, gauge)


def test_gains_of_a_child_are_its_parents_and_something_more() -> None:
    parent = with_gains(1)
    found = compared(parent, with_gains(2, parent, size=0.03))
    assert found is not None
    assert found.cosine > 0.9
    assert found.forward == pytest.approx(1.0, abs=0.1)
    assert found.backward < 1.0
    assert found.norms == 7


def test_gains_learned_apart_do_not_agree() -> None:
    found = compared(with_gains(1), with_gains(2))
    assert found is not None
    assert abs(found.cosine) < 0.3


def test_gains_are_read_in_the_order_of_the_other_model() -> None:
    parent, order = with_gains(1), torch.randperm(D, generator=generator(9))
    child: dict[str, Tensor] = {k: v[order] if v.ndim == 1 else v for k, v in parent.items()}
    flipped = torch.eye(D)[:, order] * -1.0
    found = compared(parent, child, Gauge("signed-permutation", flipped, "rows"))
    assert found is not None
    assert found.cosine == pytest.approx(1.0)


def test_gains_that_were_folded_turned_or_chosen_say_nothing() -> None:
    parent = with_gains(1)
    folded = {k: torch.ones(D) if v.ndim == 1 else v for k, v in parent.items()}
    assert compared(parent, folded) is None
    assert compared(parent, parent, Gauge("orthogonal", torch.eye(D), "rows")) is None
    g = generator(3)
    scattered = {
        k: v * torch.exp2(2.0 * torch.rand(D, generator=g) - 1.0) if v.ndim == 1 else v for k, v in parent.items()
    }
    assert compared(parent, scattered) is None


def test_damaged_gains_are_passed_over() -> None:
    parent = with_gains(1)
    broken = {k: torch.full((D,), float("nan")) if v.ndim == 1 else v for k, v in parent.items()}
    assert compared(parent, broken) is None
    zero = {k: torch.zeros(D) if v.ndim == 1 else v for k, v in parent.items()}
    assert compared(parent, zero) is None
