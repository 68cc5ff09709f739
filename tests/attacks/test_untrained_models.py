"""Models that were never trained, and first steps from one start: copies are copies, first steps are no descent."""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import Sizes, Tensors, generator, llama, random_rotation, side, words

from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.verdict import judge

SIZES = Sizes(d=64, kv_heads=4, head_dim=16, inner=160)
WRITERS = ("o_proj.weight", "down_proj.weight")


def start() -> Tensors:
    """Random matrices, and gains that are one."""
    return {k: torch.ones_like(t) if t.ndim == 1 else t for k, t in llama(1, SIZES).items()}


def word(a: Tensors, b: Tensors) -> str:
    left, right = (side(model, SIZES.config(), tokens=words(SIZES.vocab)) for model in (a, b))
    return judge(left, right, measure(left, right, whole_bits=True)).verdict


def reordered(model: Tensors) -> Tensors:
    out = dict(model)
    for layer in range(SIZES.layers):
        order = torch.randperm(SIZES.inner, generator=generator(layer))
        for name in ("gate", "up", "down"):
            key = f"model.layers.{layer}.mlp.{name}_proj.weight"
            out[key] = model[key][:, order] if name == "down" else model[key][order]
    return out


def rotated(model: Tensors) -> Tensors:
    turn_DD = random_rotation(SIZES.d, 7)
    return {k: t if t.ndim == 1 else turn_DD.T @ t if k.endswith(WRITERS) else t @ turn_DD for k, t in model.items()}


def in_eight_bits(model: Tensors) -> Tensors:
    out = {}
    for name, t in model.items():
        scale = t.abs().amax(-1, keepdim=True) / 127
        out[name] = t if t.ndim == 1 else (t / scale).round() * scale
    return out


@pytest.mark.parametrize("change", [reordered, rotated, in_eight_bits], ids=["reordered", "rotated", "in eight bits"])
def test_a_copy_of_a_model_that_was_never_trained_is_related(change: object) -> None:
    assert callable(change)
    assert word(start(), change(start())) == "related"


def test_equal_bodies_that_nobody_trained_under_other_tables_are_not() -> None:
    """A formula or a seed gives the same numbers in models that have nothing else in common."""
    other = llama(2, SIZES)
    tables = {k: other[k] for k in ("model.embed_tokens.weight", "lm_head.weight")}
    assert word(start(), reordered(start()) | tables) == "inconclusive"


def test_tables_that_were_trained_a_step_apart_on_one_reordered_body_are_not() -> None:
    stepped = {
        k: t + 1e-5 * torch.randn(t.shape, generator=generator(3)).sign() if "embed" in k or "head" in k else t
        for k, t in reordered(start()).items()
    }
    assert word(start(), stepped) == "inconclusive"


@pytest.mark.parametrize("size", [3e-4, 3e-3, 0.02], ids=["a step", "ten steps", "ten long steps"])
@pytest.mark.parametrize("frozen", [True, False], ids=["gains frozen", "gains trained"])
def test_first_steps_that_look_like_noise_make_no_descent(size: float, frozen: bool) -> None:
    """Gradients of random text have no strong directions, so neither have the first steps on it."""

    def trained(seed: int) -> Tensors:
        g = generator(seed)
        return {
            k: t + size * torch.randn(t.shape, generator=g) * (0.1 if t.ndim == 2 else 0.0 if frozen else 0.3)
            for k, t in start().items()
        }

    assert word(trained(2), trained(3)) in ("shared-initialization", "inconclusive")
