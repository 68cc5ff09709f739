"""Units as directions in the residual stream, against formulas written out by hand for each architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from forensics.tiny_models import EVERYTHING, Sizes, generator, llama, side
from torch import Tensor

from pedigree.forensics.sides import latent_attention
from pedigree.forensics.sides.sampling import Sample
from pedigree.forensics.sides.views import SHARED_EXPERT, read_layer

SIZES = Sizes()
PREFIX = "model.layers.1."


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_gain_of_the_norm_in_front_is_folded_into_what_reads_and_not_into_what_writes() -> None:
    tensors = llama(0)
    units = side(tensors).layer(1).units
    gain_mlp, gain_attn = (tensors[PREFIX + f"{name}_layernorm.weight"] for name in ("post_attention", "input"))
    for name in ("gate", "up"):
        same(units["ffn"].views_UD[name], tensors[PREFIX + f"mlp.{name}_proj.weight"] * gain_mlp)
    same(units["ffn"].views_UD["down"], tensors[PREFIX + "mlp.down_proj.weight"].T)
    same(units["vo"].views_UD["v"], tensors[PREFIX + "self_attn.v_proj.weight"] * gain_attn)
    same(units["qk"].views_UD["k"], tensors[PREFIX + "self_attn.k_proj.weight"] * gain_attn)


def test_the_first_view_is_the_one_that_matches_are_made_on() -> None:
    units = side(llama(0)).layer(0).units
    assert {kind: found.names for kind, found in units.items()} == {
        "ffn": ("gate", "up", "down"),
        "vo": ("v", "o"),
        "qk": ("k", "q"),
    }


def test_moving_a_gain_into_the_matrix_behind_it_changes_no_view() -> None:
    tensors = llama(0)
    folded = dict(tensors)
    for gain, readers in (
        ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ):
        folded[PREFIX + f"{gain}.weight"] = torch.ones(SIZES.d)
        for reader in readers:
            name = PREFIX + f"{reader}.weight"
            folded[name] = tensors[name] * tensors[PREFIX + f"{gain}.weight"]
    before, after = side(tensors).layer(1), side(folded).layer(1)
    for kind, units in before.units.items():
        for name, view in units.views_UD.items():
            same(after.units[kind].views_UD[name], view)


def test_query_heads_of_a_group_are_added_up() -> None:
    tensors = llama(0)
    units = side(tensors).layer(1).units
    s = SIZES
    o_DHC = tensors[PREFIX + "self_attn.o_proj.weight"].reshape(s.d, s.kv_heads, s.heads // s.kv_heads, s.head_dim)
    same(units["vo"].views_UD["o"], o_DHC.sum(2).reshape(s.d, -1).T)
    q_RD = tensors[PREFIX + "self_attn.q_proj.weight"] * tensors[PREFIX + "input_layernorm.weight"]
    q_KGCD = q_RD.reshape(s.kv_heads, s.heads // s.kv_heads, s.head_dim, s.d)
    same(units["qk"].views_UD["q"], q_KGCD.sum(1).reshape(-1, s.d))
    assert units["vo"].label_U.tolist() == [0] * s.head_dim + [1] * s.head_dim


def test_the_order_of_query_heads_inside_a_group_does_not_matter() -> None:
    tensors, s = llama(0), SIZES
    turned = dict(tensors)
    order = [h * s.head_dim + c for h in (1, 0, 3, 2) for c in range(s.head_dim)]
    turned[PREFIX + "self_attn.q_proj.weight"] = tensors[PREFIX + "self_attn.q_proj.weight"][order]
    turned[PREFIX + "self_attn.o_proj.weight"] = tensors[PREFIX + "self_attn.o_proj.weight"][:, order]
    before, after = side(tensors).layer(1).units, side(turned).layer(1).units
    same(after["vo"].views_UD["o"], before["vo"].views_UD["o"])
    same(after["qk"].views_UD["q"], before["qk"].views_UD["q"])


def test_gemma_stores_its_gains_as_one_plus_w() -> None:
    tensors = llama(0)
    plain = {k: v for k, v in tensors.items() if "layernorm" not in k}
    for layer in range(SIZES.layers):
        for name in (
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ):
            plain[f"model.layers.{layer}.{name}.weight"] = torch.randn(SIZES.d, generator=generator(layer)) * 0.2
    gemma = side(plain, SIZES.config("gemma2"))
    assert gemma.anatomy.gain_offset == 1.0
    units = gemma.layer(1).units
    gate = plain[PREFIX + "mlp.gate_proj.weight"] * (1 + plain[PREFIX + "pre_feedforward_layernorm.weight"])
    same(units["ffn"].views_UD["gate"], gate)
    # A norm behind the branch scales what is written.
    down = plain[PREFIX + "mlp.down_proj.weight"].T * (1 + plain[PREFIX + "post_feedforward_layernorm.weight"])
    same(units["ffn"].views_UD["down"], down)


def gpt2(seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    g, d, inner = generator(seed), 16, 40
    tensors = {
        "transformer.wte.weight": torch.randn(50, d, generator=g),
        "transformer.wpe.weight": torch.randn(20, d, generator=g),
        "transformer.ln_f.weight": torch.rand(d, generator=g) + 0.5,
        "transformer.ln_f.bias": torch.randn(d, generator=g),
    }
    for layer in range(2):
        p = f"transformer.h.{layer}."
        for norm in ("ln_1", "ln_2"):
            tensors[p + norm + ".weight"] = torch.rand(d, generator=g) + 0.5
            tensors[p + norm + ".bias"] = torch.randn(d, generator=g)
        for name, shape in (
            ("attn.c_attn", (d, 3 * d)),
            ("attn.c_proj", (d, d)),
            ("mlp.c_fc", (d, inner)),
            ("mlp.c_proj", (inner, d)),
        ):
            tensors[f"{p}{name}.weight"] = torch.randn(*shape, generator=g)
            tensors[f"{p}{name}.bias"] = torch.randn(shape[1], generator=g)
    config = {"model_type": "gpt2", "n_embd": d, "n_layer": 2, "n_head": 2, "n_inner": inner, "vocab_size": 50}
    return tensors, config


def test_conv1d_is_turned_and_what_a_layer_norm_removes_is_projected_out() -> None:
    tensors, config = gpt2(0)
    units = side(tensors, config).layer(1).units
    p = "transformer.h.1."
    up = tensors[p + "mlp.c_fc.weight"].T * tensors[p + "ln_2.weight"]
    same(units["ffn"].views_UD["up"], up - up.mean(1, keepdim=True))
    down = tensors[p + "mlp.c_proj.weight"]
    same(units["ffn"].views_UD["down"], down - down.mean(1, keepdim=True))
    assert units["ffn"].names == ("up", "down")
    value = tensors[p + "attn.c_attn.weight"].T[32:] * tensors[p + "ln_1.weight"]
    same(units["vo"].views_UD["v"], value - value.mean(1, keepdim=True))


def test_adding_to_all_channels_what_a_layer_norm_removes_changes_no_view() -> None:
    tensors, config = gpt2(0)
    shifted = dict(tensors)
    name = "transformer.h.1.mlp.c_proj.weight"
    shifted[name] = tensors[name] + torch.randn(40, 1, generator=generator(5))
    before, after = side(tensors, config).layer(1).units, side(shifted, config).layer(1).units
    same(after["ffn"].views_UD["down"], before["ffn"].views_UD["down"])


def latent_model() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Two layers of latent attention: rank 8, 2 heads of 6 unturned and 4 turned key channels and 5 value channels."""
    g, d, rank, heads, nope, rope, value = generator(0), 24, 8, 2, 6, 4, 5
    tensors = {
        "model.embed_tokens.weight": torch.randn(40, d, generator=g),
        "model.norm.weight": torch.rand(d, generator=g) + 0.5,
        "lm_head.weight": torch.randn(40, d, generator=g),
    }
    for layer in range(2):
        p = f"model.layers.{layer}."
        for name, shape in (
            ("self_attn.q_proj", (heads * (nope + rope), d)),
            ("self_attn.kv_a_proj_with_mqa", (rank + rope, d)),
            ("self_attn.kv_b_proj", (heads * (nope + value), rank)),
            ("self_attn.o_proj", (d, heads * value)),
            ("mlp.gate_proj", (30, d)),
            ("mlp.up_proj", (30, d)),
            ("mlp.down_proj", (d, 30)),
        ):
            tensors[f"{p}{name}.weight"] = torch.randn(*shape, generator=g)
        tensors[p + "self_attn.kv_a_layernorm.weight"] = torch.rand(rank, generator=g) + 0.5
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{p}{name}.weight"] = torch.rand(d, generator=g) + 0.5
    config = {
        "model_type": "deepseek_v3",
        "hidden_size": d,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "kv_lora_rank": rank,
        "q_lora_rank": None,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "v_head_dim": value,
        "intermediate_size": 30,
        "vocab_size": 40,
    }
    return tensors, config


def test_latent_attention_is_multiplied_out() -> None:
    tensors, config = latent_model()
    units = side(tensors, config).layer(1).units
    gain = tensors[PREFIX + "input_layernorm.weight"]
    up = tensors[PREFIX + "self_attn.kv_b_proj.weight"] * tensors[PREFIX + "self_attn.kv_a_layernorm.weight"]
    rows = (up @ tensors[PREFIX + "self_attn.kv_a_proj_with_mqa.weight"][:8]).reshape(2, 11, 24)
    same(units["vo"].views_UD["v"], rows[:, 6:].reshape(10, 24) * gain)
    same(units["vo"].views_UD["o"], tensors[PREFIX + "self_attn.o_proj.weight"].T)
    same(units["qk"].views_UD["k"], rows[:, :6].reshape(12, 24) * gain)
    queries = tensors[PREFIX + "self_attn.q_proj.weight"].reshape(2, 10, 24)[:, :6].reshape(12, 24)
    same(units["qk"].views_UD["q"], queries * gain)


def test_heads_of_latent_attention_are_multiplied_out_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = side(*latent_model())
    whole = read_layer(model.anatomy, 1, EVERYTHING).units
    monkeypatch.setattr(latent_attention, "BLOCK_NUMBERS", 1)
    monkeypatch.setattr(latent_attention, "LEAST_ROWS", 3)
    for kind, units in read_layer(model.anatomy, 1, EVERYTHING).units.items():
        for name in units.names:
            same(units.rows(name), whole[kind].rows(name))
    few = read_layer(model.anatomy, 1, Sample(6, None, True, False, 64)).units["qk"]
    assert few.count == 6
    place = [int(u) for u in few.index_U]
    same(few.rows("q"), whole["qk"].rows("q")[place])


def test_another_basis_of_the_latent_changes_no_view() -> None:
    tensors, config = latent_model()
    turned = dict(tensors)
    basis = torch.eye(8) + 0.3 * torch.randn(8, 8, generator=generator(3))
    gain = tensors[PREFIX + "self_attn.kv_a_layernorm.weight"]
    down, up = PREFIX + "self_attn.kv_a_proj_with_mqa.weight", PREFIX + "self_attn.kv_b_proj.weight"
    turned[PREFIX + "self_attn.kv_a_layernorm.weight"] = torch.ones(8)
    turned[down] = torch.cat([basis @ tensors[down][:8], tensors[down][8:]])
    turned[up] = tensors[up] * gain @ torch.linalg.inv(basis)
    before, after = side(tensors, config).layer(1).units, side(turned, config).layer(1).units
    for kind in ("vo", "qk"):
        for name, view in before[kind].views_UD.items():
            torch.testing.assert_close(after[kind].views_UD[name], view, rtol=1e-3, atol=1e-4)


def mixture() -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {k: v for k, v in llama(0).items() if ".mlp." not in k}
    g = generator(1)
    for layer in range(SIZES.layers):
        p = f"model.layers.{layer}.mlp."
        tensors[p + "gate.weight"] = torch.randn(3, SIZES.d, generator=g)
        tensors[p + "shared_expert_gate.weight"] = torch.randn(1, SIZES.d, generator=g)
        for owner in ("experts.0", "experts.1", "experts.2", "shared_expert"):
            for name, shape in (("gate", (10, SIZES.d)), ("up", (10, SIZES.d)), ("down", (SIZES.d, 10))):
                tensors[f"{p}{owner}.{name}_proj.weight"] = torch.randn(*shape, generator=g)
        for name, rows in (("q", 32), ("k", 16), ("v", 16)):
            tensors[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = torch.zeros(rows)
    config = {
        **SIZES.config("qwen2_moe"),
        "num_experts": 3,
        "moe_intermediate_size": 10,
        "shared_expert_intermediate_size": 10,
        "num_experts_per_tok": 2,
    }
    return tensors, config


def test_units_of_experts_carry_their_expert_and_the_shared_one_a_label_of_its_own() -> None:
    units = side(*mixture()).layer(1).units["ffn"]
    assert units.count == units.total == 40
    assert units.label_U.unique().tolist() == [SHARED_EXPERT, 0, 1, 2]
    assert units.index_U[units.label_U == 2].tolist() == list(range(10))


def test_numbers_that_are_not_finite_become_zero() -> None:
    tensors = llama(0)
    tensors[PREFIX + "mlp.up_proj.weight"][3, 4] = float("nan")
    tensors[PREFIX + "mlp.gate_proj.weight"][5] = float("inf")
    views = side(tensors).layer(1).units["ffn"].views_UD
    assert all(bool(view.isfinite().all()) for view in views.values())
    assert float(views["gate"][5].abs().sum()) == 0.0


def test_a_layer_without_attention_has_feed_forward_units_only() -> None:
    tensors = {k: v for k, v in llama(0).items() if "layers.1.self_attn" not in k}
    assert set(side(tensors).layer(1).units) == {"ffn"}


@pytest.mark.parametrize("depth_sample", [Sample(32, 1, True, True, 64), Sample(16, 0, False, True, 64)])
def test_both_models_are_sampled_at_the_same_positions(depth_sample: Sample) -> None:
    one, two = side(llama(0), sample=depth_sample), side(llama(1), sample=depth_sample)
    for layer in range(SIZES.layers):
        left, right = one.layer(layer).units, two.layer(layer).units
        assert left.keys() == right.keys()
        for kind, units in left.items():
            assert units.count < units.total or kind != "ffn"
            assert torch.equal(units.index_U, right[kind].index_U)
            assert torch.equal(units.label_U, right[kind].label_U)


def test_what_a_sample_reads_are_rows_of_the_whole() -> None:
    sample = Sample(32, None, True, False, 64)
    tensors = llama(0)
    some, whole = side(tensors, sample=sample), side(tensors)
    for kind, units in some.layer(1).units.items():
        rows = units.index_U
        for name, view in units.views_UD.items():
            same(view, whole.layer(1).units[kind].views_UD[name][rows])


def test_a_compact_sample_halves_the_tables() -> None:
    views = read_layer(side(llama(0)).anatomy, 0, Sample(None, None, True, True, 64)).units["ffn"].views_UD
    assert {view.dtype for view in views.values()} == {torch.bfloat16}
    assert {view.dtype for view in side(llama(0)).layer(0).units["ffn"].views_UD.values()} == {torch.float32}


def test_a_layer_is_read_once() -> None:
    model = side(llama(0), sample=EVERYTHING)
    assert model.layer(1) is model.layer(1)
    assert [view.layer for view in model.layers()] == [0, 1, 2]
