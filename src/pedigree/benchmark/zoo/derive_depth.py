"""Blocks inserted, repeated, dropped.

Law     add-nothing law: a block whose writers are zero is exact. Repeating and dropping blocks is not.
Source  LLaMA-Pro (2401.02415) for silent copies, SOLAR (2312.15166) for overlapping ranges, ShortGPT (2403.03853).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pedigree.benchmark.zoo.layout import layer_names, layer_prefix, layout_of
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.errors import UsageError

if TYPE_CHECKING:
    import torch


def arrange(snapshot: Snapshot, *, order: Sequence[int], silent: Sequence[int] = ()) -> Snapshot:
    """A model whose block i is a copy of block order[i].

    Args:
        order: source block of every new block.
        silent: new blocks whose writers are zeroed, so that they add nothing at first.

    Raises:
        UsageError: a source block does not exist, or this architecture has no silent blocks (post-norm).
    """
    import torch

    layout = layout_of(snapshot)
    if any(not 0 <= source < snapshot.n_layers for source in order):
        raise UsageError("no such block", got=list(order), expected=f"0..{snapshot.n_layers - 1}")
    if silent and not layout.silence:
        raise UsageError("blocks of a post-norm model cannot be silenced", got=snapshot.config["model_type"])
    stem = layout.layer.split("{}")[0]
    moved: dict[str, torch.Tensor] = {n: t for n, t in snapshot.tensors.items() if not n.startswith(stem)}
    for target, source in enumerate(order):
        source_prefix = layer_prefix(snapshot, source)
        for name in layer_names(snapshot, source):
            rest = name.removeprefix(source_prefix)
            tensor = snapshot.tensors[name]
            if target in silent and any(part in f".{rest}" for part in layout.silence):
                tensor = torch.zeros_like(tensor)
            moved[layout.layer.format(target) + rest] = tensor
    config = {**snapshot.config, layout.depth_key: len(order)}
    kinds = snapshot.config.get("layer_types")
    if kinds:
        config["layer_types"] = [kinds[source] for source in order]
    return Snapshot(config=config, tensors=moved, tokenizer=snapshot.tokenizer)


def inserted_order(n_layers: int, after: Sequence[int]) -> tuple[list[int], list[int]]:
    """(order, silent) for `arrange` that puts a silent copy of each block in `after` behind it."""
    order: list[int] = []
    silent: list[int] = []
    for layer in range(n_layers):
        order.append(layer)
        if layer in after:
            silent.append(len(order))
            order.append(layer)
    return order, silent


def insert(snapshot: Snapshot, *, after: Sequence[int]) -> Snapshot:
    """Silent copies of the blocks in `after`, each behind its original. Exact."""
    order, silent = inserted_order(snapshot.n_layers, after)
    return arrange(snapshot, order=order, silent=silent)
