"""Surgery as an operator of the zoo, and children in which almost nothing survives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from benchmark.zoo_specimens import TEXT, specimen

from pedigree.benchmark.zoo.architecture import open_model
from pedigree.benchmark.zoo.corpus import train_tokenizer
from pedigree.benchmark.zoo.derive_surgery import depth_order, operate, operated_lineage
from pedigree.benchmark.zoo.derive_survival import fresh_tables, surviving_units
from pedigree.benchmark.zoo.lineage import Lineage
from pedigree.benchmark.zoo.snapshot import Snapshot


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, Snapshot]:
    folder = tmp_path_factory.mktemp("surgery")
    return specimen("llama", folder / "one", 1), specimen("llama", folder / "two", 2)


def test_a_step_of_surgery_makes_a_model_that_opens(pair: tuple[Snapshot, Snapshot], tmp_path: Path) -> None:
    grown = operate(pair[0], step={"grow.depth": {"op": "solar", "cut": 1}}, seed=3)
    assert grown.n_layers == 4
    grown.save(tmp_path / "grown")
    assert open_model(tmp_path / "grown").config.num_hidden_layers == 4
    name = "model.layers.2.mlp.up_proj.weight"
    assert torch.equal(grown.tensors[name], pair[0].tensors["model.layers.1.mlp.up_proj.weight"])


def test_other_models_are_known_to_a_step_by_name(pair: tuple[Snapshot, Snapshot]) -> None:
    models = [{"model": "source", "weight": 0.7}, {"model": "second", "weight": 0.3}]
    mixed = operate(*pair, step={"merge": {"method": "linear", "models": models}}, seed=3)
    name = "model.layers.0.mlp.up_proj.weight"
    expected = 0.7 * pair[0].tensors[name] + 0.3 * pair[1].tensors[name]
    assert torch.allclose(mixed.tensors[name], expected, atol=1e-6)


def test_an_adapter_and_a_tokenizer_are_made_where_a_step_names_them(pair: tuple[Snapshot, Snapshot]) -> None:
    adapted = operate(pair[0], step={"lora.merge": {"adapter": "ADAPTER"}}, seed=3)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.linalg.matrix_rank(adapted.tensors[name] - pair[0].tensors[name], rtol=1e-4) == 4
    other = train_tokenizer(TEXT, 280)
    step = {"vocab.swap": {"tokenizer": "TOKENIZER", "init": "subtoken"}}
    swapped = operate(pair[0], step=step, seed=3, tokenizer=other)
    assert json.loads(swapped.tokenizer)["model"]["vocab"] == json.loads(other)["model"]["vocab"]
    assert swapped.tensors["model.embed_tokens.weight"].shape[0] >= 280 - 20


@pytest.mark.parametrize(
    ("parameters", "order"),
    [
        ({"op": "identity", "after": [0, 2]}, [0, 0, 1, 2, 2, 3]),
        ({"op": "stack", "times": 2}, [0, 1, 2, 3, 0, 1, 2, 3]),
        ({"op": "interpose", "times": 2}, [0, 0, 1, 1, 2, 2, 3, 3]),
        ({"op": "solar", "cut": 1}, [0, 1, 2, 1, 2, 3]),
        ({"op": "order", "order": [3, 0]}, [3, 0]),
    ],
)
def test_the_lineage_of_depth_follows_from_its_parameters(parameters: dict[str, object], order: list[int]) -> None:
    assert depth_order(4, parameters) == order
    lineage = operated_lineage(Lineage.of_root("r", "s", 4), step={"grow.depth": parameters})
    assert [block.attn for block in lineage.blocks] == [frozenset({("r", i)}) for i in order]


def test_one_unit_of_a_hundred_survives_in_its_place(pair: tuple[Snapshot, Snapshot]) -> None:
    child = surviving_units(pair[0], share=0.1, seed=4)
    n_equal = 0
    for name in ("gate", "up"):
        key = f"model.layers.1.mlp.{name}_proj.weight"
        same = (child.tensors[key] == pair[0].tensors[key]).all(dim=1)
        n_equal = int(same.sum())
        assert n_equal == round(0.1 * len(same))
    key = "model.layers.1.mlp.down_proj.weight"
    assert int((child.tensors[key] == pair[0].tensors[key]).all(dim=0).sum()) == n_equal
    for key in ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"):
        assert not torch.equal(child.tensors[key], pair[0].tensors[key])


def test_fresh_tables_leave_the_body_as_it_was(pair: tuple[Snapshot, Snapshot]) -> None:
    child = fresh_tables(pair[0], seed=4)
    changed = {name for name, tensor in child.tensors.items() if not torch.equal(tensor, pair[0].tensors[name])}
    assert changed == {"model.embed_tokens.weight", "lm_head.weight"}
