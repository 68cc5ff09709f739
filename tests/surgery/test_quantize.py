"""Rounding to few bits stays within half a step, whatever the tiles."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery.merge.tiny_checkpoints import MODELS, run_recipe, write_family

from pedigree.surgery.nodes import Given, Work
from pedigree.surgery.operators.quantize import OnGrid, on_grid

torch.set_num_threads(1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 5),
    columns=st.integers(1, 40),
    group=st.integers(1, 50),
    bits=st.sampled_from([3, 4, 8]),
)
def test_no_number_moves_by_more_than_half_a_step(seed: int, rows: int, columns: int, group: int, bits: int) -> None:
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    x[0] = 0
    rounded = on_grid(x, bits, group)
    for start in range(0, columns, group):
        part, got = x[:, start : start + group], rounded[:, start : start + group]
        step = part.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((got - part).abs() <= step * 0.5001).all()
    assert torch.equal(rounded[0], x[0])
    assert torch.allclose(on_grid(rounded, bits, group), rounded, atol=1e-6)


def test_groups_do_not_depend_on_what_is_asked_for() -> None:
    x = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    node = OnGrid(Given(x), 4, 8)
    whole = node.all(Work())
    assert torch.equal(node.tile(slice(2, 4), slice(3, 11), Work()), whole[2:4, 3:11])


def test_only_matrices_of_the_layers_are_rounded(tmp_path: Path) -> None:
    write_family(tmp_path)
    found = run_recipe(
        tmp_path, "{surgery: 1, source: {model: base}, target: {dir: out}, steps: [{quantize: {bits: 4, group: 4}}]}"
    )
    for name, tensor in MODELS["base"].items():
        inside = "proj" in name
        assert torch.equal(found[name], tensor) != inside, name
        if inside:
            assert torch.equal(found[name], on_grid(tensor, 4, 4))
