"""Every way to make rows keeps its law, on random tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.errors import UsageError
from pedigree.surgery.vocabulary.cooccurrence import cooccurrence_vectors
from pedigree.surgery.vocabulary.output_rows import fit_level
from pedigree.surgery.vocabulary.pieces import Pieces, weights_of
from pedigree.surgery.vocabulary.rows import MemoryTable, RowMaker
from pedigree.surgery.vocabulary.simple_rows import Mean, Random, SubToken
from pedigree.surgery.vocabulary.swapped_table import SwappedTable, padded_rows
from pedigree.surgery.vocabulary.token_map import NO_ROW, TokenMap
from pedigree.surgery.vocabulary.transfer_rows import Pursuit, Ridge, pursue

torch.set_num_threads(1)


def table(seed: int, rows: int, width: int) -> MemoryTable:
    return MemoryTable(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)))


def test_mean_is_the_mean_of_the_rows_in_use() -> None:
    old = table(0, 20, 5)
    rows = Mean(np.arange(15)).make(old, np.array([3, 7]))
    assert torch.allclose(rows, old.table_Vd[:15].mean(0).expand(2, 5), atol=1e-6)


def test_random_rows_belong_to_their_numbers_and_have_the_spread_of_the_table() -> None:
    old = MemoryTable(3 + 2 * torch.randn(500, 8, generator=torch.Generator().manual_seed(1)))
    maker = Random(np.arange(500), 5, "embed")
    maker.prepare(old)
    rows = maker.make(old, np.arange(4000))
    assert torch.equal(maker.make(old, np.array([17, 99, 100, 5])), rows[[17, 99, 100, 5]])
    assert (rows.mean(0) - old.table_Vd.mean(0)).abs().max() < 0.2
    assert (rows.std(0) / old.table_Vd.std(0) - 1).abs().max() < 0.08


def test_dead_columns_and_few_rows_do_not_break_random_rows() -> None:
    """mergekit's fallback fails where the covariance is not positive definite."""
    old = table(0, 6, 8)
    old.table_Vd[:, 3:] = 1.5
    maker = Random(np.arange(6), 0, "embed")
    maker.prepare(old)
    rows = maker.make(old, np.arange(20))
    assert torch.isfinite(rows).all()
    assert torch.allclose(rows[:, 3:], torch.tensor(1.5))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), counts=st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_sub_token_rows_are_means_of_their_pieces(seed: int, counts: list[int]) -> None:
    old = table(seed, 30, 6)
    rng = np.random.default_rng(seed)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
    pieces = Pieces(rng.integers(0, 30, sum(counts)), starts)
    maker = SubToken(np.arange(30), pieces, weights_of(pieces))
    asked = rng.permutation(len(counts))
    rows = maker.make(old, asked)
    for place, number in enumerate(asked):
        mine = pieces.pieces_P[starts[number] : starts[number] + counts[number]]
        wanted = old.table_Vd[torch.from_numpy(mine)].mean(0) if len(mine) else old.table_Vd.mean(0)
        assert torch.allclose(rows[place], wanted, atol=1e-5)
        if len(mine) == 1:
            assert torch.equal(rows[place], old.table_Vd[int(mine[0])])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), e=st.integers(2, 12), d=st.integers(2, 20))
def test_ridge_recovers_an_affine_image(seed: int, e: int, d: int) -> None:
    donor = table(seed, 120, e)
    old = MemoryTable(donor.table_Vd @ table(seed + 1, e, d).table_Vd + 0.7)
    anchors = np.random.default_rng(seed).permutation(120)[:80]
    ridge = Ridge(donor, anchors, anchors, strength=0.0)
    rest = np.setdiff1d(np.arange(120), anchors)
    assert torch.allclose(ridge.make(old, rest), old.table_Vd[torch.from_numpy(rest)], atol=1e-4)


def test_strong_ridge_gives_the_mean_row() -> None:
    donor, old = table(0, 50, 4), table(1, 50, 6)
    rows = Ridge(donor, np.arange(40), np.arange(40), strength=1e9).make(old, np.array([45]))
    assert torch.allclose(rows[0], old.table_Vd[:40].mean(0), atol=1e-5)


def test_pursuit_recovers_combinations_of_anchors() -> None:
    basis, _ = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(2)))
    anchors = basis[:30]
    shares = torch.zeros(5, 30)
    generator = torch.Generator().manual_seed(3)
    for row in shares:
        row[torch.randperm(30, generator=generator)[:4]] = 1 + torch.rand(4, generator=generator)
    donor = MemoryTable(torch.cat([anchors * torch.linspace(0.5, 3, 30)[:, None], shares @ anchors]))
    old = table(9, 30, 16)
    rows = Pursuit(donor, np.arange(30), np.arange(30), atoms=4).make(old, np.arange(30, 35))
    wanted = (shares / torch.linspace(0.5, 3, 30)) @ old.table_Vd
    assert torch.allclose(rows, wanted, atol=1e-4)


def test_with_one_atom_an_anchor_finds_itself() -> None:
    donor = table(4, 64, 10)
    chosen, share = pursue(donor.table_Vd, donor.table_Vd[:20], 1)
    assert chosen[:, 0].tolist() == list(range(20))
    assert torch.allclose(share, torch.ones(20, 1, dtype=torch.float64), atol=1e-5)


def test_repeated_anchors_do_not_break_pursuit() -> None:
    donor = MemoryTable(torch.ones(12, 3))
    _, shares = pursue(donor.table_Vd, donor.table_Vd[:2], 3)
    assert torch.isfinite(shares).all()


def test_too_few_anchors_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be carried over"):
        Ridge(table(0, 9, 2), np.arange(3), np.arange(3))


def test_tokens_in_like_company_have_like_vectors() -> None:
    rng = np.random.default_rng(0)
    # 0..9 and 10..19 stand in two kinds of context (20..29, 30..39): like with like.
    documents = []
    for _ in range(300):
        kind = int(rng.integers(2))
        words, context = rng.integers(10, size=30) + 10 * kind, rng.integers(10, size=30) + 20 + 10 * kind
        documents.append(np.stack([words, context], 1).reshape(-1))
    vectors = cooccurrence_vectors(documents, 45, dimensions=8).table_Vd
    unit = vectors[:20] / vectors[:20].norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    assert cosines[:10, :10].mean() > cosines[:10, 10:].mean() + 0.5
    assert torch.equal(vectors[44], torch.zeros(8))
    assert torch.equal(vectors, cooccurrence_vectors(documents, 45, dimensions=8).table_Vd)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_calibrated_rows_have_the_logit_of_their_frequency(seed: int) -> None:
    rng = np.random.default_rng(seed)
    head, state = table(seed, 200, 12), table(seed + 1, 1, 12).table_Vd[0]
    uses = rng.integers(0, 1000, 200).astype(float)
    level = fit_level(head, np.arange(200), uses, state)
    new, uses_new = 5 * table(seed + 2, 30, 12).table_Vd, rng.integers(0, 1000, 30).astype(float)
    rows = level.apply(new, uses_new)
    assert np.allclose((rows @ state).numpy(), level.wanted(uses_new), atol=1e-3)
    apart = rows - state * ((rows - level.mean_d) @ state / (state @ state))[:, None] - level.mean_d
    assert (apart.norm(dim=1) <= level.length * 1.001).all()


def test_the_level_follows_the_logits_of_copied_rows() -> None:
    state = torch.zeros(6)
    state[0] = 2.0
    head, uses = torch.zeros(100, 6), np.arange(100).astype(float)
    head[:, 0] = torch.from_numpy(0.5 * (1.0 + 0.3 * np.log(uses + 0.5))).float()
    level = fit_level(MemoryTable(head), np.arange(100), uses, state)
    assert level.slope == pytest.approx(0.3, rel=1e-4)
    assert level.offset == pytest.approx(1.0, rel=1e-4)


def swapped(maker: RowMaker, dtype: torch.dtype, n_rows: int) -> tuple[SwappedTable, torch.Tensor]:
    stored = table(3, 24, 4).table_Vd.to(dtype)
    old = MemoryTable(stored)
    token_map = TokenMap(np.array([5, NO_ROW, 0, 7, NO_ROW]), (), (4,), ())
    return SwappedTable(old, lambda n: stored[torch.from_numpy(n)], token_map, maker, n_rows, 20), stored


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_copied_rows_are_copied_bit_for_bit_and_padding_stays(dtype: torch.dtype) -> None:
    result, stored = swapped(Mean(np.arange(20)), dtype, 12)
    rows = result.rows(np.arange(12))
    assert rows.dtype == dtype
    assert torch.equal(rows[[0, 2, 3]], stored[[5, 0, 7]])
    # One hole and seven rows behind the tokens: the four old padding rows first, then the mean of what was copied.
    assert torch.equal(rows[[4, 5, 6, 7]], stored[20:])
    mean = stored[[0, 5, 7]].float().mean(0).to(dtype)
    assert torch.allclose(rows[8:].float(), mean.expand(4, 4).float(), rtol=1e-2, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(start=st.integers(0, 11), stop=st.integers(0, 12))
def test_any_portion_of_the_table_is_the_same(start: int, stop: int) -> None:
    result, _ = swapped(Random(np.arange(20), 0, "embed"), torch.float32, 12)
    result.maker.prepare(result.old)
    whole = result.rows(np.arange(12))
    assert torch.equal(result.rows(np.arange(start, max(start, stop))), whole[start : max(start, stop)])


def test_a_padded_table_stays_padded() -> None:
    assert padded_rows(151_000, 152_064, 151_665) == 151_040
    assert padded_rows(32_000, 32_000, 32_000) == 32_000
    assert padded_rows(1001, 1000, 1000) == 1001
    assert padded_rows(1001, 1000, 1000, pad_to=64) == 1024
    with pytest.raises(UsageError, match="cannot be padded"):
        padded_rows(10, 10, 10, pad_to=0)
