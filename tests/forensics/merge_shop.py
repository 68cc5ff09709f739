"""Merges of tiny tuned models with known weights, as merge tools compute them.

Shapes: K = parents.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.forensics.tiny_models import Sizes, Tensors, llama
from torch import Tensor

SIZES = Sizes(d=64, layers=4, heads=4, kv_heads=2, head_dim=16, inner=160, vocab=300)


def rounded(tensors: Tensors) -> Tensors:
    """Through bfloat16 and back."""
    return {name: t.bfloat16().float() for name, t in tensors.items()}


def tuned(tensors: Tensors, strength: float, seed: int) -> Tensors:
    """Every matrix with a change of that share of its size."""
    g = torch.Generator().manual_seed(seed)
    return {n: t + strength * 0.1 * torch.randn(t.shape, generator=g) if t.ndim == 2 else t for n, t in tensors.items()}


def learned(start: Tensors, seed: int) -> Tensors:
    """The start with a few strong directions in every matrix, and gains of its own."""
    g = torch.Generator().manual_seed(seed)
    out: Tensors = {}
    for name, tensor in start.items():
        if tensor.ndim == 2:
            low = torch.randn(tensor.shape[0], 3, generator=g) @ torch.randn(3, tensor.shape[1], generator=g)
            out[name] = tensor + 0.6 * low * (tensor.norm() / low.norm())
        else:
            out[name] = tensor * (1.0 + 0.05 * torch.randn(tensor.shape, generator=g))
    return out


def linear(*terms: tuple[float, Tensors]) -> Tensors:
    return {name: sum(w * model[name] for w, model in terms) for name in terms[0][1]}  # type: ignore[misc]


def spherical(a: Tensors, b: Tensors, t_of: Callable[[str], float]) -> Tensors:
    def one(name: str) -> Tensor:
        if a[name].ndim != 2:
            return a[name]
        x, y = a[name].double(), b[name].double()
        angle = math.acos(float((x * y).sum() / x.norm() / y.norm()))
        t = t_of(name)
        return ((math.sin((1 - t) * angle) * x + math.sin(t * angle) * y) / math.sin(angle)).float()

    return {name: one(name) for name in a}


def directions(terms: Sequence[tuple[float, Tensors]]) -> Tensors:
    """The weighted mean of directions at the weighted mean of lengths, tensor by tensor (multislerp)."""
    out = {}
    for name in terms[0][1]:
        lengths = [float(model[name].norm()) for _, model in terms]
        mean = sum(w * model[name] / n for (w, model), n in zip(terms, lengths, strict=True))
        length = sum(w * n for (w, _), n in zip(terms, lengths, strict=True))
        out[name] = mean / torch.as_tensor(mean).norm() * length
    return out


def stocked(base: Tensors, models: Sequence[Tensors]) -> Tensors:
    """Model stock: towards the mean of the models, as far as the angles between their changes say."""
    out, n = {}, len(models)
    for name, start in base.items():
        deltas = [m[name] - start for m in models]
        pairs = [(x, y) for k, x in enumerate(deltas) for y in deltas[k + 1 :]]
        cos = sum(float((x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-6)) for x, y in pairs) / len(pairs)
        t = n * cos / (1 + (n - 1) * cos)
        out[name] = start + t * torch.stack(deltas).mean(0)
    return out


def breadcrumbs(weights: Sequence[float], density: float, gamma: float) -> Callable[[list[Tensor]], Tensor]:
    """The largest changes and the smallest are left out."""

    def change(deltas: list[Tensor]) -> Tensor:
        total = torch.zeros_like(deltas[0])
        for delta, w in zip(deltas, weights, strict=True):
            rank = delta.abs().flatten().argsort().argsort().reshape(delta.shape) / delta.numel()
            total += w * delta * ((rank < 1 - gamma) & (rank >= 1 - gamma - density))
        return total

    return change


def selected(topk: float) -> Callable[[list[Tensor]], Tensor]:
    """SCE: numbers in which the parents differ most, weighted by energy, the minority's sign left out."""

    def change(deltas: list[Tensor]) -> Tensor:
        stack = torch.stack(deltas)
        spread = stack.var(dim=0, unbiased=False).flatten()
        limit = spread.kthvalue(round(spread.numel() * (1 - topk)) + 1).values
        stack = stack * (spread >= limit).reshape(stack.shape[1:])
        agree = torch.sign(stack) == torch.where(stack.sum(0) >= 0, 1.0, -1.0)
        w_K = (stack**2).mean(dim=(1, 2))[:, None, None]
        return (stack * w_K * agree).sum(0) / (w_K * agree).sum(0).clamp_min(1e-9)

    return change


def layer_of(name: str) -> int | None:
    found = re.search(r"layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def masked(base: Tensors, change: Callable[[list[Tensor]], Tensor], parents: Sequence[Tensors]) -> Tensors:
    """Base plus a function of the parents' changes, matrix by matrix."""
    return {n: t + change([p[n] - t for p in parents]) if t.ndim == 2 else t for n, t in base.items()}


def dare(weights: Sequence[float], densities: Sequence[float], seed: int) -> Callable[[list[Tensor]], Tensor]:
    g = torch.Generator().manual_seed(seed)

    def change(deltas: list[Tensor]) -> Tensor:
        total = torch.zeros_like(deltas[0])
        for delta, w, p in zip(deltas, weights, densities, strict=True):
            total += w * delta * (torch.rand(delta.shape, generator=g) < p) / p
        return total

    return change


def ties(weights: Sequence[float], density: float) -> Callable[[list[Tensor]], Tensor]:
    w_K = torch.tensor(weights)[:, None, None]

    def change(deltas: list[Tensor]) -> Tensor:
        kept = []
        for delta in deltas:
            smallest = delta.abs().flatten().kthvalue(round(delta.numel() * (1 - density)) + 1).values
            kept.append(delta * (delta.abs() >= smallest))
        weighted = torch.stack(kept) * w_K
        agree = (torch.sign(weighted) == torch.sign(weighted.sum(0))) & (weighted != 0)
        return (weighted * agree).sum(0) / (agree * w_K).sum(0).clamp_min(1e-9)

    return change


def write(folder: Path, tensors: Tensors, dtype: torch.dtype = torch.bfloat16) -> Path:
    return write_model(folder, tensors, SIZES, dtype)


def write_model(folder: Path, tensors: Tensors, sizes: Sizes, dtype: torch.dtype = torch.bfloat16) -> Path:
    folder.mkdir(parents=True)
    save_file({name: t.to(dtype).contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes.config()))
    return folder


class Shop:
    """A base, four tuned models, a stranger, and merges of them on disk, made on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = {"base": rounded(llama(1, SIZES)), "stranger": rounded(llama(9, SIZES))}
        for seed, name in enumerate("ABCD"):
            self.models[name] = rounded(tuned(self.models["base"], 0.3, seed))

    def __getitem__(self, name: str) -> Tensors:
        return self.models[name]

    def path(self, name: str) -> Path:
        there = self.folder / name
        return there if there.exists() else write(there, self.models[name])

    def add(self, name: str, tensors: Tensors) -> Path:
        self.models[name] = tensors
        return self.path(name)
