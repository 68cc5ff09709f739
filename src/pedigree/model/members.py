"""The named members of the family: published shapes, and shapes that were never published (`assumed` says what).

Every member has a pico sibling, `NAME-pico`: the same mechanisms at a size that trains in minutes on two cores.

Sources: PanGu-alpha arXiv 2104.12369, PanGu-Sigma 2303.10845, PanGu-pi 2312.17276, Pangu Ultra 2504.07866, Pangu Ultra
MoE 2505.04519, Pangu Pro MoE 2505.21411, the openPangu model cards; Llama 2307.09288 and 2407.21783, Qwen 2412.15115
and 2505.09388, Mixtral 2401.04088, DeepSeek-V3 2412.19437.
"""

from __future__ import annotations

import difflib
import math
from functools import cache
from typing import Any

from pedigree.errors import UsageError
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Experts, GroupedAttention, LatentAttention

PICO = "-pico"
PICO_WIDTH = 64  # or the next width that the query heads of a key head divide
_LEAST_IDS = 320  # the bytes, a separator, and room for some merges
_HEAD = 16  # channels of a pico head, where the ratio of heads allows
_EXPERTS = 16  # experts of a pico member at most
_GROUPS = 4  # groups of a pico member at most

_SANDWICH = {"placement": "depth-scaled-sandwich", "eps": 1e-5}
_TINY = {"kind": "tiny", "embedding_std": 0.5}
_LAYER_NORM = {"kind": "layer", "eps": 1e-5}


def _gqa(heads: int, kv: int, dim: int, bias: str = "", **more: Any) -> dict[str, Any]:
    return {
        "n_heads": heads,
        "n_kv_heads": kv,
        "head_dim": dim,
        **{f"{name}_bias": True for name in bias},
        **more,
        "kind": "gqa",
    }


def _mla(heads: int) -> dict[str, Any]:
    ranks = {"q_rank": 1536, "kv_rank": 512, "nope_dim": 128, "rope_dim": 64, "v_dim": 128}
    return {"kind": "mla", "n_heads": heads, **ranks}


def _alpha(d: int, layers: int, heads: int, query: str = "after-norm", **more: Any) -> dict[str, Any]:
    """PanGu-alpha: layers include the query layer."""
    return {
        "vocab_size": 40000,
        "d_model": d,
        "n_layers": layers,
        "n_positions": 1024,
        "attention": _gqa(heads, heads, d // heads, bias="qkvo"),
        "feed_forward": {"kind": "gelu", "d_inner": 4 * d, "bias": True},
        "norm": _LAYER_NORM,
        "learned_positions": True,
        "query_layer": query,
        "tied": True,
        "dropout": 0.1,
        "init": {"kind": "gpt2", "std": 0.02, "qkv_std": 0.01},
        **more,
    }


def _llama(
    d: int, layers: int, heads: tuple[int, int, int], inner: int, vocab: int, context: int, theta: float, **more: Any
) -> dict[str, Any]:
    """Pre-norm RMSNorm, rotary positions, SwiGLU, untied head; `more` replaces any of it."""
    return {
        "vocab_size": vocab,
        "d_model": d,
        "n_layers": layers,
        "n_positions": context,
        "attention": _gqa(*heads),
        "feed_forward": {"kind": "swiglu", "d_inner": inner},
        "rope": {"theta": theta},
        **more,
    }


def _random_experts(count: int, domains: int) -> dict[str, Any]:
    return {
        "router": "random",
        "n_experts": count,
        "n_groups": domains,
        "top_k": 1,
        "d_expert": 20480,
        "first_dense": 32,
    }


_PRO_EXPERTS = {
    "router": "grouped",
    "n_experts": 64,
    "n_groups": 8,
    "top_k": 8,
    "d_expert": 1344,
    "d_shared": 5376,
    "learned_scale": True,
    "balance": {"scope": "batch", "coefficient": 0.001},
}
_ULTRA_EXPERTS = {
    "router": "sigmoid",
    "n_experts": 256,
    "top_k": 8,
    "d_expert": 2048,
    "renormalize": True,
    "scale": 2.5,
    "d_shared": 2048,
    "first_dense": 3,
    "balance": {"scope": "group", "coefficient": 0.01},
}
_DEEPSEEK_EXPERTS = {
    **_ULTRA_EXPERTS,
    "n_groups": 8,
    "topk_groups": 4,
    "expert_bias": True,
    "balance": {"scope": "sequence", "coefficient": 0.0001, "bias_rate": 0.001},
}
_EXPERTS_224 = {
    "router": "softmax",
    "n_experts": 128,
    "top_k": 8,
    "d_expert": 1536,
    "renormalize": True,
    "d_shared": 3072,
    "first_dense": 1,
    "balance": {"scope": "batch", "coefficient": 0.001},
}
_MIXTRAL_EXPERTS = {
    "router": "softmax",
    "n_experts": 8,
    "top_k": 2,
    "d_expert": 14336,
    "renormalize": True,
    "balance": {"scope": "batch", "coefficient": 0.02},
}

_SHAPE = "the whole shape; only the parameter count is known"
_FROM_SCRATCH = {"norm": _SANDWICH, "init": _TINY}
_PI = {"series": 2, "kind": "swiglu"}

TABLE: dict[str, dict[str, Any]] = {
    "pangu-alpha-2.6b": _alpha(2560, 32, 32),
    "pangu-alpha-13b": _alpha(5120, 40, 40),
    "pangu-alpha-200b": _alpha(16384, 64, 128, query="before-norm"),
    "pangu-sigma": _alpha(
        5120, 40, 40, experts=_random_experts(640, 40), assumed="vocabulary, and the split of layers and groups"
    ),
    "moe-38b": _alpha(
        5120, 40, 40, experts=_random_experts(16, 1), assumed="8 layers of 16 experts: one group of PanGu-Sigma"
    ),
    "dense-71b": _alpha(10240, 56, 80, query="none", assumed=_SHAPE),
    "dense-135b-v1": _alpha(10240, 107, 80, query="none", assumed="all but depth and parameter count"),
    "dense-135b-v2": _llama(
        8192,
        82,
        (64, 8, 128),
        59392,
        152064,
        32768,
        1e6,
        attention=_gqa(64, 8, 128, bias="qkv"),
        feed_forward={**_PI, "d_inner": 59392},
        shortcut={"count": 1, "reduction": 32},
        norm={"eps": 1e-6},
        assumed="width, heads and inner width, after an 80-layer model of 110 B",
    ),
    "dense-38b-v2": _llama(5120, 80, (40, 8, 128), 25600, 153376, 4096, 1e4, assumed=_SHAPE),
    "dense-38b-v3": _llama(5120, 80, (40, 8, 128), 25600, 64000, 4096, 1e4, assumed=_SHAPE),
    "dense-230b": _llama(16384, 84, (128, 8, 128), 43008, 153376, 4096, 1e4, assumed=_SHAPE, **_FROM_SCRATCH),
    "moe-224b": _llama(6144, 60, (48, 8, 128), 16384, 153376, 4096, 1e4, assumed=_SHAPE, experts=_EXPERTS_224),
    "pangu-pi-1b": _llama(
        2048, 12, (16, 16, 128), 5504, 100883, 4096, 1e4,
        feed_forward={**_PI, "d_inner": 5504}, shortcut={}, assumed="inner width and context",
    ),
    "pangu-pi-7b": _llama(
        4096, 29, (32, 32, 128), 11008, 100883, 4096, 1e4,
        feed_forward={**_PI, "d_inner": 11008}, shortcut={}, assumed="inner width and context",
    ),
    "pangu-ultra-135b": _llama(12288, 94, (96, 8, 128), 28672, 153376, 131072, 2.56e7, **_FROM_SCRATCH),
    "pangu-pro-moe-72b": _llama(
        5120, 48, (40, 8, 128), 6720, 153376, 131072, 1.6e7,
        attention=_gqa(40, 8, 128, bias="qkvo"), experts=_PRO_EXPERTS,
    ),
    "pangu-ultra-moe-718b": _llama(
        7680, 61, (128, 128, 128), 18432, 153600, 131072, 2.56e7,
        attention=_mla(128), rope={"theta": 2.56e7, "layout": "interleaved"},
        experts=_ULTRA_EXPERTS, mtp={}, **_FROM_SCRATCH,
    ),
    "pangu-embedded-1b": _llama(
        1536, 26, (12, 6, 128), 6144, 153376, 32768, 4e6,
        attention=_gqa(12, 6, 128, bias="qkvo"), assumed="inner width, biases and rotary base",
    ),
    "pangu-embedded-7b": _llama(
        4096, 34, (32, 8, 128), 12800, 153376, 32768, 1.6e7, attention=_gqa(32, 8, 128, bias="qkvo")
    ),
    "llama-2-7b": _llama(4096, 32, (32, 32, 128), 11008, 32000, 4096, 1e4),
    "llama-3-8b": _llama(4096, 32, (32, 8, 128), 14336, 128256, 8192, 5e5),
    "qwen1.5-110b": _llama(
        8192, 80, (64, 8, 128), 49152, 152064, 32768, 1e6,
        attention=_gqa(64, 8, 128, bias="qkv"), norm={"eps": 1e-6},
    ),
    "qwen2.5-14b": _llama(
        5120, 48, (40, 8, 128), 13824, 152064, 131072, 1e6, attention=_gqa(40, 8, 128, bias="qkv")
    ),
    "qwen3-8b": _llama(
        4096, 36, (32, 8, 128), 12288, 151936, 40960, 1e6,
        attention=_gqa(32, 8, 128, q_norm=True, k_norm=True), norm={"eps": 1e-6},
    ),
    "mixtral-8x7b": _llama(4096, 32, (32, 8, 128), 14336, 32000, 32768, 1e6, experts=_MIXTRAL_EXPERTS),
    "deepseek-v3": _llama(
        7168, 61, (128, 128, 128), 18432, 129280, 163840, 1e4,
        attention=_mla(128), rope={"theta": 1e4, "layout": "interleaved"}, norm={"eps": 1e-6},
        experts=_DEEPSEEK_EXPERTS, mtp={}, init={"kind": "normal", "std": 0.006},
    ),
}  # fmt: skip


def names() -> tuple[str, ...]:
    """The members, without their pico siblings, in the order of the table."""
    return tuple(TABLE)


@cache
def member(name: str) -> ModelConfig:
    """The config of a member, or of its pico sibling (`NAME-pico`).

    Raises:
        UsageError: unknown name.
    """
    full = name.removesuffix(PICO)
    if full not in TABLE:
        close = difflib.get_close_matches(full.lower().replace("_", "-"), TABLE, n=1, cutoff=0.4)
        raise UsageError(
            "No member of the family has this name",
            got=name,
            expected=", ".join(TABLE) + f"; each also with {PICO}",
            fix=f"did you mean {close[0] + name[len(full) :]}?" if close else "choose one of the names",
        )
    config = ModelConfig.model_validate({"name": full, **TABLE[full]})
    return config if name == full else pico(config)


def pico(
    config: ModelConfig,
    width: int | None = None,
    *,
    n_layers: int | None = None,
    vocab_size: int | None = None,
    n_positions: int | None = None,
) -> ModelConfig:
    """The same mechanisms at a size that trains in minutes; `width` is the one dial.

    Kept: query to key heads, width of heads together to width of the stream, inner widths to width, shared to routed
    expert width, grouping of experts, vocabulary to width, order of depths. Depth goes with the square root of width.
    Dropout is 0: a pico run sees each token about once.

    Args:
        config: the member.
        width: channels of the stream, a multiple of 16; None: 64, or the next that the heads divide.
        n_layers: depth, where the dial's is not wanted; so for the other two.
        vocab_size: vocabulary.
        n_positions: context length.

    Raises:
        UsageError: the width is not a positive multiple of 16.
    """
    width = _default_width(config) if width is None else width
    if width <= 0 or width % 16:
        raise UsageError(
            "A pico width divides badly", got=width, expected="a positive multiple of 16", fix=f"try {PICO_WIDTH}"
        )
    ratio = width / config.d_model
    layers = n_layers or max(4, round(config.n_layers / 16 * math.sqrt(width / PICO_WIDTH)))
    changes: dict[str, Any] = {
        "name": config.name.removesuffix(PICO) + PICO,
        "d_model": width,
        "n_layers": layers,
        "vocab_size": vocab_size or max(_LEAST_IDS, _nearest(config.vocab_size * ratio, 64)),
        "n_positions": n_positions or min(config.n_positions, 256),
        "attention": _pico_attention(config, width).model_dump(),
        "feed_forward": config.feed_forward.replace(d_inner=_nearest(config.feed_forward.d_inner * ratio, 8)),
        "dropout": 0.0,
    }
    if config.experts is not None:
        changes["experts"] = _pico_experts(config.experts, ratio, config.n_layers, layers)
    return config.replace(**{k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in changes.items()})


def _default_width(config: ModelConfig) -> int:
    a = config.attention
    shared = 1 if isinstance(a, LatentAttention) else a.n_heads // a.n_kv_heads
    return next(width for width in range(PICO_WIDTH, PICO_WIDTH + 16 * shared + 1, 16) if width % shared == 0)


def _nearest(value: float, multiple: int) -> int:
    """The nearest positive multiple."""
    return max(1, round(value / multiple)) * multiple


def _pico_attention(config: ModelConfig, width: int) -> GroupedAttention | LatentAttention:
    a = config.attention
    total = width * a.n_heads * a.v_dim / config.d_model
    if isinstance(a, LatentAttention):
        n_heads = _nearest(total / _HEAD, 2)
        scale, ratio = _HEAD / a.v_dim, width / config.d_model
        return a.replace(
            n_heads=n_heads,
            q_rank=None if a.q_rank is None else _nearest(a.q_rank * ratio, 8),
            kv_rank=_nearest(a.kv_rank * ratio, 8),
            nope_dim=_nearest(a.nope_dim * scale, 4),
            rope_dim=_nearest(a.rope_dim * scale, 4),
            v_dim=_HEAD,
        )
    shared = a.n_heads // a.n_kv_heads
    n_kv = max(1, round(total / _HEAD / shared))
    head_dim = max(8, _nearest(total / (n_kv * shared), 4))
    return a.replace(n_heads=n_kv * shared, n_kv_heads=n_kv, head_dim=head_dim)


def _pico_experts(e: Experts, ratio: float, depth: int, layers: int) -> Experts:
    count = min(e.n_experts, _EXPERTS)
    groups = min(e.n_groups, _GROUPS)
    if e.router == "grouped":
        top_k = groups * (e.top_k // e.n_groups)
    else:
        top_k = e.top_k if count == e.n_experts else max(1, e.top_k // 2)
    inner = _nearest(e.d_expert * ratio, 8)
    dense = round(e.first_dense * layers / depth)
    return e.replace(
        n_experts=count,
        n_groups=groups,
        topk_groups=max(1, e.topk_groups * groups // e.n_groups),
        top_k=top_k,
        d_expert=inner,
        d_shared=_nearest(e.d_shared / e.d_expert * inner, 8) if e.d_shared else 0,
        first_dense=min(max(dense, 1), layers - 2) if e.first_dense else 0,
    )
