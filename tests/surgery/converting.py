"""Small decoders of ours with every number drawn, and what conversions make of them, through files both times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.surgery.surgery_models import operate, quick_folder

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Homotopy
from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_checkpoint, import_checkpoint
from pedigree.surgery.exactness import Exactness

VOCABULARY, POSITIONS = 53, 32
OLD = {"norm": {"kind": "layer"}, "learned_positions": True, "feed_forward": "gelu", "bias": "qkvo"}
MODERN = {"norm": {"kind": "rms"}, "rope": {}, "feed_forward": "swiglu", "bias": ""}


def small(
    *, heads: int = 4, kv: int | None = None, dim: int = 4, width: int = 16, inner: int = 24, layers: int = 2,
    bias: str = "", feed_forward: str = "swiglu", ffn_bias: bool | None = None, **more: Any,
) -> ModelConfig:  # fmt: skip
    """A config of a tiny model; `bias` are letters of attention projections."""
    return ModelConfig.model_validate({
        "vocab_size": VOCABULARY, "d_model": width, "n_layers": layers, "n_positions": POSITIONS,
        "attention": {"kind": "gqa", "n_heads": heads, "n_kv_heads": kv or heads, "head_dim": dim,
                      **{f"{letter}_bias": True for letter in bias}},
        "feed_forward": {"kind": feed_forward, "d_inner": inner,
                         "bias": bool(bias) if ffn_bias is None else ffn_bias},
        **more,
    })  # fmt: skip


def drawn(config: ModelConfig, seed: int = 1) -> Decoder:
    """A decoder whose every number is random, gains and biases too."""
    model = Decoder(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def logits(model: Decoder, length: int = 24) -> torch.Tensor:
    """Logits of fixed tokens, float32 [B, T, V]."""
    tokens_BT = torch.randint(0, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        found = model(tokens_BT, domain_BT=torch.zeros_like(tokens_BT), return_logits=True).logits
    assert found is not None
    return found


@dataclass(frozen=True)
class Converted:
    """Both models, the claim, and how far the logits are apart, as a share of their spread."""

    before: Decoder
    after: Decoder
    claimed: Exactness
    apart: float
    config: dict[str, Any]


def convert(config: ModelConfig | Decoder, *steps: Any, nfp: bool = False, keep: Path | None = None) -> Converted:
    """Write a drawn model, operate on its files, read the result."""
    import json

    model = drawn(config) if isinstance(config, ModelConfig) else config
    with quick_folder() as folder:
        source, target = folder / "a", folder / "b"
        export_checkpoint(model, source)
        _, claimed = operate(source, target, list(steps), **({"allow": "nfp"} if nfp else {}))
        after = import_checkpoint(target)
        keys = json.loads((target / "config.json").read_text())
        if keep is not None:
            import shutil

            shutil.copytree(target, keep)
    old = logits(model)
    return Converted(model, after, claimed, float((logits(after) - old).abs().max() / old.std()), keys)


def standing(config: ModelConfig, **coefficients: float) -> ModelConfig:
    """The config at a point of its path."""
    return config.replace(homotopy=Homotopy(**coefficients))
