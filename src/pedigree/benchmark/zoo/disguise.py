"""Compositions of gauge moves: what someone would do who wants a copy not to look like one.

Law  every disguise keeps the function; the zoo asserts it on the logits of each disguised model.
"""

from __future__ import annotations

from pedigree.benchmark.zoo import derive_gauge
from pedigree.benchmark.zoo.snapshot import Snapshot


def permuted(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Signed permutation of the residual stream, permuted heads, groups and units, rescaled units. Exact."""
    snapshot = derive_gauge.permute_residual(snapshot, seed=seed)
    snapshot = derive_gauge.permute_heads(snapshot, seed=seed + 1)
    snapshot = derive_gauge.permute_units(snapshot, seed=seed + 2)
    return derive_gauge.rescale_units(snapshot, seed=seed + 3)


def rotated(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Random rotation of the residual stream with gains folded, everything inside the branches rescaled. Exact."""
    snapshot = derive_gauge.rotate_residual(snapshot, seed=seed)
    snapshot = derive_gauge.rescale_units(snapshot, seed=seed + 1)
    return derive_gauge.rescale_attention(snapshot, seed=seed + 2)


def hidden(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Every move at once: rotated, permuted, rescaled, with random gains scattered over the readers. Exact."""
    snapshot = rotated(snapshot, seed=seed)
    snapshot = derive_gauge.permute_heads(snapshot, seed=seed + 10)
    snapshot = derive_gauge.permute_units(snapshot, seed=seed + 11)
    return derive_gauge.scatter_gains(snapshot, seed=seed + 12)
