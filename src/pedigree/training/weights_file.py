"""The finished weights of a run: one safetensors file under the names of our modules, whole whatever the ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pedigree.errors import MalformedFile, MissingInput
from pedigree.training.ranks import Ranks

WEIGHTS = "model.safetensors"


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name, gathered from all ranks; every rank must call this."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().contiguous()
        for name, value in model.state_dict().items()
    }


def save_weights(weights: Mapping[str, Tensor], path: Path, facts: Mapping[str, Any], ranks: Ranks) -> None:
    """Write weights under a temporary name, force them to disk and rename; the first rank writes.

    Args:
        weights: what `whole_weights` gave.
        path: the file.
        facts: short texts that stand in the header.
        ranks: who takes part.
    """
    if ranks.is_first:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        metadata = {"format": "pt", **{key: str(value) for key, value in facts.items()}}
        # Tied weights are stored once for each name, as safetensors demands.
        save_file({name: value.clone() for name, value in weights.items()}, temporary, metadata)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    ranks.wait()


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model with the weights that `save_weights` wrote.

    Raises:
        MissingInput: no such file.
        MalformedFile: not safetensors, or weights of another model.
    """
    if not path.is_file():
        raise MissingInput("the weights to go on from are not there", where=str(path))
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise MalformedFile("this is not a safetensors file", where=str(path), got=str(error)[:120]) from error
    own = model.state_dict()
    differing = sorted({*own} ^ {*weights}) or [n for n in own if own[n].shape != weights[n].shape]
    if differing:
        raise MalformedFile(
            "these are weights of another model", where=str(path), got=f"{len(differing)} tensors that differ",
            expected=f"the shape and presence of {differing[0]}",
        )  # fmt: skip
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
