"""Gauge moves of the plain architectures: LayerNorm, biases, as many key heads as query heads.

Law     LayerNorm commutes with permutations of the channels, not with signs; heads may be permuted whole; where no
        positions are turned into the keys, query and key may be re-based by any invertible matrix per head.
Source  Zhu et al. (2502.12292), appendix G, carried over to LayerNorm and biases.

Shapes  D = residual channels, H = heads, E = head channels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pedigree.benchmark.zoo.derive_gauge import seeded
from pedigree.benchmark.zoo.layout import layer_prefix
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.errors import UsageError

if TYPE_CHECKING:
    import torch

# architecture -> (end of the name, axes that run over the residual channels); the first that fits counts
_CHANNELS: Mapping[str, tuple[tuple[str, tuple[int, ...]], ...]] = {
    "gpt2": (
        ("c_attn.weight", (0,)),
        ("c_fc.weight", (0,)),
        ("c_proj.weight", (1,)),
        ("c_proj.bias", (0,)),
        ("ln_1.weight", (0,)),
        ("ln_1.bias", (0,)),
        ("ln_2.weight", (0,)),
        ("ln_2.bias", (0,)),
        ("ln_f.weight", (0,)),
        ("ln_f.bias", (0,)),
        ("wte.weight", (1,)),
        ("wpe.weight", (1,)),
    ),
    "gpt_neox": (
        ("query_key_value.weight", (1,)),
        ("dense_h_to_4h.weight", (1,)),
        ("dense_4h_to_h.weight", (0,)),
        ("dense_4h_to_h.bias", (0,)),
        ("attention.dense.weight", (0,)),
        ("attention.dense.bias", (0,)),
        ("norm.weight", (0,)),
        ("norm.bias", (0,)),
        ("embed_in.weight", (1,)),
        ("embed_out.weight", (1,)),
    ),
    "opt": (
        ("q_proj.weight", (1,)),
        ("k_proj.weight", (1,)),
        ("v_proj.weight", (1,)),
        ("fc1.weight", (1,)),
        ("out_proj.weight", (0,)),
        ("out_proj.bias", (0,)),
        ("fc2.weight", (0,)),
        ("fc2.bias", (0,)),
        ("norm.weight", (0,)),
        ("norm.bias", (0,)),
        ("embed_tokens.weight", (1,)),
        ("embed_positions.weight", (1,)),
    ),
    "bert": (
        ("transform.dense.weight", (0, 1)),
        ("transform.dense.bias", (0,)),
        ("query.weight", (1,)),
        ("key.weight", (1,)),
        ("value.weight", (1,)),
        ("intermediate.dense.weight", (1,)),
        ("output.dense.weight", (0,)),
        ("output.dense.bias", (0,)),
        ("LayerNorm.weight", (0,)),
        ("LayerNorm.bias", (0,)),
        ("embeddings.weight", (1,)),
    ),
}

# architecture -> (name within the block, axis, order of the axis: heads "h", the three of query-key-value "3")
_HEADS: Mapping[str, tuple[tuple[str, int, str], ...]] = {
    "gpt2": (("attn.c_attn.weight", 1, "3h"), ("attn.c_attn.bias", 0, "3h"), ("attn.c_proj.weight", 0, "h")),
    "gpt_neox": (
        ("attention.query_key_value.weight", 0, "h3"),
        ("attention.query_key_value.bias", 0, "h3"),
        ("attention.dense.weight", 1, "h"),
    ),
    "opt": (
        *((f"self_attn.{name}_proj.{kind}", 0, "h") for name in "qkv" for kind in ("weight", "bias")),
        ("self_attn.out_proj.weight", 1, "h"),
    ),
    "bert": (
        *(
            (f"attention.self.{name}.{kind}", 0, "h")
            for name in ("query", "key", "value")
            for kind in ("weight", "bias")
        ),
        ("attention.output.dense.weight", 1, "h"),
    ),
}


def _architecture(snapshot: Snapshot) -> str:
    model_type = str(snapshot.config["model_type"])
    if model_type not in _CHANNELS:
        raise UsageError("not a plain architecture", got=model_type, expected=", ".join(_CHANNELS))
    return model_type


def permute_channels(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Permute the residual channels. Exact under LayerNorm."""
    import torch

    table = _CHANNELS[_architecture(snapshot)]
    order_D = torch.randperm(snapshot.d_model, generator=seeded(seed))
    moved: dict[str, torch.Tensor] = {}
    for name, tensor in snapshot.tensors.items():
        for ending, axes in table:
            if name.endswith(ending):
                for axis in axes:
                    tensor = tensor.index_select(axis, order_D)
                moved[name] = tensor
                break
    return snapshot.changed(moved)


def permute_full_heads(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Permute the heads of every block, whatever the fusing of query, key and value. Exact."""
    import torch

    table = _HEADS[_architecture(snapshot)]
    n_heads = int(snapshot.config.get("num_attention_heads") or snapshot.config["n_head"])
    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        order_H = torch.randperm(n_heads, generator=generator)
        for name, axis, order in table:
            tensor = snapshot.tensors[layer_prefix(snapshot, layer) + name]
            shape = {"h": (n_heads,), "3h": (3, n_heads), "h3": (n_heads, 3)}[order]
            grid = tensor.movedim(axis, 0)
            split = grid.reshape(*shape, -1, *grid.shape[1:])
            turned = split.index_select(order.index("h"), order_H).reshape(grid.shape).movedim(0, axis)
            moved[layer_prefix(snapshot, layer) + name] = turned.contiguous()
    return snapshot.changed(moved)


def rebase_heads(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Re-base query and key, value and output of every head by random invertible matrices. Exact for OPT and BERT."""
    import torch

    architecture = _architecture(snapshot)
    if architecture not in ("opt", "bert"):
        raise UsageError("heads can be re-based freely only without rotary positions", got=architecture)
    stem = "self_attn.{}_proj" if architecture == "opt" else "attention.self.{}"
    words = ("q", "k", "v") if architecture == "opt" else ("query", "key", "value")
    output = "self_attn.out_proj" if architecture == "opt" else "attention.output.dense"
    n_heads = int(snapshot.config["num_attention_heads"])
    width = snapshot.d_model // n_heads
    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}

    def bases() -> torch.Tensor:
        noise_HEE = torch.randn(n_heads, width, width, generator=generator)
        basis_HEE: torch.Tensor = torch.eye(width) + noise_HEE * (0.5 / width**0.5)
        return basis_HEE

    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer)
        key_HEE, value_HEE = bases(), bases()
        inverse_HEE = torch.linalg.inv(value_HEE.double()).float()
        query_HEE = torch.linalg.inv(key_HEE.double()).float().mT
        for word, basis_HEE in zip(words, (query_HEE, key_HEE, value_HEE), strict=True):
            for kind in ("weight", "bias"):
                name = f"{prefix}{stem.format(word)}.{kind}"
                tensor = snapshot.tensors[name]
                moved[name] = (basis_HEE @ tensor.reshape(n_heads, width, -1)).reshape(tensor.shape)
        name = f"{prefix}{output}.weight"
        o_DHE = snapshot.tensors[name].reshape(-1, n_heads, width)
        moved[name] = torch.einsum("dhe,hef->dhf", o_DHE, inverse_HEE).flatten(1)
    return snapshot.changed(moved)
