"""Operators: together they are the operations in closed form, and their shapes are those of a built model."""

from __future__ import annotations

from collections import Counter

import pytest

from pedigree.family.operators import operators
from pedigree.model.members import member, names
from pedigree.model.sizes import operations


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("context", [1, 127, 4096])
def test_operators_sum_to_the_operations(name: str, context: int) -> None:
    for config in (member(name), member(name + "-pico")):
        ops = operations(config, context)
        found = operators(config, context)
        assert sum(one.operations for one in found) == ops.forward + ops.mtp
        assert sum(one.operations for one in found if one.name.startswith("mtp.")) == ops.mtp
        assert sum(one.operations for one in found if one.causal and not one.name.startswith("mtp.")) == ops.attention
        assert len({one.name for one in found}) == len(found)


@pytest.mark.parametrize("name", ["pangu-alpha-13b", "pangu-pi-7b", "pangu-ultra-135b", "llama-3-8b", "qwen2.5-14b"])
def test_shapes_are_those_of_the_matrices_of_a_built_model(name: str) -> None:
    from pedigree.model.decoder import Decoder

    config = member(name + "-pico")
    tables = 1 + (config.learned_positions + (config.query_layer != "none"))
    scales = (config.feed_forward.series, config.feed_forward.d_inner)  # of a series: they multiply, one by one
    shapes = [tuple(p.shape) for p in Decoder(config).parameters() if p.ndim == 2]
    built = Counter(shape for shape in shapes if shape != scales)
    assert sum(built.values()) >= config.n_layers * 6 + tables
    counted: Counter[tuple[int, ...]] = Counter()
    for one in operators(config, 128):
        if not one.causal and not (one.name == "head" and config.tied):
            counted[one.rows, one.columns] += one.times
    rest = built - counted
    assert not counted - built, "operators that no matrix stands for"
    assert all(shape[1] == config.d_model for shape in rest), rest  # the tables, which are looked up
    assert sum(rest.values()) == tables
