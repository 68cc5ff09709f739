"""What a model config accepts, refuses and says."""

from __future__ import annotations

from typing import Any

import pytest

from pedigree.errors import UsageError
from pedigree.model.config import ModelConfig
from pedigree.model.members import member, names, pico

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "n_layers": 2,
    "n_positions": 16,
    "attention": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2, "head_dim": 8},
    "feed_forward": {"d_inner": 48},
    "rope": {},
}
EXPERTS: dict[str, Any] = {"n_experts": 8, "top_k": 2, "d_expert": 16}
LATENT: dict[str, Any] = {
    "kind": "mla",
    "n_heads": 4,
    "q_rank": 8,
    "kv_rank": 8,
    "nope_dim": 8,
    "rope_dim": 4,
    "v_dim": 8,
}


@pytest.mark.parametrize("name", names())
def test_every_member_reads_back_from_its_own_text(name: str) -> None:
    for config in (member(name), member(name + "-pico")):
        assert ModelConfig.from_json(config.to_json()) == config
        assert config.name in config.describe()


def test_a_config_cannot_be_changed_in_place() -> None:
    config = ModelConfig.model_validate(SMALL)
    with pytest.raises(Exception, match="frozen"):
        config.d_model = 64  # type: ignore[misc]
    assert config.replace(d_model=64).d_model == 64
    assert config.d_model == 32


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"d_modle": 3}, "d_modle"),
        ({"d_model": 0}, "d_model"),
        ({"d_model": "wide"}, "d_model"),
        ({"feed_forward": {"d_inner": 48, "actvation": "silu"}}, "actvation"),
        ({"attention": {"kind": "gqa", "n_heads": 5, "n_kv_heads": 2, "head_dim": 8}}, "shared out evenly"),
        ({"attention": {"kind": "linear", "n_heads": 5}}, "attention"),
        ({"rope": None}, "rotary or learned"),
        ({"rope": {"fraction": 0.1}}, "two channels"),
        ({"rope": {"scaling": {"factor": 8, "low": 4, "high": 4, "original_positions": 64}}}, "band"),
        ({"rope": {"fraction": 0.4}}, "even number"),
        ({"rope": None, "learned_positions": True, "attention": LATENT}, "by rotation"),
        ({"query_layer": "after-norm"}, "learned positions"),
        ({"query_layer": "after-norm", "learned_positions": True, "attention": LATENT}, "grouped attention"),
        ({"query_layer": "after-norm", "learned_positions": True, "mtp": {}}, "no hidden state"),
        ({"shortcut": {"reduction": 5}}, "divisor of 32"),
        ({"experts": {**EXPERTS, "first_dense": 2}}, "less than 2 layers"),
        ({"experts": EXPERTS, "feed_forward": {"d_inner": 48, "series": 2}}, "beside experts"),
        ({"experts": {**EXPERTS, "top_k": 9}}, "at most the 8"),
        ({"experts": {**EXPERTS, "n_groups": 3}}, "divisor of the 8"),
        ({"experts": {**EXPERTS, "n_groups": 2}}, "knows no groups"),
        ({"experts": {**EXPERTS, "router": "grouped", "n_groups": 4}}, "multiple of the 4 groups"),
        ({"experts": {**EXPERTS, "router": "sigmoid", "topk_groups": 2}}, "at most the 1 groups"),
        ({"experts": {**EXPERTS, "router": "sigmoid", "n_groups": 8}}, "1 groups of 1 experts"),
        ({"experts": {**EXPERTS, "router": "random"}}, "names one expert"),
        ({"experts": {**EXPERTS, "router": "grouped", "n_groups": 2, "expert_bias": True}}, "by construction"),
        ({"experts": {**EXPERTS, "balance": {"bias_rate": 0.1}}}, "expert_bias"),
        ({"experts": {**EXPERTS, "shared_gate": True}}, "d_shared"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_field(changes: dict[str, Any], match: str) -> None:
    ModelConfig.model_validate(SMALL)
    with pytest.raises(UsageError, match=match) as caught:
        ModelConfig.model_validate({**SMALL, **changes})
    assert caught.value.fix
    assert caught.value.where


def test_a_misspelt_key_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="unknown key") as caught:
        ModelConfig.model_validate({**SMALL, "n_layer": 3})
    assert caught.value.fix == "did you mean n_layers?"


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(UsageError, match="not JSON"):
        ModelConfig.from_json("{")


def test_a_misspelt_member_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="No member") as caught:
        member("pangu-ultra-135B-pico")
    assert caught.value.fix == "did you mean pangu-ultra-135b-pico?"


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("width", [64, 96, 128])
def test_a_pico_member_keeps_the_mechanisms_and_the_ratios(name: str, width: int) -> None:
    full, small = member(name), pico(member(name), width)
    assert small.d_model == width
    for field in ("norm", "rope", "tied", "learned_positions", "query_layer", "shortcut", "mtp", "init"):
        assert getattr(small, field) == getattr(full, field)
    heads = {config.attention.n_heads / getattr(config.attention, "n_kv_heads", 1) for config in (full, small)}
    assert full.attention.kind == "mla" or len(heads) == 1
    assert 0 < small.n_sparse < small.n_layers or small.n_sparse in (0, small.n_layers)
    if full.experts is not None and small.experts is not None:
        assert (small.n_sparse == small.n_layers) == (full.n_sparse == full.n_layers)
        assert small.experts.router == full.experts.router
        assert (small.experts.n_groups == 1) == (full.experts.n_groups == 1)
        assert small.experts.balance == full.experts.balance


def test_depth_growth_keeps_its_direction_at_pico_size() -> None:
    assert member("dense-71b-pico").n_layers < member("dense-135b-v1-pico").n_layers


def test_a_pico_width_that_divides_badly_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 16"):
        pico(member("llama-2-7b"), 50)
