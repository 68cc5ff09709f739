"""The canonical view of real architectures, held against the modules of transformers.

Tiny models with random weights (no zeros, no ones: biases and gains too) are saved the way transformers saves them and
read back; every canonical part must be the module's own numbers, and no tensor may be left without a role.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_checkpoint import MemoryCheckpoint
from module_examples import GPT, SIZES, attention, build, check, gated, linear, saved

from pedigree.weights.anatomy import Anatomy, read_anatomy

transformers = pytest.importorskip("transformers")

Module = Any
MHA = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
MOE = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
LATENT = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12}
PARTS_OF_LLAMA = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down", "norm.attn", "norm.mlp")


def halved(module: Module) -> dict[str, torch.Tensor]:
    gate, up = module.gate_up_proj.weight.chunk(2)
    return {"mlp.gate": gate, "mlp.up": up, "mlp.down": module.down_proj.weight}


def check_experts(anatomy: Anatomy, experts: Module, layer: int) -> None:
    """transformers holds experts packed: [E, 2f, d] and [E, d, f]; the file may hold them one by one."""
    assert anatomy.experts(layer) == experts.gate_up_proj.shape[0]
    for e in range(anatomy.experts(layer)):
        gate, up = experts.gate_up_proj[e].chunk(2)
        check(
            anatomy,
            {"moe.expert.gate": gate, "moe.expert.up": up, "moe.expert.down": experts.down_proj[e]},
            layer,
            e,
        )


def check_complete(anatomy: Anatomy, checkpoint: MemoryCheckpoint) -> None:
    """Every tensor has a role, and every number of it is in exactly one part."""
    assert anatomy.unmapped == ()
    named = [name for part in anatomy.parts() for name in part.sources]
    assert set(named) == set(checkpoint.tensors) - set(anatomy.constants)
    stored = sum(tensor.numel() for name, tensor in checkpoint.stored.items() if name not in anatomy.constants)
    assert sum(torch.Size(part.shape).numel() for part in anatomy.parts()) == stored
    assert all(part.shape == tuple(part.read().shape) for part in anatomy.parts())


LLAMA_LIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "gemma": ("Gemma", {"head_dim": 8}),
}


@pytest.mark.parametrize("case", LLAMA_LIKE)
def test_plain_decoders_read_as_their_own_modules(case: str, tmp_path: Path) -> None:
    config, options = LLAMA_LIKE[case]
    model = build(config, **SIZES | options)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert anatomy.architecture == ("llama" if case == "mistral" else case)
    assert not anatomy.inferred
    assert anatomy.notes == ()
    assert (anatomy.n_layers, anatomy.d_model, anatomy.vocab_size) == (2, 32, 50)
    assert (anatomy.n_heads, anatomy.n_kv_heads) == (4, 2)
    assert (anatomy.norm, anatomy.rope, anatomy.mlp, anatomy.norm_placement) == ("rms", "half", "glu", "pre")
    assert anatomy.gain_offset == (1.0 if case == "gemma" else 0.0)
    assert anatomy.tied == (case in ("qwen2", "gemma"))
    assert (anatomy.part("head") is None) == anatomy.tied
    check_complete(anatomy, checkpoint)
    check(anatomy, {"embed": model.model.embed_tokens.weight, "norm.final": model.model.norm.weight})
    for number, layer in enumerate(model.model.layers):
        norms = {"norm.attn": layer.input_layernorm.weight, "norm.mlp": layer.post_attention_layernorm.weight}
        check(anatomy, attention(layer.self_attn) | gated(layer.mlp) | norms, number)


@pytest.mark.parametrize(("config", "head_norms"), [("Gemma2", False), ("Gemma3Text", True)])
def test_gemma_has_sandwich_norms_and_gains_of_one_plus_weight(config: str, head_norms: bool, tmp_path: Path) -> None:
    model = build(config, **SIZES, head_dim=8)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert anatomy.architecture == ("gemma3" if head_norms else "gemma2")
    assert (anatomy.norm_placement, anatomy.gain_offset, anatomy.embedding_scale) == ("sandwich", 1.0, "sqrt-d")
    assert anatomy.tied
    assert (anatomy.part("norm.q", 0) is not None) == head_norms
    check_complete(anatomy, checkpoint)
    for number, layer in enumerate(model.model.layers):
        norms = {
            "norm.attn": layer.input_layernorm.weight,
            "norm.attn.post": layer.post_attention_layernorm.weight,
            "norm.mlp": layer.pre_feedforward_layernorm.weight,
            "norm.mlp.post": layer.post_feedforward_layernorm.weight,
        }
        check(anatomy, attention(layer.self_attn) | gated(layer.mlp) | norms, number)


def test_a_multimodal_wrapper_is_read_by_its_text_part(tmp_path: Path) -> None:
    inner = saved(build("Gemma3Text", **SIZES, head_dim=8), tmp_path)
    wrapped = {name.replace("model.", "language_model.model.", 1): t for name, t in inner.stored.items()}
    wrapped["vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"] = torch.randn(8, 8)
    anatomy = read_anatomy(MemoryCheckpoint(wrapped, {"model_type": "gemma3", "text_config": inner.config}))
    assert anatomy.architecture == "gemma3"
    assert anatomy.unmapped == ("vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",)
    assert len(list(anatomy.parts())) == len(inner.tensors)


def test_a_wrapper_that_nobody_knows_is_taken_off_where_most_names_have_it(tmp_path: Path) -> None:
    """A policy with a value head, an average under its own name: the table is that of the model inside."""
    inner = saved(build("Gemma2", **SIZES, head_dim=8), tmp_path)
    wrapped = {f"actor.policy.{name}": tensor for name, tensor in inner.stored.items()}
    anatomy = read_anatomy(MemoryCheckpoint({**wrapped, "v_head.summary.weight": torch.randn(1, 32)}, inner.config))
    assert (anatomy.architecture, anatomy.gain_offset, anatomy.notes) == ("gemma2", 1.0, ())
    assert anatomy.unmapped == ("v_head.summary.weight",)
    check(anatomy, {"attn.q": inner.stored["model.layers.1.self_attn.q_proj.weight"]}, 1)


def test_a_tower_without_a_vocabulary_is_not_taken_for_a_decoder_inside_a_wrapper() -> None:
    layer = {f"self_attn.{letter}_proj": (32, 32) for letter in "qkvo"}
    layer |= {"mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48)}
    names = {f"tower.layers.{i}.{name}.weight": torch.randn(shape) for i in range(2) for name, shape in layer.items()}
    assert read_anatomy(MemoryCheckpoint(names, None)).inferred


def test_olmo2_norms_the_branch_output_and_the_whole_query(tmp_path: Path) -> None:
    model = build("Olmo2", **SIZES)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.norm_placement, anatomy.n_heads) == ("olmo2", "post-branch", 4)
    query_norm, key_norm = anatomy.part("norm.q", 1), anatomy.part("norm.k", 1)
    assert query_norm is not None
    assert key_norm is not None
    assert [axis.space for axis in query_norm.axes + key_norm.axes] == ["heads", "kv_heads"]
    check_complete(anatomy, checkpoint)
    for number, layer in enumerate(model.model.layers):
        norms = {
            "norm.attn.post": layer.post_attention_layernorm.weight,
            "norm.mlp.post": layer.post_feedforward_layernorm.weight,
        }
        check(anatomy, attention(layer.self_attn) | gated(layer.mlp) | norms, number)


def test_gpt2_is_transposed_and_its_fused_projection_divided(tmp_path: Path) -> None:
    model = build("GPT2", **GPT)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.norm, anatomy.rope, anatomy.mlp) == ("gpt2", "layer", "none", "plain")
    assert anatomy.tied
    assert anatomy.notes == ()
    check_complete(anatomy, checkpoint)
    check(anatomy, {"embed": model.transformer.wte.weight, "embed.position": model.transformer.wpe.weight})
    for number, block in enumerate(model.transformer.h):
        q, k, v = block.attn.c_attn.weight.T.chunk(3)
        bias_q, bias_k, bias_v = block.attn.c_attn.bias.chunk(3)
        expected = {"attn.q": q, "attn.k": k, "attn.v": v, "attn.q.bias": bias_q, "attn.k.bias": bias_k}
        expected |= {"attn.v.bias": bias_v, "attn.o": block.attn.c_proj.weight.T, "attn.o.bias": block.attn.c_proj.bias}
        expected |= {"mlp.up": block.mlp.c_fc.weight.T, "mlp.down": block.mlp.c_proj.weight.T}
        check(anatomy, expected | linear(block.ln_1, "norm.attn") | linear(block.ln_2, "norm.mlp"), number)


@pytest.mark.parametrize("parallel", [True, False])
def test_gpt_neox_interleaves_query_key_and_value_head_by_head(parallel: bool, tmp_path: Path) -> None:
    model = build("GPTNeoX", **MHA, rotary_pct=0.5, use_parallel_residual=parallel)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.residual) == ("gpt_neox", "parallel" if parallel else "sequential")
    assert not anatomy.tied
    check_complete(anatomy, checkpoint)
    for number, layer in enumerate(model.gpt_neox.layers):
        fused = layer.attention.query_key_value
        by_head = fused.weight.view(4, 3, 8, 32)
        bias = fused.bias.view(4, 3, 8)
        expected = {f"attn.{role}": by_head[:, i].reshape(32, 32) for i, role in enumerate("qkv")}
        expected |= {f"attn.{role}.bias": bias[:, i].reshape(32) for i, role in enumerate("qkv")}
        expected |= linear(layer.attention.dense, "attn.o") | linear(layer.mlp.dense_h_to_4h, "mlp.up")
        check(anatomy, expected | linear(layer.mlp.dense_4h_to_h, "mlp.down"), number)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}),
        ("Falcon", {**MHA, "multi_query": True, "new_decoder_architecture": False}),
        ("Falcon", {**MHA, "num_kv_heads": 2, "new_decoder_architecture": True}),
    ],
)
def test_grouped_fusions_divide_as_the_module_divides_them(
    config: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = build(config, **options)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert anatomy.architecture == config.lower()
    check_complete(anatomy, checkpoint)
    fused = model.transformer.h[1].self_attention.query_key_value.weight
    kv = anatomy.n_kv_heads
    assert kv == {"Bloom": 4}.get(config, options.get("num_kv_heads", 1))
    groups = fused.view(kv, 4 // kv + 2, 8, 32)
    expected = {"attn.q": groups[:, :-2], "attn.k": groups[:, -2], "attn.v": groups[:, -1]}
    check(anatomy, {role: t.reshape(-1, 32) for role, t in expected.items()}, 1)


def test_opt_reads_under_its_decoder_names(tmp_path: Path) -> None:
    model = build("OPT", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, vocab_size=50,
                  word_embed_proj_dim=32, pad_token_id=0, max_position_embeddings=16)  # fmt: skip
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.norm_placement, anatomy.activation) == ("opt", "pre", "relu")
    check_complete(anatomy, checkpoint)
    for number, layer in enumerate(model.model.decoder.layers):
        expected = attention(layer.self_attn, "out_proj") | linear(layer.fc1, "mlp.up") | linear(layer.fc2, "mlp.down")
        check(anatomy, expected | linear(layer.final_layer_norm, "norm.mlp"), number)


def test_opt_350m_norms_after_the_branch_and_projects_its_embedding(tmp_path: Path) -> None:
    model = build("OPT", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, vocab_size=50,
                  word_embed_proj_dim=16, pad_token_id=0, max_position_embeddings=16,
                  do_layer_norm_before=False)  # fmt: skip
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.norm_placement, anatomy.d_model) == ("opt_post", "post", 32)
    check_complete(anatomy, checkpoint)
    check(anatomy, {"embed.project": model.model.decoder.project_in.weight})
    check(anatomy, linear(model.model.decoder.layers[0].final_layer_norm, "norm.mlp.post"), 0)


def test_phi3_divides_both_fused_projections(tmp_path: Path) -> None:
    model = build("Phi3", **SIZES)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert anatomy.architecture == "phi3"
    check_complete(anatomy, checkpoint)
    for number, layer in enumerate(model.model.layers):
        q, k, v = layer.self_attn.qkv_proj.weight.split([32, 16, 16])
        check(anatomy, {"attn.q": q, "attn.k": k, "attn.v": v} | halved(layer.mlp), number)


PARTS_OF_EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {**SIZES, "num_local_experts": 4}),
    "qwen2_moe": ("Qwen2Moe", {**SIZES, **MOE, "shared_expert_intermediate_size": 40}),
    "qwen3_moe": ("Qwen3Moe", {**SIZES, **MOE, "head_dim": 16, "mlp_only_layers": [0]}),
    "olmoe": ("Olmoe", {**SIZES, "num_experts": 4}),
}


@pytest.mark.parametrize("storage", ["one by one", "packed"])
@pytest.mark.parametrize("case", PARTS_OF_EXPERTS)
def test_experts_read_alike_stored_one_by_one_or_packed(case: str, storage: str, tmp_path: Path) -> None:
    config, options = PARTS_OF_EXPERTS[case]
    model = build(config, **options)
    checkpoint = saved(model, tmp_path)
    if storage == "packed":
        checkpoint = MemoryCheckpoint(dict(model.state_dict()), checkpoint.config)
    anatomy = read_anatomy(checkpoint)
    assert anatomy.architecture == case
    assert anatomy.mlp == ("mixed" if case == "qwen3_moe" else "moe")
    check_complete(anatomy, checkpoint)
    for number, layer in enumerate(model.model.layers):
        check(anatomy, attention(layer.self_attn), number)
        if not hasattr(layer.mlp, "experts"):
            assert anatomy.experts(number) == 0
            check(anatomy, gated(layer.mlp), number)
            continue
        check_experts(anatomy, layer.mlp.experts, number)
        check(anatomy, {"moe.router": layer.mlp.gate.weight}, number)
        if case == "qwen2_moe":
            check(anatomy, gated(layer.mlp.shared_expert, "moe.shared"), number)
            check(anatomy, {"moe.shared.router": layer.mlp.shared_expert_gate.weight}, number)


def test_gpt_oss_experts_alternate_gate_and_up_in_transposed_storage(tmp_path: Path) -> None:
    model = build("GptOss", **SIZES, head_dim=8, num_local_experts=4)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert anatomy.architecture == "gpt_oss"
    check_complete(anatomy, checkpoint)
    experts = model.model.layers[1].mlp.experts
    for e in range(4):
        expected = {
            "moe.expert.gate": experts.gate_up_proj[e, :, ::2].T,
            "moe.expert.up": experts.gate_up_proj[e, :, 1::2].T,
            "moe.expert.down": experts.down_proj[e].T,
            "moe.expert.gate.bias": experts.gate_up_proj_bias[e, ::2],
            "moe.expert.up.bias": experts.gate_up_proj_bias[e, 1::2],
            "moe.expert.down.bias": experts.down_proj_bias[e],
        }
        check(anatomy, expected, 1, e)


def test_glm4_moe_maps_the_correction_bias_and_the_dense_first_layer(tmp_path: Path) -> None:
    model = build("Glm4Moe", **SIZES, **ROUTED, head_dim=8, n_shared_experts=1, use_qk_norm=True)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.mlp, anatomy.rope) == ("glm4_moe", "mixed", "half")
    check_complete(anatomy, checkpoint)
    block = model.model.layers[1].mlp
    check(anatomy, {"moe.router": block.gate.weight, "moe.router.bias": block.gate.e_score_correction_bias}, 1)
    check_experts(anatomy, block.experts, 1)


@pytest.mark.parametrize(
    ("config", "head", "trunk", "architecture"),
    [
        ("Bert", "AutoModelForMaskedLM", "bert", "bert"),
        ("Bert", "AutoModel", "", "bert"),
        ("Roberta", "AutoModelForMaskedLM", "roberta", "roberta"),
    ],
)
def test_encoders_are_post_norm_with_or_without_prefix(
    config: str, head: str, trunk: str, architecture: str, tmp_path: Path
) -> None:
    model = build(config, head=head, **MHA)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.norm_placement, anatomy.norm) == (architecture, "post", "layer")
    check_complete(anatomy, checkpoint)
    body = getattr(model, trunk) if trunk else model
    check(anatomy, {"embed": body.embeddings.word_embeddings.weight})
    check(anatomy, {"embed.type": body.embeddings.token_type_embeddings.weight})
    for number, layer in enumerate(body.encoder.layer):
        inside = layer.attention.self
        expected = linear(inside.query, "attn.q") | linear(inside.key, "attn.k") | linear(inside.value, "attn.v")
        expected |= linear(layer.attention.output.dense, "attn.o") | linear(layer.intermediate.dense, "mlp.up")
        expected |= linear(layer.attention.output.LayerNorm, "norm.attn.post")
        expected |= linear(layer.output.dense, "mlp.down") | linear(layer.output.LayerNorm, "norm.mlp.post")
        check(anatomy, expected, number)


OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "distilbert": ("DistilBert", "AutoModelForMaskedLM",
                   {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 50}),
    "modernbert": ("ModernBert", "AutoModelForMaskedLM",
                   {**{k: v for k, v in MHA.items() if k != "max_position_embeddings"}, "local_attention": 8}),
    "bert": ("Electra", "AutoModelForMaskedLM", {**MHA, "embedding_size": 32}),
    "deberta_v2": ("DebertaV2", "AutoModelForMaskedLM", MHA),
    "gptj": ("GPTJ", "AutoModelForCausalLM", {**GPT, "rotary_dim": 4}),
    "gpt_bigcode": ("GPTBigCode", "AutoModelForCausalLM", GPT),
    "phi": ("Phi", "AutoModelForCausalLM", SIZES),
    "cohere": ("Cohere", "AutoModelForCausalLM", SIZES),
    "starcoder2": ("Starcoder2", "AutoModelForCausalLM", SIZES),
    "glm": ("Glm", "AutoModelForCausalLM", {**SIZES, "head_dim": 8}),
    "olmo": ("Olmo", "AutoModelForCausalLM", SIZES),
    "nemotron": ("Nemotron", "AutoModelForCausalLM", SIZES),
    "helium": ("Helium", "AutoModelForCausalLM", {**SIZES, "head_dim": 8}),
    "granite_moe": ("GraniteMoe", "AutoModelForCausalLM", {**SIZES, "num_local_experts": 4}),
    "ernie4_5_moe": ("Ernie4_5_Moe", "AutoModelForCausalLM",
                     {**SIZES, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24,
                      "moe_num_shared_experts": 1}),
    "llama4": ("Llama4Text", "AutoModelForCausalLM",
               {**SIZES, "head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 56,
                "interleave_moe_layer_step": 2}),
    "bitnet": ("BitNet", "AutoModelForCausalLM", SIZES),
    "llama": ("HunYuanDenseV1", "AutoModelForCausalLM", {**SIZES, "head_dim": 16}),
    "minicpm3": ("MiniCPM3", "AutoModelForCausalLM", {**MHA, **LATENT}),
    "nanochat": ("NanoChat", "AutoModelForCausalLM", {**SIZES, "head_dim": 8}),
    "hunyuan_moe": ("HunYuanMoEV1", "AutoModelForCausalLM",
                    {**SIZES, "head_dim": 8, "num_experts": 4, "moe_topk": 2, "moe_intermediate_size": 24}),
    "flex_olmo": ("FlexOlmo", "AutoModelForCausalLM", {**SIZES, "num_experts": 4, "num_experts_per_tok": 2}),
    "glm4_moe": ("Dots1", "AutoModelForCausalLM", {**SIZES, **ROUTED, "head_dim": 8, "n_shared_experts": 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_further_architectures_leave_no_tensor_without_a_role(case: str, tmp_path: Path) -> None:
    config, head, options = OTHERS[case]
    if not hasattr(transformers, config + "Config"):
        pytest.skip(f"transformers has no {config}")
    checkpoint = saved(build(config, head=head, **options), tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.notes) == (case, ())
    assert (anatomy.n_layers, anatomy.d_model, anatomy.n_heads) == (2, 32, 4)
    check_complete(anatomy, checkpoint)


@pytest.mark.parametrize("gains", ["inside the projections", "apart"])
def test_megatron_groups_queries_with_their_key_and_value_head(gains: str, tmp_path: Path) -> None:
    """A Llama as Megatron Core holds it: rows of linear_qkv are group after group its queries, its key, its value."""
    plain = read_anatomy(saved(build("Llama", **SIZES), tmp_path))
    kv, hidden = SIZES["num_key_value_heads"], SIZES["hidden_size"]
    tensors = {"decoder.final_layernorm.weight": plain.part("norm.final", None).read()}
    tensors["embedding.word_embeddings.weight"] = plain.part("embed", None).read()
    tensors["output_layer.weight"] = plain.part("head", None).read()
    first, second = ("self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight")
    if gains == "apart":
        first, second = "input_layernorm.weight", "pre_mlp_layernorm.weight"
    for i in range(plain.n_layers):
        part = {role: plain.part(role, i).read() for role in PARTS_OF_LLAMA}
        groups = [part[f"attn.{letter}"].reshape(kv, -1, hidden) for letter in "qkv"]
        here = f"decoder.layers.{i}."
        tensors[f"{here}self_attention.linear_qkv.weight"] = torch.cat(groups, dim=1).reshape(-1, hidden)
        tensors[f"{here}self_attention.linear_proj.weight"] = part["attn.o"]
        tensors[f"{here}mlp.linear_fc1.weight"] = torch.cat([part["mlp.gate"], part["mlp.up"]])
        tensors[f"{here}mlp.linear_fc2.weight"] = part["mlp.down"]
        tensors[here + first], tensors[here + second] = part["norm.attn"], part["norm.mlp"]
    config = {"num_attention_heads": SIZES["num_attention_heads"], "num_query_groups": kv}
    checkpoint = MemoryCheckpoint({name: tensor.contiguous() for name, tensor in tensors.items()}, config)
    anatomy = read_anatomy(checkpoint)
    assert anatomy.architecture == "megatron"
    check_complete(anatomy, checkpoint)
    for i in range(plain.n_layers):
        check(anatomy, {role: plain.part(role, i).read() for role in PARTS_OF_LLAMA}, i)


LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 8,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24}
STATES: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8}

HYBRIDS: dict[str, tuple[str, str, float, str, dict[str, Any]]] = {
    "qwen3_next": ("Qwen3Next", "qwen3_next", 1.0, "moe.expert", {**LINEAR, **EXPERTS}),
    "qwen3_5": ("Qwen3_5Text", "qwen3_5", 1.0, "mlp", LINEAR),
    "qwen3_5_moe": ("Qwen3_5MoeText", "qwen3_next", 1.0, "moe.expert", {**LINEAR, **EXPERTS}),
    "jamba": ("Jamba", "jamba", 0.0, "mlp",
              {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}),
    "bamba": ("Bamba", "jamba", 0.0, "mlp", {"attn_layer_indices": [1], **STATES}),
    "falcon_h1": ("FalconH1", "jamba", 0.0, "mlp", {**STATES, "mamba_d_ssm": 64}),
    "granite hybrid": ("GraniteMoeHybrid", "granite_moe_hybrid", 0.0, "moe.shared",
                       {"layer_types": ["mamba", "attention"], "num_local_experts": 4, **STATES}),
    "lfm2_moe": ("Lfm2Moe", "lfm2", 0.0, "mlp",
                 {**MOE, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1}),
    "lfm3": ("Lfm3", "lfm2", 0.0, "mlp", {"layer_types": ["conv", "full_attention"]}),
    "granite hybrid, dense": ("GraniteMoeHybrid", "granite_moe_hybrid", 0.0, "moe.shared",
                              {"layer_types": ["mamba", "attention"], "num_local_experts": 0, **STATES}),
}  # fmt: skip


@pytest.mark.parametrize("case", HYBRIDS)
def test_hybrids_read_attention_and_feed_forward_and_leave_their_state_blocks(case: str, tmp_path: Path) -> None:
    """Layers with another mixer than attention keep their place; only the mixer's own tensors have no role."""
    config, table, offset, branch, options = HYBRIDS[case]
    if not hasattr(transformers, config + "Config"):
        pytest.skip(f"transformers has no {config}")
    anatomy = read_anatomy(saved(build(config, **{**SIZES, **options}), tmp_path))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.d_model, anatomy.gain_offset) == (table, 2, 32, offset)
    mixers = ("mamba", "linear_attn", ".conv.", "self_attn.gate_proj")
    assert all(any(word in name for word in mixers) for name in anatomy.unmapped)
    expert = 0 if branch == "moe.expert" else None
    for kind, shape_axis in (("gate", 1), ("up", 1), ("down", 0)):
        part = anatomy.part(f"{branch}.{kind}", 0, expert)
        assert part is not None
        assert part.shape[shape_axis] == 32
    for role in ("attn.q", "attn.k", "attn.v", "attn.o", "norm.attn", "norm.mlp"):
        assert anatomy.part(role, 1) is not None


def test_kimi_linear_reads_both_kinds_of_attention_and_its_experts(tmp_path: Path) -> None:
    """Delta attention and latent attention under the same names: heads are counted in a latent layer."""
    if not hasattr(transformers, "KimiLinearConfig"):
        pytest.skip("transformers has no KimiLinear")
    kinds = {"layer_types": ["linear_attention", "full_attention"], "mlp_layer_types": ["dense", "sparse"]}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    latent = {**LATENT, "q_lora_rank": None, "num_key_value_heads": 4, "linear_head_dim": 8, "linear_num_heads": 6}
    model = build("KimiLinear", **{**SIZES, **kinds, **experts, **latent})
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.notes) == ("kimi_linear", ())
    assert (anatomy.n_heads, anatomy.head_dim, anatomy.rope, anatomy.mlp) == (4, 24, "none", "mixed")
    mixer = ("conv1d", "A_log", "dt_bias", "b_proj", "f_a_proj", "f_b_proj", "g_a_proj", "g_b_proj", "o_norm")
    assert all(any(word in name for word in mixer) for name in anatomy.unmapped)
    delta, full = model.model.layers
    check(anatomy, attention(delta.self_attn) | gated(delta.mlp), 0)
    parts = {"attn.q": full.self_attn.q_proj.weight, "attn.kv_b": full.self_attn.kv_b_proj.weight}
    check(anatomy, {**parts, "attn.kv_a": full.self_attn.kv_a_proj_with_mqa.weight}, 1)
    check(anatomy, gated(full.mlp.shared_experts, "moe.shared"), 1)
    check_experts(anatomy, full.mlp.experts, 1)


STATE_SPACES: dict[str, tuple[str, tuple[str, str], dict[str, Any]]] = {
    "mamba": ("Mamba", ("up", "gate"), {}),
    "falcon_mamba": ("FalconMamba", ("up", "gate"), {}),
    "mamba2": ("Mamba2", ("gate", "up"), {"num_heads": 8, "head_dim": 8, "n_groups": 1}),
}


@pytest.mark.parametrize("case", STATE_SPACES)
def test_channels_of_a_state_space_are_units_that_read_twice_and_write_once(case: str, tmp_path: Path) -> None:
    """A channel reads through a row for its state and one for its gate, and writes through one column."""
    config, order, options = STATE_SPACES[case]
    sizes = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "expand": 2}
    model = build(config, **sizes, **options)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.n_layers) == (case.replace("falcon_", ""), 2)
    assert all("mixer" in name for name in anatomy.unmapped)
    for i, layer in enumerate(model.backbone.layers):
        rows = dict(zip(order, layer.mixer.in_proj.weight[:128].split(64), strict=True))
        check(anatomy, {"mlp.down": layer.mixer.out_proj.weight, "norm.mlp": layer.norm.weight}, i)
        check(anatomy, {f"mlp.{name}": row for name, row in rows.items()}, i)


def llama_rotary(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, **_: Any) -> Any:
    """Half-split rotation of the first rotary dimensions, as Llama does it; any doubling of cos and sin is undone."""
    pairs = cos.shape[-1] // 2
    step = 2 if torch.equal(cos[..., 0::2], cos[..., 1::2]) else 1
    cos, sin = (t[..., ::step][..., :pairs].repeat(1, 1, 2).unsqueeze(1) for t in (cos, sin))

    def turn(x: torch.Tensor) -> torch.Tensor:
        moving, still = x[..., : 2 * pairs], x[..., 2 * pairs :]
        turned = torch.cat((-moving[..., pairs:], moving[..., :pairs]), dim=-1)
        return torch.cat((moving * cos + turned * sin, still), dim=-1)

    return turn(q), turn(k)


@pytest.mark.parametrize(("config", "module"), [("Glm4", "glm4"), ("Glm", "glm"), ("Cohere", "cohere")])
def test_interleaved_rotary_rows_compute_the_same_function_half_split(
    config: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canonical query and key, rotated as Llama rotates, give the logits of the original."""
    options = SIZES if config == "Cohere" else {**SIZES, "head_dim": 8}
    model = build(config, **options)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert anatomy.rope == "interleaved"
    ids = torch.arange(3, 15).unsqueeze(0)
    with torch.no_grad():
        before = model(ids).logits
        for number, layer in enumerate(model.model.layers):
            for letter in "qk":
                linear_map = getattr(layer.self_attn, f"{letter}_proj")
                for name, target in linear(linear_map, f"attn.{letter}").items():
                    part = anatomy.part(name, number)
                    assert part is not None
                    assert not torch.equal(part.read(), target)
                    target.copy_(part.read())
        monkeypatch.setattr(f"transformers.models.{module}.modeling_{module}.apply_rotary_pos_emb", llama_rotary)
        after = model(ids).logits
    assert torch.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("low_rank_query", [True, False])
def test_deepseek_latent_attention_computes_the_same_function_half_split(low_rank_query: bool, tmp_path: Path) -> None:
    options = {**SIZES, "num_key_value_heads": 4, **LATENT, **ROUTED, "n_shared_experts": 1, "n_group": 2}
    model = build("DeepseekV3", **options | ({} if low_rank_query else {"q_lora_rank": None}), topk_group=1)
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert anatomy.architecture.startswith("deepseek_v3" if low_rank_query else "deepseek")
    assert (anatomy.n_heads, anatomy.head_dim, anatomy.rope, anatomy.mlp) == (4, 24, "interleaved", "mixed")
    check_complete(anatomy, checkpoint)
    block = model.model.layers[1]
    check(anatomy, {"attn.kv_b": block.self_attn.kv_b_proj.weight, "attn.o": block.self_attn.o_proj.weight}, 1)
    check(anatomy, gated(block.mlp.shared_experts, "moe.shared"), 1)
    check_experts(anatomy, block.mlp.experts, 1)
    ids = torch.arange(3, 15).unsqueeze(0)
    query = "attn.q_b" if low_rank_query else "attn.q"
    with torch.no_grad():
        before = model(ids).logits
        for number, layer in enumerate(model.model.layers):
            q_map = layer.self_attn.q_b_proj if low_rank_query else layer.self_attn.q_proj
            for role, target in ((query, q_map.weight), ("attn.kv_a", layer.self_attn.kv_a_proj_with_mqa.weight)):
                part = anatomy.part(role, number)
                assert part is not None
                assert not torch.equal(part.read(), target)
                target.copy_(part.read())
        model.config.rope_interleave = False
        after = model(ids).logits
    assert torch.allclose(before, after, atol=1e-4)


def test_deepseek_v2_has_no_correction_bias(tmp_path: Path) -> None:
    model = build("DeepseekV2", **{**SIZES, **LATENT, **ROUTED, "n_shared_experts": 2})
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert anatomy.architecture == "deepseek_v2"
    check_complete(anatomy, checkpoint)


@pytest.mark.parametrize("case", ["llama", "gemma", "qwen3"])
def test_names_decide_without_a_config_and_against_a_wrong_one(case: str, tmp_path: Path) -> None:
    config, options = LLAMA_LIKE[case]
    checkpoint = saved(build(config, **SIZES | options), tmp_path)
    table = "qwen3" if case == "qwen3" else "llama"
    assert read_anatomy(MemoryCheckpoint(checkpoint.stored)).architecture == table
    lying = read_anatomy(MemoryCheckpoint(checkpoint.stored, {"model_type": "gpt2", "n_layer": 12}))
    assert lying.architecture == table
    assert lying.n_layers == 2
    assert any("12 layers are claimed" in note for note in lying.notes)


CASES: dict[str, Callable[[Path], MemoryCheckpoint]] = {
    "llama": lambda folder: saved(build("Llama", **SIZES), folder),
    "gpt2": lambda folder: saved(build("GPT2", **GPT), folder),
}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "base_model.model."])
@pytest.mark.parametrize("case", CASES)
def test_wrappers_around_a_model_do_not_change_its_anatomy(case: str, prefix: str, tmp_path: Path) -> None:
    checkpoint = CASES[case](tmp_path)
    bare = read_anatomy(checkpoint)
    wrapped = read_anatomy(
        MemoryCheckpoint({prefix + name: tensor for name, tensor in checkpoint.stored.items()}, checkpoint.config)
    )
    assert wrapped.architecture == case
    assert [(p.role, p.layer, p.shape) for p in wrapped.parts()] == [(p.role, p.layer, p.shape) for p in bare.parts()]
