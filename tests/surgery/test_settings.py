"""Configs after layers were taken in a new order. Tools that rewrite the layer count alone leave a model that loads
and is wrong: layers of another kind in the places of the old ones."""

from __future__ import annotations

from typing import Any

import pytest

from pedigree.errors import UsageError
from pedigree.surgery.settings import Settings, reindex_layers

S, F = "sliding_attention", "full_attention"


def after(config: dict[str, Any], order: list[int], n_old: int) -> dict[str, Any]:
    settings = Settings(config)
    reindex_layers(settings, order, n_old)
    return settings.values


def test_lists_by_layer_follow_their_layers() -> None:
    config = {"num_hidden_layers": 3, "layer_types": [S, S, F], "no_rope_layers": [1, 1, 0], "eos_token_id": [1, 2]}
    found = after(config, [0, 1, 2, 2], 3)
    assert found["layer_types"] == [S, S, F, F]
    assert found["no_rope_layers"] == [1, 1, 0, 0]
    assert found["num_hidden_layers"] == 4
    assert found["eos_token_id"] == [1, 2]


def test_lists_of_layer_numbers_and_counts_of_first_layers() -> None:
    config = {"num_hidden_layers": 4, "mlp_only_layers": [0, 3], "first_k_dense_replace": 2}
    found = after(config, [0, 0, 1, 2, 3], 4)
    assert found["mlp_only_layers"] == [0, 1, 4]
    assert found["first_k_dense_replace"] == 3
    assert (
        after({"n_layer": 4, "max_window_layers": 4, "use_sliding_window": False}, [0, 1], 4)["max_window_layers"] == 2
    )


def test_nested_configs_are_rewritten_where_they_say_it() -> None:
    config = {"text_config": {"num_hidden_layers": 2, "layer_types": [S, F]}, "vision_config": {"num_hidden_layers": 2}}
    found = after(config, [1, 1, 0], 2)
    assert found["text_config"] == {"num_hidden_layers": 3, "layer_types": [F, F, S]}
    assert found["vision_config"] == {"num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("config", "order"),
    [
        ({"num_hidden_layers": 4, "first_k_dense_replace": 1}, [1, 0, 2, 3]),
        ({"num_hidden_layers": 4, "decoder_sparse_step": 2}, [0, 0, 1, 2, 3]),
        ({"num_hidden_layers": 4, "model_type": "gemma2"}, [0, 0, 1, 2, 3]),
    ],
)
def test_an_order_that_the_config_cannot_say_is_refused(config: dict[str, Any], order: list[int]) -> None:
    with pytest.raises(UsageError, match=r"no longer stand first|breaks the pattern"):
        after(config, order, 4)


def test_a_pattern_that_is_kept_is_allowed() -> None:
    assert after({"num_hidden_layers": 4, "decoder_sparse_step": 2}, [0, 1, 0, 1, 2, 3], 4)["num_hidden_layers"] == 6
