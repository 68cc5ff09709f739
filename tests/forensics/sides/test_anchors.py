"""Vocabulary rows pair up by what they spell."""

from __future__ import annotations

import torch
from forensics.tiny_models import Sizes, generator, llama, random_rotation, side, vocabulary, words
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.forensics.sides.anchors import (
    SharedTokens,
    leading_directions,
    quiet_directions,
    read_table,
    share_tokens,
)


def test_tokens_are_shared_by_surface_form_whatever_their_number() -> None:
    a = vocabulary({b" the": 0, b"cat": 1, b" sat": 2})
    b = vocabulary({b" sat": 0, b"dog": 1, b" the": 2})
    shared = share_tokens(a, b, 3, 3)
    assert shared.by == "surface form"
    assert list(zip(shared.a_T.tolist(), shared.b_T.tolist(), strict=True)) == [(0, 2), (2, 0)]
    assert (shared.tokens_a, shared.tokens_b) == (3, 3)
    assert not shared.same_rows


def test_a_word_start_is_another_token_than_the_same_letters_inside_a_word() -> None:
    assert share_tokens(vocabulary({b" the": 0}), vocabulary({b"the": 0}), 1, 1).count == 0


def test_without_a_tokenizer_rows_of_one_number_are_taken_to_mean_the_same_and_this_is_said() -> None:
    for pair in ((None, words(5)), (words(5), None), (None, None)):
        shared = share_tokens(*pair, 4, 6)
        assert shared.by == "row number"
        assert shared.a_T.tolist() == shared.b_T.tolist() == [0, 1, 2, 3]
        assert (shared.tokens_a, shared.tokens_b) == (4, 6)


def test_tokens_beyond_the_rows_of_a_table_are_left_out() -> None:
    assert share_tokens(words(10), words(10), 6, 8).a_T.tolist() == [0, 1, 2, 3, 4, 5]
    assert share_tokens(words(10), words(10), 0, 8).count == 0


def test_disjoint_vocabularies_share_nothing() -> None:
    shared = share_tokens(words(10), words(10, start=10), 10, 10)
    assert shared.count == 0
    assert shared.spread(64).count == 0


@given(st.permutations(list(range(40))))
def test_a_renumbered_vocabulary_shares_every_token(order: list[int]) -> None:
    names = [f"t{i}".encode() for i in range(40)]
    a = vocabulary({name: i for i, name in enumerate(names)})
    b = vocabulary({names[old]: new for new, old in enumerate(order)})
    shared = share_tokens(a, b, 40, 40)
    assert shared.count == 40
    assert [order[new] for new in shared.b_T.tolist()] == shared.a_T.tolist()
    assert shared.same_rows == (order == list(range(40)))


@given(count=st.integers(0, 400), limit=st.integers(32, 300))
def test_a_spread_is_at_most_as_large_as_asked_and_takes_no_token_twice(count: int, limit: int) -> None:
    index = torch.arange(count)
    rows = SharedTokens(index, index + 7, "surface form", count, count).spread(limit)
    assert rows.count <= limit
    assert rows.count >= min(count, limit) // 2
    assert len(set(rows.a_T.tolist())) == rows.count
    assert torch.equal(rows.b_T, rows.a_T + 7)


def test_head_rows_are_read_through_the_final_norm() -> None:
    tensors = llama(0)
    rows = torch.tensor([5, 3, 3])
    found = read_table(side(tensors).anatomy, "head", rows)
    assert found is not None
    torch.testing.assert_close(found, tensors["lm_head.weight"][rows] * tensors["model.norm.weight"])
    embed = read_table(side(tensors).anatomy, "embed", rows)
    assert embed is not None
    torch.testing.assert_close(embed, tensors["model.embed_tokens.weight"][rows])


def test_a_tied_head_is_not_counted_a_second_time() -> None:
    tensors = {k: v for k, v in llama(0).items() if k != "lm_head.weight"}
    anatomy = side(tensors, {**Sizes().config(), "tie_word_embeddings": True}).anatomy
    assert anatomy.tied
    assert read_table(anatomy, "head", torch.arange(3)) is None


def test_a_model_without_embeddings_has_no_table() -> None:
    tensors = {k: v for k, v in llama(0).items() if "embed" not in k}
    assert read_table(side(tensors).anatomy, "embed", torch.arange(3)) is None


def test_rows_that_are_not_finite_become_zero() -> None:
    tensors = llama(0)
    tensors["model.embed_tokens.weight"][2] = float("nan")
    found = read_table(side(tensors).anatomy, "embed", torch.arange(4))
    assert found is not None
    assert bool(found.isfinite().all())
    assert float(found[2].abs().sum()) == 0.0


@given(seed=st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_a_wide_lens_leaves_out_what_the_leading_directions_are(seed: int) -> None:
    """No more of the rows is seen through it than outside of the leading directions worked out to the end."""
    draw = generator(seed)
    rows_TD = torch.randn(320, 128, generator=draw) * torch.logspace(0, -2, 128) @ random_rotation(128, seed)
    lens_DK = quiet_directions(rows_TD, 64, 32, draw)
    torch.testing.assert_close(lens_DK.T @ lens_DK, torch.eye(32), rtol=0, atol=1e-5)
    loud_KD = leading_directions(rows_TD, 64)
    rest_TD = rows_TD - rows_TD @ loud_KD.T @ loud_KD
    seen, left = float((rows_TD @ lens_DK).square().sum()) / 32, float(rest_TD.square().sum()) / 64
    assert seen < 1.5 * left
    assert seen < 0.05 * float(rows_TD.square().sum()) / 128
