"""Mechanisms replaced: relatives are found and described, and strangers stay strangers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forensics.tiny_models import Sizes, Tensors, generator, llama, shaken, side, words

from pedigree.forensics.comparison.changes import list_changes
from pedigree.forensics.comparison.direction import weigh_direction
from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.comparison.following import _may_have_begun_anew
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.record import off_diagonal
from pedigree.forensics.descent.gains import LearnedGains
from pedigree.forensics.frames.ladder import climb_in_one_form
from pedigree.forensics.sides.anchors import read_table, share_tokens
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import read_units

SIZES = Sizes(layers=6, kv_heads=4)
PARENT = llama(0, SIZES)
ALL: list[int | None] = [0, 1, 2, 3, 4, 5]


def model(tensors: Tensors, **config: Any) -> Side:
    layers = len({name.split(".")[2] for name in tensors if name.startswith("model.layers.")})
    return side(tensors, {**SIZES.config(), "num_hidden_layers": layers, **config}, tokens=words(SIZES.vocab))


def compared(b: Tensors, a: Tensors = PARENT, **config: Any) -> tuple[Side, Side, Findings]:
    left, right = model(a), model(b, **config)
    return left, right, measure(left, right, whole_bits=True)


def kinds(a: Side, b: Side, found: Findings) -> dict[str, dict[str, Any]]:
    return {change.kind: change.detail() for change in list_changes(a, b, found)}


def plain(tensors: Tensors) -> Tensors:
    """Without gates: units read the stream by their way up alone."""
    return {name: t for name, t in tensors.items() if "gate_proj" not in name}


def layers(tensors: Tensors, order: list[int]) -> Tensors:
    out = {name: t for name, t in tensors.items() if not name.startswith("model.layers.")}
    for j, i in enumerate(order):
        old = f"model.layers.{i}."
        out |= {f"model.layers.{j}." + n.removeprefix(old): t.clone() for n, t in tensors.items() if n.startswith(old)}
    return out


def gated(tensors: Tensors, keeps: str) -> Tensors:
    """A plain model with a second projection drawn beside the old one, which becomes the gate or the way up."""
    g, out = generator(9), dict(tensors)
    for name, t in tensors.items():
        if "up_proj" in name:
            drawn = 0.1 * torch.randn(t.shape, generator=g)
            gate = name.replace("up_proj", "gate_proj")
            out[gate], out[name] = (t, drawn) if keeps == "gate" else (drawn, t)
    return out


@pytest.mark.parametrize("keeps", ["gate", "up"])
def test_units_live_on_through_either_projection_of_a_gated_unit(keeps: str) -> None:
    a, b, found = compared(shaken(gated(plain(PARENT), keeps), 1), plain(PARENT))
    assert b.reader == keeps
    assert found.layer_map == ALL
    assert found.layers_hit("ffn") == ALL
    assert kinds(a, b, found)["gate-added"] == {"how": f"units live on through their {keeps} projection"}
    b, a, found = compared(plain(PARENT), shaken(gated(plain(PARENT), keeps), 1))
    assert b.reader == keeps
    assert found.layers_hit("ffn") == ALL
    assert "gate-removed" in kinds(b, a, found)


def test_strangers_with_and_without_gates_stay_strangers() -> None:
    left, right = model(plain(llama(1, SIZES))), model(llama(2, SIZES))
    tokens = share_tokens(left.vocabulary, right.vocabulary, SIZES.vocab, SIZES.vocab)
    assert climb_in_one_form(left, right, tokens).best.best_z() < 6.0


def test_layers_that_were_not_looked_at_first_are_looked_at_before_a_frame_is_chosen() -> None:
    a, b, found = compared(shaken(layers(PARENT, [0, 0, 2, 2, 4, 4]), 1))  # the probes are 1 and 3
    assert found.evidence.gauge.is_trivial
    assert found.layer_map == [0, 0, 2, 2, 4, 4]
    assert weigh_direction(a, b, found).verdict == "a-to-b"


def averaged(tensors: Tensors) -> Tensors:
    one, two = layers(tensors, [0, 2, 4]), layers(tensors, [1, 3, 5])
    return {name: (t + two[name]) / 2 for name, t in one.items()}


def test_layers_that_were_averaged_are_named_with_their_sources_and_no_arrow_points_back() -> None:
    a, b, found = compared(averaged(PARENT))
    said = kinds(a, b, found)
    assert said["layers-averaged"] == {"at": [0, 1, 2], "sources": [[0, 1], [2, 3], [4, 5]]}
    assert "layers-dropped" not in said
    assert float(str(off_diagonal(found)["max"])) < 8.0
    assert weigh_direction(a, b, found).log_odds > 0
    b, a, found = compared(PARENT, averaged(PARENT))
    assert weigh_direction(b, a, found).log_odds < 0


def test_averaged_attention_beside_fresh_units_is_no_layer_that_the_parent_has_twice() -> None:
    other = averaged(llama(9, SIZES))
    child = {name: other[name] if ".mlp." in name else tensor for name, tensor in averaged(PARENT).items()}
    a, b, found = compared(child)
    assert not found.layers_hit("ffn")
    assert found.mixed == {0: [0, 1], 1: [2, 3], 2: [4, 5]}
    assert weigh_direction(a, b, found).log_odds > 0


def test_a_layer_that_the_parent_has_twice_is_no_average() -> None:
    twice = layers(PARENT, [0, 0, 1, 2, 3])
    *_, found = compared(shaken(layers(PARENT, [0, 1, 2, 3]), 1), shaken(twice, 2))
    assert found.mixed == {}


def folded(tensors: Tensors, seed: int) -> Tensors:
    """Gains multiplied into the readers, and others learned from ones."""
    out, g = dict(tensors), generator(seed)
    places = {"input_layernorm": ("q_proj", "k_proj", "v_proj"), "post_attention_layernorm": ("gate_proj", "up_proj")}
    for name, t in tensors.items():
        norm = name.split(".")[-2]
        for reader in places.get(norm, ()):
            part = "self_attn." if reader[0] in "qkv" else "mlp."
            reads = name.replace(norm, part + reader)
            out[reads] = out[reads] * t
        if norm in places:
            out[name] = 1.0 + 0.1 * torch.randn(t.shape, generator=g)
    return out


def test_gains_that_stand_in_the_matrices_are_found_there_and_take_no_part() -> None:
    a, b, found = compared(shaken(folded(PARENT, 5), 1))
    assert found.folded == "b"
    assert found.gains is None
    assert "gains-folded" in kinds(a, b, found)
    b, a, found = compared(PARENT, shaken(folded(PARENT, 5), 1))
    assert found.folded == "a"
    assert "gains-folded" not in kinds(b, a, found)


@pytest.mark.parametrize(
    ("norm", "cosine", "left"), [("layer", 0.05, False), ("layer", 0.8, True), ("rms", 0.05, True)]
)
def test_gains_of_norms_of_two_kinds_take_part_only_where_they_agree(norm: str, cosine: float, left: bool) -> None:
    other = dict(PARENT)
    if norm == "layer":
        other |= {
            name.replace("weight", "bias"): torch.zeros_like(t) for name, t in PARENT.items() if "layernorm" in name
        }
    gains = LearnedGains(cosine, 0.1, 0.1, 9)
    assert _may_have_begun_anew(model(PARENT), model(other), gains) is not left


def test_gains_that_stayed_gains_take_part() -> None:
    *_, found = compared(shaken(PARENT, 1))
    assert found.folded is None
    assert found.gains is not None


def reduced(tensors: Tensors, rank: int) -> Tensors:
    out = dict(tensors)
    for name, t in tensors.items():
        if "_proj" in name:
            u, s, v = torch.linalg.svd(t, full_matrices=False)
            out[name] = (u[:, :rank] * s[:rank]) @ v[:rank]
    return out


def test_matrices_of_a_lower_rank_were_cut_and_not_grown() -> None:
    a, b, found = compared(reduced(PARENT, 20))
    assert weigh_direction(a, b, found).verdict == "a-to-b"
    assert "rank-reduced" in kinds(a, b, found)
    b, a, found = compared(PARENT, reduced(PARENT, 20))
    assert weigh_direction(b, a, found).verdict == "b-to-a"
    assert "rank-reduced" not in kinds(b, a, found)


def test_a_narrower_stream_is_no_lower_rank() -> None:
    wide = {
        n: torch.cat([t, 0.1 * torch.randn(*t.shape[:-1], 8, generator=generator(3))], -1) for n, t in PARENT.items()
    }
    for name, t in wide.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            kept = PARENT[name]
            wide[name] = torch.cat([kept, 0.1 * torch.randn(8, kept.shape[1], generator=generator(4))])
        elif "norm" in name:
            wide[name] = torch.cat([PARENT[name], torch.ones(8)])
        else:
            assert t.shape[1] == 40
    a, b, found = compared(wide, hidden_size=40)
    assert weigh_direction(a, b, found).log_odds > 0
    assert "rank-reduced" not in kinds(a, b, found)


def test_branches_that_share_a_norm_both_read_through_its_gain() -> None:
    shared = {name: t for name, t in PARENT.items() if "post_attention_layernorm" not in name}
    one = model(shared, model_type="cohere")
    units = read_units(one.anatomy, 2, "ffn", one.sample)
    gain = PARENT["model.layers.2.input_layernorm.weight"]
    expected = PARENT["model.layers.2.mlp.gate_proj.weight"] * gain
    assert units is not None
    assert torch.allclose(units.views_UD["gate"], expected - expected.mean(dim=1, keepdim=True), atol=1e-6)


def test_embeddings_of_another_width_are_read_through_their_projection() -> None:
    g, prefix = generator(0), "model.decoder."
    tensors = {prefix + "embed_tokens.weight": torch.randn(50, 8, generator=g)}
    tensors |= {prefix + "project_in.weight": torch.randn(16, 8, generator=g)}
    tensors |= {prefix + "project_out.weight": torch.randn(8, 16, generator=g)}
    tensors |= {prefix + f"final_layer_norm.{part}": torch.ones(16) for part in ("weight", "bias")}
    for name in ("self_attn_layer_norm", "final_layer_norm"):
        tensors |= {prefix + f"layers.0.{name}.{part}": torch.ones(16) for part in ("weight", "bias")}
    for name, shape in (("fc1", (32, 16)), ("fc2", (16, 32))):
        tensors[prefix + f"layers.0.{name}.weight"] = torch.randn(shape, generator=g)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        tensors[prefix + f"layers.0.self_attn.{name}.weight"] = torch.randn(16, 16, generator=g)
    anatomy = side(tensors, {"model_type": "opt", "hidden_size": 16, "num_attention_heads": 2}).anatomy
    assert anatomy.architecture == "opt_projected"
    assert anatomy.unmapped == ()
    rows = read_table(anatomy, "embed", torch.arange(50))
    expected = tensors[prefix + "embed_tokens.weight"] @ tensors[prefix + "project_in.weight"].T
    assert rows is not None
    assert torch.allclose(rows, expected - expected.mean(dim=1, keepdim=True), atol=1e-5)


def test_what_was_converted_is_named() -> None:
    longer = dict(PARENT)
    for layer in range(6):
        longer[f"model.layers.{layer}.self_attn.q_norm.weight"] = torch.ones(4)
        longer[f"model.layers.{layer}.self_attn.k_norm.weight"] = torch.ones(4)
    a, b, found = compared(longer, num_attention_heads=8, num_key_value_heads=8, head_dim=4, model_type="qwen3")
    said = kinds(a, b, found)
    assert said["heads-split"] == {"from": 4, "to": 8}
    assert "query-key-norms-added" in said
