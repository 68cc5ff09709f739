"""Attempts to make an innocent model look descended from a victim. Each test is named after what the framer does.

Victim and stranger are two seeds of one recipe, with the same text in the same order, one tokenizer and one config:
everything that is not ancestry is already shared.

Shapes: N = units, D = residual width, V = vocabulary.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from mini_zoo import Compare, Write
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pedigree.benchmark.zoo import Zoo
from pedigree.benchmark.zoo.derive_gauge import fold_gains
from pedigree.benchmark.zoo.layout import residual_axis
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.benchmark.zoo.workshop import check_function
from pedigree.records.comparison import Comparison

LAYERS = range(4)
ATTENTION, MLP = "model.layers.{}.self_attn.{}_proj.weight", "model.layers.{}.mlp.{}_proj.weight"
NORMS = {"input_layernorm": ATTENTION, "post_attention_layernorm": MLP}
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def both_ways(compared: Compare, framed: Path) -> Iterable[Comparison]:
    return compared("base0", framed), compared(framed, "base0")


def is_innocent(compared: Compare, framed: Path) -> None:
    """No word of kinship, no layer map, no component, no direction."""
    result = compared("base0", framed).result
    assert result.verdict == "unrelated"
    assert all(i is None for i in result.layer_map)
    assert {c.verdict for c in result.components.values()} <= {"unrelated", "not-testable"}
    assert result.direction.verdict == "undetermined"


def is_not_framed(compared: Compare, framed: Path) -> None:
    """Whatever is said, no kinship is: what stands in place by choice may at most leave the question open."""
    for comparison in both_ways(compared, framed):
        assert comparison.result.verdict in ("unrelated", "inconclusive")
        assert comparison.result.direction.verdict == "undetermined"


def same_function(zoo: Zoo, framed: Path) -> None:
    """The framed model still computes what the stranger computes."""
    check_function(zoo.models["base1"], framed, tolerance=1e-4)


def test_the_victims_config_and_tokenizer_beside_a_strangers_weights(
    zoo: Zoo, compared: Compare, tmp_path: Path
) -> None:
    framed = tmp_path / "framed"
    shutil.copytree(zoo.models["base1"], framed)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(zoo.models["base0"] / name, framed / name)
    config = json.loads((framed / "config.json").read_text())
    config |= {"_name_or_path": str(zoo.models["base0"]), "base_model": "base0"}
    (framed / "config.json").write_text(json.dumps(config))
    is_innocent(compared, framed)
    plain = compared("base0", "base1")
    assert compared("base0", framed).evidence_map == plain.evidence_map


def test_a_child_whose_config_and_tokenizer_were_thrown_away_is_still_a_child(
    zoo: Zoo, compared: Compare, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(zoo.models["continued"] / "model.safetensors", bare)
    for comparison in both_ways(compared, bare):
        assert comparison.result.verdict == "related"
        assert comparison.result.layer_map == [0, 1, 2, 3]


def test_the_victims_norm_gains_in_a_stranger(
    victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    gains = {name: tensor for name, tensor in victim.tensors.items() if "norm" in name}
    is_innocent(compared, write(stranger.changed(gains)))


def test_the_victims_norm_gains_in_a_stranger_whose_readers_take_the_difference(
    zoo: Zoo, victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    """Gains may be moved into the matrices behind them, so they can be chosen at will without any loss."""
    moved: dict[str, Tensor] = {}
    for layer in LAYERS:
        for norm, pattern in NORMS.items():
            name = f"model.layers.{layer}.{norm}.weight"
            ratio_D = stranger.tensors[name] / victim.tensors[name]
            moved[name] = victim.tensors[name]
            for reader in ("q", "k", "v") if pattern is ATTENTION else ("gate", "up"):
                matrix = pattern.format(layer, reader)
                moved[matrix] = stranger.tensors[matrix] * ratio_D
    framed = write(stranger.changed(moved))
    same_function(zoo, framed)
    is_innocent(compared, framed)


def test_standard_deviations_of_all_layers_forged_to_the_victims(
    zoo: Zoo, victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    """Free scalars of a layer (gain, query against key, value against output, up against down) set the curves."""

    def ratio(layer: int, pattern: str, name: str) -> float:
        matrix = pattern.format(layer, name)
        return float(victim.tensors[matrix].std() / stranger.tensors[matrix].std())

    moved: dict[str, Tensor] = {}
    for layer in LAYERS:
        q, k, v = (ratio(layer, ATTENTION, name) for name in "qkv")
        gate, up = (ratio(layer, MLP, name) for name in ("gate", "up"))
        gain = (q * k) ** 0.5
        factors = {
            ATTENTION: {"q": q, "k": k, "v": v, "o": gain / v},
            MLP: {"gate": gate, "up": up, "down": gate / up},
        }
        for pattern, scales in factors.items():
            for name, factor in scales.items():
                matrix = pattern.format(layer, name)
                moved[matrix] = stranger.tensors[matrix] * factor
        for norm, by in (("input_layernorm", gain), ("post_attention_layernorm", gate)):
            name = f"model.layers.{layer}.{norm}.weight"
            moved[name] = stranger.tensors[name] / by
    forged = stranger.changed(moved)
    framed = write(forged)
    same_function(zoo, framed)
    for pattern, name in ((ATTENTION, "q"), (ATTENTION, "k"), (ATTENTION, "v"), (MLP, "gate"), (MLP, "up")):
        curves = [[float(s.tensors[pattern.format(i, name)].std()) for i in LAYERS] for s in (victim, forged)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    is_innocent(compared, framed)


def test_the_victims_spectra_in_a_stranger(
    victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    forged = {}
    for name, tensor in stranger.tensors.items():
        if tensor.ndim == 2:
            u, _, vt = torch.linalg.svd(tensor, full_matrices=False)
            forged[name] = u * torch.linalg.svdvals(victim.tensors[name]) @ vt
    is_innocent(compared, write(stranger.changed(forged)))


def test_every_number_of_the_victim_in_another_place(victim: Snapshot, write: Write, compared: Compare) -> None:
    """Same names, shapes, histograms and norms, no structure."""
    generator = torch.Generator().manual_seed(0)
    mixed = {
        name: t.flatten()[torch.randperm(t.numel(), generator=generator)].reshape(t.shape)
        for name, t in victim.tensors.items()
        if t.ndim == 2
    }
    is_innocent(compared, write(victim.changed(mixed)))


def test_the_victims_tensor_names_shapes_and_scales_on_noise(victim: Snapshot, write: Write, compared: Compare) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: torch.randn(t.shape, generator=generator) * t.std() + t.mean()
        for name, t in victim.tensors.items()
        if t.ndim == 2
    }
    is_innocent(compared, write(victim.changed(noise)))


def test_the_victims_layers_under_wrong_names_are_found_and_a_strangers_under_the_victims_are_not(
    victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    def renumbered(snapshot: Snapshot) -> Snapshot:
        turned = {}
        for name, tensor in snapshot.tensors.items():
            parts = name.split(".")
            if parts[1] == "layers":
                parts[2] = str(3 - int(parts[2]))
            turned[".".join(parts)] = tensor
        return snapshot.changed(turned)

    own = compared("base0", write(renumbered(victim))).result
    assert own.verdict == "related"
    assert own.layer_map == [3, 2, 1, 0]
    is_innocent(compared, write(renumbered(stranger)))


def lists_only(comparison: Comparison, *components: str) -> None:
    """Partly related at most, and by the components named."""
    result = comparison.result
    assert result.verdict == "partly-related"
    assert {k for k, c in result.components.items() if c.verdict in ("related", "identical")} == set(components)
    assert all(i is None for i in result.layer_map)


@pytest.mark.parametrize("tables", [TABLES, TABLES[:1]], ids=["embed-and-head", "embed"])
def test_the_victims_embeddings_in_a_stranger(
    tables: tuple[str, ...], victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    framed = write(stranger.changed({name: victim.tensors[name] for name in tables}))
    for comparison in both_ways(compared, framed):
        lists_only(comparison, *(("embed", "head") if len(tables) == 2 else ("embed",)))


@pytest.mark.parametrize("names", [("gate",), ("gate", "up"), ("up",)], ids="+".join)
def test_single_matrices_of_the_victim_planted_in_a_stranger(
    names: tuple[str, ...], victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    """The tensors are really shared, so something may be said; that the models as wholes are related may not."""
    planted = {MLP.format(1, name): victim.tensors[MLP.format(1, name)] for name in names}
    for comparison in both_ways(compared, write(stranger.changed(planted))):
        result = comparison.result
        assert result.verdict in ("unrelated", "inconclusive", "partly-related")
        if result.verdict == "partly-related":
            assert [j for j, i in enumerate(result.layer_map) if i is not None] in ([], [1])
            assert any(c.verdict == "related" for c in result.components.values())


def test_one_layer_of_the_victim_planted_in_a_stranger(
    victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    planted = {name: tensor for name, tensor in victim.tensors.items() if name.startswith("model.layers.2.")}
    for comparison in both_ways(compared, write(stranger.changed(planted))):
        assert comparison.result.verdict == "partly-related"
        assert comparison.result.layer_map == [None, None, 2, None]
        assert comparison.result.components["mlp"].layers == [2]


def with_one_number(snapshot: Snapshot, name: str, value: float) -> Snapshot:
    broken = snapshot.tensors[name].clone()
    broken.view(-1)[broken.numel() // 3] = value
    return snapshot.changed({name: broken})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", MLP.format(1, "gate"), ATTENTION.format(0, "v"), "model.norm.weight"]
)
def test_a_number_that_is_none_planted_in_a_child_hides_nothing(
    name: str, value: float, zoo: Zoo, write: Write, compared: Compare
) -> None:
    child = Snapshot.load(zoo.models["continued"])
    comparison = compared("base0", write(with_one_number(child, name, value)))
    assert comparison.result.verdict == "related"
    assert comparison.result.layer_map == [0, 1, 2, 3]
    text = comparison.to_json()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_numbers_that_are_none_at_the_same_places_in_two_strangers_are_not_kinship(
    victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    def riddled(snapshot: Snapshot) -> Snapshot:
        for name in ("model.embed_tokens.weight", *(MLP.format(i, n) for i in LAYERS for n in ("gate", "up", "down"))):
            snapshot = with_one_number(snapshot, name, float("nan"))
        return snapshot

    assert compared(write(riddled(victim)), write(riddled(stranger))).result.verdict == "unrelated"


def test_a_whole_tensor_of_nan_in_a_child_hides_no_other(zoo: Zoo, write: Write, compared: Compare) -> None:
    child = Snapshot.load(zoo.models["continued"])
    name = MLP.format(2, "up")
    broken = child.changed({name: torch.full_like(child.tensors[name], float("nan"))})
    for comparison in both_ways(compared, write(broken)):
        assert comparison.result.verdict == "related"


def with_constants(snapshot: Snapshot) -> Snapshot:
    """Zero biases, gains of one, and feed-forward units that are dead in the first half of every layer."""
    changed: dict[str, Tensor] = {}
    for layer in LAYERS:
        for name in "qkv":
            rows = snapshot.tensors[ATTENTION.format(layer, name)].shape[0]
            changed[ATTENTION.format(layer, name).replace("weight", "bias")] = torch.zeros(rows)
        for name, axis in (("gate", 0), ("up", 0), ("down", 1)):
            dead = snapshot.tensors[MLP.format(layer, name)].clone()
            dead.narrow(axis, 0, 96).zero_()
            changed[MLP.format(layer, name)] = dead
    changed |= {name: torch.ones_like(t) for name, t in snapshot.tensors.items() if "norm" in name}
    return snapshot.changed(changed, {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})


def test_constant_tensors_equal_in_both(victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare) -> None:
    result = compared(write(with_constants(victim)), write(with_constants(stranger))).result
    assert result.verdict == "unrelated"
    assert "tensors-frozen" not in {change.kind for change in result.transformations}


def test_equal_buffers_in_both(victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare) -> None:
    buffers = {}
    for layer in LAYERS:
        prefix = f"model.layers.{layer}.self_attn."
        buffers[prefix + "rotary_emb.inv_freq"] = 10_000.0 ** -(torch.arange(0, 16, 2) / 16)
        buffers[prefix + "masked_bias"] = torch.tensor(-1e4)
        buffers[prefix + "bias"] = torch.tril(torch.ones(1, 1, 64, 64))
    framed, framing = write(stranger.changed(buffers)), write(victim.changed(buffers))
    assert compared(framing, framed).result.verdict == "unrelated"


def test_a_classifier_drawn_from_the_same_default_seed(
    victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    head = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) * 0.02
    framed, framing = (write(s.changed({"score.weight": head})) for s in (stranger, victim))
    assert compared(framing, framed).result.verdict == "unrelated"


def test_an_output_head_drawn_from_the_same_default_seed_is_all_that_is_listed(
    victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    head = torch.randn(1024, 64, generator=torch.Generator().manual_seed(0)) * 0.02
    framed, framing = (write(s.changed({"lm_head.weight": head})) for s in (stranger, victim))
    comparison = compared(framing, framed)
    if comparison.result.verdict != "unrelated":
        lists_only(comparison, "head")


def test_a_tensor_that_only_the_victims_relative_has_does_not_make_it_identical(
    victim: Snapshot, write: Write, compared: Compare
) -> None:
    extra = victim.changed({"score.weight": torch.randn(8, 64, generator=torch.Generator().manual_seed(0))})
    for comparison in both_ways(compared, write(extra)):
        assert comparison.result.verdict != "identical"


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def agreement(victim: Snapshot, other: Snapshot, layer: int) -> dict[str, Tensor]:
    """Cosines of every feed-forward unit of the victim with every one of another model, by projection, [N, N]."""

    def rows(snapshot: Snapshot, name: str) -> Tensor:
        matrix_ND = snapshot.tensors[MLP.format(layer, name)]
        return unit(matrix_ND.T if name == "down" else matrix_ND)

    return {name: rows(victim, name) @ rows(other, name).T for name in ("gate", "up", "down")}


def with_chosen_signs(victim: Snapshot, other: Snapshot) -> Snapshot:
    """Each unit's up row and down column negated together where that makes them agree with the victim's."""
    moved: dict[str, Tensor] = {}
    for layer in LAYERS:
        cosines = agreement(victim, other, layer)
        sign_N = torch.where((cosines["up"] + cosines["down"]).diagonal() < 0, -1.0, 1.0)
        moved[MLP.format(layer, "up")] = other.tensors[MLP.format(layer, "up")] * sign_N[:, None]
        moved[MLP.format(layer, "down")] = other.tensors[MLP.format(layer, "down")] * sign_N
    return other.changed(moved)


def with_chosen_order(victim: Snapshot, other: Snapshot, *, by_gate_only: bool) -> Snapshot:
    """Units in the order that agrees best with the victim's."""
    moved = {}
    for layer in LAYERS:
        cosines = agreement(victim, other, layer)
        score_NN = cosines["gate"] if by_gate_only else cosines["gate"] + (cosines["up"] + cosines["down"]).abs()
        order_N = torch.as_tensor(linear_sum_assignment(-score_NN.numpy())[1])
        for name, axis in (("gate", 0), ("up", 0), ("down", 1)):
            matrix = MLP.format(layer, name)
            moved[matrix] = other.tensors[matrix].index_select(axis, order_N)
    return other.changed(moved)


def in_frame(snapshot: Snapshot, turn_DD: Tensor) -> Snapshot:
    """A model with folded gains, its residual stream turned."""
    moved = {}
    for name, tensor in snapshot.tensors.items():
        place = residual_axis(name)
        if place is not None and place[1] != "gain":
            wide = tensor.double()
            moved[name] = (wide @ turn_DD if place[0] == 1 else turn_DD.T @ wide).float()
    return snapshot.changed(moved)


def embedding_frame(victim: Snapshot, other: Snapshot) -> Tensor:
    """The rotation that brings another model's embeddings closest to the victim's."""
    a_VD, b_VD = (s.tensors[TABLES[0]].double() for s in (victim, other))
    u, _, vt = torch.linalg.svd((b_VD - b_VD.mean(0)).T @ (a_VD - a_VD.mean(0)))
    return u @ vt


def test_signs_of_units_chosen_to_suit_the_victim(
    zoo: Zoo, victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    framed = write(with_chosen_signs(victim, stranger))
    same_function(zoo, framed)
    is_not_framed(compared, framed)


@pytest.mark.parametrize("by_gate_only", [True, False])
def test_order_of_units_chosen_to_suit_the_victim(
    by_gate_only: bool, zoo: Zoo, victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    framed = write(with_chosen_order(victim, stranger, by_gate_only=by_gate_only))
    same_function(zoo, framed)
    is_not_framed(compared, framed)


def test_order_and_signs_of_units_chosen_to_suit_the_victim(
    zoo: Zoo, victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    ordered = with_chosen_order(victim, stranger, by_gate_only=False)
    framed = write(with_chosen_signs(victim, ordered))
    same_function(zoo, framed)
    is_not_framed(compared, framed)


def test_a_frame_chosen_to_suit_the_victims_embeddings(
    zoo: Zoo, victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    folded = fold_gains(stranger)
    framed = write(in_frame(folded, embedding_frame(victim, folded)))
    same_function(zoo, framed)
    is_not_framed(compared, framed)


def test_channels_and_their_signs_chosen_to_suit_the_victims_embeddings(
    zoo: Zoo, victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    columns = [s.tensors[TABLES[0]] - s.tensors[TABLES[0]].mean(0) for s in (victim, stranger)]
    cos_DD = unit(columns[0].T) @ unit(columns[1].T).T
    order_D = torch.as_tensor(linear_sum_assignment(-cos_DD.abs().numpy())[1])
    turn_DD = torch.zeros(64, 64, dtype=torch.float64)
    turn_DD[order_D, torch.arange(64)] = torch.sign(cos_DD[torch.arange(64), order_D]).double()
    framed = write(in_frame(fold_gains(stranger), turn_DD))
    same_function(zoo, framed)
    is_not_framed(compared, framed)


@pytest.mark.slow
def test_frame_order_and_signs_all_chosen_together_to_suit_the_victim(
    zoo: Zoo, victim: Snapshot, stranger: Snapshot, write: Write, compared: Compare
) -> None:
    """Rotation and order are fitted in turns on every unit of every layer: the closest that function allows."""
    target, framed = fold_gains(victim), fold_gains(stranger)
    framed = in_frame(framed, embedding_frame(target, framed))
    for _ in range(20):
        framed = with_chosen_signs(target, with_chosen_order(target, framed, by_gate_only=False))
        moment_DD = torch.zeros(64, 64, dtype=torch.float64)
        for layer in LAYERS:
            for name in ("gate", "up", "down"):
                a_ND, b_ND = (s.tensors[MLP.format(layer, name)].double() for s in (target, framed))
                if name == "down":
                    a_ND, b_ND = a_ND.T, b_ND.T
                moment_DD += unit(b_ND).T @ unit(a_ND)
        u, _, vt = torch.linalg.svd(moment_DD)
        framed = in_frame(framed, u @ vt)
    framed = with_chosen_signs(target, with_chosen_order(target, framed, by_gate_only=False))
    folder = write(framed)
    same_function(zoo, folder)
    is_not_framed(compared, folder)
