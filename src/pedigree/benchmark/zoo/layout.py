"""Where the operators of the zoo find what they move, per architecture.

Kept apart from the role tables of `pedigree.weights` on purpose: a mistake shared by the maker of the truth and
the judge of it would never be seen.

An entry of a unit list is (name within the layer, axis that runs over the units).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.errors import UsageError


@dataclass(frozen=True)
class Layout:
    """Names of one architecture.

    Args:
        layer: prefix of a block, with {} for its number.
        units: tensors of the FFN that run over its inner units.
        silence: tensors which, when zero, leave the residual stream as it was; empty where no such set exists.
        depth_key: config key of the number of blocks.
        inner_key: config key of the FFN width.
        attention: patterns of the tensors of the attention branch.
        mlp: patterns of the tensors of the FFN branch.
        embeddings: prefixes of embedding tensors.
    """

    layer: str
    units: tuple[tuple[str, int], ...]
    silence: tuple[str, ...]
    depth_key: str = "num_hidden_layers"
    inner_key: str = "intermediate_size"
    attention: tuple[str, ...] = ("self_attn",)
    mlp: tuple[str, ...] = ("mlp",)
    embeddings: tuple[str, ...] = ("model.embed_tokens.", "lm_head.")


_GLU = (("mlp.gate_proj.weight", 0), ("mlp.up_proj.weight", 0), ("mlp.down_proj.weight", 1))
_LLAMA = Layout(layer="model.layers.{}.", units=_GLU, silence=("self_attn.o_proj.", "mlp.down_proj."))

LAYOUTS: Mapping[str, Layout] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _LLAMA,
    "olmo2": _LLAMA,
    "mixtral": Layout(
        layer="model.layers.{}.",
        units=(),
        silence=("self_attn.o_proj.", ".w2."),
        mlp=("block_sparse_moe",),
    ),
    "qwen2_moe": Layout(layer="model.layers.{}.", units=(), silence=("self_attn.o_proj.", "down_proj.")),
    "deepseek_v3": Layout(layer="model.layers.{}.", units=(), silence=("self_attn.o_proj.", "down_proj.")),
    "gpt2": Layout(
        layer="transformer.h.{}.",
        units=(("mlp.c_fc.weight", 1), ("mlp.c_fc.bias", 0), ("mlp.c_proj.weight", 0)),
        silence=("attn.c_proj.", "mlp.c_proj."),
        depth_key="n_layer",
        inner_key="n_inner",
        attention=("attn.",),
        embeddings=("transformer.wte.", "transformer.wpe."),
    ),
    "gpt_neox": Layout(
        layer="gpt_neox.layers.{}.",
        units=(("mlp.dense_h_to_4h.weight", 0), ("mlp.dense_h_to_4h.bias", 0), ("mlp.dense_4h_to_h.weight", 1)),
        silence=("attention.dense.", "mlp.dense_4h_to_h."),
        attention=("attention.",),
        embeddings=("gpt_neox.embed_in.", "embed_out."),
    ),
    "opt": Layout(
        layer="model.decoder.layers.{}.",
        units=(("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)),
        silence=("self_attn.out_proj.", "fc2."),
        inner_key="ffn_dim",
        mlp=("fc1", "fc2"),
        embeddings=("model.decoder.embed_tokens.", "model.decoder.embed_positions."),
    ),
    "bert": Layout(
        layer="bert.encoder.layer.{}.",
        units=(("intermediate.dense.weight", 0), ("intermediate.dense.bias", 0), ("output.dense.weight", 1)),
        silence=(),
        attention=("attention.",),
        mlp=("intermediate.", "output.dense."),
        embeddings=("bert.embeddings.",),
    ),
}


def layout_of(snapshot: Snapshot) -> Layout:
    """The layout of a snapshot's architecture.

    Raises:
        UsageError: the zoo has no operators for it.
    """
    model_type = str(snapshot.config["model_type"])
    if model_type not in LAYOUTS:
        raise UsageError("the zoo has no layout for this architecture", got=model_type, expected=", ".join(LAYOUTS))
    return LAYOUTS[model_type]


def layer_prefix(snapshot: Snapshot, layer: int) -> str:
    """Prefix of the tensor names of a block."""
    return layout_of(snapshot).layer.format(layer)


def layer_names(snapshot: Snapshot, layer: int) -> list[str]:
    """Names of a block's tensors, sorted."""
    prefix = layer_prefix(snapshot, layer)
    return sorted(name for name in snapshot.tensors if name.startswith(prefix))


# Axes of the residual stream of the Llama family, by the end of the tensor's name.
_READERS = (
    *("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", ".w1", ".w3", "moe.gate", "mlp.gate", "lm_head"),
    *("q_a_proj", "kv_a_proj_with_mqa", "shared_expert_gate"),
)
_WRITERS = ("o_proj", "down_proj", ".w2")
_GAINS = ("layernorm", "model.norm")
_LATENT_GAINS = ("q_a_layernorm", "kv_a_layernorm")


def residual_axis(name: str) -> tuple[int, str] | None:
    """(axis, part) of the residual stream in a tensor of a Llama-like model; None where it has none.

    The part is "reader", "writer", "gain" or "table".
    """
    stem = name.removesuffix(".weight")
    if not name.endswith(".weight") or stem.endswith(_LATENT_GAINS):
        return None
    if stem.endswith("embed_tokens"):
        return 1, "table"
    if stem.endswith(_READERS):
        return 1, "reader"
    if stem.endswith(_WRITERS):
        return 0, "writer"
    if stem.endswith(_GAINS):
        return 0, "gain"
    return None
