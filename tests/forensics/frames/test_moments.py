"""A frame from the weights alone: no token, no unit order, no scale is used."""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import generator, random_rotation, unit_set
from torch import Tensor

from pedigree.forensics.frames import moments
from pedigree.forensics.frames.moments import fit_moments, layer_moments, stack_moments
from pedigree.forensics.sides.views import LayerView

D, HEADS, C = 24, 4, 4


def structured(seed: int, d: int = D, layers: int = 3) -> list[LayerView]:
    """Layers whose units favor some directions, as trained ones do."""
    g = generator(seed)
    views = []
    for layer in range(layers):

        def rows(n: int) -> Tensor:
            shape = torch.randn(d, d, generator=g) * torch.logspace(0.7, -0.7, d)
            return torch.randn(n, d, generator=g) @ shape

        views.append(
            LayerView(
                layer,
                {
                    "ffn": unit_set({"gate": rows(120), "up": rows(120), "down": rows(120)}),
                    "vo": unit_set({"v": rows(HEADS * C), "o": rows(HEADS * C)}, "vo", heads=HEADS),
                    "qk": unit_set({"k": rows(HEADS * C), "q": rows(HEADS * C)}, "qk", heads=HEADS),
                },
            )
        )
    return views


def disguised(views: list[LayerView], turn: Tensor, seed: int) -> list[LayerView]:
    """Turned; feed-forward units shuffled and rescaled; values and outputs mixed inside heads; heads shuffled."""
    g = generator(seed)
    out = []
    for view in views:
        ffn, vo, qk = view.units["ffn"], view.units["vo"], view.units["qk"]
        order = torch.randperm(ffn.count, generator=g)
        size = torch.exp2(torch.rand(ffn.count, 1, generator=g) * 4 - 2)
        heads = torch.randperm(HEADS, generator=g)
        basis = torch.eye(C) + 0.5 * torch.randn(HEADS, C, C, generator=g)
        v = (basis @ vo.views_UD["v"].reshape(HEADS, C, -1))[heads].reshape(HEADS * C, -1)
        o = (torch.linalg.inv(basis).mT @ vo.views_UD["o"].reshape(HEADS, C, -1))[heads].reshape(HEADS * C, -1)
        scale = {"gate": torch.ones_like(size), "up": size, "down": -1 / size}
        moved = {
            "ffn": unit_set({n: (w * scale[n])[order] @ turn for n, w in ffn.views_UD.items()}),
            "vo": unit_set({"v": v @ turn, "o": o @ turn}, "vo", heads=HEADS),
            "qk": unit_set({n: w @ turn for n, w in qk.views_UD.items()}, "qk", heads=HEADS),
        }
        out.append(LayerView(view.layer, moved))  # type: ignore[arg-type]
    return out


def maps(a: list[LayerView], b: list[LayerView]) -> list[Tensor]:
    stacks = stack_moments(a, b)
    assert stacks is not None
    found = [gauge.map_AB for gauge in fit_moments(*stacks)]
    return [m for m in found if m is not None]


def test_a_planted_rotation_is_found_without_any_token_up_to_its_sign() -> None:
    views = structured(0)
    turn = random_rotation(D, 1)
    found = maps(views, disguised(views, turn, 2))
    assert len(found) == 2
    torch.testing.assert_close(found[0], -found[1])
    error = min(float((m - turn).norm()) for m in found)
    assert error < 0.2
    assert min(float((m + turn).norm()) for m in found) < 0.2


def test_moments_do_not_see_order_or_scale_of_units_nor_bases_of_heads() -> None:
    views = structured(3)
    moved = disguised(views, torch.eye(D), 4)
    for one, other in zip(views, moved, strict=True):
        before, after = layer_moments(one), layer_moments(other)
        assert before.keys() == after.keys()
        for name, x in before.items():
            y = after[name]
            if name not in ("ffn.up", "ffn.down"):  # the mean row moves a little when rows are rescaled
                torch.testing.assert_close(x, y, rtol=0, atol=1e-4)
            assert float((x * y).sum()) > 0.95


def test_models_of_other_depth_are_still_brought_into_one_frame() -> None:
    views = structured(5)
    turn = random_rotation(D, 6)
    deeper = disguised([*views, views[-1]], turn, 7)
    assert min(float((m - turn).norm() / turn.norm()) for m in maps(views, deeper)) < 0.6


def hybrid(seed: int, layers: int = 4) -> list[LayerView]:
    """Layers with attention in every other one."""
    views = structured(seed, layers=layers)
    return [v if v.layer % 2 else LayerView(v.layer, {"ffn": v.units["ffn"]}) for v in views]


def moved(views: list[LayerView], turn: Tensor, seed: int) -> list[LayerView]:
    """`disguised` of layers of which some have no attention."""
    whole = disguised([LayerView(v.layer, {**structured(99)[0].units, **v.units}) for v in views], turn, seed)
    return [
        LayerView(v.layer, {kind: units for kind, units in w.units.items() if kind in v.units})
        for v, w in zip(views, whole, strict=True)
    ]


def test_layers_of_several_kinds_are_brought_into_one_frame() -> None:
    views, turn = hybrid(0), random_rotation(D, 1)
    assert min(float((m - turn).norm()) for m in maps(views, moved(views, turn, 2))) < 0.2
    # Of another depth, or with attention in other layers, they are averaged projection by projection.
    for other in ([*views, views[-1]], [views[1], views[0], *views[2:]]):
        assert min(float((m - turn).norm() / turn.norm()) for m in maps(views, moved(other, turn, 7))) < 0.6


def test_what_it_finds_between_strangers_is_a_rotation_and_says_nothing() -> None:
    for found in maps(structured(8), structured(9)):
        torch.testing.assert_close(found @ found.T, torch.eye(D), rtol=0, atol=1e-4)


def test_the_same_weights_give_the_same_frame() -> None:
    views = structured(0)
    moved = disguised(views, random_rotation(D, 1), 2)
    for one, two in zip(maps(views, moved), maps(views, moved), strict=True):
        assert torch.equal(one, two)


def test_models_of_other_width_or_other_projections_are_not_stacked() -> None:
    assert stack_moments(structured(0), structured(0, d=16)) is None
    assert stack_moments([], structured(0)) is None
    plain = [LayerView(v.layer, {"ffn": v.units["ffn"]}) for v in structured(0)]
    assert stack_moments(structured(0), plain) is None


def test_in_wider_models_starts_that_lag_are_dropped_and_the_rotation_is_found_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[int] = []
    iterate = moments._iterate

    def counted(a_KDD: Tensor, b_KDD: Tensor, r_DD: Tensor, most: int = moments.ITERATIONS) -> Tensor:
        steps.append(len(a_KDD) * most)
        return iterate(a_KDD, b_KDD, r_DD, most)

    monkeypatch.setattr(moments, "_iterate", counted)
    views, turn = structured(0), random_rotation(D, 1)
    maps(views, disguised(views, turn, 2))
    all_steps, steps[:] = sum(steps), []
    monkeypatch.setattr(moments, "SMALL_WIDTH", D - 1)
    found = maps(views, disguised(views, turn, 2))
    assert min(float((m - turn).norm()) for m in found) < 0.2
    assert sum(steps) < all_steps / 4
    other = maps(views, structured(9))
    torch.testing.assert_close(other[0] @ other[0].T, torch.eye(D), rtol=0, atol=1e-4)
