"""Random tiny models with uneven gains and biases, on which a wrong operator cannot pass for a right one."""

from __future__ import annotations

from pathlib import Path

import torch

from pedigree.benchmark.zoo.architecture import Sizes, fresh_model, save_model
from pedigree.benchmark.zoo.catalog_architectures import ARCHITECTURES
from pedigree.benchmark.zoo.corpus import train_tokenizer
from pedigree.benchmark.zoo.snapshot import Snapshot

TEXT = "def one(two):\n    return two + one  # three four five\n" * 40
SIZES = Sizes(d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, n_inner=48, vocab_size=300, n_positions=64)


def specimen(architecture: str, directory: Path, seed: int = 0) -> Snapshot:
    """A random model of an architecture, every tensor of it shaken."""
    model = fresh_model(architecture, SIZES, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.3 if parameter.ndim == 1 else 0.1
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    save_model(model, directory, train_tokenizer(TEXT, SIZES.vocab_size))
    return Snapshot.load(directory)


def plain_architectures() -> list[str]:
    """Architectures of the second set."""
    return list(ARCHITECTURES)
