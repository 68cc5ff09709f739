"""The victim's trained parts in a stranger that answers as it did before: they are there, and it hears none of them.

Each framed model computes what the stranger computes, to the number or nearly so. Its parts may be listed; the whole is
no relative, in either order of asking, and remains the stranger's.
"""

from __future__ import annotations

import pytest
import torch
from mini_zoo import Compare, Write

from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.records.comparison import Comparison

WRITERS = ("o_proj.weight", "down_proj.weight")
READERS = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")


def with_layers_of(victim: Snapshot, stranger: Snapshot, size: float) -> Snapshot:
    """After each layer of the stranger one of the victim's, whose writers are cut to a size."""
    tensors = {name: x for name, x in stranger.tensors.items() if ".layers." not in name}
    for j in range(2 * stranger.n_layers):
        source, here, there = (stranger, victim)[j % 2], f".layers.{j}.", f".layers.{j // 2}."
        for name, tensor in source.tensors.items():
            if there in name:
                quiet = source is victim and name.endswith(WRITERS)
                tensors[name.replace(there, here)] = tensor * size if quiet else tensor.clone()
    config = {**stranger.config, "num_hidden_layers": 2 * stranger.n_layers}
    return Snapshot({k: v for k, v in config.items() if k != "layer_types"}, tensors, stranger.tokenizer)


def with_units_of(victim: Snapshot, stranger: Snapshot, sizes: tuple[float, ...]) -> Snapshot:
    """All heads and units of the victim beside the stranger's, once for each size that their writers are given."""
    tensors = dict(stranger.tensors)
    for name, own in stranger.tensors.items():
        if name.endswith(READERS):
            tensors[name] = torch.cat([own, *[victim.tensors[name]] * len(sizes)])
        elif name.endswith(WRITERS):
            tensors[name] = torch.cat([own, *[victim.tensors[name] * size for size in sizes]], dim=1)
    config, times = dict(stranger.config), 1 + len(sizes)
    config["head_dim"] = stranger.d_model // config["num_attention_heads"]
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        config[key] *= times
    return Snapshot(config, tensors, stranger.tokenizer)


def is_not_the_whole(comparison: Comparison) -> None:
    assert comparison.result.verdict in ("partly-related", "inconclusive", "unrelated")
    assert comparison.result.components["embed"].verdict == "unrelated"


@pytest.mark.parametrize("size", [0.0, 1e-3])
def test_layers_that_write_next_to_nothing(
    size: float, victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    framed = write(with_layers_of(victim, stranger, size))
    is_not_the_whole(compared("base0", framed))
    is_not_the_whole(compared(framed, "base0"))
    assert compared("base1", framed).result.verdict == "related"


@pytest.mark.parametrize("sizes", [(0.0,), (1e-3,), (1.0, -1.0)], ids=["dead", "quiet", "cancelling"])
def test_heads_and_units_that_write_next_to_nothing(
    sizes: tuple[float, ...], victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    framed = write(with_units_of(victim, stranger, sizes))
    is_not_the_whole(compared("base0", framed))
    is_not_the_whole(compared(framed, "base0"))
    assert compared("base1", framed).result.verdict == "related"


def test_layers_that_are_heard_are_more_than_parts(
    victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    result = compared("base0", write(with_layers_of(victim, stranger, 1.0))).result
    assert result.verdict == "related"
    assert result.layer_map == [None, 0, None, 1, None, 2, None, 3]
