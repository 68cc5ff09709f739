"""Expert parallelism: rows travel to the process that holds their expert, and the answers travel back.

    rows sorted by expert --all-to-all--> rows of my experts, by sender --permutation--> by expert --experts-->
    answers --permutation--> by sender --all-to-all--> answers in the order of the rows

Experts lie in blocks: block e * t_size + t of them is held by place e of the expert group and place t of the tensor
group. All places of a tensor group see the same tokens, so nothing has to be sent between them: each answers for its
blocks and their answers are summed, as for any part of a tensor group (see `pedigree.model.groups`).

The host waits for the device once in each direction of a layer: it must know how many rows come and go.

Shapes: M = rows of this process sorted by expert, R = rows that arrive, E = experts, P = experts of this process,
        S = places of the expert group, d = channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pedigree.model.dispatch import permuted
from pedigree.model.groups import Groups, place_in


class _Exchanged(torch.autograd.Function):
    """All-to-all of rows; backward the rows go back where they came from."""

    @staticmethod
    def forward(ctx: Any, rows_Md: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
        ctx.splits, ctx.group = (sent, received), group
        return _exchange(rows_Md, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        sent, received = ctx.splits
        return _exchange(grads[0], received, sent, ctx.group), None, None, None


def _exchange(rows_Md: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
    import torch.distributed as distributed

    arrived_Rd = rows_Md.new_empty(sum(received), rows_Md.shape[1])
    distributed.all_to_all_single(arrived_Rd, rows_Md.contiguous(), received, sent, group=group)
    return arrived_Rd


_exchanged: Callable[..., Tensor] = _Exchanged.apply


def block_order(experts_NK: Tensor, n_experts: int, groups: Groups) -> Tensor:
    """Numbers under which the experts of one place of the tensor group are neighbors; sort choices by them."""
    (_, t_size), (_, e_size) = place_in(groups.tensor), place_in(groups.expert)
    if t_size == 1 or e_size == 1:
        return experts_NK
    width = n_experts // (t_size * e_size)
    block_NK = experts_NK.div(width, rounding_mode="floor")
    new_block_NK = block_NK.remainder(t_size) * e_size + block_NK.div(t_size, rounding_mode="floor")
    return new_block_NK * width + experts_NK.remainder(width)


def natural_order(load_E: Tensor, groups: Groups) -> Tensor:
    """Loads under the numbers of `block_order`, under the experts' own numbers."""
    (_, t_size), (_, e_size) = place_in(groups.tensor), place_in(groups.expert)
    return load_E.view(t_size, e_size, -1).transpose(0, 1).flatten()


def answered(experts: Callable[[Tensor, Tensor], Tensor], rows_Md: Tensor, load_E: Tensor, groups: Groups) -> Tensor:
    """Answers of experts that are spread over processes, [M, d]; rows of other tensor places get zeros.

    Args:
        experts: those of this process, rows sorted by expert and their loads -> answers.
        rows_Md: rows sorted by the numbers of `block_order`.
        load_E: rows of each expert in the same order.
        groups: who holds the others.
    """
    import torch.distributed as distributed

    (place, t_size), (_, e_size) = place_in(groups.tensor), place_in(groups.expert)
    n_rows, width = rows_Md.shape[0], load_E.numel() // t_size
    mine_SP = load_E[place * width : (place + 1) * width].view(e_size, -1)
    before = load_E[: place * width].sum()[None]
    theirs_SP = mine_SP
    if groups.expert is not None:
        theirs_SP = torch.empty_like(mine_SP)
        distributed.all_to_all_single(theirs_SP, mine_SP.contiguous(), group=groups.expert)
    first, *counts = torch.cat([before, mine_SP.sum(1), theirs_SP.sum(1)]).tolist()
    sent, received = counts[:e_size], counts[e_size:]
    last = first + sum(sent)
    if (first, last) != (0, n_rows):
        rows_Md = rows_Md[first:last]
    if groups.expert is None:
        answers_Md = _asked(experts, rows_Md, mine_SP[0])
    else:
        arrived_Rd = _exchanged(rows_Md, sent, received, groups.expert)
        numbers_P = torch.arange(theirs_SP.shape[1], device=load_E.device)
        expert_R = numbers_P.repeat(e_size).repeat_interleave(theirs_SP.flatten(), output_size=sum(received))
        source_R = expert_R.argsort(stable=True)
        place_R = torch.empty_like(source_R)
        place_R[source_R] = torch.arange(source_R.numel(), device=load_E.device)
        answers_Rd = _asked(experts, permuted(arrived_Rd, source_R, place_R), theirs_SP.sum(0))
        answers_Md = _exchanged(permuted(answers_Rd, place_R, source_R), received, sent, groups.expert)
    if (first, last) != (0, n_rows):
        answers_Md = functional.pad(answers_Md, (0, 0, first, n_rows - last))
    return answers_Md


def _asked(experts: Callable[[Tensor, Tensor], Tensor], rows_Rd: Tensor, load_P: Tensor) -> Tensor:
    """Answers of the experts, where no row came too: a grouped product of nothing has no way back (torch 2.13)."""
    if rows_Rd.shape[0]:
        return experts(rows_Rd, load_P)
    one_P = (torch.arange(load_P.numel(), device=load_P.device) == 0).to(load_P.dtype)
    return experts(functional.pad(rows_Rd, (0, 0, 0, 1)), one_P)[:0]
