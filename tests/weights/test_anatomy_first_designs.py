"""Designs that were read by the table of another one: the first GPT, DeBERTa before its second version, mixtures with
LayerNorm, Griffin's blocks, attention whose queries are experts, gates behind queries, norms that were taken for
others. Their parts are held against the modules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_checkpoint import MemoryCheckpoint
from module_examples import GPT, SIZES, attention, build, check, gated, linear, saved
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from pedigree.weights.anatomy import Anatomy, read_anatomy

transformers = pytest.importorskip("transformers")

HEADS, WIDTH = 4, 32


def number(anatomy: Anatomy, role: str, layer: int | None = None) -> Tensor:
    part = anatomy.part(role, layer)
    assert part is not None, role
    return part.read()


def mapped(anatomy: Anatomy, role: str, layer: int, x_TD: Tensor) -> Tensor:
    """A linear map with its bias."""
    return x_TD @ number(anatomy, role, layer).T + number(anatomy, f"{role}.bias", layer)


def normed(anatomy: Anatomy, role: str, layer: int, x_TD: Tensor) -> Tensor:
    return layer_norm(x_TD, (WIDTH,), number(anatomy, role, layer), number(anatomy, f"{role}.bias", layer))


def logits_of_first_gpt(anatomy: Anatomy, ids_T: Tensor) -> Tensor:
    """Logits [T, V]: each norm stands behind the addition, and none behind the last layer."""
    x_TD = number(anatomy, "embed")[ids_T] + number(anatomy, "embed.position")[: len(ids_T)]
    past_TT = torch.ones(len(ids_T), len(ids_T)).tril().bool()
    for i in range(anatomy.n_layers):
        q, k, v = (
            mapped(anatomy, f"attn.{r}", i, x_TD).reshape(-1, HEADS, WIDTH // HEADS).transpose(0, 1) for r in "qkv"
        )
        scores_HTT = (q @ k.transpose(1, 2) / math.sqrt(WIDTH // HEADS)).masked_fill(~past_TT, -math.inf)
        mixed_TD = (scores_HTT.softmax(dim=-1) @ v).transpose(0, 1).reshape(-1, WIDTH)
        x_TD = normed(anatomy, "norm.attn.post", i, x_TD + mapped(anatomy, "attn.o", i, mixed_TD))
        inner_TF = gelu(mapped(anatomy, "mlp.up", i, x_TD), approximate="tanh")
        x_TD = normed(anatomy, "norm.mlp.post", i, x_TD + mapped(anatomy, "mlp.down", i, inner_TF))
    return x_TD @ number(anatomy, "embed").T


def test_the_first_gpt_computes_its_logits_from_the_canonical_view(tmp_path: Path) -> None:
    model = build("OpenAIGPT", **{k: v for k, v in GPT.items() if not k.endswith("token_id")})
    checkpoint = saved(model, tmp_path)
    anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.norm_placement, anatomy.n_layers) == ("openai_gpt", "post", 2)
    assert anatomy.unmapped == ()
    ids_T = torch.arange(3, 14)
    with torch.no_grad():
        expected = model(ids_T[None]).logits[0]
    assert torch.allclose(logits_of_first_gpt(anatomy, ids_T), expected, atol=1e-3)


def test_deberta_keeps_query_key_and_value_of_a_head_together(tmp_path: Path) -> None:
    options = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    model = build("Deberta", head="AutoModelForMaskedLM", **options)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.norm_placement, anatomy.n_layers) == ("deberta", "post", 2)
    assert anatomy.unmapped == ()
    for i, layer in enumerate(model.deberta.encoder.layer):
        inside = layer.attention.self
        by_head = inside.in_proj.weight.view(HEADS, 3, WIDTH // HEADS, WIDTH)
        expected = {f"attn.{role}": by_head[:, n].reshape(WIDTH, WIDTH) for n, role in enumerate("qkv")}
        expected |= {"attn.q.bias": inside.q_bias, "attn.v.bias": inside.v_bias}
        check(anatomy, expected | linear(layer.attention.output.dense, "attn.o"), i)


@pytest.mark.parametrize(
    ("config", "table", "facts", "options"),
    [
        ("Phimoe", "phimoe", ("layer", "half", "sequential"), {"num_local_experts": 4}),
        ("Cohere2Moe", "cohere2_moe", ("layer", "interleaved", "parallel"), {"num_experts": 4, "head_dim": 8}),
    ],
)
def test_mixtures_with_layer_norm_are_not_read_as_those_without(
    config: str, table: str, facts: tuple[str, str, str], options: dict[str, int], tmp_path: Path
) -> None:
    """What all coordinates have in common changes no logit: it is no part of what a unit writes."""
    if not hasattr(transformers, f"{config}Config"):
        pytest.skip(f"transformers has no {config}")
    model = build(config, **{**SIZES, **options})
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.norm, anatomy.rope, anatomy.residual) == (table, *facts)
    assert anatomy.unmapped == ()
    experts = model.model.layers[1].mlp.experts
    for e in range(4):
        gate, up = experts.gate_up_proj[e].chunk(2)
        expected = {"moe.expert.gate": gate, "moe.expert.up": up, "moe.expert.down": experts.down_proj[e]}
        check(anatomy, expected, 1, e)
    ids_1T = torch.arange(3, 14)[None]
    with torch.no_grad():
        before = model(ids_1T).logits
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.add_(torch.randn(32))
            layer.mlp.experts.down_proj.add_(torch.randn(4, 1, 48))
        assert torch.allclose(model(ids_1T).logits, before, atol=1e-3)


def test_griffin_keeps_attention_and_feed_forward_and_leaves_its_recurrent_blocks(tmp_path: Path) -> None:
    options = {"block_types": ["recurrent", "attention"], "lru_width": 32, "head_dim": 8}
    model = build("RecurrentGemma", **{**SIZES, **options, "intermediate_size": 96})
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.gain_offset) == ("recurrent_gemma", 2, 1.0)
    assert (anatomy.n_heads, anatomy.rotary_dim) == (4, 4)
    assert anatomy.unmapped
    assert all("layers.0.temporal_block" in name for name in anatomy.unmapped)
    for i, layer in enumerate(model.model.layers):
        check(anatomy, gated(layer.mlp_block), i)
        check(anatomy, linear(layer.temporal_pre_norm, "norm.attn") | linear(layer.channel_pre_norm, "norm.mlp"), i)
    check(anatomy, attention(model.model.layers[1].temporal_block), 1)


def test_experts_are_read_where_queries_are_experts_too(tmp_path: Path) -> None:
    model = build("JetMoe", **{**SIZES, "num_local_experts": 4, "kv_channels": 8})
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.norm) == ("jetmoe", 2, "rms")
    assert all("self_attention" in name or name.endswith("mlp.bias") for name in anatomy.unmapped)
    for i, layer in enumerate(model.model.layers):
        check(anatomy, {"moe.router": layer.mlp.router.layer.weight}, i)
        for e in range(4):
            gate, up = layer.mlp.input_linear.weight[e].chunk(2)
            down = layer.mlp.output_linear.weight[e]
            check(anatomy, {"moe.expert.gate": gate, "moe.expert.up": up, "moe.expert.down": down}, i, e)


GATED: dict[str, dict[str, Any]] = {
    "Qwen3Next": {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    "Qwen3_5Text": {},
}


@pytest.mark.parametrize("config", GATED)
def test_gates_behind_the_queries_of_each_head_are_a_role_of_their_own(config: str, tmp_path: Path) -> None:
    """Stored head by head, query before gate; a file whose heads have no gates has queries alone there."""
    if not hasattr(transformers, config + "Config"):
        pytest.skip(f"transformers has no {config}")
    mixer = {
        "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 8,
    }  # fmt: skip
    model = build(config, **{**SIZES, **mixer, **GATED[config]})
    anatomy = read_anatomy(saved(model, tmp_path))
    name = next(name for name in model.state_dict() if name.endswith("layers.1.self_attn.q_proj.weight"))
    stored_HGCD = model.state_dict()[name].reshape(HEADS, 2, 8, WIDTH)
    assert torch.equal(number(anatomy, "attn.q", 1), stored_HGCD[:, 0].flatten(0, 1))
    assert torch.equal(number(anatomy, "attn.gate", 1), stored_HGCD[:, 1].flatten(0, 1))
    queries = {name: stored_HGCD[:, 0].flatten(0, 1).contiguous()}
    bare = read_anatomy(MemoryCheckpoint({**model.state_dict(), **queries}, model.config.to_dict()))
    assert bare.part("attn.gate", 1) is None
    assert torch.equal(number(bare, "attn.q", 1), queries[name])


ROUTED: dict[str, Any] = {
    "moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1,
}  # fmt: skip
NORMS: dict[str, tuple[str, str, str, str, dict[str, Any]]] = {
    "MegatronBert": ("MaskedLM", "pre", "attention.ln", "ln", {}),
    "MPNet": ("MaskedLM", "post", "attention.LayerNorm", "output.LayerNorm", {}),
    "ModernBertDecoder": ("CausalLM", "pre", "attn_norm", "mlp_norm", {}),
    "HyperCLOVAX": ("CausalLM", "sandwich", "post_norm1", "post_norm2", {}),
    "Kolibri1": ("CausalLM", "sandwich", "post_self_attn_layernorm", "post_mlp_layernorm", ROUTED),
}


@pytest.mark.parametrize("design", NORMS)
def test_norms_stand_where_the_module_has_them(design: str, tmp_path: Path) -> None:
    """In front of a branch, behind it or behind the addition; no gain of the layer is left over."""
    if not hasattr(transformers, design + "Config"):
        pytest.skip(f"transformers has no {design}")
    head, placement, first, second, more = NORMS[design]
    sizes = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim") or placement == "sandwich"}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    config = getattr(transformers, design + "Config")(**{**sizes, **tokens, **more})
    model = getattr(transformers, f"{design}For{head}")(config)
    for gain in model.parameters():
        if gain.dim() == 1:
            torch.nn.init.normal_(gain)
    anatomy = read_anatomy(saved(model, tmp_path))
    assert (anatomy.norm_placement, anatomy.n_layers, anatomy.inferred) == (placement, 2, False)
    assert not [name for name in anatomy.unmapped if "relative_attention_bias" not in name]
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)[1]
    behind = "" if placement == "pre" else ".post"
    for role, name in ((f"norm.attn{behind}", first), (f"norm.mlp{behind}", second)):
        assert torch.equal(number(anatomy, role, 1), layer.get_parameter(f"{name}.weight"))


def test_a_model_that_was_built_without_norms_behind_its_branches(tmp_path: Path) -> None:
    if not hasattr(transformers, "HyperCLOVAXConfig"):
        pytest.skip("transformers has no HyperCLOVAX")
    anatomy = read_anatomy(saved(build("HyperCLOVAX", **SIZES, use_post_norm=False), tmp_path))
    assert (anatomy.norm_placement, anatomy.part("norm.attn.post", 1)) == ("pre", None)
