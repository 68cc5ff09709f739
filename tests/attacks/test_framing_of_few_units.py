"""Attempts to make few units of an innocent model resemble a victim's: those that are read, those of one layer, some.

A rotation of the residual stream has d^2 / 2 numbers. Spent on all units of all layers it buys little; spent on the few
that a comparison looks at it buys cosines of 0.3 to 0.5. Everything done here leaves the function as it is. Models are
drawn at random: nothing but the framer joins them.

Shapes: N = units of a layer, D = residual width, K = units that are framed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pedigree.forensics import compare as comparing
from pedigree.forensics.compare import measure_pair
from pedigree.forensics.comparison.verdict import judge
from pedigree.forensics.sides.sampling import Sample, runs

Tensors = dict[str, Tensor]
MLP = "model.layers.{}.mlp.{}_proj.weight"
PARTS = ("gate", "up", "down")
WORDS = 400


def drawn(seed: int, width: int, layers: int, units: int) -> Tensors:
    """A Llama-like model with gains of one, drawn at random."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    out = {"model.embed_tokens.weight": random(WORDS, width), "lm_head.weight": random(WORDS, width)}
    out["model.norm.weight"] = torch.ones(width)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name in "qkvo":
            out[f"{prefix}self_attn.{name}_proj.weight"] = random(width, width)
        for name, shape in (("gate", (units, width)), ("up", (units, width)), ("down", (width, units))):
            out[MLP.format(layer, name)] = random(*shape)
        out |= {f"{prefix}{norm}_layernorm.weight": torch.ones(width) for norm in ("input", "post_attention")}
    return out


def write(folder: Path, tensors: Tensors) -> Path:
    width = tensors["model.norm.weight"].shape[0]
    layers = sum(name.endswith("gate_proj.weight") for name in tensors)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
        "intermediate_size": tensors[MLP.format(0, "up")].shape[0], "num_hidden_layers": layers,
        "num_attention_heads": width // 16, "num_key_value_heads": width // 16, "vocab_size": WORDS,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    }  # fmt: skip
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rows(tensors: Tensors, layer: int, name: str) -> Tensor:
    matrix = tensors[MLP.format(layer, name)]
    rows_ND = matrix.T if name == "down" else matrix
    return rows_ND / rows_ND.norm(dim=1, keepdim=True)


def framed(victim: Tensors, innocent: Tensors, layers: list[int], places_K: Tensor) -> Tensors:
    """The innocent model with the frame, order and signs that lay its units over the victim's at the given places."""
    width = victim["model.norm.weight"].shape[0]
    turn_DD = torch.eye(width)
    chosen: dict[int, tuple[Tensor, Tensor]] = {}
    for _ in range(8):
        moment_DD = torch.zeros(width, width)
        for layer in layers:
            a = {name: rows(victim, layer, name)[places_K] for name in PARTS}
            b = {name: rows(innocent, layer, name) for name in PARTS}
            cosines = {name: a[name] @ (b[name] @ turn_DD).T for name in PARTS}
            rest_KN = cosines["up"] + cosines["down"]
            order_K = torch.as_tensor(linear_sum_assignment(-(cosines["gate"] + rest_KN.abs()).numpy())[1])
            sign_K = torch.where(rest_KN[torch.arange(len(order_K)), order_K] < 0, -1.0, 1.0)
            chosen[layer] = order_K, sign_K
            for name in PARTS:
                moment_DD += (b[name][order_K] * (1.0 if name == "gate" else sign_K[:, None])).T @ a[name]
        u, _, vt = torch.linalg.svd(moment_DD)
        turn_DD = u @ vt
    out = {name: _turned(name, tensor, turn_DD) for name, tensor in innocent.items()}
    for layer, (order_K, sign_K) in chosen.items():
        for name in PARTS:
            axis = 1 if name == "down" else 0
            place_N = _places(out[MLP.format(layer, name)].shape[axis], places_K, order_K)
            moved = out[MLP.format(layer, name)].index_select(axis, place_N)
            if name != "gate":
                signs_N = torch.ones(moved.shape[axis]).index_copy(0, places_K, sign_K)
                moved = moved * (signs_N if axis == 1 else signs_N[:, None])
            out[MLP.format(layer, name)] = moved
    return out


def _turned(name: str, tensor: Tensor, turn_DD: Tensor) -> Tensor:
    if tensor.ndim == 1:
        return tensor
    return turn_DD.T @ tensor if name.endswith(("o_proj.weight", "down_proj.weight")) else tensor @ turn_DD


def _places(total: int, places_K: Tensor, order_K: Tensor) -> Tensor:
    """Which unit stands where: the chosen ones at the given places, the others in order around them."""
    taken = set(order_K.tolist())
    place_N = torch.empty(total, dtype=torch.long)
    free_N = torch.ones(total, dtype=torch.bool)
    free_N[places_K] = False
    place_N[places_K] = order_K
    place_N[free_N] = torch.tensor([u for u in range(total) if u not in taken], dtype=torch.long)
    return place_N


Framer = Callable[[Tensors, Tensors], Tensors]


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Read so many units of each layer, as of a large model."""

    def read(units: int) -> None:
        few = Sample(units, 2, True, False, 2048)
        monkeypatch.setattr(comparing, "choose_sample", lambda depth, size: few)

    return read


def test_units_that_are_read_chosen_and_turned_to_suit_the_victim(
    sampled: Callable[[int], None], tmp_path: Path
) -> None:
    victim, innocent = drawn(0, 96, 3, 256), drawn(1, 96, 3, 256)
    frame = framed(victim, innocent, [0, 1, 2], runs(256, 32, 64))
    sampled(32)
    for a, b in ((victim, frame), (frame, victim)):
        folders = (
            write(tmp_path / f"a{len(list(tmp_path.iterdir()))}", a),
            write(tmp_path / f"b{len(list(tmp_path.iterdir()))}", b),
        )
        left, right, found, judgment = measure_pair(*folders)
        assert judgment.verdict == "inconclusive"
        # The frame was worth its while: without the test that needs none, the answer would be another one.
        assert found.evidence.best_z() > 8.0
        found.exact.pop("units-read")
        assert judge(left, right, found).verdict in ("related", "partly-related", "shared-initialization")


def test_units_of_one_layer_chosen_and_turned_to_suit_the_victim(tmp_path: Path) -> None:
    victim, innocent = drawn(0, 192, 2, 448), drawn(1, 192, 2, 448)
    frame = framed(victim, innocent, [0], torch.arange(448))
    left, right, found, judgment = measure_pair(write(tmp_path / "a", victim), write(tmp_path / "b", frame))
    assert judgment.verdict == "inconclusive"
    assert found.evidence.best_z() > 20.0
    found.exact.pop("units-read")
    assert judge(left, right, found).verdict in ("partly-related", "shared-initialization")


ATTENTION = "model.layers.{}.self_attn.{}_proj.weight"


def attention_framed(victim: Tensors, innocent: Tensors, layers: list[int], names: str) -> Tensors:
    """The innocent model with the rotation that lays attention of some layers over the victim's."""
    width = victim["model.norm.weight"].shape[0]
    moment_DD = torch.zeros(width, width)
    for layer in layers:
        for name in names:
            a, b = (tensors[ATTENTION.format(layer, name)] for tensors in (victim, innocent))
            a, b = (a.T, b.T) if name == "o" else (a, b)
            moment_DD += (b / b.norm(dim=1, keepdim=True)).T @ (a / a.norm(dim=1, keepdim=True))
    u, _, vt = torch.linalg.svd(moment_DD)
    return {name: _turned(name, tensor, u @ vt) for name, tensor in innocent.items()}


@pytest.mark.parametrize(("layers", "names"), [([0], "qkvo"), ([1], "qk"), ([0, 1], "qkvo")])
def test_the_rotation_spent_on_the_attention_of_one_layer_of_a_wide_model(
    layers: list[int], names: str, tmp_path: Path
) -> None:
    victim, innocent = drawn(0, 192, 2, 448), drawn(1, 192, 2, 448)
    frame = attention_framed(victim, innocent, layers, names)
    left, right, found, judgment = measure_pair(write(tmp_path / "a", victim), write(tmp_path / "b", frame))
    assert judgment.verdict == "inconclusive"
    assert "vocabulary rows" in judgment.reasons[0]
    # The frame was worth its while: without the question whether it carries over, the answer would be another one.
    assert found.evidence.best_z() > 15.0
    found.framed = False
    assert judge(left, right, found).verdict in ("related", "partly-related", "shared-initialization")


def with_trained_attention(model: Tensors, seed: int) -> Tensors:
    """Attention with a few strong directions, as training leaves it: numbers only drawn may be those of one seed."""
    generator = torch.Generator().manual_seed(seed)
    out = dict(model)
    for name, t in model.items():
        if "self_attn" in name:
            strong = torch.randn(len(t), 3, generator=generator) @ torch.randn(3, t.shape[1], generator=generator)
            out[name] = t + 0.5 * t.std() * strong
    return out


def test_attention_that_was_really_kept_is_still_told(tmp_path: Path) -> None:
    """A body drawn anew around the victim's attention: no frame buys that much of it."""
    victim, fresh = with_trained_attention(drawn(0, 192, 2, 448), 5), drawn(2, 192, 2, 448)
    kept = {
        name: victim[name] if "self_attn" in name or "embed" in name or "lm_head" in name else t
        for name, t in fresh.items()
    }
    *_, found, judgment = measure_pair(write(tmp_path / "a", victim), write(tmp_path / "b", kept))
    assert not found.framed
    assert judgment.verdict == "partly-related"


@pytest.mark.parametrize("kept", [6, 20])
def test_some_units_chosen_and_turned_to_suit_the_victim(kept: int, tmp_path: Path) -> None:
    victim, innocent = drawn(0, 64, 3, 192), drawn(1, 64, 3, 192)
    frame = framed(victim, innocent, [0, 1, 2], torch.arange(40, 40 + kept))
    _, _, found, judgment = measure_pair(write(tmp_path / "a", victim), write(tmp_path / "b", frame))
    assert judgment.verdict in ("unrelated", "inconclusive")
    assert not found.keeps_units


def test_a_child_of_which_few_units_are_read_is_still_a_child(sampled: Callable[[int], None], tmp_path: Path) -> None:
    victim, generator = drawn(0, 96, 3, 256), torch.Generator().manual_seed(5)
    for name, tensor in victim.items():
        if tensor.ndim == 2 and "layers" in name:  # of a parent that learned nothing nothing could be inherited
            rows, columns = tensor.shape
            learned = torch.randn(rows, 4, generator=generator) @ torch.randn(4, columns, generator=generator)
            victim[name] = tensor + 0.02 * learned
    noise = drawn(2, 96, 3, 256)
    child = {name: tensor if tensor.ndim == 1 else 0.9 * tensor + 0.3 * noise[name] for name, tensor in victim.items()}
    sampled(32)
    *_, judgment = measure_pair(write(tmp_path / "a", victim), write(tmp_path / "b", child))
    assert judgment.verdict == "related"
