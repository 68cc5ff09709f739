"""Masks, grids, noise and adapters between two models: named from the side on which they are, and pointing that way.

Shapes: N = rows, D = columns of a matrix, R = rank.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from forensics.tiny_models import Sizes, Tensors, generator, llama, side
from torch import Tensor

from pedigree.forensics.comparison.changes import list_changes
from pedigree.forensics.comparison.direction import weigh_direction
from pedigree.forensics.comparison.grids import side_on_grid
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.number_edits import masked_side, was_there_before
from pedigree.forensics.sides.bits import Zeros

SIZES = Sizes(d=64, kv_heads=4, head_dim=16, inner=160)
PARENT = llama(1, SIZES)
Edit = Callable[[Tensor, torch.Generator], Tensor]


def edited(edit: Edit, tensors: Tensors = PARENT) -> Tensors:
    """Every matrix of the body changed."""
    g = generator(7)
    body = {name: edit(t, g) for name, t in tensors.items() if t.dim() == 2 and "layers" in name}
    return {**tensors, **body}


def masked(x_ND: Tensor, g: torch.Generator) -> Tensor:
    return torch.where(x_ND.abs() > x_ND.abs().quantile(0.6), x_ND, torch.zeros(()))


def noisy(x_ND: Tensor, g: torch.Generator) -> Tensor:
    return x_ND + 0.2 * x_ND.std() * torch.randn(x_ND.shape, generator=g)


def adapted(x_ND: Tensor, g: torch.Generator) -> Tensor:
    low_ND = torch.randn(x_ND.shape[0], 4, generator=g) @ torch.randn(4, x_ND.shape[1], generator=g)
    return x_ND + 0.15 * x_ND.norm() * low_ND / low_ND.norm()


def rounded(x_ND: Tensor, g: torch.Generator) -> Tensor:
    step_N1 = x_ND.abs().amax(dim=1, keepdim=True) / 7
    return (x_ND / step_N1).round() * step_N1


def rounded_either_way(x_ND: Tensor, g: torch.Generator) -> Tensor:
    """On a grid, but not to the nearest of its values, as where later columns make up for errors of earlier ones."""
    step_N1 = x_ND.abs().amax(dim=1, keepdim=True) / 7
    return (x_ND / step_N1 + torch.rand(x_ND.shape, generator=g)).floor() * step_N1


def nearly_empty(x_ND: Tensor, g: torch.Generator) -> Tensor:
    """A mask that leaves blocks of a value or two, which stand on any grid."""
    return x_ND * (torch.rand(x_ND.shape, generator=g) < 0.06)


def told(a: Tensors, b: Tensors) -> tuple[dict[str, dict[str, object]], str]:
    """What was done from A to B, by kind, and the direction."""
    left, right = side(a, SIZES.config()), side(b, SIZES.config())
    found = measure(left, right, whole_bits=True)
    kinds = {change.kind: change.detail() for change in list_changes(left, right, found)}
    return kinds, weigh_direction(left, right, found).verdict


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (masked, "weights-pruned"),
        (noisy, "noise-added"),
        (adapted, "low-rank-update"),
        (rounded, "quantized"),
        (rounded_either_way, "quantized"),
    ],
)
def test_each_edit_is_named_and_no_other(edit: Edit, kind: str) -> None:
    kinds, _ = told(PARENT, edited(edit))
    assert kinds.keys() & {"weights-pruned", "noise-added", "low-rank-update", "quantized"} == {kind}
    expected = {"weights-pruned": ("share", 0.6), "noise-added": ("sigma", 0.2), "low-rank-update": ("rank", 4)}
    if kind in expected:
        name, value = expected[kind]
        assert kinds[kind][name] == pytest.approx(value, abs=0.02)


def test_what_a_mask_leaves_of_blocks_is_no_grid() -> None:
    left, right = (side(tensors, SIZES.config()) for tensors in (PARENT, edited(nearly_empty)))
    assert side_on_grid(left, right) is None
    gridded = side(edited(rounded_either_way), SIZES.config())
    assert (side_on_grid(left, gridded), side_on_grid(gridded, left)) == ("b", "a")


def test_a_mask_and_noise_are_not_said_of_the_model_without_them() -> None:
    for edit in (masked, noisy):
        kinds, _ = told(edited(edit), PARENT)
        assert not kinds.keys() & {"weights-pruned", "noise-added", "low-rank-update", "quantized"}


def test_a_masked_model_came_after_the_whole_one() -> None:
    """What is left of a model lives on whole in it, so that nearness alone would say the opposite."""
    assert told(PARENT, edited(masked))[1] == "a-to-b"
    assert told(edited(masked), PARENT)[1] == "b-to-a"


def counted(a_ND: Tensor, b_ND: Tensor) -> Zeros:
    zeros = Zeros()
    zeros.add(a_ND, b_ND)
    return zeros


def test_zeros_that_a_model_grew_out_of_point_nowhere() -> None:
    """A masked model that was trained on without its mask: what stands where zeros were is as long as the change."""
    g = generator(3)
    sparse_ND = masked(torch.randn(64, 64, generator=g), g)
    grown_ND = sparse_ND + 0.1 * torch.randn(64, 64, generator=g)
    zeros = counted(grown_ND, sparse_ND)
    assert masked_side(zeros) == "b"
    assert not was_there_before(zeros, "b")
    trained_ND = torch.where(sparse_ND == 0, sparse_ND, grown_ND)
    whole_ND = torch.where(sparse_ND == 0, torch.randn(64, 64, generator=g), sparse_ND)
    assert was_there_before(counted(whole_ND, trained_ND), "b")


def test_two_masks_and_a_few_zeros_are_no_mask() -> None:
    g = generator(4)
    one_ND, two_ND = torch.randn(64, 64, generator=g), torch.randn(64, 64, generator=g)
    assert masked_side(counted(masked(one_ND, g), masked(two_ND, g))) is None
    few_ND = one_ND.clone()
    few_ND[0] = 0.0
    assert masked_side(counted(one_ND, few_ND)) is None
    assert masked_side(Zeros()) is None
