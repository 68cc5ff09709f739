"""How a decoder is cut over a tensor group and an expert group: which weight along which axis, and who is told.

    heads           q, k, v (latent: q or q_b, kv_b) by outputs, o by inputs; key heads that are fewer than the parts
                    stay whole, and each part takes the one that its query heads share
    feed-forward    gate, up by outputs, down by inputs; so the shared expert
    experts         whole experts, over the expert group and inside it over the tensor group
    the rest        norms, routers, latents, embedding, head: whole on every process of both groups

Biases behind a cut by outputs and gains on heads are short: they stay whole, and their gradients are summed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from torch import nn

from pedigree.model.attention import Attention
from pedigree.model.feed_forward import DenseFeedForward
from pedigree.model.groups import Groups, place_in
from pedigree.model.latent_attention import MultiHeadLatentAttention
from pedigree.model.linear import Linear
from pedigree.model.mixture import Mixture


class Cut(NamedTuple):
    """One weight of which each process holds a part."""

    module: nn.Module
    name: str
    axis: int
    over: Literal["tensor", "expert"]
    """`tensor`: the tensor group; `expert`: the expert group, and inside it the tensor group."""


def cut(model: nn.Module, groups: Groups) -> Iterator[Cut]:
    """Tell the modules of a decoder what their part is, and name the weights to cut; none where each is alone."""
    for module in model.modules():
        if isinstance(module, Mixture):
            module.groups = groups
            if groups.expert is not None or groups.tensor is not None:
                yield from (Cut(module.experts, name, 0, "expert") for name, _ in module.experts.named_parameters())
        elif groups.tensor is None:
            continue
        elif isinstance(module, Attention):
            yield from _heads(module, groups)
        elif isinstance(module, MultiHeadLatentAttention):
            widened = [module.q if module.shape.q_rank is None else module.q_b, module.kv_b]
            yield from (by_outputs(linear, groups) for linear in widened)
            yield by_inputs(module.o, groups)
        elif isinstance(module, DenseFeedForward):
            yield from (by_outputs(linear, groups) for linear in (module.gate, module.up) if linear is not None)
            yield by_inputs(module.down, groups)
            if module.series is not None:
                yield from (Cut(module.series, name, 1, "tensor") for name in ("slope", "shift"))


def by_outputs(linear: Linear, groups: Groups) -> Cut:
    """Cut a map so that each process computes some of its outputs."""
    place, size = place_in(groups.tensor)
    width = linear.out_features // size
    linear.tensor_group, linear.rows = groups.tensor, slice(place * width, (place + 1) * width)
    return Cut(linear, "weight", 0, "tensor")


def by_inputs(linear: Linear, groups: Groups) -> Cut:
    """Cut a map so that each process reads some of its inputs."""
    linear.tensor_group = groups.tensor
    return Cut(linear, "weight", 1, "tensor")


def _heads(module: Attention, groups: Groups) -> Iterator[Cut]:
    place, size = place_in(groups.tensor)
    n_kv = module.k.out_features // module.head_dim
    yield by_outputs(module.q, groups)
    for linear in (module.k, module.v):
        if n_kv % size == 0:
            yield by_outputs(linear, groups)
        else:  # several parts share a key head
            first = place * n_kv // size * module.head_dim
            linear.tensor_group, linear.rows = groups.tensor, slice(first, first + module.head_dim)
    yield by_inputs(module.o, groups)
    for norm in (module.q_norm, module.k_norm):
        if norm is not None:
            norm.tensor_group = groups.tensor
