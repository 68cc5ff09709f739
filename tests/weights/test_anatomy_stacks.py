"""Encoders with their decoders, and fusions and hybrids that few architectures have, held against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from module_examples import GPT, SIZES, attention, build, check, gated, linear, saved

from pedigree.weights.anatomy import read_anatomy

pytest.importorskip("transformers")

MHA = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
T5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART = {
    "vocab_size": 50,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 16,
}


@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_the_decoder_of_t5_is_counted_on_behind_its_encoder(kind: str, tmp_path: Path) -> None:
    model = build("T5", head="AutoModelForSeq2SeqLM", feed_forward_proj=kind, **T5)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.head_dim, anatomy.rope) == ("t5", 4, 8, "none")
    for layer, block in enumerate([*model.encoder.block, *model.decoder.block]):
        mlp = block.layer[-1].DenseReluDense
        inner = {"mlp.up": mlp.wi} if kind == "relu" else {"mlp.gate": mlp.wi_0, "mlp.up": mlp.wi_1}
        expected = {f"attn.{x}": getattr(block.layer[0].SelfAttention, x) for x in "qkvo"} | inner
        expected |= {"mlp.down": mlp.wo, "norm.attn": block.layer[0].layer_norm, "norm.mlp": block.layer[-1].layer_norm}
        check(anatomy, {role: module.weight for role, module in expected.items()}, layer)
    # What turns to the other stack has no role of its own.
    crossing = [name for name in anatomy.unmapped if "decoder" in name and ".layer.1." in name]
    assert len(crossing) == 2 * 5
    assert set(anatomy.unmapped) - set(crossing) == {
        "encoder.final_layer_norm.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    }


@pytest.mark.parametrize(("config", "post"), [("Bart", True), ("MBart", False)])
def test_bart_norms_behind_the_branch_and_mbart_in_front(config: str, post: bool, tmp_path: Path) -> None:
    model = build(config, head="AutoModelForSeq2SeqLM", **BART)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.n_layers, anatomy.n_heads, anatomy.norm_placement) == (5, 4, "post" if post else "pre")
    end = ".post" if post else ""
    for layer, block in enumerate([*model.model.encoder.layers, *model.model.decoder.layers]):
        expected = attention(block.self_attn, "out_proj") | linear(block.fc1, "mlp.up") | linear(block.fc2, "mlp.down")
        expected |= linear(block.self_attn_layer_norm, f"norm.attn{end}")
        check(anatomy, expected | linear(block.final_layer_norm, f"norm.mlp{end}"), layer)


def test_codegen_fuses_four_groups_of_heads_value_before_key(tmp_path: Path) -> None:
    model = build("CodeGen", **GPT, rotary_dim=8)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.unmapped) == ("codegen", ())
    fused = model.transformer.h[1].attn.qkv_proj.weight
    query, value, _ = fused.reshape(4, 3, -1, fused.shape[1]).unbind(1)
    check(anatomy, {"attn.v": value.reshape(-1, fused.shape[1])}, 1)
    read, stored = anatomy.part("attn.q", 1), query.reshape(-1, fused.shape[1])
    assert read is not None
    assert torch.equal(read.read().sort(0).values, stored.sort(0).values)


def test_persimmon_interleaves_query_key_and_value_head_by_head(tmp_path: Path) -> None:
    model = build("Persimmon", **MHA)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.unmapped) == ("persimmon", ())
    block = model.model.layers[1]
    fused = block.self_attn.query_key_value.weight.reshape(4, 3, 8, 32)
    check(anatomy, {f"attn.{x}": fused[:, n].reshape(32, 32) for n, x in enumerate("qkv")}, 1)
    check(anatomy, linear(block.self_attn.dense, "attn.o") | linear(block.mlp.dense_h_to_4h, "mlp.up"), 1)


def test_lfm2_has_feed_forward_units_in_all_layers_and_attention_in_some(tmp_path: Path) -> None:
    model = build("Lfm2", layer_types=["conv", "full_attention"], **SIZES)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.n_layers) == ("lfm2", 2)
    check(anatomy, attention(model.model.layers[1].self_attn, "out_proj"), 1)
    for layer, block in enumerate(model.model.layers):
        mlp: Any = block.feed_forward
        check(anatomy, {"mlp.gate": mlp.w1.weight, "mlp.up": mlp.w3.weight, "mlp.down": mlp.w2.weight}, layer)


def test_the_text_part_of_a_wrapper_is_read_under_any_of_its_names(tmp_path: Path) -> None:
    model = build("Llama", **SIZES)
    checkpoint = saved(model, tmp_path)
    for before in ("language_model.model.", "model.language_model.", "thinker.model.", "llm.model."):
        tensors = {name.replace("model.", before, 1): tensor for name, tensor in checkpoint.stored.items()}
        anatomy = read_anatomy(type(checkpoint)(tensors, {"model_type": "wrapper", "text_config": checkpoint.config}))
        assert (anatomy.architecture, anatomy.unmapped) == ("llama", ())
        check(anatomy, gated(model.model.layers[1].mlp), 1)


def test_albert_repeats_one_layer_behind_a_narrow_table(tmp_path: Path) -> None:
    model = build("Albert", head="AutoModelForMaskedLM", **MHA, embedding_size=16)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.norm_placement) == ("albert", 1, "post")
    assert anatomy.unmapped == ()
    layer = model.albert.encoder.albert_layer_groups[0].albert_layers[0]
    inside = layer.attention
    expected = linear(inside.query, "attn.q") | linear(inside.key, "attn.k") | linear(inside.value, "attn.v")
    expected |= linear(inside.dense, "attn.o") | linear(inside.LayerNorm, "norm.attn.post")
    expected |= linear(layer.ffn, "mlp.up") | linear(layer.ffn_output, "mlp.down")
    check(anatomy, expected | linear(layer.full_layer_layer_norm, "norm.mlp.post"), 0)
    check(anatomy, {"embed.project": model.albert.encoder.embedding_hidden_mapping_in.weight})


def test_experts_of_dbrx_are_one_block_of_units_whose_writers_are_stored_as_rows(tmp_path: Path) -> None:
    model = build("Dbrx", d_model=32, n_heads=4, n_layers=2, vocab_size=50, max_seq_len=16,
                  attn_config={"kv_n_heads": 2, "rope_theta": 10000.0},
                  ffn_config={"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2})  # fmt: skip
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.norm, anatomy.n_kv_heads) == ("dbrx", "layer", 2)
    assert (anatomy.unmapped, anatomy.notes) == ((), ())
    for number, block in enumerate(model.transformer.blocks):
        q, k, v = block.norm_attn_norm.attn.Wqkv.weight.split([32, 16, 16])
        experts = block.ffn.experts.mlp
        expected = {"attn.q": q, "attn.k": k, "attn.v": v, "attn.o": block.norm_attn_norm.attn.out_proj.weight}
        expected |= {"mlp.gate": experts.w1, "mlp.up": experts.v1, "mlp.down": experts.w2.T}
        check(anatomy, expected | {"moe.router": block.ffn.router.layer.weight}, number)


def test_channels_of_rwkv_read_three_times_and_write_once(tmp_path: Path) -> None:
    model = build("Rwkv", hidden_size=32, num_hidden_layers=2, vocab_size=50, intermediate_size=48)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.rope) == ("rwkv", 2, "none")
    left = ("time_", "feed_forward.receptance")
    assert all(any(word in name for word in left) for name in anatomy.unmapped)
    for number, block in enumerate(model.rwkv.blocks):
        mixer = block.attention
        expected = {"attn.q": mixer.receptance, "attn.k": mixer.key, "attn.v": mixer.value, "attn.o": mixer.output}
        expected |= {"mlp.up": block.feed_forward.key, "mlp.down": block.feed_forward.value}
        check(anatomy, {role: module.weight for role, module in expected.items()}, number)


def test_lightning_attention_of_minimax_is_divided_head_by_head(tmp_path: Path) -> None:
    model = build("MiniMax", **SIZES, head_dim=8, num_local_experts=3,
                  layer_types=["linear_attention", "full_attention"], block_size=8)  # fmt: skip
    anatomy = read_anatomy(saved(model, tmp_path))
    assert anatomy.architecture == "minimax"
    assert all("output_gate" in name for name in anatomy.unmapped)
    mixer = model.model.layers[0].self_attn
    by_head = mixer.qkv_proj.weight.view(4, 3, 8, 32)
    expected = {f"attn.{role}": by_head[:, n].reshape(32, 32) for n, role in enumerate("qkv")}
    check(anatomy, expected | {"attn.o": mixer.out_proj.weight}, 0)
    check(anatomy, attention(model.model.layers[1].self_attn), 1)


@pytest.mark.parametrize(
    ("config", "architecture", "placement", "options"),
    [
        ("Afmoe", "afmoe", "sandwich", {"num_dense_layers": 1}),
        ("Laguna", "laguna", "pre", {}),
    ],
)
def test_gated_attention_leaves_only_its_gate_without_a_role(
    config: str, architecture: str, placement: str, options: dict[str, Any], tmp_path: Path
) -> None:
    sizes = {**SIZES, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    model = build(config, **sizes, **options)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.norm_placement, anatomy.gain_offset) == (architecture, placement, 0.0)
    assert all("self_attn.g" in name for name in anatomy.unmapped)
    check(anatomy, attention(model.model.layers[1].self_attn), 1)


def test_channels_of_zamba2_are_units_in_plain_and_in_shared_layers(tmp_path: Path) -> None:
    model = build("Zamba2", hidden_size=32, num_hidden_layers=2, layers_block_type=["mamba", "hybrid"],
                  num_attention_heads=4, attention_head_dim=16, attention_hidden_size=64, intermediate_size=48,
                  vocab_size=50, mamba_d_state=8, n_mamba_heads=4, mamba_headdim=16, mamba_ngroups=1,
                  num_mem_blocks=1, adapter_rank=4, max_position_embeddings=16)  # fmt: skip
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.d_model) == ("zamba2", 2, 32)
    assert not any("in_proj" in name or "out_proj" in name for name in anatomy.unmapped)
    plain, hybrid = model.model.layers
    for layer, mixer in enumerate((plain.mamba, hybrid.mamba_decoder.mamba)):
        gate, up = mixer.in_proj.weight[:128].split(64)
        check(anatomy, {"mlp.gate": gate, "mlp.up": up, "mlp.down": mixer.out_proj.weight}, layer)


def test_xlstm_has_heads_whose_keys_are_narrower_than_its_values(tmp_path: Path) -> None:
    model = build("xLSTM", hidden_size=32, embedding_dim=32, num_blocks=2, num_hidden_layers=2, num_heads=4,
                  vocab_size=50)  # fmt: skip
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.n_heads) == ("xlstm", 2, 4)
    assert all("_preact" in name for name in anatomy.unmapped)
    for number, block in enumerate(model.backbone.blocks):
        mixer, inner = block.mlstm_layer, block.ffn
        expected = {f"attn.{letter}": getattr(mixer, letter) for letter in "qkv"} | {"attn.o": mixer.out_proj}
        expected |= {"mlp.gate": inner.proj_up_gate, "mlp.up": inner.proj_up, "mlp.down": inner.proj_down}
        check(anatomy, {role: module.weight for role, module in expected.items()}, number)
