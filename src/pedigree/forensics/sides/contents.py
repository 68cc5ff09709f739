"""Equality of contents when roles are unknown: tensors as a bag of digests, whatever their names.

A large tensor of trained numbers is equal to another only if one was copied; this is all that can be said of files
whose layers cannot be recognized. Constant and small tensors say nothing and are left out.

Nor do tensors that anybody can compute: masks, identities, sinusoidal and relative positions, windows, filter banks,
transforms. Strangers hold the same ones, under any name. They are known by their numbers: few values, neighbors that
follow from each other, or rows at right angles to each other and of one length. Matrices that were only begun as
orthogonal are left out with them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.weights.checkpoint import Checkpoint

FEW_VALUES = 16
"""Tensors of so few different numbers are masks and the like."""

SMOOTH, LONG_AXIS = 0.85, 16
"""Correlation of neighbors from which numbers follow from each other, along axes of at least this length (kernels of a
few pixels are smooth when trained). Sinusoidal tables have 0.92 to 0.97, masks 0.95, slopes and filter banks 1.0; among
2,974 trained tensors the most is 0.79, in vocabularies that are numbered by frequency."""

RIGHT_ANGLES = 1e-2
"""Mean square of what a Gram matrix has beside its diagonal, and of the spread of that, over the square of its mean."""

MOST_ROWS = 512
"""Rows of a matrix that are looked at for right angles."""

MIN_NUMBERS = 64
"""Tensors with fewer numbers are left out: biases and gains at their initial value are equal everywhere."""

BAND_NUMBERS = 1 << 22
"""Numbers of a tensor that are held at once."""


@dataclass(frozen=True)
class Contents:
    """How many tensors of B have an equal tensor in A, of how many that say anything.

    Attributes:
        shared: names in B of tensors equal to one of A.
        telling: those of them that nobody can compute.
        of_a, of_b: informative tensors on each side.
    """

    shared: tuple[str, ...]
    of_a: int
    of_b: int
    telling: tuple[str, ...] = ()

    @property
    def all_equal(self) -> bool:
        """Whether both hold the same tensors."""
        return bool(self.shared) and len(self.shared) == self.of_a == self.of_b


def compare_contents(
    a: Checkpoint, b: Checkpoint, of_a: Iterable[str] | None = None, of_b: Iterable[str] | None = None
) -> Contents:
    """Read tensors of both and match them by shape and numbers (after a lossless cast to double).

    Args:
        a, b: the checkpoints.
        of_a, of_b: names of the tensors; all of them by default.
    """
    left = digest_tensors(a, a.tensors if of_a is None else of_a)
    right = digest_tensors(b, b.tensors if of_b is None else of_b)
    pool = Counter(left.values())
    shared = []
    for name, digest in right.items():
        if pool[digest] > 0:
            pool[digest] -= 1
            shared.append(name)
    telling = tuple(name for name in shared if not is_computed(b.read(name)))
    return Contents(tuple(shared), len(left), len(right), telling)


def is_computed(tensor: Tensor) -> bool:
    """Whether a tensor looks as if a formula gave its numbers, and neither chance nor training."""
    wide = tensor.to(torch.float64).squeeze()
    if len(torch.unique(wide)) <= FEW_VALUES:
        return True
    return _follows_from_neighbors(wide) or (wide.ndim >= 2 and _has_right_angles(wide.flatten(1)))


def _follows_from_neighbors(wide: Tensor) -> bool:
    if wide.ndim == 2:
        wide = wide - wide.mean(dim=0) - wide.mean(dim=1, keepdim=True) + wide.mean()
    for axis, length in enumerate(wide.shape):
        if length >= LONG_AXIS:
            here, there = wide.narrow(axis, 0, length - 1), wide.narrow(axis, 1, length - 1)
            here, there = here - here.mean(), there - there.mean()
            if float((here * there).sum()) > SMOOTH * float(here.norm() * there.norm()):
                return True
    return False


def _has_right_angles(rows_ND: Tensor) -> bool:
    """Whether rows (or columns, where there are fewer of them) are orthogonal and of one length."""
    if rows_ND.shape[0] > rows_ND.shape[1]:
        rows_ND = rows_ND.T
    gram_KK = rows_ND[:MOST_ROWS] @ rows_ND[:MOST_ROWS].T
    length_K = gram_KK.diagonal()
    beside = gram_KK - torch.diag(length_K)
    many = len(length_K)
    if many < LONG_AXIS:
        return False
    uneven = float(length_K.var()) + float(beside.square().sum()) / many
    return uneven < RIGHT_ANGLES * float(length_K.mean()) ** 2


def same_contents(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether both hold the same tensors, every one of them, whatever their names; shapes are held up first."""
    shapes = [Counter(tuple(info.shape) for info in side.tensors.values()) for side in (a, b)]
    if shapes[0] != shapes[1]:
        return False
    left, right = (digest_tensors(side, side.tensors, informative_only=False) for side in (a, b))
    return Counter(left.values()) == Counter(right.values())


def digest_tensors(checkpoint: Checkpoint, names: Iterable[str], *, informative_only: bool = True) -> dict[str, str]:
    """Digest of shape and numbers of each tensor among `names`; by default of those that say anything."""
    from blake3 import blake3

    out: dict[str, str] = {}
    for name in names:
        info = checkpoint.tensors[name]
        shape = tuple(info.shape)
        hasher, first, constant = blake3(), None, True
        for tensor in _bands(checkpoint, name, shape):
            if informative_only and (math.prod(shape) < MIN_NUMBERS or not tensor.dtype.is_floating_point):
                break
            wide = tensor.to(torch.float64).contiguous()
            if constant and wide.numel():
                first = wide.flatten()[0] if first is None else first
                constant = bool((wide == first).all())
            hasher.update(wide.numpy().tobytes())
        else:
            if not (informative_only and constant):
                out[name] = f"{shape}:{hasher.hexdigest()}"
    return out


def _bands(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> Iterator[torch.Tensor]:
    """A tensor in bands of its first axis: no table of a large vocabulary is held whole."""
    if len(shape) < 2 or math.prod(shape) <= BAND_NUMBERS or checkpoint.extent(name).row_bytes is None:
        yield checkpoint.read(name)
        return
    step = max(1, BAND_NUMBERS // max(1, math.prod(shape[1:])))
    for begin in range(0, shape[0], step):
        yield checkpoint.read_rows(name, begin, min(begin + step, shape[0]))
