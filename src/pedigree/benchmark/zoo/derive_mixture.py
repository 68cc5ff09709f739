"""Weights mixed with noise, with another model, with a fresh start.

Law     none of these keeps the function; what descends from whom is written in the lineage of the operator.
Source  model soups (2203.05482), frankenmerge (mergekit passthrough), LoRA (2106.09685).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pedigree.benchmark.zoo.derive_gauge import seeded
from pedigree.benchmark.zoo.layout import layer_names, layout_of
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.errors import UsageError

if TYPE_CHECKING:
    import torch


def add_noise(snapshot: Snapshot, *, sigma: float, seed: int) -> Snapshot:
    """Gaussian noise of `sigma` standard deviations of each matrix, on every matrix."""
    import torch

    generator = seeded(seed)
    return snapshot.changed(
        {
            name: snapshot.tensors[name]
            + sigma * snapshot.tensors[name].std() * torch.randn(snapshot.tensors[name].shape, generator=generator)
            for name in sorted(snapshot.tensors)
            if snapshot.tensors[name].ndim == 2
        }
    )


def merge(first: Snapshot, second: Snapshot, *, share: float, seed: int = 0) -> Snapshot:
    """share * first + (1 - share) * second, tensor by tensor.

    Raises:
        UsageError: the two do not have the same tensors.
    """
    import torch

    if {n: t.shape for n, t in first.tensors.items()} != {n: t.shape for n, t in second.tensors.items()}:
        raise UsageError("a merge wants two models of the same shape")
    return first.changed({n: torch.lerp(second.tensors[n], t, share) for n, t in first.tensors.items()})


def splice(first: Snapshot, second: Snapshot, *, layers: Sequence[int], seed: int = 0) -> Snapshot:
    """The first model with the blocks `layers` of the second."""
    return first.changed({name: second.tensors[name] for layer in layers for name in layer_names(second, layer)})


def fresh_start(snapshot: Snapshot, seed: int) -> dict[str, torch.Tensor]:
    """Tensors of a fresh start with the config of a snapshot, as transformers draws it."""
    import torch

    from pedigree.benchmark.zoo.architecture import import_transformers

    transformers = import_transformers()
    model_class = getattr(transformers, snapshot.config["architectures"][0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(model_class.config_class.from_dict(dict(snapshot.config))).float()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def reinitialize(snapshot: Snapshot, *, branch: str, seed: int) -> Snapshot:
    """Draw one branch of every block afresh.

    Args:
        branch: "attn", "mlp", or "body" for everything but the embeddings.

    Raises:
        UsageError: no such branch.
    """
    layout = layout_of(snapshot)
    if branch not in ("attn", "mlp", "body"):
        raise UsageError("no such branch", got=branch, expected="attn, mlp or body")
    fresh = fresh_start(snapshot, seed)
    if branch == "body":
        chosen = [name for name in snapshot.tensors if not name.startswith(layout.embeddings)]
    else:
        words = layout.attention if branch == "attn" else layout.mlp
        stem = layout.layer.split("{}")[0]
        chosen = [n for n in snapshot.tensors if n.startswith(stem) and any(f".{word}" in n for word in words)]
    return snapshot.changed({name: fresh[name] for name in chosen})


def add_low_rank(snapshot: Snapshot, *, rank: int, strength: float, seed: int) -> Snapshot:
    """A merged LoRA: a random delta of `rank` on every attention and FFN matrix, of `strength` times its norm."""
    import torch

    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for name in sorted(snapshot.tensors):
        weight = snapshot.tensors[name]
        if weight.ndim == 2 and re.search(r"(self_attn|mlp)\.", name):
            left = torch.randn(weight.shape[0], rank, generator=generator)
            right = torch.randn(rank, weight.shape[1], generator=generator)
            delta = left @ right
            moved[name] = weight + delta * (strength * weight.norm() / delta.norm())
    return snapshot.changed(moved)
