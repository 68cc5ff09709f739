"""Every merge method keeps its law over random small shapes, and its bits whatever the tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.errors import UsageError
from pedigree.surgery.merge.linear import Linear, Passthrough
from pedigree.surgery.merge.methods import METHODS, REQUIRED, Numbers
from pedigree.surgery.merge.model_stock import ModelStock
from pedigree.surgery.merge.spherical import Spherical, nuslerp_t
from pedigree.surgery.merge.tensor_merge import TensorMerge, merge_tensor

torch.set_num_threads(1)
DEFAULTS = {"t": 0.3, "weight": 1.0, "density": 0.5}


def run(
    method: TensorMerge, inputs: Sequence[torch.Tensor], base: torch.Tensor | None = None, height: int | None = None
) -> torch.Tensor:
    """A merge of tensors in memory."""
    shape = inputs[0].shape
    rows = [x.reshape(-1, shape[-1]) for x in inputs]
    base_rows = None if base is None else base.reshape(-1, shape[-1])
    parts = merge_tensor(
        method,
        [lambda a, b, x=x: x[a:b].clone() for x in rows],
        None if base_rows is None else lambda a, b: base_rows[a:b].clone(),
        shape,
        height,
    )
    return torch.cat([part for _, part in parts]).reshape(shape)


def built(name: str, shape: tuple[int, ...], n: int, **given: object) -> TensorMerge:
    """A method with its defaults."""
    method = METHODS[name]
    chosen = {**DEFAULTS, **given}

    def value(key: str, default: object) -> object:
        return chosen[key] if key in given or default is REQUIRED or key == "density" else default

    shared = {key: value(key, default) for key, default in method.shared.items()}
    each = {key: [value(key, default)] * n for key, default in method.each.items()}
    return method.build(Numbers(shared, each, shape, (7, "model.layers.0.mlp.up_proj.weight")))


def family(seed: int, rows: int, columns: int, n: int, bits: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A base and fine-tunes of it; with `bits` all are bf16 numbers, whose changes tie in masses."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, columns, generator=generator) * 0.05
    tuned = [base + 0.002 * torch.randn(rows, columns, generator=generator) for _ in range(n)]
    if bits:
        base, tuned = base.bfloat16().float(), [x.bfloat16().float() for x in tuned]
    return base, tuned


@pytest.mark.parametrize("name", sorted(METHODS))
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 9),
    columns=st.integers(1, 40),
    height=st.integers(1, 4),
    bits=st.booleans(),
)
def test_the_height_of_a_tile_changes_no_bit(
    name: str, seed: int, rows: int, columns: int, height: int, bits: bool
) -> None:
    method = METHODS[name]
    n = max(method.inputs[0], min(3, method.inputs[1] or 3))
    base, tuned = family(seed, rows, columns, n, bits)
    inputs, ancestor = (tuned, base) if method.base in ("required", "optional") else (tuned, None)
    if method.base == "first":
        inputs = [base, *tuned]
    shape = (rows, columns)
    whole = run(built(name, shape, n), inputs, ancestor, rows)
    assert torch.isfinite(whole).all()
    assert torch.equal(run(built(name, shape, n), inputs, ancestor, height), whole)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_looks_a_method_announces_are_the_most_it_takes(name: str) -> None:
    method = METHODS[name]
    n = max(method.inputs[0], min(2, method.inputs[1] or 2))
    base, tuned = family(1, 8, 16, n, False)
    inputs = [base, *tuned] if method.base == "first" else tuned
    options = {"rescale": "l1"} if "rescale" in method.shared else {}
    merge, taken = built(name, (8, 16), n, **options), 0
    look = merge.look

    def counted(tile: object) -> object:
        nonlocal taken
        taken += 1
        return look(tile)  # type: ignore[arg-type]

    merge.look = counted  # type: ignore[method-assign, assignment]
    run(merge, inputs, base if method.base in ("required", "optional") else None, 8)
    assert taken == built(name, (8, 16), n, **options).looks <= method.looks


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), weights=st.lists(st.floats(0.1, 4), min_size=1, max_size=4))
def test_linear_is_the_weighted_mean(seed: int, weights: list[float]) -> None:
    _, tuned = family(seed, 5, 7, len(weights), False)
    wanted = sum(w * x.double() for w, x in zip(weights, tuned, strict=True)) / sum(weights)
    assert (run(Linear(weights), tuned).double() - wanted).abs().max() < 1e-7
    assert torch.equal(run(Linear([1.0]), tuned[:1]), tuned[0])
    assert torch.equal(run(Passthrough(), tuned[:1]), tuned[0])


def test_weights_that_cancel_are_refused() -> None:
    with pytest.raises(UsageError, match="sum to zero"):
        Linear([1.0, -1.0])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), t=st.floats(0, 1))
def test_slerp_keeps_the_norm_of_orthogonal_inputs_and_the_ends(seed: int, t: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(6, 8, generator=generator)
    b = torch.randn(6, 8, generator=generator)
    b = b - a * (a * b).sum() / (a * a).sum()
    b = b * a.norm() / b.norm()
    middle = run(Spherical(t), [a, b])
    assert middle.norm().item() == pytest.approx(a.norm().item(), rel=1e-5)
    assert torch.allclose(run(Spherical(0.0), [a, b]), a, atol=1e-6)
    assert torch.allclose(run(Spherical(1.0), [a, b]), b, atol=1e-6)


def test_slerp_of_parallel_opposed_and_empty_vectors_is_linear() -> None:
    a = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for other in (2 * a, -a, torch.zeros(3, 4)):
        for unit in ("tensor", "row", "column"):
            mixed = run(Spherical(0.25, unit=unit), [a, other])
            assert torch.allclose(mixed, 0.75 * a + 0.25 * other, atol=1e-6)
    assert nuslerp_t([1.0, -1.0]) == 0.5


def test_units_of_nuslerp_are_rows_and_columns() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(5, 6, generator=generator), torch.randn(5, 6, generator=generator)
    by_row = run(Spherical(0.4, unit="row"), [a, b])
    for i in range(5):
        assert torch.allclose(by_row[i], run(Spherical(0.4), [a[i : i + 1], b[i : i + 1]])[0], atol=1e-6)
    assert torch.allclose(
        run(Spherical(0.4, unit="column"), [a, b]).T, run(Spherical(0.4, unit="row"), [a.T, b.T]), atol=1e-6
    )


def test_model_stock_gives_the_mean_for_equal_changes_and_the_base_for_orthogonal_ones() -> None:
    base, tuned = family(0, 4, 8, 1, False)
    same = run(ModelStock(2), [tuned[0], tuned[0]], base)
    assert torch.allclose(same, tuned[0], atol=1e-7)
    left, right = base.clone(), base.clone()
    left[0] += 1
    right[1] += 1
    assert torch.allclose(run(ModelStock(2), [left, right], base), base, atol=1e-6)
    opposed = run(ModelStock(2), [base + 1, base - 1], base)
    assert torch.isfinite(opposed).all()
    assert torch.equal(opposed, base)


def test_model_stock_reads_the_angle_of_changes_however_small() -> None:
    base = torch.zeros(1, 4, dtype=torch.float32)
    small = torch.full((1, 4), 1e-5)
    for unit in ("tensor", "row"):
        merged = run(ModelStock(2, unit=unit), [base + small, base + small], base)  # type: ignore[arg-type]
        assert torch.allclose(merged, small, rtol=1e-5)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if "density" in m.each])
def test_one_model_of_density_one_comes_back(name: str) -> None:
    base, tuned = family(5, 6, 9, 1, False)
    merged = run(built(name, (6, 9), 1, density=1.0), tuned, base)
    assert (merged - tuned[0]).abs().max() < 1e-7
    nothing = run(built(name, (6, 9), 1, density=0.0), tuned, base)
    assert torch.equal(nothing, base)


def test_ties_elects_the_sign_and_averages_who_agrees() -> None:
    base = torch.zeros(1, 4)
    first = torch.tensor([[1.0, 2.0, -1.0, 0.0]])
    second = torch.tensor([[3.0, -1.0, -3.0, 4.0]])
    merged = run(built("ties", (1, 4), 2, density=1.0), [first, second], base)
    assert merged.tolist() == [[2.0, 2.0, -2.0, 4.0]]


def test_dare_has_the_expectation_of_the_whole_vector() -> None:
    base, tuned = torch.zeros(400, 500), [torch.ones(400, 500)]
    merged = run(built("dare_linear", (400, 500), 1, density=0.25), tuned, base)
    share = (merged != 0).double().mean().item()
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / merged.numel())
    assert set(merged.unique().tolist()) == {0.0, 4.0}


def test_della_keeps_large_changes_more_often_and_has_the_expectation_of_the_whole() -> None:
    base = torch.zeros(2000, 64)
    tuned = torch.linspace(1, 2, 64).repeat(2000, 1)
    merged = run(built("della_linear", (2000, 64), 1, density=0.5, epsilon=0.3), [tuned], base)
    kept = (merged != 0).double().mean(0)
    assert kept[0].item() == pytest.approx(0.2, abs=0.05)
    assert kept[-1].item() == pytest.approx(0.8, abs=0.05)
    assert ((merged.mean(0) - tuned[0]).abs() < 5 * tuned[0] * torch.sqrt((1 - kept) / kept / 2000)).all()
    with pytest.raises(UsageError, match="do not make probabilities"):
        built("della", (2, 2), 1, density=0.9, epsilon=0.2)


def test_l1_rescaling_restores_the_norm() -> None:
    base, tuned = family(2, 20, 30, 1, False)
    for name in ("ties", "dare_linear", "della_linear", "breadcrumbs"):
        merged = run(built(name, (20, 30), 1, density=0.4, rescale="l1"), tuned, base)
        assert (merged - base).abs().sum().item() == pytest.approx((tuned[0] - base).abs().sum().item(), rel=1e-4)
