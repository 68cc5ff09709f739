"""Experts left out and experts made one: exact where they are copies, refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.surgery.test_experts import VOCABULARY, dense_model, difference, operated

from pedigree.errors import PedigreeError
from pedigree.model.decoder import Decoder
from pedigree.model.members import member
from pedigree.surgery.expert_use import expert_use
from pedigree.surgery.influence import tokens_of
from pedigree.weights.checkpoint import open_checkpoint

BOUND = 2e-5
SLOW_FINE = [HealthCheck.function_scoped_fixture]


def mixture(name: str, seed: int = 1, **experts: object) -> Decoder:
    config = member(f"{name}-pico").replace(vocab_size=VOCABULARY, n_layers=2)
    assert config.experts is not None
    model = Decoder(config.replace(experts=config.experts.replace(**experts)), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def doubled(model: Decoder, seed: int) -> Decoder:
    """Every expert twice, one beside the other, the second with its units in another order; k doubled too."""
    e = model.config.experts
    assert e is not None
    wider = model.config.replace(experts=e.replace(n_experts=2 * e.n_experts, top_k=2 * e.top_k))
    made = Decoder(wider, seed=0)
    state = {}
    for name, tensor in model.state_dict().items():
        state[name] = tensor
        if name.endswith("router.weight"):
            state[name] = tensor.repeat_interleave(2, 0)
        elif ".experts." in name:
            copies = tensor.repeat_interleave(2, 0)
            for expert in range(e.n_experts):
                order = torch.randperm(e.d_expert, generator=torch.Generator().manual_seed(seed + expert))
                if name.endswith("down"):
                    copies[2 * expert + 1] = tensor[expert][:, order]
                else:
                    halves = tensor[expert].unflatten(0, (2, e.d_expert))
                    copies[2 * expert + 1] = halves[:, order].flatten(0, 1)
            state[name] = copies
    made.load_state_dict(state)
    return made.eval()


@settings(max_examples=4, deadline=None, suppress_health_check=SLOW_FINE, database=None)
@given(seed=st.integers(0, 99), experts=st.integers(2, 5), chosen=st.integers(1, 2))
def test_copies_in_another_order_of_units_become_one_again(
    tmp_path: Path, seed: int, experts: int, chosen: int
) -> None:
    model = mixture("mixtral-8x7b", seed, n_experts=experts, top_k=chosen)
    twice = doubled(model, seed)
    assert difference(model, twice) < BOUND
    made, word = operated(tmp_path, twice, f"  - moe.merge: {{to: {experts}, top_k: {chosen}}}", nfp=True)
    assert word == "NFP"
    assert made.config.experts == model.config.experts
    assert difference(model, made) < BOUND
    unaligned, _ = operated(
        tmp_path, twice, f"  - moe.merge: {{to: {experts}, top_k: {chosen}, align: false}}", nfp=True
    )
    assert difference(model, unaligned) > 100 * BOUND


@pytest.mark.parametrize("step", ["moe.prune: {to: 2}", "moe.prune: {to: 2, keep: [1, 3]}", "moe.merge: {to: 2}",
                                  "moe.merge: {to: 2, groups: [[3, 0], [1, 2]]}"])  # fmt: skip
@pytest.mark.parametrize("router", ["softmax", "random"])
def test_of_equal_experts_any_may_go(tmp_path: Path, step: str, router: str) -> None:
    name = "pangu-alpha-13b" if router == "random" else "llama-3-8b"
    model = dense_model(name, n_positions=32)
    steps = f"  - moe.upcycle: {{experts: 4, router: {router}}}\n  - {step}"
    made, _ = operated(tmp_path, model, steps, nfp=True)
    assert made.config.experts is not None
    assert made.config.experts.n_experts == 2
    assert difference(model, made) < BOUND


def test_named_experts_stay_bit_for_bit_with_their_rows(tmp_path: Path) -> None:
    model = mixture("mixtral-8x7b", n_experts=5)
    made, _ = operated(tmp_path, model, "  - moe.prune: {to: 3, keep: [4, 0, 2], by_layer: {1: [1, 2, 3]}}", nfp=True)
    for layer, kept in enumerate(([0, 2, 4], [1, 2, 3])):
        before, after = model.layers[layer].ffn, made.layers[layer].ffn
        assert torch.equal(after.router.weight, before.router.weight[kept])
        assert torch.equal(after.experts.enter, before.experts.enter[kept])
        assert torch.equal(after.experts.down, before.experts.down[kept])


def test_small_experts_and_small_rows_go_first(tmp_path: Path) -> None:
    model = mixture("mixtral-8x7b", n_experts=4)
    with torch.no_grad():
        for layer in model.layers:
            layer.ffn.experts.down[1] *= 0.1
            layer.ffn.router.weight[2] *= 0.1
    for by, gone in (("size", 1), ("router", 2)):
        made, _ = operated(tmp_path, model, f"  - moe.prune: {{to: 3, by: {by}}}", nfp=True)
        kept = [n for n in range(4) if n != gone]
        assert torch.equal(made.layers[0].ffn.router.weight, model.layers[0].ffn.router.weight[kept])
        assert torch.equal(made.layers[1].ffn.experts.down, model.layers[1].ffn.experts.down[kept])


def test_every_group_of_a_grouped_router_loses_as_many(tmp_path: Path) -> None:
    model = dense_model("qwen2.5-14b")
    inner = model.config.feed_forward.d_inner
    upcycle = f"  - moe.upcycle: {{experts: 16, op: grouped, groups: 4, shared: {inner - 64}}}\n"
    made, _ = operated(tmp_path, model, upcycle + "  - moe.prune: {to: 8}", nfp=True)
    assert made.config.experts is not None
    assert (made.config.experts.n_experts, made.config.experts.n_groups) == (8, 4)
    assert torch.equal(made.layers[0].ffn.router.scale, torch.full((8,), 16.0))
    with pytest.raises(PedigreeError, match="groups of the router"):
        operated(tmp_path, model, upcycle + "  - moe.prune: {to: 6}", nfp=True)
    with pytest.raises(PedigreeError, match="equally many of each"):
        operated(tmp_path, model, upcycle + "  - moe.prune: {to: 4, keep: [0, 1, 2, 3]}", nfp=True)
    groups = [[n, n + 8] for n in range(8)]
    with pytest.raises(PedigreeError, match="different groups"):
        operated(tmp_path, model, upcycle + f"  - moe.merge: {{to: 8, groups: {groups}}}", nfp=True)


def _with_text(folder: Path) -> None:
    """A tokenizer of letters beside the model, and a text."""
    vocabulary = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz Ġ")}
    text = {"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (folder / "a").mkdir(exist_ok=True)
    (folder / "a" / "tokenizer.json").write_text(json.dumps(text))
    (folder / "probe.txt").write_text("the quick brown fox jumps over the lazy dog " * 6)


def test_use_is_that_of_the_router_and_the_unused_go_first(tmp_path: Path) -> None:
    model = mixture("mixtral-8x7b", n_experts=4, top_k=1)
    with torch.no_grad():
        for layer in model.layers:
            layer.ffn.router.weight.zero_()
            layer.ffn.router.weight[1] = 1e-3  # wherever the stream sums to more than 0; expert 0 wins ties
            layer.ffn.router.weight[3] = -1e-3
    _with_text(tmp_path)
    made, _ = operated(tmp_path, model, "  - moe.prune: {to: 2, text: probe.txt, tokens: 200}", nfp=True)
    with open_checkpoint(str(tmp_path / "a")) as checkpoint:
        use = expert_use(checkpoint, tokens_of(checkpoint, tmp_path / "probe.txt", 200))
    assert set(use) == {0, 1}
    for layer, found in use.items():
        assert float(found.load.sum()) == pytest.approx(1.0)
        assert float(found.load[0] + found.load[2]) == 0.0
        assert torch.equal(made.layers[layer].ffn.router.weight, model.layers[layer].ffn.router.weight[[1, 3]])
    assert difference(model, made) < BOUND  # nobody chose the others


def test_centers_are_the_most_used_and_others_join_those_that_are_routed_alike(tmp_path: Path) -> None:
    model = mixture("mixtral-8x7b", n_experts=4, top_k=1)
    with torch.no_grad():
        for layer in model.layers:
            row = 0.1 * torch.randn(model.config.d_model, generator=torch.Generator().manual_seed(3))
            layer.ffn.router.weight.copy_(torch.stack([0.5 * row, row, -row, -0.5 * row]))
    _with_text(tmp_path)
    made, _ = operated(tmp_path, model, "  - moe.merge: {to: 2, text: probe.txt, tokens: 200, align: false}", nfp=True)
    router = made.layers[0].ffn.router.weight
    assert torch.allclose(router, model.layers[0].ffn.router.weight[[1, 2]])  # the others have no load, hence no share
    assert difference(model, made) < BOUND


def test_most_used_experts_become_the_dense_network(tmp_path: Path) -> None:
    model = mixture("mixtral-8x7b", n_experts=4, top_k=1)
    with torch.no_grad():
        for layer in model.layers:
            layer.ffn.router.weight.zero_()
            layer.ffn.router.weight[2] = 1e-3
            layer.ffn.router.weight[2, ::2] = 1.0
    _with_text(tmp_path)
    made, _ = operated(tmp_path, model, "  - moe.densify: {op: keep, text: probe.txt, tokens: 200}", nfp=True)
    with open_checkpoint(str(tmp_path / "a")) as checkpoint:
        use = expert_use(checkpoint, tokens_of(checkpoint, tmp_path / "probe.txt", 200))
    for layer, found in use.items():
        most = int(found.load.argmax())
        assert torch.equal(made.layers[layer].ffn.down.weight, model.layers[layer].ffn.experts.down[most])


@pytest.mark.parametrize("op", ["average", "select, width: 40", "keep"])
def test_a_refit_brings_the_output_nearer_to_that_of_the_experts(tmp_path: Path, op: str) -> None:
    model = mixture("mixtral-8x7b", n_experts=4, top_k=2)
    _with_text(tmp_path)
    steps = f"  - moe.densify: {{op: {op}, text: probe.txt, tokens: 250}}"
    plain, _ = operated(tmp_path, model, steps, nfp=True)
    fitted, _ = operated(tmp_path, model, steps.replace("}", ", refit: true, strength: 1.0e-3}"), nfp=True)
    with open_checkpoint(str(tmp_path / "a")) as checkpoint:
        tokens = tokens_of(checkpoint, tmp_path / "probe.txt", 250)
        use = expert_use(checkpoint, tokens, states=True)
    for layer, found in use.items():
        assert found.x_Nd is not None
        assert found.y_Nd is not None
        with torch.no_grad():
            gaps = [float((one.layers[layer].ffn(found.x_Nd) - found.y_Nd).norm()) for one in (plain, fitted)]
        assert gaps[1] < 0.7 * gaps[0]


def test_a_refit_leaves_what_is_right_already(tmp_path: Path) -> None:
    model = dense_model("pangu-alpha-13b", n_positions=32)
    made, _ = operated(tmp_path, model, "  - moe.upcycle: {experts: 3, first_dense: 1}")
    _with_text(tmp_path)
    step = "  - moe.densify: {op: average, text: probe.txt, tokens: 100, refit: true}"
    back, _ = operated(tmp_path, made, step, nfp=True)
    assert difference(model, back) < 5 * BOUND  # the mean of the states is taken in float32


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("moe.densify: {op: keep, refit: true}", "needs a text"),
        ("moe.prune: {to: 1}", "fewer experts would be left"),
        ("moe.prune: {to: 9}", "not fewer"),
        ("moe.prune: {to: 2, keep: [1, 7]}", "cannot stay"),
        ("moe.prune: {to: 2, by: reap}", "measured on a text"),
        ("moe.prune: {to: 2, keep: [0, 1], by: size}", "either keep names"),
        ("moe.merge: {to: 3}", "neighbors do not become"),
        ("moe.merge: {to: 2, groups: [[0, 1], [2, 2]]}", "every expert once"),
        ("moe.densify: {op: select, width: 9999}", "not that many units"),
        ("moe.densify: {op: keep, width: 8}", "only select"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, step: str, words: str) -> None:
    with pytest.raises(PedigreeError, match=words):
        operated(tmp_path, mixture("mixtral-8x7b", n_experts=4, top_k=2), f"  - {step}", nfp=True)
    assert not (tmp_path / "b").exists()


def test_a_dense_model_has_no_experts_to_lose(tmp_path: Path) -> None:
    with pytest.raises(PedigreeError, match="has no experts"):
        operated(tmp_path, dense_model("llama-3-8b"), "  - moe.prune: {to: 2}", nfp=True)
