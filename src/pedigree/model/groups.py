"""The processes that share one forward pass, and the sums between them that gradients can cross.

    data     see other sequences: counts and loads of the whole batch are sums over them
    balance  whose loads the `group` scope of a balance loss adds up
    tensor   hold parts of the same matrices and see the same tokens (Megatron-LM, arXiv 1909.08053)
    expert   hold other experts; tokens go to them and come back (see `pedigree.model.exchange`)

Between `copied` and `summed` each process of a tensor group computes its part of a branch: forward nothing is sent on
the way in and parts are summed on the way out; backward it is the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """Process groups by purpose; None where this process is alone."""

    data: Any = None
    balance: Any = None
    tensor: Any = None
    expert: Any = None


ALONE = Groups()


def place_in(group: Any) -> tuple[int, int]:
    """Number of this process in a group, and the size of the group."""
    if group is None:
        return 0, 1
    import torch.distributed as distributed

    return distributed.get_rank(group), distributed.get_world_size(group)


def total(value: Tensor, group: Any) -> Tensor:
    """Sum over a group, without gradient."""
    if group is None:
        return value
    import torch.distributed as distributed

    value = value.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(value, group=group)
    return value


class _Copied(torch.autograd.Function):
    """The same forward; the sum of the gradients of the group backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return total(grads[0], ctx.group), None


class _Summed(torch.autograd.Function):
    """The sum over the group forward; the same gradient for each backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        return total(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


_copied: Callable[..., Tensor] = _Copied.apply
_summed: Callable[..., Tensor] = _Summed.apply


def copied(x: Tensor, group: Any) -> Tensor:
    """What every process of a tensor group has, on its way into the parts of a branch."""
    return x if group is None else _copied(x, group)


def summed(x: Tensor, group: Any) -> Tensor:
    """The parts of a branch, summed over a tensor group."""
    return x if group is None else _summed(x, group)


def own(weight: Tensor) -> Tensor:
    """This process's part of a weight that is spread over a group; any other weight as it is."""
    part = getattr(weight, "to_local", None)
    return weight if part is None else part()
