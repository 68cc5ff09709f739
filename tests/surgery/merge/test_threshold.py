"""The threshold of a tensor in tiles is the one a sort would find, and its ties are drawn, not cut by position."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.surgery.merge.draws import draw_key, uniform
from pedigree.surgery.merge.sparsifying import Band
from pedigree.surgery.merge.threshold import LargestMagnitudes

torch.set_num_threads(1)


def search(x: torch.Tensor, k: int, pieces: int) -> LargestMagnitudes:
    """Both looks, in pieces."""
    searcher = LargestMagnitudes(k)
    for _ in range(searcher.looks):
        searcher.learn(np.sum([searcher.bins(piece) for piece in x.tensor_split(pieces)], axis=0))
    return searcher


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 300), share=st.floats(0.001, 1), coarse=st.booleans())
def test_the_threshold_is_the_kth_largest(seed: int, n: int, share: float, coarse: bool) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    x = (x * 3).round() / 4 if coarse else x
    k = max(1, int(share * n))
    found = search(x, k, pieces=3).found
    assert found is not None
    value = x.abs().sort(descending=True).values[k - 1].item()
    assert found.value == value
    assert found.above == int((x.abs() > value).sum())
    assert found.equal == int((x.abs() == value).sum())
    assert found.above + found.tie_share * found.equal == k


def test_zeros_infinities_and_subnormals_sort_as_numbers_do() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-40, float("inf"), -3.0])
    values = [search(x, k, 2).found.value for k in range(1, 7)]  # type: ignore[union-attr]
    assert values == sorted(x.abs().tolist(), reverse=True)


def test_ties_are_thinned_evenly_over_the_tensor() -> None:
    delta = torch.ones(200, 500)
    band = Band(0.3, delta.numel(), draw_key(1, "x"))
    while band.wants_look():
        band.absorb(band.look(delta, 0))
        band.learn()
    kept = band.keep(delta, 0)
    halves = [half.mean().item() for half in kept.tensor_split(2)]
    assert all(abs(half - 0.3) < 0.01 for half in halves)


def test_breadcrumbs_drop_outliers_and_crumbs() -> None:
    delta = torch.arange(1.0, 101.0).reshape(10, 10)
    band = Band(0.5, 100, 0, gamma=0.1)
    while band.wants_look():
        band.absorb(band.look(delta, 0))
        band.learn()
    assert sorted(band.keep(delta, 0)[band.keep(delta, 0) != 0].tolist()) == [float(x) for x in range(41, 91)]


@settings(max_examples=50, deadline=None)
@given(start=st.integers(0, 1000), length=st.integers(0, 50), far=st.booleans())
def test_a_draw_belongs_to_its_place(start: int, length: int, far: bool) -> None:
    key = draw_key(3, "dare", "model.norm.weight")
    whole = uniform(key, 0, 1100)
    assert torch.equal(uniform(key, start, start + length), whole[start : start + length])
    if far:  # an index beyond 2^40 costs as little
        assert uniform(key, 2**40 + start, 2**40 + start + 3).shape == (3,)


def test_draws_are_uniform_and_keys_differ() -> None:
    x = uniform(draw_key(0, "a"), 0, 200_000)
    counts = torch.histc(x, bins=20, min=0, max=1)
    assert ((counts - 10_000).abs() < 5 * 100).all()
    assert not torch.equal(x[:50], uniform(draw_key(1, "a"), 0, 50))
    assert not torch.equal(x[:50], uniform(draw_key(0, "b"), 0, 50))
