"""Multi-token prediction: what it predicts, what counts, and that it looks no further."""

from __future__ import annotations

import pytest
import torch
from model.pico import decoder, tokens
from torch.nn import functional

from pedigree.model.context import build_context
from pedigree.model.multi_token import MultiTokenLayer, tokens_and_targets

X = -100


def test_the_further_target_is_the_token_after_the_next() -> None:
    targets = torch.tensor([[11, 12, 13, 14, 15]])
    ids, aims = tokens_and_targets(targets, None, 0)
    assert ids[0, :4].tolist() == [11, 12, 13, 14]
    assert aims.tolist() == [[12, 13, 14, 15, X]]
    ids, aims = tokens_and_targets(targets, None, 1)
    assert ids[0, :3].tolist() == [12, 13, 14]
    assert aims.tolist() == [[13, 14, 15, X, X]]


def test_what_is_unknown_on_the_way_does_not_count() -> None:
    targets = torch.tensor([[11, X, 13, 14, 15]])
    ids, aims = tokens_and_targets(targets, None, 0)
    assert ids.min() >= 0
    assert aims.tolist() == [[X, X, 14, 15, X]]
    assert tokens_and_targets(targets, None, 1)[1].tolist() == [[X, X, 15, X, X]]


def test_nothing_is_predicted_through_the_start_of_another_document() -> None:
    targets = torch.tensor([[1, 2, 3, 4, 5, 6]])
    document = torch.tensor([[0, 0, 0, 1, 1, 1]])
    assert tokens_and_targets(targets, document, 0)[1].tolist() == [[2, 3, X, 5, 6, X]]
    masked = targets.masked_fill(torch.tensor([[False, False, True, False, False, False]]), X)
    assert tokens_and_targets(masked, document, 0)[1].tolist() == [[2, X, X, 5, 6, X]]
    assert tokens_and_targets(masked, document, 1)[1].tolist() == [[X, X, X, 6, X, X]]


@pytest.mark.parametrize("depth", [1, 2])
def test_the_loss_is_the_formula(depth: int) -> None:
    model = decoder("deepseek-v3-pico", mtp={"depth": depth, "weight": 0.7})
    ids = tokens(model, 1, 14)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    out = model(inputs, targets_BT=targets, return_logits=True)
    context = build_context(model.config, inputs, document_BT=None, domain_BT=None, cache=None, restart_positions=True)
    state, losses = out.hidden, []
    for k, layer in enumerate(model.mtp):
        assert isinstance(layer, MultiTokenLayer)
        embedded = torch.zeros_like(state)
        known = targets[:, k:]
        embedded[:, : known.shape[1]] = model.embed(known)
        embedded[:, known.shape[1] :] = model.embed(torch.zeros(1, k, dtype=torch.long))
        joined = layer.project(torch.cat([layer.embed_norm(embedded), layer.hidden_norm(state)], -1))
        state = layer.norm(layer.block(joined, context)[0])
        scores = (state @ model.head_weight.T)[:, : -1 - k]
        losses.append(functional.cross_entropy(scores.flatten(0, 1), targets[:, k + 1 :].flatten()))
    expected = 0.7 * torch.stack(losses).mean()
    assert out.aux["mtp"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_multi_token_layers_share_embedding_and_head_and_leave_logits_alone() -> None:
    model = decoder("pangu-ultra-moe-718b-pico")
    assert not [n for n, _ in model.mtp.named_parameters() if "embed.weight" in n or "head" in n]
    ids = tokens(model, 1, 9)
    before = model(ids, return_logits=True).logits
    with torch.no_grad():
        for parameter in model.mtp.parameters():
            parameter.zero_()
    assert torch.equal(model(ids, return_logits=True).logits, before)


def test_a_row_of_one_token_has_no_further_target() -> None:
    model = decoder("deepseek-v3-pico")
    ids = tokens(model, 2, 1)
    out = model(ids, targets_BT=ids)
    assert out.aux["mtp"].item() == 0
    assert out.loss.isfinite()
