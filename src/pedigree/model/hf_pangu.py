"""Dialects of the published Pangu types, which transformers has no class for (`pedigree.model.hf_classes` ships ours).

- `gpt_pangu`: PanGu-alpha as its PyTorch port names it; final norm before the query layer. The port runs the exact
  gelu where training ran its tanh form: `gelu` is read as the tanh form, which the weights were trained with.
- `PanguEmbedded`: Llama names with biases; with `sandwich_norm` the name post_attention_layernorm means the norm behind
  attention, and pre_mlp_layernorm the one before the feed-forward part. Host of the Pangu Ultra shape.
- `PanguProMoE`: grouped experts, `router_scale` of shape [1, experts].
- `pangu_ultra_moe`: latent attention, sandwich norms, multi-token layers; keys are written in both published dialects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pedigree.errors import UsageError
from pedigree.model import hf_names
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import LatentAttention
from pedigree.model.hf_dialects import (
    TANH_GELU,
    Dialect,
    always,
    biases,
    common,
    dense,
    gpt2_like,
    grouped,
    read_common,
    read_gpt2_like,
    refuse_unknown_mechanisms,
    routed,
    with_biases,
)
from pedigree.model.hf_mixtures import (
    balance_keys,
    latent_keys,
    latent_reasons,
    read_latent,
    read_sigmoid,
    sigmoid_keys,
    sigmoid_reasons,
)
from pedigree.model.hf_names import Names

# -- PanGu-alpha ------------------------------------------------------------------------------------------------------


def _alpha_reasons(c: ModelConfig) -> Iterator[str]:
    yield from gpt2_like(c)
    if c.query_layer != "after-norm":
        yield f"query_layer is {c.query_layer}, the class has after-norm"
    if not c.tied:
        yield "the head is untied"


def _alpha_write(c: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "num_layers": c.n_layers,
        "num_hidden_layers": c.n_layers,
        "num_heads": c.attention.n_heads,
        "num_attention_heads": c.attention.n_heads,
        "intermediate_size": c.feed_forward.d_inner,
        "max_position_embeddings": c.n_positions,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": c.norm.eps,
        "initializer_range": c.init.std,
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        **{f"{place}_pdrop": c.dropout for place in ("attn", "embd", "resid")},
    }


def _alpha_read(h: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown_mechanisms(h, (*TANH_GELU, "gelu"))
    width, heads = int(h["hidden_size"]), int(h.get("num_heads") or h["num_attention_heads"])
    layers = h.get("num_layers") or h["num_hidden_layers"]
    inner = h.get("intermediate_size") or 4 * width
    config = read_gpt2_like(h, width, heads, layers=layers, positions=h["max_position_embeddings"], inner=inner)
    return {**config, "query_layer": "after-norm"}


# -- Pangu Embedded, and the Pangu Ultra shape ------------------------------------------------------------------------


def _embedded_reasons(c: ModelConfig) -> Iterator[str]:
    yield from grouped(c, ("", "qkv", "qkvo"))
    yield from dense(c, sandwich=c.norm.sandwich)


def _embedded_write(c: ModelConfig) -> dict[str, Any]:
    letters = biases(c)
    keys = {"bias": letters == "qkvo", "attention_bias": letters == "qkvo", "qkv_bias": "q" in letters}
    return {**common(c), **keys, "mlp_bias": False, "sandwich_norm": c.norm.sandwich}


def _embedded_read(h: Mapping[str, Any]) -> dict[str, Any]:
    if h.get("mlp_bias"):
        raise UsageError("Feed-forward biases are not part of this type here", where="mlp_bias", got=True)
    everywhere = h.get("bias", h.get("attention_bias", False))
    config = with_biases(read_common(h), "qkvo" if everywhere else "qkv" if h.get("qkv_bias") else "")
    placement = "sandwich" if h.get("sandwich_norm") else "pre"
    return {**config, "norm": {**config["norm"], "placement": placement}}


def _embedded_names(c: ModelConfig) -> Names:
    return hf_names.PANGU_SANDWICH if c.norm.sandwich else hf_names.LLAMA


# -- Pangu Pro MoE ----------------------------------------------------------------------------------------------------


def _pro_reasons(c: ModelConfig) -> Iterator[str]:
    yield from grouped(c, ("qkvo",))
    yield from routed(c, "grouped")
    e = c.experts
    if e is not None and (e.renormalize or e.scale != 1.0 or not e.learned_scale):
        yield "weights are renormalized, or there is no learned scale"
    if e is not None and (not e.d_shared or e.shared_gate or e.first_dense):
        yield "the shared expert is missing or gated, or there are dense layers"
    if c.mtp is not None:
        yield "there is multi-token prediction"


def _pro_write(c: ModelConfig) -> dict[str, Any]:
    e = c.experts
    if e is None:
        raise UsageError("A dense config was written as a mixture", got=c.name)
    return {
        **common(c),
        **balance_keys(e),
        "num_experts": e.n_experts,
        "num_experts_per_tok": e.top_k,
        "moe_intermediate_size": e.d_expert,
        "shared_expert_intermediate_size": e.d_shared,
        "num_expert_groups": e.n_groups,
        "attention_bias": True,
    }


def _pro_read(h: Mapping[str, Any]) -> dict[str, Any]:
    top_k = int(h["num_experts_per_tok"])
    experts = {
        "router": "grouped",
        "n_experts": h["num_experts"],
        "n_groups": h.get("num_expert_groups") or top_k,  # the released config knows one expert a group
        "top_k": top_k,
        "d_expert": h["moe_intermediate_size"],
        "d_shared": h["shared_expert_intermediate_size"],
        "learned_scale": True,
        "balance": {"scope": "batch", "coefficient": h.get("router_aux_loss_coef", 0.001)},
    }
    h = {"intermediate_size": h["shared_expert_intermediate_size"], **h}
    return {**with_biases(read_common(h), "qkvo"), "experts": experts}


# -- Pangu Ultra MoE --------------------------------------------------------------------------------------------------

_ORIGINAL_KEYS = {
    "attention_qk_dim": "qk_nope_head_dim",
    "attention_qk_rope_dim": "qk_rope_head_dim",
    "attention_v_dim": "v_head_dim",
    "attention_q_lora_dim": "q_lora_rank",
    "attention_kv_lora_dim": "kv_lora_rank",
    "num_routed_experts": "n_routed_experts",
    "num_shared_experts": "n_shared_experts",
    "num_dense_layers": "first_k_dense_replace",
    "num_mtp_layers": "num_nextn_predict_layers",
}


def _ultra_reasons(c: ModelConfig) -> Iterator[str]:
    yield from latent_reasons(c)
    yield from routed(c, "sigmoid", sandwich=True)
    yield from sigmoid_reasons(c)
    if c.experts is not None and c.experts.n_groups != 1:
        yield "the router chooses groups"


def _ultra_write(c: ModelConfig) -> dict[str, Any]:
    a, e = c.attention, c.experts
    keys = {**common(c), **latent_keys(c), **sigmoid_keys(c), "sandwich_norm": True}
    keys["router_enable_expert_bias"] = bool(e and e.expert_bias)
    keys["latent_norm_eps"] = a.latent_eps if isinstance(a, LatentAttention) else None
    return {**keys, **{original: keys[modern] for original, modern in _ORIGINAL_KEYS.items()}}


def _ultra_read(h: Mapping[str, Any]) -> dict[str, Any]:
    h = {**{modern: h[original] for original, modern in _ORIGINAL_KEYS.items() if original in h}, **h}
    config = read_latent(h, latent_eps=h.get("latent_norm_eps") or 1e-6)
    depth = h.get("num_nextn_predict_layers") or 0
    placement = "sandwich" if h.get("sandwich_norm", True) else "pre"
    return {
        **config,
        "norm": {**config["norm"], "placement": placement},
        "experts": read_sigmoid(h, expert_bias=bool(h.get("router_enable_expert_bias", False))),
        "mtp": {"depth": depth} if depth else None,
    }


PANGU: tuple[Dialect, ...] = (
    Dialect(
        "gpt_pangu",
        "GPTPanguForCausalLM",
        False,
        always(hf_names.GPT_PANGU),
        _alpha_reasons,
        _alpha_write,
        _alpha_read,
    ),
    Dialect(
        "PanguEmbedded",
        "PanguEmbeddedForCausalLM",
        False,
        _embedded_names,
        _embedded_reasons,
        _embedded_write,
        _embedded_read,
    ),
    Dialect(
        "PanguProMoE",
        "PanguProMoEForCausalLM",
        False,
        always(hf_names.PANGU_PRO_MOE),
        _pro_reasons,
        _pro_write,
        _pro_read,
    ),
    Dialect(
        "pangu_ultra_moe",
        "PanguUltraMoEForCausalLM",
        False,
        always(hf_names.PANGU_ULTRA_MOE),
        _ultra_reasons,
        _ultra_write,
        _ultra_read,
    ),
)
