"""The ladder of frames: it ends, and finds channels that were left out."""

from __future__ import annotations

import pytest
import torch
from tests.forensics.tiny_models import Sizes, Tensors, generator, llama, side

from pedigree.forensics.frames.ladder import climb
from pedigree.forensics.sides.anchors import share_tokens
from pedigree.forensics.sides.sampling import Sample, choose_sample

LARGE, SMALL = Sizes(d=48, inner=96), Sizes(d=32, inner=96)


def cut(tensors: Tensors, kept: torch.Tensor) -> Tensors:
    """The model on some of its channels, in another order."""
    out = {}
    for name, tensor in tensors.items():
        for axis, size in enumerate(tensor.shape):
            if size == LARGE.d:
                tensor = tensor.index_select(axis, kept)
        out[name] = tensor
    return out


@pytest.mark.parametrize("larger_first", [True, False])
def test_the_frame_of_a_model_cut_to_some_channels_is_rounded_once(larger_first: bool) -> None:
    parent = llama(1, LARGE)
    kept = torch.randperm(LARGE.d, generator=generator(2))[: SMALL.d]
    sides = side(parent, LARGE.config()), side(cut(parent, kept), SMALL.config())
    a, b = sides if larger_first else sides[::-1]
    result = climb(a, b, share_tokens(None, None, LARGE.vocab, LARGE.vocab))
    assert result.best.gauge.kind == "partial-isometry"
    assert result.best.best_z() > 20
    assert len(result.tried) < 12


DEEP = Sizes(d=32, layers=9, inner=256)
HELD, SAMPLED, WALKED = choose_sample("full", 0), choose_sample("standard", 10**10), choose_sample("full", 10**10)


@pytest.mark.parametrize("sample", [HELD, SAMPLED, WALKED], ids=["held", "sampled", "walked"])
def test_layers_that_judge_a_frame_may_be_just_those_that_the_other_has_not(sample: Sample) -> None:
    """The outermost layers are kept, the ones between them, by which frames are judged, are a stranger's."""
    whole, other = llama(1, DEEP), llama(2, DEEP)
    noise = generator(3)
    spliced = {
        name: tensor + 0.02 * torch.randn(tensor.shape, generator=noise)
        if name.startswith(("model.layers.0.", "model.layers.8."))
        else other[name]
        for name, tensor in whole.items()
    }
    a, b = (side(tensors, DEEP.config(), sample=sample) for tensors in (spliced, whole))
    result = climb(a, b, share_tokens(None, None, DEEP.vocab, DEEP.vocab))
    assert result.best.gauge.is_trivial
    assert result.best.path() == [0, *[None] * 7, 8]
