"""The operators of the zoo keep what they say they keep, on models where a mistake would show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark.zoo_specimens import SIZES, TEXT, specimen

from pedigree.benchmark.zoo.catalog import OPERATORS
from pedigree.benchmark.zoo.corpus import train_tokenizer
from pedigree.benchmark.zoo.derive_depth import inserted_order
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.benchmark.zoo.workshop import check_function
from pedigree.errors import InternalError, UsageError

pytest.importorskip("transformers")

EXACT: list[tuple[str, str, dict[str, Any]]] = [
    *[
        ("llama", name, {})
        for name in ("permute", "rotate", "disguise", "permute-units", "permute-heads", "permute-residual", "fuse")
    ],
    ("llama", "rescale-attention", {}),
    ("llama", "insert-layers", {"after": [0, 2]}),
    ("llama", "widen-inner-zeros", {"n_inner": 64}),
    ("llama", "widen-inner-copies", {"n_inner": 64}),
    ("llama", "widen-residual", {"d_model": 40}),
    ("llama", "add-biases", {}),
    ("llama", "upcycle", {"n_experts": 4, "top_k": 2}),
    ("llama", "reshard", {"n_shards": 3}),
    ("qwen2", "permute", {}),
    ("qwen3", "permute", {}),
    ("gemma2", "permute", {}),
    ("gemma2", "insert-layers", {"after": [1]}),
    ("olmo2", "permute-residual", {}),
    ("olmo2", "permute-units", {}),
    ("olmo2", "insert-layers", {"after": [1]}),
    ("mixtral", "permute-residual", {}),
    ("mixtral", "permute-experts", {}),
    ("mixtral", "insert-layers", {"after": [1]}),
    ("deepseek_v3", "permute-residual", {}),
    ("deepseek_v3", "permute-experts", {}),
    ("deepseek_v3", "insert-layers", {"after": [1]}),
    *[
        (architecture, name, {})
        for architecture in ("gpt2", "gpt_neox", "opt", "bert")
        for name in ("permute-channels", "permute-full-heads", "permute-units")
    ],
    *[(architecture, "insert-layers", {"after": [1]}) for architecture in ("gpt2", "gpt_neox", "opt")],
    ("opt", "rebase-heads", {}),
    ("bert", "rebase-heads", {}),
]


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("specimens")


def of(specimens: Path, architecture: str) -> Snapshot:
    directory = specimens / architecture
    return Snapshot.load(directory) if directory.exists() else specimen(architecture, directory)


def seed_for(name: str) -> dict[str, int]:
    return {"seed": 3} if OPERATORS[name].seeded else {}


@pytest.mark.parametrize(("architecture", "name", "arguments"), EXACT, ids=lambda value: str(value).replace(" ", ""))
def test_an_exact_operator_keeps_the_function(
    architecture: str, name: str, arguments: dict[str, Any], specimens: Path, tmp_path: Path
) -> None:
    parent = of(specimens, architecture)
    child = OPERATORS[name].apply(parent, **seed_for(name), **arguments)
    child.save(tmp_path / "child")
    assert OPERATORS[name].exact
    check_function(specimens / architecture, tmp_path / "child", tolerance=5e-4)


@pytest.mark.parametrize("name", ["permute", "rotate", "disguise"])
def test_a_disguise_changes_every_matrix(name: str, specimens: Path) -> None:
    parent = of(specimens, "llama")
    child = OPERATORS[name].apply(parent, seed=3)
    for tensor_name, tensor in parent.tensors.items():
        if tensor.ndim == 2:
            assert not torch.isclose(child.tensors[tensor_name], tensor).float().mean() > 0.5


def test_an_operator_leaves_its_argument_alone(specimens: Path) -> None:
    parent = of(specimens, "llama")
    before = {name: tensor.clone() for name, tensor in parent.tensors.items()}
    OPERATORS["disguise"].apply(parent, seed=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in parent.tensors.items())


def test_the_same_seed_gives_the_same_disguise(specimens: Path) -> None:
    parent = of(specimens, "llama")
    one, two, other = (OPERATORS["disguise"].apply(parent, seed=seed).tensors for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_the_check_notices_a_small_change(specimens: Path, tmp_path: Path) -> None:
    parent = of(specimens, "llama")
    OPERATORS["noise"].apply(parent, sigma=0.01, seed=1).save(tmp_path / "child")
    with pytest.raises(InternalError, match="claims to keep the function"):
        check_function(specimens / "llama", tmp_path / "child")


def test_forgetting_to_scale_the_gains_when_widening_would_be_noticed(specimens: Path, tmp_path: Path) -> None:
    parent = of(specimens, "llama")
    child = OPERATORS["widen-residual"].apply(parent, d_model=40, seed=1)
    wrong = child.changed({n: t * (40 / 32) ** 0.5 for n, t in child.tensors.items() if t.ndim == 1})
    wrong.save(tmp_path / "child")
    with pytest.raises(InternalError, match="logits differ"):
        check_function(specimens / "llama", tmp_path / "child")


def test_inserted_order_puts_a_silent_copy_behind_its_original() -> None:
    assert inserted_order(4, [1, 3]) == ([0, 1, 1, 2, 3, 3], [2, 5])


def test_arranging_refuses_a_block_that_does_not_exist(specimens: Path) -> None:
    with pytest.raises(UsageError, match="no such block"):
        OPERATORS["arrange-layers"].apply(of(specimens, "llama"), order=[0, 7])


def test_a_post_norm_model_has_no_silent_blocks(specimens: Path) -> None:
    with pytest.raises(UsageError, match="post-norm"):
        OPERATORS["insert-layers"].apply(of(specimens, "bert"), after=[1])


def test_a_swapped_tokenizer_keeps_the_rows_of_shared_tokens(specimens: Path) -> None:
    import json

    parent = of(specimens, "llama")
    tokenizer = train_tokenizer(TEXT.replace("three", "sieben acht"), 300)
    child = OPERATORS["swap-tokenizer"].apply(parent, tokenizer=tokenizer, seed=0)
    old, new = (json.loads(s.tokenizer)["model"]["vocab"] for s in (parent, child))
    shared = [token for token in new if token in old]
    name = "model.embed_tokens.weight"
    assert len(shared) > 200
    assert child.config["vocab_size"] == child.tensors[name].shape[0] == len(new)
    for token in shared:
        assert torch.equal(child.tensors[name][new[token]], parent.tensors[name][old[token]])


def test_renumbering_tokens_moves_rows_with_them(specimens: Path) -> None:
    import json

    parent = of(specimens, "llama")
    child = OPERATORS["shuffle-vocabulary"].apply(parent, seed=5)
    old, new = (json.loads(s.tokenizer)["model"]["vocab"] for s in (parent, child))
    assert set(old) == set(new)
    moved = [token for token in old if old[token] != new[token]]
    assert len(moved) > 200
    for token in moved:
        assert torch.equal(
            child.tensors["lm_head.weight"][new[token]],
            parent.tensors["lm_head.weight"][old[token]],
        )


def test_pruning_by_norm_keeps_the_strongest_units(specimens: Path) -> None:
    parent = of(specimens, "llama")
    child = OPERATORS["prune-inner"].apply(parent, n_inner=32)
    gate = parent.tensors["model.layers.0.mlp.gate_proj.weight"]
    kept = child.tensors["model.layers.0.mlp.gate_proj.weight"]
    assert kept.shape == (32, SIZES.d_model)
    assert all((gate == row).all(dim=1).any() for row in kept)


def test_a_merge_of_a_model_with_itself_is_the_model(specimens: Path) -> None:
    parent = of(specimens, "llama")
    child = OPERATORS["merge"].apply(parent, parent, share=0.3, seed=0)
    assert all(torch.equal(child.tensors[name], tensor) for name, tensor in parent.tensors.items())


def test_a_merge_of_different_shapes_is_refused(specimens: Path) -> None:
    with pytest.raises(UsageError, match="same shape"):
        OPERATORS["merge"].apply(of(specimens, "llama"), of(specimens, "gpt2"), share=0.5)


@pytest.mark.parametrize(("branch", "kept"), [("attn", "mlp."), ("mlp", "self_attn."), ("body", "embed_tokens")])
def test_drawing_a_branch_afresh_leaves_the_others(branch: str, kept: str, specimens: Path) -> None:
    parent = of(specimens, "llama")
    child = OPERATORS["reinitialize"].apply(parent, branch=branch, seed=2)
    same = {name for name, tensor in parent.tensors.items() if torch.equal(child.tensors[name], tensor)}
    assert same
    assert all(name in same for name in parent.tensors if kept in name)
    assert len(same) < len(parent.tensors)


def test_quantizing_moves_no_weight_by_more_than_half_a_step(specimens: Path) -> None:
    parent = of(specimens, "llama")
    child = OPERATORS["quantize-int8"].apply(parent)
    for name, tensor in parent.tensors.items():
        if tensor.ndim == 2:
            step = tensor.abs().amax(1, keepdim=True) / 127
            assert ((child.tensors[name] - tensor).abs() <= 0.5001 * step).all()


def test_a_snapshot_reads_back_what_it_wrote_in_any_number_of_shards(specimens: Path, tmp_path: Path) -> None:
    parent = of(specimens, "llama")
    for n_shards in (1, 4):
        OPERATORS["reshard"].apply(parent, n_shards=n_shards).save(tmp_path / str(n_shards))
        back = Snapshot.load(tmp_path / str(n_shards))
        assert back.n_shards == n_shards
        assert back.config == parent.config
        assert back.tensors.keys() == parent.tensors.keys()
        assert all(torch.equal(back.tensors[name], tensor) for name, tensor in parent.tensors.items())


def test_every_operator_states_its_law() -> None:
    assert all(len(operator.law) > 20 for operator in OPERATORS.values())
