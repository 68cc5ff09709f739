"""Grouped heads as latent attention: one rotary key for all heads, and a joint latent for all that is left.

In the plane of rotary pair j the keys of all heads are complex rows, and what turns with the position is a factor that
all of them share. So the best one key for all heads is the first singular vector there: head h reads u_h times it,
exactly, whatever the position. What a head's key is beside that goes into the part without positions, and with the
values through one latent, by a singular value decomposition of both.

Laws
1. With one key/value head nothing is left beside the shared key: exact where the latent has a channel for each value.
2. Values pass unchanged where the latent is as wide as the rank of what goes through it.

Source  2405.04434 (latent attention), 2502.07864 (TransMLA: per-frequency components, joint decomposition).

Shapes  K = key/value heads, H = query heads, e = head dimension, P = e / 2 pairs, C = latent, d = channels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pedigree.surgery.nodes import Computed, Node, Statistic, Work, as_type
from pedigree.surgery.selection import Selection, numbers, take

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LatentFactors:
    """One layer in the form of latent attention.

    Attributes:
        down_Ld: [C + e, d], latent rows above those of the shared rotary key.
        up_RC: [K (e + e), C], by key/value head the keys without position above the values.
        shares_KP: complex [K, P], what each head reads of the shared key.
    """

    down_Ld: torch.Tensor
    up_RC: torch.Tensor
    shares_KP: torch.Tensor


def latent_factors(keys_Rd: torch.Tensor, values_Rd: torch.Tensor, dim: int, rank: int) -> LatentFactors:
    """Keys and values of all heads, [K e, d] each, through a latent of `rank` channels; computed in float64."""
    import torch

    keys_Ked = torch.unflatten(keys_Rd.to(torch.float64), 0, (-1, dim))
    half = dim // 2
    pairs_PKd = torch.complex(keys_Ked[:, :half], keys_Ked[:, half:]).transpose(0, 1)
    u_PKn, s_Pn, v_Pnd = torch.linalg.svd(pairs_PKd, full_matrices=False)
    size_P = s_Pn[:, 0]
    shared_Pd = v_Pnd[:, 0] * size_P[:, None]
    shares_KP = u_PKn[:, :, 0].T
    left_PKd = pairs_PKd - shares_KP.T[:, :, None] * shared_Pd[:, None]
    left_Ked = torch.cat([left_PKd.real, left_PKd.imag], 0).transpose(0, 1)
    # All keys count as much as all values, so that neither starves the other; what is left of keys counts its share.
    values_Ked = torch.unflatten(values_Rd.to(torch.float64), 0, (-1, dim))
    sizes = float(values_Ked.norm()), float(keys_Ked.norm())
    balance = sizes[0] / sizes[1] if all(sizes) else 1.0
    both = torch.cat([left_Ked * balance, values_Ked], 1).flatten(0, 1)
    left, strength, right = torch.linalg.svd(both, full_matrices=False)
    kept = min(rank, len(strength))
    down = torch.zeros(rank, both.shape[1], dtype=torch.float64)
    up = torch.zeros(both.shape[0], rank, dtype=torch.float64)
    root = strength[:kept].sqrt()
    down[:kept], up[:, :kept] = right[:kept] * root[:, None], left[:, :kept] * root
    torch.unflatten(up, 0, (-1, 2 * dim))[:, :dim].div_(balance)
    key = torch.cat([shared_Pd.real, shared_Pd.imag])
    return LatentFactors(torch.cat([down, key]).float(), up.float(), shares_KP.to(torch.complex128))


class Factored(Statistic):
    """The latent form of one layer; its keys and values are held for it."""

    def __init__(self, keys: Node, values: Node, dim: int, rank: int) -> None:
        self.name = f"latent of {rank} for heads of {dim}"
        self._nodes, self._dim, self._rank = (keys, values), dim, rank

    def inputs(self) -> Sequence[Node]:
        """Keys and values."""
        return self._nodes

    def start(self) -> Any:
        """No rows yet."""
        return ([], [])

    def add(self, state: Any, tiles: Sequence[torch.Tensor], rows: slice, work: Work) -> Any:
        """Rows of both."""
        for kept, tile in zip(state, tiles, strict=True):
            kept.append(tile.float())
        return state

    def finish(self, state: Any) -> LatentFactors:
        """The factors."""
        import torch

        return latent_factors(torch.cat(state[0]), torch.cat(state[1]), self._dim, self._rank)


@dataclass(frozen=True, eq=False)
class Told(Node):
    """A tensor that a statistic gives."""

    statistic: Statistic
    pick: Callable[[Any], torch.Tensor]
    shape: tuple[int, ...]
    sources: tuple[Node, ...] = ()
    dtype: str = field(default="F32")

    def statistics(self) -> Sequence[Statistic]:
        """The one."""
        return (self.statistic,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """A part of it."""
        chosen = take(self.pick(work.values[self.statistic]), 0, rows)
        return as_type(chosen if cols is None else take(chosen, 1, cols), self.dtype)


@dataclass(frozen=True, eq=False)
class LatentQueries(Computed):
    """Queries [H (e + e), d]: each head as it was, then turned to what it reads of the shared key; times a factor."""

    statistic: Statistic
    heads: tuple[int, ...]
    dim: int
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shape", (2 * self.node.shape[0], self.node.shape[1]))

    def statistics(self) -> Sequence[Statistic]:
        """The shares."""
        return (self.statistic,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """Both halves of the heads that the selection meets, and of them what was asked for."""
        import torch

        shares_KP = work.values[self.statistic].shares_KP
        wanted, half, pieces, places = numbers(rows), self.dim // 2, [], []
        for head in np.unique(wanted // (2 * self.dim)).tolist():
            place = np.flatnonzero(wanted // (2 * self.dim) == head)
            plain = self.node.tile(slice(head * self.dim, (head + 1) * self.dim), cols, work).to(torch.float64)
            turned = torch.complex(plain[:half], plain[half:]) * shares_KP[self.heads[head]].conj()[:, None]
            block = torch.cat([plain, turned.real, turned.imag]) * self.factor
            pieces.append(block[torch.from_numpy(wanted[place] - head * 2 * self.dim)])
            places.append(place)
        back = np.argsort(np.concatenate(places), kind="stable")
        return as_type(torch.cat(pieces)[torch.from_numpy(back)], self.dtype)
