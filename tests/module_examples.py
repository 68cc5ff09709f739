"""Tiny models of transformers with random weights, and what their modules hold role by role."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from memory_checkpoint import MemoryCheckpoint
from safetensors.torch import load_file

from pedigree.weights.anatomy import Anatomy

Module = Any
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
}
GPT = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 50,
    "n_positions": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(name: str, seed: int = 0, head: str = "AutoModelForCausalLM", **options: Any) -> Module:
    """A tiny model of an architecture with every parameter drawn at random."""
    import transformers

    torch.manual_seed(seed)
    model = getattr(transformers, head).from_config(getattr(transformers, name + "Config")(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
        for buffer_name, buffer in model.named_buffers():
            if "correction" in buffer_name:
                buffer.normal_(0.0, 0.3)
    return model


def saved(model: Module, folder: Path, *, with_config: bool = True) -> MemoryCheckpoint:
    """The model as transformers saves it."""
    model.save_pretrained(folder)
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return MemoryCheckpoint(tensors, json.loads((folder / "config.json").read_text()) if with_config else None)


def check(
    anatomy: Anatomy, expected: dict[str, torch.Tensor], layer: int | None = None, expert: int | None = None
) -> None:
    """Parts equal the expected tensors exactly."""
    for role, tensor in expected.items():
        part = anatomy.part(role, layer, expert)
        assert part is not None, f"{role} of layer {layer} is missing"
        assert part.shape == tuple(tensor.shape), role
        assert torch.equal(part.read(), tensor.detach().float()), f"{role} of layer {layer} differs"
        assert torch.equal(part.read_native().float(), tensor.detach().float()), role


def linear(module: Module, role: str) -> dict[str, torch.Tensor]:
    """Weight and bias of a linear map or norm under a role."""
    found = {role: module.weight}
    if getattr(module, "bias", None) is not None:
        found[role + ".bias"] = module.bias
    return found


def attention(module: Module, out: str = "o_proj") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for letter in "qkv":
        found |= linear(getattr(module, f"{letter}_proj"), f"attn.{letter}")
    for letter in "qk":
        norm = getattr(module, f"{letter}_norm", None)
        if norm is not None and hasattr(norm, "weight"):
            found |= linear(norm, f"norm.{letter}")
    return found | linear(getattr(module, out), "attn.o")


def gated(module: Module, base: str = "mlp") -> dict[str, torch.Tensor]:
    return {f"{base}.{kind}": getattr(module, f"{kind}_proj").weight for kind in ("gate", "up", "down")}
