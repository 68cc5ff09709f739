"""Tensor names of the Hugging Face layouts, as data: our module -> theirs.

`{i}` is the layer, `{e}` the expert. A multi-token layer has the number behind the last main layer. What an
architecture does not have (biases, shared experts) is simply never asked for.

Sources: the classes of transformers; for the Pangu types the released checkpoints and the classes of vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Names:
    """Names of one layout.

    Attributes:
        modules: our module path -> theirs; `.weight` and `.bias` follow on both sides.
        parameters: our full parameter name -> theirs, where they are not a module with a weight.
        experts: gate, up and down of one expert, with `{i}` and `{e}`.
        fused: their module -> our modules whose rows stand in it, in this order.
        transposed: their modules whose matrices are stored input first.
        copies: their tensors in a multi-token layer that repeat one of ours.
    """

    modules: Mapping[str, str]
    parameters: Mapping[str, str] = field(default_factory=dict)
    experts: tuple[str, str, str] | None = None
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    transposed: frozenset[str] = frozenset()
    copies: Mapping[str, str] = field(default_factory=dict)


_LAYER = "model.layers.{i}."
_EXPERTS = tuple(f"{_LAYER}mlp.experts.{{e}}.{part}_proj" for part in ("gate", "up", "down"))

_LLAMA: dict[str, str] = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layers.{i}.attn_norm": _LAYER + "input_layernorm",
    "layers.{i}.ffn_norm": _LAYER + "post_attention_layernorm",
    "layers.{i}.attn.q_norm": _LAYER + "self_attn.q_norm",
    "layers.{i}.attn.k_norm": _LAYER + "self_attn.k_norm",
    **{f"layers.{{i}}.attn.{part}": f"{_LAYER}self_attn.{part}_proj" for part in "qkvo"},
    **{f"layers.{{i}}.ffn.{part}": f"{_LAYER}mlp.{part}_proj" for part in ("gate", "up", "down")},
}
_SANDWICH = {
    "layers.{i}.attn_post_norm": _LAYER + "post_attention_layernorm",
    "layers.{i}.ffn_norm": _LAYER + "pre_mlp_layernorm",
    "layers.{i}.ffn_post_norm": _LAYER + "post_mlp_layernorm",
}
_ROUTER = {"layers.{i}.ffn.router": _LAYER + "mlp.gate"}
_LATENT = {
    "layers.{i}.attn.q": _LAYER + "self_attn.q_proj",
    "layers.{i}.attn.q_a": _LAYER + "self_attn.q_a_proj",
    "layers.{i}.attn.q_a_norm": _LAYER + "self_attn.q_a_layernorm",
    "layers.{i}.attn.q_b": _LAYER + "self_attn.q_b_proj",
    "layers.{i}.attn.kv_a": _LAYER + "self_attn.kv_a_proj_with_mqa",
    "layers.{i}.attn.kv_a_norm": _LAYER + "self_attn.kv_a_layernorm",
    "layers.{i}.attn.kv_b": _LAYER + "self_attn.kv_b_proj",
}
_SHARED = {
    f"layers.{{i}}.ffn.shared.{part}": f"{_LAYER}mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")
}
_SHARED_PLURAL = {ours: theirs.replace("shared_expert.", "shared_experts.") for ours, theirs in _SHARED.items()}
_MTP = {
    "mtp.{i}.embed_norm": _LAYER + "enorm",
    "mtp.{i}.hidden_norm": _LAYER + "hnorm",
    "mtp.{i}.project": _LAYER + "eh_proj",
    "mtp.{i}.norm": _LAYER + "shared_head.norm",
}
_MTP_COPIES = {_LAYER + "embed_tokens.weight": "embed.weight", _LAYER + "shared_head.head.weight": "head.weight"}

LLAMA = Names(_LLAMA)
GLM4 = Names(
    {
        **_LLAMA,
        "layers.{i}.attn_post_norm": _LAYER + "post_self_attn_layernorm",
        "layers.{i}.ffn_post_norm": _LAYER + "post_mlp_layernorm",
    },
    fused={_LAYER + "mlp.gate_up_proj": ("layers.{i}.ffn.gate", "layers.{i}.ffn.up")},
)
MIXTRAL = Names(
    {**_LLAMA, "layers.{i}.ffn.router": _LAYER + "block_sparse_moe.gate"},
    experts=(
        _LAYER + "block_sparse_moe.experts.{e}.w1",
        _LAYER + "block_sparse_moe.experts.{e}.w3",
        _LAYER + "block_sparse_moe.experts.{e}.w2",
    ),
)
QWEN2_MOE = Names(
    {**_LLAMA, **_ROUTER, **_SHARED, "layers.{i}.ffn.shared_gate": _LAYER + "mlp.shared_expert_gate"},
    experts=(_EXPERTS[0], _EXPERTS[1], _EXPERTS[2]),
)
DEEPSEEK_V3 = Names(
    {**_LLAMA, **_LATENT, **_ROUTER, **_SHARED_PLURAL, **_MTP},
    parameters={"layers.{i}.ffn.router.expert_bias": _LAYER + "mlp.gate.e_score_correction_bias"},
    experts=(_EXPERTS[0], _EXPERTS[1], _EXPERTS[2]),
    copies=_MTP_COPIES,
)
GPT2 = Names(
    {
        "embed": "transformer.wte",
        "positions": "transformer.wpe",
        "norm": "transformer.ln_f",
        "layers.{i}.attn_norm": "transformer.h.{i}.ln_1",
        "layers.{i}.ffn_norm": "transformer.h.{i}.ln_2",
        "layers.{i}.attn.o": "transformer.h.{i}.attn.c_proj",
        "layers.{i}.ffn.up": "transformer.h.{i}.mlp.c_fc",
        "layers.{i}.ffn.down": "transformer.h.{i}.mlp.c_proj",
        "head": "lm_head",
    },
    fused={"transformer.h.{i}.attn.c_attn": ("layers.{i}.attn.q", "layers.{i}.attn.k", "layers.{i}.attn.v")},
    transposed=frozenset(
        f"transformer.h.{{i}}.{part}" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ),
)
GPT_PANGU = Names(
    {
        **{k: v for k, v in GPT2.modules.items() if ".attn.o" not in k},
        "query_positions": "transformer.wqe",
        **{f"layers.{{i}}.attn.{part}": f"transformer.h.{{i}}.attn.{part}_proj" for part in "qkv"},
        "layers.{i}.attn.o": "transformer.h.{i}.attn.out_proj",
    }
)
PANGU_SANDWICH = Names({**_LLAMA, **_SANDWICH})
PANGU_PRO_MOE = Names(
    {**_LLAMA, **_ROUTER, **_SHARED},
    parameters={"layers.{i}.ffn.router.scale": _LAYER + "mlp.router_scale"},
    experts=(_EXPERTS[0], _EXPERTS[1], _EXPERTS[2]),
)
PANGU_ULTRA_MOE = Names(
    {**_LLAMA, **_SANDWICH, **_LATENT, **_ROUTER, **_SHARED_PLURAL, **_MTP},
    parameters={"layers.{i}.ffn.router.expert_bias": _LAYER + "mlp.e_score_correction_bias"},
    experts=(_EXPERTS[0], _EXPERTS[1], _EXPERTS[2]),
    copies=_MTP_COPIES,
)
