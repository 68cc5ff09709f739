"""Almost nothing survives: a child in which few units of the feed-forward network, or none of a part, are the parent's.

Law     none of these keeps the function. Units that are drawn anew come from a fresh start of the same config.
Source  forensics study, section 9.4: where one unit in a hundred survives, rank correlations see nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pedigree.benchmark.zoo.derive_gauge import seeded
from pedigree.benchmark.zoo.derive_mixture import fresh_start
from pedigree.benchmark.zoo.layout import layer_prefix, layout_of
from pedigree.benchmark.zoo.snapshot import Snapshot

if TYPE_CHECKING:
    import torch


def surviving_units(snapshot: Snapshot, *, share: float, seed: int) -> Snapshot:
    """Everything is drawn anew, then a share of the units of each FFN is put back in its place.

    At least one unit of a layer is put back. Not exact.
    """
    import torch

    layout = layout_of(snapshot)
    fresh = snapshot.changed(fresh_start(snapshot, seed))
    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer)
        first, axis = layout.units[0]
        n_units = snapshot.tensors[prefix + first].shape[axis]
        kept_M = torch.randperm(n_units, generator=generator)[: max(1, round(share * n_units))]
        for name, unit_axis in layout.units:
            target = fresh.tensors[prefix + name].clone()
            source = snapshot.tensors[prefix + name]
            target.index_copy_(unit_axis, kept_M, source.index_select(unit_axis, kept_M))
            moved[prefix + name] = target
    return fresh.changed(moved)


def fresh_tables(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """The body of one model under embeddings that were drawn anew, for the same tokenizer. Not exact."""
    import torch

    layout = layout_of(snapshot)
    generator = seeded(seed)
    return snapshot.changed(
        {
            name: torch.randn(tensor.shape, generator=generator) * 0.02
            for name, tensor in snapshot.tensors.items()
            if name.startswith(layout.embeddings) and re.search(r"weight$", name)
        }
    )
