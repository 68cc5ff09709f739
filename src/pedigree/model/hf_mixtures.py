"""Dialects of the native mixtures of experts: Mixtral, Qwen2-MoE, Qwen3-MoE, DeepSeek-V3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pedigree.errors import UsageError
from pedigree.model import hf_names
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Experts, LatentAttention
from pedigree.model.hf_dialects import (
    Dialect,
    always,
    biases,
    common,
    grouped,
    modern,
    read_common,
    routed,
    with_biases,
)


def _experts(c: ModelConfig) -> Experts:
    """The experts of a config that is known to have them."""
    if c.experts is None:
        raise UsageError("A dense config was written as a mixture", got=c.name)
    return c.experts


def _plain_softmax(c: ModelConfig, e: Experts) -> Iterator[str]:
    if e.scale != 1.0 or e.learned_scale or e.expert_bias:
        yield "weights of experts are scaled, or choices biased"
    if c.mtp is not None:
        yield "there is multi-token prediction"


def balance_keys(e: Experts) -> dict[str, Any]:
    """Keys of the balance loss."""
    return {"router_aux_loss_coef": e.balance.coefficient, "output_router_logits": False}


def _read_balance(h: Mapping[str, Any], default: float) -> dict[str, Any]:
    return {"scope": "batch", "coefficient": h.get("router_aux_loss_coef", default)}


# -- Mixtral ----------------------------------------------------------------------------------------------------------


def _mixtral_reasons(c: ModelConfig) -> Iterator[str]:
    yield from grouped(c, ("",))
    yield from routed(c, "softmax")
    if c.experts is not None:
        yield from _plain_softmax(c, c.experts)
        if not c.experts.renormalize or c.experts.d_shared or c.experts.first_dense:
            yield "weights are not renormalized, or there are shared experts or dense layers"


def _mixtral_write(c: ModelConfig) -> dict[str, Any]:
    e = _experts(c)
    keys = {"num_local_experts": e.n_experts, "num_experts_per_tok": e.top_k, "sliding_window": None}
    return {**common(c), **keys, **balance_keys(e), "intermediate_size": e.d_expert}


def _mixtral_read(h: Mapping[str, Any]) -> dict[str, Any]:
    experts = {
        "router": "softmax",
        "n_experts": h["num_local_experts"],
        "top_k": h["num_experts_per_tok"],
        "d_expert": h["intermediate_size"],
        "renormalize": True,
        "balance": _read_balance(h, 0.001),
    }
    return {**read_common(h), "experts": experts}


# -- Qwen2-MoE and Qwen3-MoE ------------------------------------------------------------------------------------------


def _qwen2_moe_reasons(c: ModelConfig) -> Iterator[str]:
    yield from grouped(c, ("", "qkv"))
    yield from routed(c, "softmax")
    if c.experts is not None:
        yield from _plain_softmax(c, c.experts)
        if not c.experts.shared_gate:
            yield "there is no gated shared expert"


def _qwen_moe_write(c: ModelConfig) -> dict[str, Any]:
    e = _experts(c)
    return {
        **common(c),
        **balance_keys(e),
        "use_sliding_window": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(range(e.first_dense)),
        "num_experts": e.n_experts,
        "num_experts_per_tok": e.top_k,
        "moe_intermediate_size": e.d_expert,
        "norm_topk_prob": e.renormalize,
    }


def _qwen2_moe_write(c: ModelConfig) -> dict[str, Any]:
    shared = {"shared_expert_intermediate_size": _experts(c).d_shared, "qkv_bias": biases(c) == "qkv"}
    return {**_qwen_moe_write(c), **shared}


def _qwen_moe_read(h: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    dense = h.get("mlp_only_layers") or []
    if h.get("decoder_sparse_step", 1) != 1 or dense != list(range(len(dense))):
        raise UsageError(
            "Sparse and dense layers alternate in a way that is not built here",
            where="mlp_only_layers, decoder_sparse_step",
            got=(dense, h.get("decoder_sparse_step")),
            expected="leading dense layers, then sparse ones",
        )
    return {
        "router": "softmax",
        "n_experts": h["num_experts"] if "num_experts" in h else h["num_local_experts"],  # newer spelling
        "top_k": h["num_experts_per_tok"],
        "d_expert": h["moe_intermediate_size"],
        "renormalize": bool(h.get("norm_topk_prob", False)),
        "first_dense": len(dense),
        "balance": _read_balance(h, 0.001),
        **more,
    }


def _qwen2_moe_read(h: Mapping[str, Any]) -> dict[str, Any]:
    experts = _qwen_moe_read(h, d_shared=h["shared_expert_intermediate_size"], shared_gate=True)
    return {**with_biases(read_common(h), "qkv" if h.get("qkv_bias", True) else ""), "experts": experts}


def _qwen3_moe_reasons(c: ModelConfig) -> Iterator[str]:
    yield from grouped(c, ("", "qkvo"), qk_norm=True)
    yield from routed(c, "softmax")
    if c.experts is not None:
        yield from _plain_softmax(c, c.experts)
        if c.experts.d_shared:
            yield "there is a shared expert"


def _qwen3_moe_write(c: ModelConfig) -> dict[str, Any]:
    return {**_qwen_moe_write(c), "attention_bias": biases(c) == "qkvo"}


def _qwen3_moe_read(h: Mapping[str, Any]) -> dict[str, Any]:
    letters = "qkvo" if h.get("attention_bias") else ""
    return {**with_biases(read_common(h), letters, q_norm=True, k_norm=True), "experts": _qwen_moe_read(h)}


# -- DeepSeek-V3 ------------------------------------------------------------------------------------------------------


def latent_reasons(c: ModelConfig) -> Iterator[str]:
    """Latent attention that turns in the interleaved layout, without feed-forward biases."""
    yield from modern(c)
    if not isinstance(c.attention, LatentAttention):
        yield "attention is not latent"
    elif c.rope is not None and c.rope.layout != "interleaved":
        yield "rotation is in the half layout"
    if c.feed_forward.bias:
        yield "feed-forward biases"


def latent_keys(c: ModelConfig) -> dict[str, Any]:
    """Keys of latent attention as DeepSeek names them."""
    a = c.attention
    if not isinstance(a, LatentAttention):
        raise UsageError("Grouped attention was written as latent", got=c.name)
    return {
        "q_lora_rank": a.q_rank,
        "kv_lora_rank": a.kv_rank,
        "qk_nope_head_dim": a.nope_dim,
        "qk_rope_head_dim": a.rope_dim,
        "v_head_dim": a.v_dim,
        "rope_interleave": True,
        "attention_bias": False,
    }


def read_latent(h: Mapping[str, Any], latent_eps: float) -> dict[str, Any]:
    """The config behind keys of latent attention."""
    if h.get("attention_bias"):
        raise UsageError("Latent attention with biases is not built here", where="attention_bias", got=True)
    attention = {
        "kind": "mla",
        "n_heads": h["num_attention_heads"],
        "q_rank": h.get("q_lora_rank"),
        "kv_rank": h["kv_lora_rank"],
        "nope_dim": h["qk_nope_head_dim"],
        "rope_dim": h["qk_rope_head_dim"],
        "v_dim": h["v_head_dim"],
        "latent_eps": latent_eps,
    }
    config = read_common(h)
    layout = "interleaved" if h.get("rope_interleave", True) else "half"
    return {**config, "attention": attention, "rope": {**config["rope"], "layout": layout}}


def sigmoid_keys(c: ModelConfig) -> dict[str, Any]:
    """Keys of sigmoid routing and multi-token prediction as DeepSeek names them."""
    e = _experts(c)
    return {
        "n_routed_experts": e.n_experts,
        "n_shared_experts": e.d_shared // e.d_expert,
        "num_experts_per_tok": e.top_k,
        "moe_intermediate_size": e.d_expert,
        "first_k_dense_replace": e.first_dense,
        "n_group": e.n_groups,
        "topk_group": e.topk_groups,
        "norm_topk_prob": e.renormalize,
        "routed_scaling_factor": e.scale,
        "num_nextn_predict_layers": 0 if c.mtp is None else c.mtp.depth,
    }


def read_sigmoid(h: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The experts behind keys of sigmoid routing."""
    width = int(h["moe_intermediate_size"])
    return {
        "router": "sigmoid",
        "n_experts": h["n_routed_experts"],
        "top_k": h["num_experts_per_tok"],
        "d_expert": width,
        "d_shared": (h.get("n_shared_experts") or 0) * width,
        "first_dense": h.get("first_k_dense_replace") or 0,
        "n_groups": h.get("n_group") or 1,
        "topk_groups": h.get("topk_group") or 1,
        "renormalize": bool(h.get("norm_topk_prob", True)),
        "scale": h.get("routed_scaling_factor") or 1.0,
        **more,
    }


def sigmoid_reasons(c: ModelConfig) -> Iterator[str]:
    """Shared experts as wide as whole routed ones, ungated; no learned scale."""
    e = c.experts
    if e is not None and (not e.d_shared or e.d_shared % e.d_expert or e.shared_gate):
        yield "the shared expert is missing, gated, or not as wide as whole experts"
    if e is not None and e.learned_scale:
        yield "experts have learned scales"


def _deepseek_reasons(c: ModelConfig) -> Iterator[str]:
    yield from latent_reasons(c)
    yield from routed(c, "sigmoid")
    yield from sigmoid_reasons(c)
    if isinstance(c.attention, LatentAttention) and c.attention.latent_eps != 1e-6:
        yield f"latent_eps is {c.attention.latent_eps}, the class has 1e-6"
    if c.experts is not None and not c.experts.expert_bias:
        yield "the router has no selection bias"


def _deepseek_write(c: ModelConfig) -> dict[str, Any]:
    routing = {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1}
    return {**common(c), **latent_keys(c), **sigmoid_keys(c), **routing}


def _deepseek_read(h: Mapping[str, Any]) -> dict[str, Any]:
    depth = h.get("num_nextn_predict_layers") or h.get("num_mtp_layers") or 0
    config = {**read_latent(h, latent_eps=1e-6), "experts": read_sigmoid(h, expert_bias=True)}
    return {**config, "mtp": {"depth": depth} if depth else None}


_MOE = always(hf_names.QWEN2_MOE)

MIXTURES: tuple[Dialect, ...] = (
    Dialect(
        "mixtral",
        "MixtralForCausalLM",
        True,
        always(hf_names.MIXTRAL),
        _mixtral_reasons,
        _mixtral_write,
        _mixtral_read,
    ),
    Dialect("qwen2_moe", "Qwen2MoeForCausalLM", True, _MOE, _qwen2_moe_reasons, _qwen2_moe_write, _qwen2_moe_read),
    Dialect("qwen3_moe", "Qwen3MoeForCausalLM", True, _MOE, _qwen3_moe_reasons, _qwen3_moe_write, _qwen3_moe_read),
    Dialect(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        True,
        always(hf_names.DEEPSEEK_V3),
        _deepseek_reasons,
        _deepseek_write,
        _deepseek_read,
    ),
)
