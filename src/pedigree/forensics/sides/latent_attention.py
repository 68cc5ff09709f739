"""Multi-head latent attention seen as plain attention: what its heads read of the residual stream.

Keys and values are read from a latent that is itself read from the stream (DeepSeek-V2, arXiv:2405.04434, section 2.1),
queries often too. The product of both matrices, with the gain of the latent between them, reads the stream directly. Of
a large model that product is far larger than its factors (128 heads of 256 dimensions over a width of 7168 are 0.9 GB),
so only the heads that somebody asks for are multiplied out, and a block of rows at a time.

Shapes: U = rows asked for, L = latent, D = residual width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pedigree.weights.anatomy import Anatomy
from pedigree.weights.part import Part

BLOCK_NUMBERS = 1 << 23
"""Numbers of a product that are held at once, in single precision 32 MB."""

LEAST_ROWS = 64
"""Rows that are made at once however wide they are."""

Which = Literal["key", "value", "query"]
KEYS_AND_QUERIES: tuple[Which, Which] = ("key", "query")


@dataclass(frozen=True)
class _Stack:
    """Rows of all heads in one matrix: those of a head stand together, and ours begin `skip` rows into it.

    Attributes:
        up: what the rows are read from: over the latent, or over the stream where `down` is None.
        down: what reads the latent from the stream.
        gain_L: of the norm of the latent; None where it has none.
        rank: dimensions of the latent.
        per_head: rows of one head in `up`.
        skip: rows of a head before ours.
    """

    up: Part
    down: Part | None
    gain_L: Tensor | None
    rank: int
    per_head: int
    skip: int


@dataclass(frozen=True)
class LatentAttention:
    """Heads of a layer with latent attention.

    Attributes:
        heads: number of heads.
        nope: dimensions of a head whose keys have no position.
        value: dimensions of a head's values.
    """

    heads: int
    nope: int
    value: int
    stacks: dict[Which, _Stack]

    @property
    def rank(self) -> int:
        """Dimensions of the narrowest latent that rows are read through; rows of more heads than that have no more
        directions."""
        return min(stack.rank for stack in self.stacks.values() if stack.down is not None)

    def rows(self, which: Which, places_U: Tensor, keep: Callable[[Tensor], Tensor]) -> Tensor:
        """Rows that read the stream, [U, D].

        Args:
            which: keys without position, queries that meet them, or values.
            places_U: head times dimensions of a head, plus the dimension.
            keep: what is kept of a block of rows, row by row.
        """
        stack, ours = self.stacks[which], self.value if which == "value" else self.nope
        stored_U = places_U // ours * stack.per_head + stack.skip + places_U % ours
        down_LD = None if stack.down is None else stack.down.read(rows=slice(0, stack.rank))
        width = stack.up.shape[1] if down_LD is None else down_LD.shape[1]
        kept, step = [], max(LEAST_ROWS, BLOCK_NUMBERS // max(1, width))
        for begin in range(0, len(stored_U), step):
            w_UL = stack.up.read(rows=[int(u) for u in stored_U[begin : begin + step]])
            w_UL = w_UL if stack.gain_L is None else w_UL * stack.gain_L
            kept.append(keep(w_UL if down_LD is None else w_UL @ down_LD))
        return torch.cat(kept) if kept else torch.zeros(0, width)


def read_latent_attention(anatomy: Anatomy, layer: int) -> LatentAttention | None:
    """How latent attention lies in a layer, of which only gains are read; None where it has none, or shapes clash.

    Queries are left out where the layer has none that fit its keys.
    """
    down, up = anatomy.part("attn.kv_a", layer), anatomy.part("attn.kv_b", layer)
    output, heads = anatomy.part("attn.o", layer), anatomy.n_heads
    if down is None or up is None or output is None or not heads:
        return None
    rank, value, per_head = up.shape[1], output.shape[1] // heads, up.shape[0] // heads
    if up.shape[0] % heads or not 0 < value < per_head or down.shape[0] < rank or not _reads_stream(down, anatomy):
        return None
    nope, gain_L = per_head - value, _gain(anatomy, "norm.kv_a", layer, rank)
    stacks: dict[Which, _Stack] = {
        "key": _Stack(up, down, gain_L, rank, per_head, 0),
        "value": _Stack(up, down, gain_L, rank, per_head, nope),
    }
    queries = _queries(anatomy, layer, heads, nope)
    if queries is not None and (queries.down or queries.up).shape[1] != down.shape[1]:
        queries = None
    return LatentAttention(heads, nope, value, stacks if queries is None else {**stacks, "query": queries})


def _queries(anatomy: Anatomy, layer: int, heads: int, nope: int) -> _Stack | None:
    """Query rows, of which the first of each head meet the keys without position."""
    part, down, up = (anatomy.part(f"attn.{name}", layer) for name in ("q", "q_a", "q_b"))
    if part is not None:
        stack = _Stack(part, None, None, 0, part.shape[0] // heads, 0)
    elif down is None or up is None or up.shape[1] != down.shape[0] or not _reads_stream(down, anatomy):
        return None
    else:
        stack = _Stack(up, down, _gain(anatomy, "norm.q_a", layer, up.shape[1]), up.shape[1], up.shape[0] // heads, 0)
    return stack if stack.up.shape[0] % heads == 0 and stack.per_head >= nope else None


def _reads_stream(part: Part, anatomy: Anatomy) -> bool:
    return not anatomy.d_model or part.shape[1] == anatomy.d_model


def _gain(anatomy: Anatomy, norm: str, layer: int, rank: int) -> Tensor | None:
    """The gain of the norm of a latent, where it has as many dimensions."""
    part = anatomy.part(norm, layer)
    if part is None:
        return None
    gain_L = part.read().flatten() + anatomy.gain_offset
    return gain_L if gain_L.shape[0] == rank else None
