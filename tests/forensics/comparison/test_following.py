"""Which rows of two models are laid side by side before their directions are followed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.forensics.hand_made import TWIN, WHOLE, found, grid
from tests.forensics.tiny_models import Sizes, Tensors, llama, shaken, side

from pedigree.forensics.comparison.following import (
    follow_directions,
    gains_began_anew,
    matched_matrices,
    origin_of,
)
from pedigree.forensics.descent.gains import LearnedGains
from pedigree.forensics.descent.share import Share
from pedigree.forensics.descent.survival import Survival
from pedigree.forensics.sides.gauge import OF_TOKENS, Gauge
from pedigree.records.comparison import GaugeKind

SIZES = Sizes(d=64, layers=2, heads=4, kv_heads=4, head_dim=16, inner=96)


def heads_in_order(tensors: Tensors, order: list[int]) -> Tensors:
    out = dict(tensors)
    for layer in range(SIZES.layers):
        for name in "qkvo":
            key = f"model.layers.{layer}.self_attn.{name}_proj.weight"
            rows = out[key].T if name == "o" else out[key]
            rows = rows.unflatten(0, (SIZES.heads, SIZES.head_dim))[order].flatten(0, 1)
            out[key] = rows.T.contiguous() if name == "o" else rows
    return out


def test_of_heads_in_another_order_those_that_keep_their_place_are_followed() -> None:
    """Two of four did; beside rows of other heads the rest would look dead, and the pair like twins."""
    parent = llama(1, SIZES)
    child = heads_in_order(shaken(parent, 2, 0.1), [0, 2, 1, 3])
    a, b = side(parent, SIZES.config()), side(child, SIZES.config())
    hits = {kind: grid([0, 1], 2) for kind in ("ffn", "vo", "qk")}
    pair = found([0, 1], hits, survival=(None, None))  # type: ignore[arg-type]
    rows = [(kind, x_ND, y_ND) for kind, x_ND, y_ND in matched_matrices(a, b, pair) if kind != "ffn"]
    assert {kind for kind, _, _ in rows} == {"vo", "qk"}
    for _, x_ND, y_ND in rows:
        assert len(x_ND) == 2 * SIZES.head_dim
        assert float(torch.nn.functional.cosine_similarity(x_ND, y_ND, dim=1).min()) > 0.8
    follow_directions(a, b, pair)
    assert pair.forward is not None
    assert pair.forward.middle > 0.9


def test_heads_that_all_stand_are_followed_whole() -> None:
    parent = llama(1, SIZES)
    a, b = side(parent, SIZES.config()), side(shaken(parent, 2, 0.1), SIZES.config())
    pair = found([0, 1], {kind: grid([0, 1], 2) for kind in ("ffn", "vo", "qk")})  # type: ignore[arg-type]
    counts = {len(x_ND) for kind, x_ND, _ in matched_matrices(a, b, pair) if kind != "ffn"}
    assert counts == {SIZES.heads * SIZES.head_dim}


APART = LearnedGains(cosine=0.05, forward=0.05, backward=0.05, norms=9)


@pytest.mark.parametrize(
    ("forward", "backward", "gains", "anew"),
    [
        (WHOLE, WHOLE, APART, True),
        (WHOLE, TWIN, APART, False),  # a child that learned much more, or a longer training of the same start
        (TWIN, TWIN, APART, False),
        (WHOLE, WHOLE, replace(APART, cosine=0.2), False),
        (WHOLE, replace(WHOLE, excess=0.02), APART, False),  # what nobody sees cannot be seen to live on
        (WHOLE, WHOLE, None, False),
        (WHOLE, None, APART, False),
    ],
)
def test_gains_that_began_anew_are_told_by_what_lives_on_beside_them(
    forward: Survival | None, backward: Survival | None, gains: LearnedGains | None, anew: bool
) -> None:
    pair = found([0, 1], {}, survival=(forward, backward), gains=gains)
    assert gains_began_anew(pair) == anew


def test_a_child_whose_gains_were_drawn_anew_is_asked_without_them_and_as_strictly_as_one_without() -> None:
    pair = found([0, 1], {}, gains=APART, share=Share(0.5, 0.01, 0.2, 12))
    assert origin_of(pair).origin != "descent"
    pair.gains, pair.gains_anew = None, True
    assert origin_of(pair).origin == "descent"
    taken = replace(WHOLE, own=-0.2)
    pair.forward = pair.backward = taken
    assert origin_of(pair).origin != "descent"


@pytest.mark.parametrize("kind", ["identity", "signed-permutation"])
def test_twins_whose_gains_were_folded_are_no_merge_though_they_look_even_in_a_permuted_stream(kind: GaugeKind) -> None:
    """One start, one text, another order: both lack what the other learned, and the difference is half and half."""
    twin = Survival(0.82, 0.825, 0.10, 14, residual=2.5, own=-0.36, alike=0.81, excess=0.10)
    gauge = Gauge(kind, None if kind == "identity" else torch.eye(32).flip(0), "vocabulary rows of shared tokens")
    pair = found([0, 1], {}, gauge=gauge, survival=(twin, replace(twin, own=-0.52)), share=Share(0.52, 0.02, 0.6, 14))
    assert origin_of(pair).origin != "descent"


BY_TOKENS = Gauge("orthogonal", None, OF_TOKENS)


@pytest.mark.parametrize(
    ("excess", "matrices", "told"),
    [
        (0.3, 12, "descent"),
        (0.3, 8, "descent"),  # far beyond the threshold
        (0.3, 5, "unknown"),
        (0.18, 12, "descent"),  # beyond it
        (0.18, 8, "unknown"),
    ],
)
def test_fewer_matrices_of_a_reordered_fingerprint_have_to_say_more(excess: float, matrices: int, told: str) -> None:
    one = replace(WHOLE, matrices=matrices, excess=excess)
    other = replace(one, top=0.8, own=-0.1)
    pair = found([0, 1], {}, gauge=BY_TOKENS, survival=(one, other), share=Share(0.1, 0.01, 0.4, 12), reordered=True)
    assert origin_of(pair).origin == told


@pytest.mark.parametrize(("matrices", "told"), [(12, "start"), (6, "unknown")])
def test_a_shared_start_is_not_told_by_few_matrices_in_the_frame_of_tokens(matrices: int, told: str) -> None:
    twin = replace(TWIN, matrices=matrices)
    assert origin_of(found([0, 1], {}, gauge=BY_TOKENS, survival=(twin, twin))).origin == told
