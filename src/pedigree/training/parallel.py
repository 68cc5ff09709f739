"""A model made ready for its ranks: number type, recomputed activations, cut and sharded weights, compilation.

    cut      matrices over `tp`, experts over `ep` and `tp` (`pedigree.model.cuts`): each rank computes with its part
    sharded  every weight over what is left, `dp_shard` or, for experts, `dp_expert` (FSDP2): whole when it is used

Rules
1. No axis of a weight is both cut and sharded: a part is one block of the whole, which any other mesh can read.
2. A gradient is the mean over the data ranks. Those of experts come from the tokens of all ranks of an expert group,
   so their sum over `dp_expert` is divided by the number of data ranks all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from pedigree.errors import InternalError, UsageError
from pedigree.model.groups import Groups
from pedigree.training.config import TrainingConfig
from pedigree.training.device import DTYPES
from pedigree.training.interface import Trainable
from pedigree.training.ranks import Ranks


def prepare(model: nn.Module, config: TrainingConfig, device: torch.device, ranks: Ranks) -> Trainable:
    """Move, cut and shard a model in place, and give what is called in a forward pass.

    Args:
        model: with whole weights, the same on every rank.
        config: number types, recomputation, compilation.
        device: of this rank.
        ranks: who shares the weights.

    Raises:
        UsageError: a weight cannot be spread over this mesh, or compilation was asked for and does not work here.
    """
    model.to(device)
    if config.pure:
        model.to(DTYPES[config.precision])
    trainable = cast(Trainable, model)
    trainable.checkpointing = config.activation_checkpointing
    if ranks.mesh is not None:
        low = DTYPES[config.precision] if config.precision == "bf16" and not config.pure else None
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None)
        mesh = ranks.mesh["dp_shard"]
        for part in _cut(trainable, ranks):
            _shard_experts(part, ranks, policy)
        for block in trainable.blocks():
            fully_shard(block, mesh=mesh, mp_policy=policy, shard_placement_fn=_uncut_axis(mesh.size()))
        fully_shard(model, mesh=mesh, mp_policy=policy, shard_placement_fn=_uncut_axis(mesh.size()))
    return _compiled(model) if config.compile else trainable


def groups_of(ranks: Ranks) -> Groups:
    """Who shares a forward pass. Without an expert axis the scope of an expert group is all the data ranks."""
    mesh, expert = ranks.mesh, ranks.expert_group
    if mesh is None:
        return Groups()
    data = mesh.get_group("dp_shard") if ranks.data_world > 1 else None
    tensor = mesh.get_group("tp") if mesh["tp"].size() > 1 else None
    return Groups(data=data, balance=expert or data, tensor=tensor, expert=expert)


def _cut(model: Trainable, ranks: Ranks) -> list[nn.Module]:
    """Leave each rank its part of the weights that are cut; the modules whose experts are."""
    experts: dict[nn.Module, None] = {}
    for module, name, axis, over in model.set_groups(groups_of(ranks)):
        mesh = ranks.mesh if over == "tensor" else ranks.expert_mesh
        if mesh is None:
            raise InternalError("A weight is to be cut over a mesh that is not there", got=name)
        weight = cast(nn.Parameter, getattr(module, name))
        line = mesh["tp" if over == "tensor" else "expert"]
        part = distribute_tensor(weight.detach(), line, [Shard(axis)], src_data_rank=None)
        setattr(module, name, nn.Parameter(part, requires_grad=weight.requires_grad))
        if over == "expert":
            experts[module] = None
    return list(experts)


def _shard_experts(module: nn.Module, ranks: Ranks, policy: MixedPrecisionPolicy) -> None:
    if ranks.expert_mesh is None:
        raise InternalError("Experts are to be sharded without their mesh")
    mesh = ranks.expert_mesh["dp_expert"]
    fully_shard(module, mesh=mesh, mp_policy=policy, shard_placement_fn=_uncut_axis(mesh.size()))
    sharded = cast(FSDPModule, module)
    sharded.set_gradient_divide_factor(float(ranks.data_world))
    # Not every backend multiplies while it sums; asked for with one rank, torch 2.13 would divide twice.
    sharded.set_force_sum_reduction_for_comms(mesh.size() > 1)


def _uncut_axis(size: int) -> Callable[[nn.Parameter], Shard | None]:
    """The axis along which a weight is sharded over `size` ranks: the first that is not cut already."""

    def axis_of(parameter: nn.Parameter) -> Shard | None:
        if not isinstance(parameter, DTensor):
            return None
        cut = {placement.dim for placement in parameter.placements if isinstance(placement, Shard)}
        free = [axis for axis in range(parameter.ndim) if axis not in cut]
        # Along its first axis a weight may be dealt unevenly, along others not.
        fits = [axis for axis in free if axis == 0 or parameter.shape[axis] % size == 0]
        if not fits:
            raise UsageError(
                "a weight that is cut cannot be sharded over the data ranks as well", where="mesh.dp_shard",
                got=f"a weight of {' x '.join(map(str, parameter.shape))}, axis {', '.join(map(str, cut))} cut",
                expected=f"another axis that {size} divides", fix="fewer data ranks, or other widths",
            )  # fmt: skip
        return Shard(fits[0])

    return axis_of


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
