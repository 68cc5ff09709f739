"""Who takes part in a run: one process, or many that torchrun started.

A rank reads rows of the common window by its place on the data axis; ranks of one tensor-parallel group read the same
rows. Sums over weights count every entry once, however often it is stored.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from pedigree.errors import UsageError
from pedigree.training.config import TrainingConfig


@dataclass(frozen=True)
class Ranks:
    """The processes of a run and the place of this one.

    Attributes:
        rank, world: number of this process, and how many there are.
        data_rank, data_world: its place on the data axis, and the length of that axis.
        mesh: devices by axis, `dp_shard` and `tp`; None for one process.
        expert_mesh: the same devices by how experts lie on them, `dp_expert` and `expert`, which is ep times tp long;
            None where experts are not cut.
        expert_group: the ranks that send each other tokens; None where ep is 1.
        background: a group of its own for what is written while the run goes on: its messages never mix with ours.
    """

    rank: int = 0
    world: int = 1
    data_rank: int = 0
    data_world: int = 1
    mesh: DeviceMesh | None = None
    expert_mesh: DeviceMesh | None = None
    expert_group: dist.ProcessGroup | None = None
    background: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the ranks."""
        return self.total(value) / self.world if self.world > 1 else value

    def total(self, value: Tensor) -> Tensor:
        """Sum over the ranks."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def largest(self, value: Tensor) -> Tensor:
        """Largest value over the ranks."""
        if self.world > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            dist.barrier()

    def share_of(self, parameters: Sequence[Tensor], device: torch.device) -> Tensor | float:
        """For each weight, one over the number of ranks that store each of its entries."""
        if self.world == 1:
            return 1.0
        shares = []
        for parameter in parameters:
            copies = self.world
            if isinstance(parameter, DTensor):
                for axis, placement in enumerate(parameter.placements):
                    if placement.is_shard():
                        copies //= parameter.device_mesh.size(axis)
            shares.append(1.0 / copies)
        return torch.tensor(shares, dtype=torch.float32, device=device)


def join_ranks(config: TrainingConfig, device: torch.device) -> Ranks:
    """Meet the other processes, if torchrun started any.

    Raises:
        UsageError: the mesh does not fit the number of processes, or the batch not the mesh.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    check_mesh(config, world)
    if world == 1:
        return Ranks()
    tp, ep = config.mesh.tp, config.mesh.ep
    data = world // tp
    if not dist.is_initialized():
        dist.init_process_group(dist.get_default_backend_for_device(device))
    mesh = init_device_mesh(device.type, (data, tp), mesh_dim_names=("dp_shard", "tp"))
    experts, group = None, None
    if ep * tp > 1:
        experts = init_device_mesh(device.type, (data // ep, ep * tp), mesh_dim_names=("dp_expert", "expert"))
    if ep > 1:
        axes = ("dp_expert", "ep", "tp")
        group = init_device_mesh(device.type, (data // ep, ep, tp), mesh_dim_names=axes).get_group("ep")
    background = dist.new_group(backend="gloo")
    return Ranks(
        rank=rank, world=world, data_rank=rank // tp, data_world=data, mesh=mesh, expert_mesh=experts,
        expert_group=group, background=background,
    )  # fmt: skip


def leave_ranks() -> None:
    """Part from the other processes once all have come so far; nothing where there are none.

    A process that ends while another still talks to it may be aborted by the library of the network, and its launcher
    would call a finished training a failed one. Not for a process that fails: the others would be waited for.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def check_mesh(config: TrainingConfig, world: int) -> None:
    """Make sure that so many processes can share the steps of a run.

    Raises:
        UsageError: the mesh does not fit the number of processes, or the batch not the mesh.
    """
    tp, ep = config.mesh.tp, config.mesh.ep
    data = config.mesh.dp_shard or max(1, world // tp)
    if data * tp != world:
        wanted = _processes(data * tp)
        raise UsageError(
            "the mesh does not fit the number of processes", where="mesh.dp_shard" if tp == 1 else "mesh",
            got=_processes(world), expected=wanted if tp == 1 else f"{wanted}: dp_shard {data} x tp {tp}",
            fix=f"torchrun --nproc-per-node {data * tp} -m pedigree train ...{', or dp_shard: 0' if tp == 1 else ''}",
        )  # fmt: skip
    if data % ep:
        fits = [size for size in range(1, data + 1) if data % size == 0]
        raise UsageError(
            "the data ranks cannot be grouped for the experts", where="mesh.ep",
            got=f"{data} ranks by ep {ep} ({world} processes by tp {tp})", expected="ep divides dp_shard",
            fix=f"ep: {' or '.join(map(str, fits[-3:]))}",
        )  # fmt: skip
    share = config.batch_sequences // config.accumulation
    if share % data:
        raise UsageError(
            "the sequences of a step cannot be dealt evenly to the ranks", where="batch_sequences",
            got=f"{share} in each of {config.accumulation} parts", expected=f"a multiple of {data}",
            fix=f"batch_sequences: {-(-share // data) * data * config.accumulation}",
        )  # fmt: skip


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
