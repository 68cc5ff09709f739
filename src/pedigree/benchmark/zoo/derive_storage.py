"""The same or nearly the same numbers in another container.

Law     renaming, re-sharding and fusing change no number; a cast to bfloat16 and back is the bfloat16 rounding;
        an int8 round trip moves each weight by at most half a step of its row.
Source  LLM.int8 (2208.07339) for row-wise absolute-maximum quantization.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pedigree.benchmark.zoo.layout import layer_prefix
from pedigree.benchmark.zoo.snapshot import Snapshot

if TYPE_CHECKING:
    import torch


def cast(snapshot: Snapshot, *, dtype: str) -> Snapshot:
    """Every tensor in another floating-point type ("bfloat16", "float16", "float32")."""
    import torch

    target: torch.dtype = getattr(torch, dtype)
    return snapshot.changed({n: t.to(target) for n, t in snapshot.tensors.items()}, {"dtype": dtype})


def quantize_int8(snapshot: Snapshot) -> Snapshot:
    """Every matrix to int8 with one scale per row, and back to float32."""

    moved: dict[str, torch.Tensor] = {}
    for name, weight in snapshot.tensors.items():
        if weight.ndim == 2:
            scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127.0
            moved[name] = (weight / scale).round() * scale
    return snapshot.changed(moved)


def reshard(snapshot: Snapshot, *, n_shards: int) -> Snapshot:
    """The same tensors in several files with an index. Exact."""
    return replace(snapshot, n_shards=n_shards)


def rename(snapshot: Snapshot, *, prefix: str, n_shards: int = 1) -> Snapshot:
    """Every name behind a prefix, as wrappers of several modalities store their language model. Exact."""
    tensors = {prefix + name: tensor for name, tensor in snapshot.tensors.items()}
    return replace(snapshot, tensors=tensors, n_shards=n_shards)


def fuse(snapshot: Snapshot) -> Snapshot:
    """Llama as Phi-3 stores it: query, key, value in one matrix, gate and up in one. Exact."""
    import torch

    tensors = dict(snapshot.tensors)
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer)
        qkv = [tensors.pop(f"{prefix}self_attn.{name}_proj.weight") for name in "qkv"]
        tensors[f"{prefix}self_attn.qkv_proj.weight"] = torch.cat(qkv)
        gate_up = [tensors.pop(f"{prefix}mlp.{name}_proj.weight") for name in ("gate", "up")]
        tensors[f"{prefix}mlp.gate_up_proj.weight"] = torch.cat(gate_up)
    dropped = ("attention_bias", "mlp_bias", "pretraining_tp", "head_dim")
    config = {key: value for key, value in snapshot.config.items() if key not in dropped}
    config.update(
        model_type="phi3",
        architectures=["Phi3ForCausalLM"],
        original_max_position_embeddings=snapshot.config["max_position_embeddings"],
        pad_token_id=0,
    )
    return Snapshot(config=config, tensors=tensors, tokenizer=snapshot.tokenizer)
