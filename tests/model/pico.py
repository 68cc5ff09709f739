"""Small decoders for the tests of the model room."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.model.members import member, names

MEMBERS = [name + "-pico" for name in names()]
# One member for each mechanism: query layer, random experts, shortcuts and series, sandwich, MoGE, MLA with MTP,
# biases on q, k, v only, QK norms, softmax experts, group-limited sigmoid experts.
KINDS = [
    "pangu-alpha-13b-pico",
    "pangu-alpha-200b-pico",
    "moe-38b-pico",
    "dense-135b-v2-pico",
    "pangu-ultra-135b-pico",
    "pangu-pro-moe-72b-pico",
    "pangu-ultra-moe-718b-pico",
    "qwen2.5-14b-pico",
    "qwen3-8b-pico",
    "mixtral-8x7b-pico",
    "deepseek-v3-pico",
]


def decoder(name: str, seed: int = 0, noise: float = 0.05, **changes: Any) -> Decoder:
    """A pico member in evaluation mode; noise on every parameter, so that no bias, gain or shortcut hides at 0 or 1."""
    model = Decoder(config(name, **changes), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=noise)
    return model.eval()


def config(name: str, **changes: Any) -> ModelConfig:
    """The config of a pico member with fields changed; a small vocabulary unless said otherwise."""
    return member(name).replace(**{"vocab_size": 128, **changes})


def tokens(model: Decoder, *shape: int, seed: int = 0) -> Tensor:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, shape, generator=generator)


def domains(model: Decoder, ids_BT: Tensor) -> Tensor | None:
    """Domain 1 for all tokens, where routing asks for domains."""
    experts = model.config.experts
    return torch.ones_like(ids_BT) if experts is not None and experts.router == "random" else None


def logits(model: Decoder, ids_BT: Tensor, **more: Any) -> Tensor:
    """Logits without gradient."""
    with torch.no_grad():
        out = model(ids_BT, domain_BT=domains(model, ids_BT), return_logits=True, **more).logits
    assert out is not None
    return out
