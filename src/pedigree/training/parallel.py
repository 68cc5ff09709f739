"""A model made ready for its ranks: number type, recomputed activations, sharded weights, compilation."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from pedigree.errors import UsageError
from pedigree.training.config import TrainingConfig
from pedigree.training.device import DTYPES
from pedigree.training.interface import Trainable
from pedigree.training.ranks import Ranks


def prepare(model: nn.Module, config: TrainingConfig, device: torch.device, ranks: Ranks) -> Trainable:
    """Move and shard a model in place, and give what is called in a forward pass.

    Args:
        model: with whole weights, the same on every rank.
        config: number types, recomputation, compilation.
        device: of this rank.
        ranks: who shares the weights.

    Raises:
        UsageError: compilation was asked for and does not work here.
    """
    model.to(device)
    if config.pure:
        model.to(DTYPES[config.precision])
    trainable = cast(Trainable, model)
    trainable.checkpointing = config.activation_checkpointing
    if ranks.mesh is not None:
        trainable.set_balance_group(ranks.mesh.get_group("dp_shard"))
        low = DTYPES[config.precision] if config.precision == "bf16" and not config.pure else None
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None)
        for block in trainable.blocks():
            fully_shard(block, mesh=ranks.mesh, mp_policy=policy)
        fully_shard(model, mesh=ranks.mesh, mp_policy=policy)
    return _compiled(model) if config.compile else trainable


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name, gathered from all ranks; every rank must call this."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().contiguous()
        for name, value in model.state_dict().items()
    }


def _compiled(model: nn.Module) -> Trainable:
    compiled: Any = torch.compile(model)
    if not callable(compiled):
        raise UsageError("the model could not be compiled", fix="compile: false")
    return cast(Trainable, compiled)
