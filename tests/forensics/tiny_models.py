"""Untrained models in memory for the tests of `pedigree.forensics`: known numbers, known relations, no files.

Shapes: D = residual width, V = vocabulary, F = inner width, H = query heads, K = key/value heads, C = head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from memory_checkpoint import MemoryCheckpoint
from torch import Tensor

from pedigree.forensics.sides.sampling import Sample, choose_sample
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitKind, UnitSet
from pedigree.tokenizers.vocabulary import Vocabulary
from pedigree.weights.anatomy import read_anatomy

EVERYTHING = choose_sample("full", 0)
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Shape of a tiny Llama."""

    d: int = 32
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    inner: int = 64
    vocab: int = 200

    def config(self, model_type: str = "llama") -> dict[str, Any]:
        return {
            "model_type": model_type,
            "hidden_size": self.d,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.inner,
            "vocab_size": self.vocab,
            "tie_word_embeddings": False,
        }


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def llama(seed: int, sizes: Sizes | None = None) -> Tensors:
    """Gaussian matrices and uneven gains under the names of Llama."""
    s = sizes or Sizes()
    g = generator(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=g) * 0.1

    def gain() -> Tensor:
        return torch.rand(s.d, generator=g) + 0.5

    out = {
        "model.embed_tokens.weight": matrix(s.vocab, s.d),
        "model.norm.weight": gain(),
        "lm_head.weight": matrix(s.vocab, s.d),
    }
    for layer in range(s.layers):
        prefix = f"model.layers.{layer}."
        out |= {
            prefix + "input_layernorm.weight": gain(),
            prefix + "post_attention_layernorm.weight": gain(),
            prefix + "self_attn.q_proj.weight": matrix(s.heads * s.head_dim, s.d),
            prefix + "self_attn.k_proj.weight": matrix(s.kv_heads * s.head_dim, s.d),
            prefix + "self_attn.v_proj.weight": matrix(s.kv_heads * s.head_dim, s.d),
            prefix + "self_attn.o_proj.weight": matrix(s.d, s.heads * s.head_dim),
            prefix + "mlp.gate_proj.weight": matrix(s.inner, s.d),
            prefix + "mlp.up_proj.weight": matrix(s.inner, s.d),
            prefix + "mlp.down_proj.weight": matrix(s.d, s.inner),
        }
    return out


def shaken(tensors: Mapping[str, Tensor], seed: int, size: float = 0.3) -> Tensors:
    """Every tensor with noise of `size` standard deviations: what a child of few steps looks like."""
    g = generator(seed)
    return {
        name: t + size * t.std() * torch.randn(t.shape, generator=g) if t.ndim == 2 else t.clone()
        for name, t in tensors.items()
    }


def turned(tensors: Mapping[str, Tensor], turn_DD: Tensor) -> Tensors:
    """The residual stream of a llama turned, gains folded into readers first: the function stays."""
    out = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            out[name] = torch.ones_like(tensor)
            continue
        wide, turn = tensor.double(), turn_DD.double()
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            out[name] = (turn.T @ wide).float()
            continue
        gain = _gain_in_front_of(name)
        out[name] = ((wide * tensors[gain].double() if gain else wide) @ turn).float()
    return out


def _gain_in_front_of(name: str) -> str | None:
    if name.startswith("lm_head"):
        return "model.norm.weight"
    if "embed_tokens" in name:
        return None
    prefix = ".".join(name.split(".")[:3])
    return f"{prefix}.{'input' if 'self_attn' in name else 'post_attention'}_layernorm.weight"


def words(n: int, start: int = 0) -> Vocabulary:
    """A vocabulary of `n` made-up tokens, numbered in order."""
    return vocabulary({f"w{start + i}".encode(): i for i in range(n)})


def vocabulary(tokens: Mapping[bytes, int]) -> Vocabulary:
    return Vocabulary(
        tokens=dict(tokens), size=max(tokens.values(), default=-1) + 1, kind="plain", specials={}, file=""
    )


def side(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    tokens: Vocabulary | None = None,
    sample: Sample = EVERYTHING,
) -> Side:
    """One side of a comparison, in memory."""
    checkpoint: Any = MemoryCheckpoint(tensors, config or Sizes().config())
    return Side(checkpoint, sample, read_anatomy(checkpoint), tokens)


def random_rotation(width: int, seed: int) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator(seed), dtype=torch.float64))
    return (q * torch.sign(torch.diagonal(r))).float()


def signed_permutation(width: int, seed: int) -> Tensor:
    g = generator(seed)
    signs = torch.randint(0, 2, (width,), generator=g) * 2.0 - 1.0
    return torch.eye(width)[torch.randperm(width, generator=g)] * signs


def unit_set(views: Mapping[str, Tensor], kind: UnitKind = "ffn", heads: int = 1) -> UnitSet:
    """Units from their views; `heads` equal groups for attention."""
    n = next(iter(views.values())).shape[0]
    index = torch.arange(n)
    return UnitSet(kind, dict(views), index, index // (n // heads) if heads > 1 else torch.zeros_like(index), n)


def gaussian_units(seed: int, n: int = 96, d: int = 32, names: tuple[str, ...] = ("gate", "up", "down")) -> UnitSet:
    """Units whose projections are independent Gaussian directions."""
    g = generator(seed)
    return unit_set({name: torch.randn(n, d, generator=g) for name in names})
