"""Closed-form sizes against published numbers; `test_decoder.py` holds them against built modules."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pedigree.errors import UsageError
from pedigree.model.decoder import Decoder
from pedigree.model.members import member
from pedigree.model.sizes import cache_bytes, matrix_parameters, operations, parameters

BILLION = 1e9


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("pangu-alpha-13b", 12.80),
        ("pangu-alpha-200b", 206.9),
        ("pangu-sigma", 1085.0),
        ("moe-38b", 37.97),
        ("dense-71b", 70.9),
        ("dense-135b-v1", 135.05),
        ("dense-135b-v2", 134.9),
        ("dense-38b-v2", 38.06),
        ("dense-230b", 230.5),
        ("moe-224b", 224.7),
        ("pangu-ultra-135b", 133.88),
        ("pangu-pro-moe-72b", 71.99),
        ("pangu-ultra-moe-718b", 719.1),
        ("pangu-embedded-7b", 8.03),
        ("qwen1.5-110b", 111.21),
        ("qwen2.5-14b", 14.77),
        ("llama-2-7b", 6.738),
        ("llama-3-8b", 8.030),
        ("qwen3-8b", 8.191),
        ("mixtral-8x7b", 46.703),
        ("deepseek-v3", 671.03),
    ],
)
def test_total_parameters_are_the_published_ones(name: str, total: float) -> None:
    assert parameters(member(name)).total / BILLION == pytest.approx(total, rel=1e-3)


def test_active_parameters_are_the_published_ones() -> None:
    assert parameters(member("pangu-pro-moe-72b")).active / BILLION == pytest.approx(16.50, rel=1e-3)
    ultra = parameters(member("pangu-ultra-moe-718b"))
    assert ultra.active_without_embedding / BILLION == pytest.approx(39.2, rel=1e-3)
    assert round(parameters(member("deepseek-v3")).active_without_embedding / BILLION) == 37
    assert parameters(member("pangu-sigma")).active == parameters(member("pangu-alpha-13b")).active


def test_parts_outside_the_main_model_are_the_published_ones() -> None:
    assert parameters(member("pangu-ultra-moe-718b")).mtp / BILLION == pytest.approx(12.44, rel=1e-3)
    assert parameters(member("deepseek-v3")).mtp / BILLION == pytest.approx(11.6, rel=5e-3)
    ultra = parameters(member("pangu-ultra-135b"))
    assert (ultra.total - ultra.embedding - ultra.head) / BILLION == pytest.approx(130.11, rel=1e-3)


def test_moe_effect_is_in_the_totals_only() -> None:
    sizes = parameters(member("pangu-pro-moe-72b"))
    assert sizes.experts == 8 * sizes.active_experts
    assert sizes.to_dict()["total"] == sizes.total
    assert sizes.feed_forward == 0


@pytest.mark.parametrize(
    ("name", "context", "matrices", "attention", "training"),
    [
        ("pangu-alpha-13b", 1024, 12.79, 1.3, 78.0),
        ("dense-38b-v2", 4096, 37.28, 10.1, 233.7),
        ("pangu-ultra-135b", 4096, 132.0, 28.4, 820.3),
        ("dense-230b", 4096, 228.0, 33.8, 1401.8),
        ("moe-224b", 4096, 23.3, 9.1, 148.7),
        ("pangu-pro-moe-72b", 4096, 15.71, 6.0, 100.3),
        ("pangu-ultra-moe-718b", 4096, 39.2, 30.7, 265.8),
    ],
)
def test_operations_are_the_worked_examples(
    name: str, context: int, matrices: float, attention: float, training: float
) -> None:
    config = member(name)
    cost = operations(config, context)
    assert matrix_parameters(config) / BILLION == pytest.approx(matrices, rel=2e-3)
    assert 3 * cost.attention / BILLION == pytest.approx(attention, abs=0.06)
    assert 3 * cost.forward / BILLION == pytest.approx(training, rel=2e-3)
    assert cost.training == 3 * (cost.forward + cost.mtp)
    assert (cost.mtp > 0) == (config.mtp is not None)


def test_attention_cost_grows_with_the_context_and_the_rest_does_not() -> None:
    short, long = (operations(member("llama-3-8b"), context) for context in (1024, 4096))
    assert long.attention == 4 * short.attention
    assert long.matrices == short.matrices
    with pytest.raises(UsageError, match="context length"):
        operations(member("llama-3-8b"), 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pangu-alpha-13b", 819_200),
        ("pangu-ultra-135b", 385_024),
        ("pangu-pro-moe-72b", 196_608),
        ("pangu-ultra-moe-718b", 70_272),
        ("dense-71b", 2_293_760),
    ],
)
def test_cache_bytes_per_token_are_the_worked_examples(name: str, expected: int) -> None:
    assert cache_bytes(member(name)) == expected
    assert cache_bytes(member(name), tokens=10, bytes_per_number=4) == 20 * expected


def _grouped(rows: tuple[int, int], weights: tuple[int, int, int], *_args: object, **_options: object) -> int:
    """Operations of a grouped product: each row meets one matrix."""
    return 2 * rows[0] * rows[1] * weights[-1]


def counted(model: Decoder, n_tokens: int, *, train: bool) -> float:
    """Operations per token that torch counts in a pass over one sequence, on the meta device."""
    ids = torch.zeros(1, n_tokens, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped}) as counter:
        if train:
            model(ids, targets_BT=ids).loss.backward()
        else:
            with torch.no_grad():
                model(ids, return_logits=True)
    return counter.get_total_flops() / n_tokens


def at_true_size(name: str) -> Decoder:
    with torch.device("meta"):
        return Decoder(member(name)).to(torch.bfloat16)


@pytest.mark.parametrize(
    "name",
    [
        "pangu-alpha-13b",
        "dense-135b-v2",
        "pangu-ultra-135b",
        "pangu-pro-moe-72b",
        "pangu-ultra-moe-718b",
        "mixtral-8x7b",
    ],
)
def test_a_forward_pass_at_true_size_counts_the_same_operations_and_allocates_nothing(name: str) -> None:
    n_tokens, config = 256, member(name)
    a, e = config.attention, config.experts
    # torch counts attention without the mask, twice the causal average, and values as wide as they are computed.
    per_layer = 2 * n_tokens * a.n_heads * (a.qk_dim + max(a.qk_dim, a.v_dim))
    # In no formula: the weighted sum of the answers of the chosen experts.
    weighing = 0 if e is None else 2 * config.n_sparse * e.top_k * config.d_model
    expected = operations(config, n_tokens).matrices + config.n_layers * per_layer + weighing
    assert counted(at_true_size(name), n_tokens, train=False) == expected


def test_training_costs_three_forward_passes() -> None:
    """Nothing is computed twice, the chunked loss included."""
    cost = operations(member("llama-3-8b"), 256)
    assert counted(at_true_size("llama-3-8b"), 256, train=True) == 3 * (cost.matrices + 2 * cost.attention)
