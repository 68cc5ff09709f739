"""GGUF metadata under the key names of Hugging Face configurations.

`model_type` is the Hugging Face name of the architecture where it is known and GGUF's own name where not;
`gguf.architecture` is always GGUF's own. Keys that have no twin are left to `Checkpoint.metadata`.
Source  GGUF specification, "Standardized key-value pairs"; llama.cpp `convert_hf_to_gguf.py` for the pairing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from pedigree.weights.extent import TensorInfo

MODEL_TYPES: dict[str, str] = {
    "bert": "bert",
    "chatglm": "glm4",
    "command-r": "cohere",
    "deepseek2": "deepseek_v2",
    "gemma3": "gemma3_text",
    "gptneox": "gpt_neox",
    "modern-bert": "modernbert",
    "pangu-embedded": "pangu_embedded",
    "phi2": "phi",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "glm4moe": "glm4_moe",
    "gpt-oss": "gpt_oss",
    "mistral3": "mistral",
}
"""GGUF architecture -> Hugging Face model_type, where they differ."""

KEYS: dict[str, str] = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "vocab_size": "vocab_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_shared_count": "n_shared_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
    "leading_dense_block_count": "first_k_dense_replace",
    "nextn_predict_layers": "num_nextn_predict_layers",
    "rope.freq_base": "rope_theta",
    "rope.dimension_count": "rotary_dim",
    "use_parallel_residual": "use_parallel_residual",
    "logit_scale": "logit_scale",
}
"""GGUF key behind "{architecture}." -> Hugging Face key."""

_TOKEN_IDS = {
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "padding_token_id": "pad_token_id",
    "unknown_token_id": "unk_token_id",
}


def config_from_metadata(metadata: Mapping[str, Any], tensors: Collection[TensorInfo]) -> dict[str, Any]:
    """The configuration that GGUF metadata state.

    Args:
        metadata: key-values of the file.
        tensors: its tensors; shapes fill in a vocabulary size that is not stated, names tell tied embeddings.

    Returns:
        Configuration under Hugging Face keys. A value that differs by layer is a list.
    """
    architecture = str(metadata.get("general.architecture", ""))
    config: dict[str, Any] = {"gguf.architecture": architecture, "model_type": _model_type(architecture, metadata)}
    for key, ours in KEYS.items():
        value = metadata.get(f"{architecture}.{key}")
        if value is not None:
            config[ours] = _plain(value)
    for key, ours in _TOKEN_IDS.items():
        value = metadata.get(f"tokenizer.ggml.{key}")
        if value is not None:
            config[ours] = _plain(value)
    if architecture == "deepseek2":
        _name_latent_attention(config, metadata)
    if isinstance(config.get("num_experts"), int) and config["num_experts"] > 0:
        config["num_local_experts"] = config["n_routed_experts"] = config["num_experts"]
    shapes = {info.name: info.shape for info in tensors}
    if "vocab_size" not in config:
        embedding = shapes.get("token_embd.weight")
        tokens = metadata.get("tokenizer.ggml.tokens")
        if embedding:
            config["vocab_size"] = embedding[0]
        elif isinstance(tokens, list):
            config["vocab_size"] = len(tokens)
    if "token_embd.weight" in shapes:
        config["tie_word_embeddings"] = "output.weight" not in shapes
    return config


def _model_type(architecture: str, metadata: Mapping[str, Any]) -> str:
    if architecture == "llama" and metadata.get("llama.expert_count"):
        return "mixtral"
    # llama.cpp writes V2 and V3 under one name; only V3 states how its router gates.
    if architecture == "deepseek2" and metadata.get("deepseek2.expert_gating_func") == 2:
        return "deepseek_v3"
    return MODEL_TYPES.get(architecture, architecture)


def _name_latent_attention(config: dict[str, Any], metadata: Mapping[str, Any]) -> None:
    """Multi-head latent attention states whole head sizes; the configuration wants the part without rotation."""
    rope = metadata.get("deepseek2.rope.dimension_count")
    key = metadata.get("deepseek2.attention.key_length_mla", metadata.get("deepseek2.attention.key_length"))
    value = metadata.get("deepseek2.attention.value_length_mla", metadata.get("deepseek2.attention.value_length"))
    if isinstance(rope, int) and isinstance(key, int) and isinstance(value, int):
        config.update(qk_rope_head_dim=rope, qk_nope_head_dim=key - rope, v_head_dim=value)
        config.pop("head_dim", None)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
