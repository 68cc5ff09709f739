"""The dialects of config.json: which decoder fits which class, and the same facts under their keys.

A dialect fits a config when the class computes exactly what the config describes; `reasons` says what does not fit.
Facts that no class knows (how weights start, balance losses, dropout of ours) travel in one further key, `pedigree`;
it is believed only while it agrees with the keys that the class reads.

The native classes of transformers come first; then the published Pangu types, whose classes we ship
(`pedigree.model.hf_classes`); last our own type, which fits everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pedigree.errors import UsageError
from pedigree.model import hf_names
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import GroupedAttention
from pedigree.model.hf_names import Names
from pedigree.model.hf_rope import KINDS, kind_of, read_scaling, scaling_keys, scaling_reasons, theta_of

OWN_TYPE = "pedigree_decoder"
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")


@dataclass(frozen=True)
class Dialect:
    """One model type.

    Attributes:
        model_type: value of `model_type`.
        architecture: class named in `architectures`.
        native: whether transformers itself has the class.
        names: tensor names for a config.
        reasons: what of a config the class cannot compute.
        write: the class's keys for a config.
        read: the config that the keys describe.
    """

    model_type: str
    architecture: str
    native: bool
    names: Callable[[ModelConfig], Names | None]
    reasons: Callable[[ModelConfig], Iterator[str]]
    write: Callable[[ModelConfig], dict[str, Any]]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]


# -- what may differ, in words ----------------------------------------------------------------------------------------


def biases(config: ModelConfig) -> str:
    """Letters of the attention projections that have a bias."""
    a = config.attention
    return "".join(x for x in "qkvo" if getattr(a, f"{x}_bias")) if isinstance(a, GroupedAttention) else ""


def settled(c: ModelConfig) -> Iterator[str]:
    """Nothing of a conversion that is under way: what no class but ours computes."""
    if c.homotopy is not None:
        yield "it stands between two mechanisms (homotopy)"
    if c.norm.final_bias:
        yield "the final norm has a bias"


def modern(c: ModelConfig) -> Iterator[str]:
    """RMSNorm, rotary positions, SwiGLU: what every Llama-like class shares."""
    if c.norm.kind != "rms":
        yield f"norm.kind is {c.norm.kind}, not rms"
    if c.rope is None or c.learned_positions:
        yield "positions are learned"
    yield from scaling_reasons(c)
    if c.query_layer != "none":
        yield "there is a query layer"
    if c.shortcut is not None:
        yield "there are augmented shortcuts"
    if c.feed_forward.series > 1:
        yield "the activation is a series"
    if c.feed_forward.kind != "swiglu":
        yield f"feed_forward.kind is {c.feed_forward.kind}, not swiglu"


def grouped(
    c: ModelConfig, allowed: tuple[str, ...], *, qk_norm: bool = False, ffn_bias: bool = False
) -> Iterator[str]:
    """Grouped attention with whole heads turning in the half layout, before it a norm, and these biases."""
    yield from modern(c)
    a = c.attention
    if not isinstance(a, GroupedAttention):
        yield "attention is latent"
        return
    if biases(c) not in allowed:
        yield f"attention biases are on {biases(c) or 'nothing'}, not on {' or '.join(x or 'nothing' for x in allowed)}"
    if (a.q_norm, a.k_norm) != (qk_norm, qk_norm):
        yield "norms on query and key heads" if not qk_norm else "no norms on query and key heads"
    if c.rope is not None and (c.rope.layout != "half" or c.rope.fraction != 1.0):
        yield "rotation is not of whole heads in the half layout"
    if c.feed_forward.bias and not ffn_bias:
        yield "feed-forward biases"


def dense(c: ModelConfig, *, sandwich: bool = False) -> Iterator[str]:
    """No experts, no multi-token prediction, and norms where they are wanted."""
    yield from settled(c)
    if c.experts is not None:
        yield "there are experts"
    if c.mtp is not None:
        yield "there is multi-token prediction"
    if c.norm.sandwich != sandwich:
        yield f"norm.placement is {c.norm.placement}"


def routed(c: ModelConfig, router: str, *, sandwich: bool = False) -> Iterator[str]:
    """Experts behind this router, and norms where they are wanted."""
    yield from settled(c)
    if c.experts is None:
        yield "there are no experts"
    elif c.experts.router != router:
        yield f"the router is {c.experts.router}, not {router}"
    if c.norm.sandwich != sandwich:
        yield f"norm.placement is {c.norm.placement}"


# -- keys -------------------------------------------------------------------------------------------------------------


def common(c: ModelConfig) -> dict[str, Any]:
    """Keys that all Llama-like classes share."""
    a, rope = c.attention, c.rope
    keys: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.feed_forward.d_inner,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": a.n_heads,
        "num_key_value_heads": a.n_kv_heads if isinstance(a, GroupedAttention) else a.n_heads,
        "max_position_embeddings": c.n_positions,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm.eps,
        "initializer_range": c.init.std,
        "tie_word_embeddings": c.tied,
        "attention_dropout": 0.0,
    }
    if isinstance(a, GroupedAttention):
        keys["head_dim"] = a.head_dim
    if rope is not None:
        keys["rope_theta"] = rope.theta
        keys["rope_parameters"] = {"rope_type": "default", "rope_theta": rope.theta}
    if rope is not None and rope.scaling is not None:
        keys["rope_parameters"] |= scaling_keys(rope.scaling)
    return keys


def read_common(h: Mapping[str, Any]) -> dict[str, Any]:
    """The config behind the common keys, without attention biases."""
    refuse_unknown_mechanisms(h)
    heads, width = int(h["num_attention_heads"]), int(h["hidden_size"])
    return {
        "vocab_size": h["vocab_size"],
        "d_model": width,
        "n_layers": h["num_hidden_layers"],
        "n_positions": h["max_position_embeddings"],
        "tied": bool(h.get("tie_word_embeddings", False)),
        "feed_forward": {"kind": "swiglu", "d_inner": h["intermediate_size"]},
        "norm": {"kind": "rms", "eps": h["rms_norm_eps"]},
        "rope": {"theta": theta_of(h), "scaling": read_scaling(h)},
        "init": {"kind": "normal", "std": h.get("initializer_range") or 0.02},
        "attention": {
            "kind": "gqa",
            "n_heads": heads,
            "n_kv_heads": h.get("num_key_value_heads") or heads,
            "head_dim": h.get("head_dim") or width // heads,
        },
    }


def refuse_unknown_mechanisms(h: Mapping[str, Any], activations: tuple[str, ...] = ("silu", "swish")) -> None:
    """Refuse what a decoder of ours does not compute, rather than computing something else.

    Raises:
        UsageError: scaled rotary positions, sliding windows, another activation, quantized weights.
    """
    kind = kind_of(h)
    activation = h.get("hidden_act", h.get("activation_function", activations[0]))
    problem: tuple[str, object, str] | None = None
    if kind not in KINDS:
        problem = ("rope_parameters.rope_type", kind, " or ".join(KINDS))
    elif h.get("use_sliding_window") or (h.get("sliding_window") and h.get("model_type") in ("mistral", "mixtral")):
        problem = ("sliding_window", h.get("sliding_window"), "null")
    elif activation not in activations:
        problem = ("hidden_act", activation, " or ".join(activations))
    elif h.get("quantization_config"):
        problem = ("quantization_config", h["quantization_config"].get("quant_method", "some"), "none")
    if problem:
        key, got, expected = problem
        raise UsageError("A checkpoint uses a mechanism that is not built here", where=key, got=got, expected=expected)


def with_biases(config: dict[str, Any], letters: str, **attention: Any) -> dict[str, Any]:
    """A config with biases on these projections, and further fields of its attention."""
    flags = {f"{letter}_bias": True for letter in letters}
    return {**config, "attention": {**config["attention"], **flags, **attention}}


def always(names: Names) -> Callable[[ModelConfig], Names | None]:
    """The same names whatever the config."""
    return lambda _config: names


# -- Llama, Mistral, Qwen ---------------------------------------------------------------------------------------------


def _llama_reasons(c: ModelConfig) -> Iterator[str]:
    yield from grouped(c, ("", "qkvo"), ffn_bias=True)
    yield from dense(c)


def _llama_write(c: ModelConfig) -> dict[str, Any]:
    return {**common(c), "attention_bias": biases(c) == "qkvo", "mlp_bias": c.feed_forward.bias}


def _llama_read(h: Mapping[str, Any]) -> dict[str, Any]:
    config = with_biases(read_common(h), "qkvo" if h.get("attention_bias") else "")
    return {**config, "feed_forward": {**config["feed_forward"], "bias": bool(h.get("mlp_bias", False))}}


def _qwen2_reasons(c: ModelConfig) -> Iterator[str]:
    yield from grouped(c, ("qkv",))
    yield from dense(c)


def _qwen2_write(c: ModelConfig) -> dict[str, Any]:
    return {**common(c), "use_sliding_window": False}


def _qwen2_read(h: Mapping[str, Any]) -> dict[str, Any]:
    return with_biases(read_common(h), "qkv")


def _qwen3_reasons(c: ModelConfig) -> Iterator[str]:
    yield from grouped(c, ("", "qkvo"), qk_norm=True)
    yield from dense(c)


def _qwen3_write(c: ModelConfig) -> dict[str, Any]:
    return {**common(c), "use_sliding_window": False, "attention_bias": biases(c) == "qkvo"}


def _qwen3_read(h: Mapping[str, Any]) -> dict[str, Any]:
    return with_biases(read_common(h), "qkvo" if h.get("attention_bias") else "", q_norm=True, k_norm=True)


# -- GLM-4: sandwich norms --------------------------------------------------------------------------------------------


def _glm4_reasons(c: ModelConfig) -> Iterator[str]:
    yield from modern(c)
    yield from dense(c, sandwich=True)
    a = c.attention
    if not isinstance(a, GroupedAttention) or a.q_norm or a.k_norm:
        yield "attention is latent or has norms on heads"
    if biases(c) not in ("", "qkv"):
        yield f"attention biases are on {biases(c)}"
    if c.rope is not None and c.rope.layout != "interleaved":
        yield "rotation is in the half layout"
    if c.feed_forward.bias:
        yield "feed-forward biases"


def _glm4_write(c: ModelConfig) -> dict[str, Any]:
    fraction = 1.0 if c.rope is None else c.rope.fraction
    keys = common(c)
    keys["rope_parameters"] = {**keys["rope_parameters"], "partial_rotary_factor": fraction}
    return {**keys, "partial_rotary_factor": fraction, "attention_bias": biases(c) == "qkv"}


def _glm4_read(h: Mapping[str, Any]) -> dict[str, Any]:
    config = with_biases(read_common(h), "qkv" if h.get("attention_bias", True) else "")
    rope = h.get("rope_parameters") or {}
    fraction = rope.get("partial_rotary_factor") or h.get("partial_rotary_factor") or 0.5
    return {
        **config,
        "norm": {**config["norm"], "placement": "sandwich"},
        "rope": {**config["rope"], "layout": "interleaved", "fraction": fraction},
    }


# -- GPT-2 ------------------------------------------------------------------------------------------------------------


def gpt2_like(c: ModelConfig) -> Iterator[str]:
    """Learned positions, LayerNorm, multi-head attention and gelu, with all biases."""
    a = c.attention
    yield from dense(c)
    if c.norm.kind != "layer":
        yield f"norm.kind is {c.norm.kind}, not layer"
    if not c.learned_positions or c.rope is not None:
        yield "positions are rotary"
    if c.feed_forward.kind != "gelu" or not c.feed_forward.bias or c.feed_forward.series > 1:
        yield "the feed-forward part is not gelu with biases"
    if c.shortcut is not None:
        yield "there are augmented shortcuts"
    if not isinstance(a, GroupedAttention) or a.n_kv_heads != a.n_heads or a.q_norm or a.k_norm:
        yield "attention is not multi-head attention"
    elif a.n_heads * a.head_dim != c.d_model:
        yield "heads together are not as wide as the stream"
    if biases(c) != "qkvo":
        yield "attention biases are not on all four projections"


def _gpt2_reasons(c: ModelConfig) -> Iterator[str]:
    yield from gpt2_like(c)
    if c.query_layer != "none":
        yield "there is a query layer"


def _gpt2_write(c: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "n_embd": c.d_model,
        "n_layer": c.n_layers,
        "n_head": c.attention.n_heads,
        "n_inner": c.feed_forward.d_inner,
        "n_positions": c.n_positions,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": c.norm.eps,
        "initializer_range": c.init.std,
        "tie_word_embeddings": c.tied,
        **{f"{place}_pdrop": c.dropout for place in ("attn", "embd", "resid")},
    }


def _gpt2_read(h: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown_mechanisms(h, TANH_GELU)
    width, heads = int(h["n_embd"]), int(h["n_head"])
    return read_gpt2_like(
        h, width, heads, layers=h["n_layer"], positions=h["n_positions"], inner=h.get("n_inner") or 4 * width
    )


def read_gpt2_like(
    h: Mapping[str, Any], width: int, heads: int, *, layers: int, positions: int, inner: int
) -> dict[str, Any]:
    """The config behind keys in the manner of GPT-2."""
    flags = {f"{letter}_bias": True for letter in "qkvo"}
    return {
        "vocab_size": h["vocab_size"],
        "d_model": width,
        "n_layers": layers,
        "n_positions": positions,
        "learned_positions": True,
        "tied": bool(h.get("tie_word_embeddings", True)),
        "dropout": h.get("resid_pdrop", 0.0),
        "norm": {"kind": "layer", "eps": h.get("layer_norm_epsilon", 1e-5)},
        "attention": {"kind": "gqa", "n_heads": heads, "n_kv_heads": heads, "head_dim": width // heads, **flags},
        "feed_forward": {"kind": "gelu", "d_inner": inner, "bias": True},
        "init": {"kind": "gpt2", "std": h.get("initializer_range") or 0.02},
    }


# -- our own type: everything -----------------------------------------------------------------------------------------


def _nothing(_config: ModelConfig) -> Iterator[str]:
    return iter(())


def _own_write(c: ModelConfig) -> dict[str, Any]:
    """What other readers want to know; the config itself is the `pedigree` key."""
    a = c.attention
    heads = {"num_key_value_heads": a.n_kv_heads, "head_dim": a.head_dim} if isinstance(a, GroupedAttention) else {}
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": a.n_heads,
        **heads,
        "tie_word_embeddings": c.tied,
        "layer_norm": c.norm.kind == "layer",
        "plain_feed_forward": c.feed_forward.kind == "gelu",
        "rotary_positions": c.rope is not None,
        "rotary_interleaved": c.rope is not None and c.rope.layout == "interleaved",
    }


def _own_read(h: Mapping[str, Any]) -> dict[str, Any]:
    """This type has no keys of its own: the `pedigree` key is the config."""
    raise UsageError(
        "A config.json of our own type has no `pedigree` key, or one that contradicts its other keys",
        where="config.json",
        got=sorted(h),
        fix="restore the file as it was exported",
    )


NATIVE: tuple[Dialect, ...] = (
    Dialect("llama", "LlamaForCausalLM", True, always(hf_names.LLAMA), _llama_reasons, _llama_write, _llama_read),
    Dialect("qwen2", "Qwen2ForCausalLM", True, always(hf_names.LLAMA), _qwen2_reasons, _qwen2_write, _qwen2_read),
    Dialect("qwen3", "Qwen3ForCausalLM", True, always(hf_names.LLAMA), _qwen3_reasons, _qwen3_write, _qwen3_read),
    Dialect("glm4", "Glm4ForCausalLM", True, always(hf_names.GLM4), _glm4_reasons, _glm4_write, _glm4_read),
    Dialect("gpt2", "GPT2LMHeadModel", True, always(hf_names.GPT2), _gpt2_reasons, _gpt2_write, _gpt2_read),
)
OWN = Dialect(OWN_TYPE, "PedigreeDecoderForCausalLM", False, lambda _c: None, _nothing, _own_write, _own_read)
