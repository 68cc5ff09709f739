"""Storage layouts that transformers does not write: GGUF, nanoGPT, Pangu, prediction layers, 8-bit blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from memory_checkpoint import MemoryCheckpoint

from pedigree.weights.anatomy import Anatomy, read_anatomy
from pedigree.weights.checkpoint import open_checkpoint

D, F, V, H, K, HD, L = 32, 48, 50, 4, 2, 8, 2
LLAMA_CONFIG = {"model_type": "llama", "num_attention_heads": H, "num_key_value_heads": K, "num_hidden_layers": L}


def draw(*shape: int, seed: int | None = None) -> torch.Tensor:
    """Random numbers; equal calls in one test differ unless a seed is given."""
    return torch.randn(*shape, generator=None if seed is None else torch.Generator().manual_seed(seed))


def llama(n_layers: int = L, d: int = D, f: int = F) -> dict[str, torch.Tensor]:
    """A Llama state dict with random numbers."""
    tensors = {"model.embed_tokens.weight": draw(V, d), "model.norm.weight": draw(d), "lm_head.weight": draw(V, d)}
    for i in range(n_layers):
        at = f"model.layers.{i}."
        tensors |= {at + "self_attn.q_proj.weight": draw(H * HD, d), at + "self_attn.o_proj.weight": draw(d, H * HD)}
        tensors |= {at + f"self_attn.{x}_proj.weight": draw(K * HD, d) for x in "kv"}
        tensors |= {at + f"mlp.{x}_proj.weight": draw(f, d) for x in ("gate", "up")}
        tensors |= {at + "mlp.down_proj.weight": draw(d, f), at + "input_layernorm.weight": draw(d)}
        tensors |= {at + "post_attention_layernorm.weight": draw(d)}
    return tensors


def read(anatomy: Anatomy, role: str, layer: int | None = None, expert: int | None = None) -> torch.Tensor:
    part = anatomy.part(role, layer, expert)
    assert part is not None, f"{role} of layer {layer} is missing"
    values = part.read()
    assert tuple(values.shape) == part.shape
    return values


def neighbours(half_split: torch.Tensor, heads: int) -> torch.Tensor:
    """The conversion from half-split rotary rows to neighbouring pairs that GGUF's Llama goes through."""
    rows = half_split.shape[0] // heads
    return half_split.reshape(heads, 2, rows // 2, -1).transpose(1, 2).reshape(half_split.shape)


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


def gguf_name(name: str) -> str:
    for old, new in GGUF_NAMES.items():
        name = name.replace(old, new)
    return name


def test_a_llama_read_from_gguf_is_the_llama_it_was_converted_from(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    original = llama()
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_block_count(L)
    writer.add_embedding_length(D)
    writer.add_head_count(H)
    writer.add_head_count_kv(K)
    writer.add_rope_dimension_count(HD)
    for name, tensor in original.items():
        heads = H if "q_proj" in name else K if "k_proj" in name else 0
        writer.add_tensor(gguf_name(name), (neighbours(tensor, heads) if heads else tensor).numpy())
    writer.add_tensor("rope_freqs.weight", torch.ones(HD // 2).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "model.gguf") as checkpoint:
        there, here = read_anatomy(checkpoint), read_anatomy(MemoryCheckpoint(original, LLAMA_CONFIG))
        assert (there.architecture, there.rope, here.rope) == ("gguf", "interleaved", "half")
        assert (there.n_heads, there.n_kv_heads, there.tied) == (H, K, False)
        assert there.unmapped == ()
        assert there.constants == ("rope_freqs.weight",)
        assert [(p.role, p.layer) for p in there.parts()] == [(p.role, p.layer) for p in here.parts()]
        for part in here.parts():
            assert torch.equal(read(there, part.role, part.layer), part.read()), part.role
            rows = [part.shape[0] - 1, 0, 3]
            twin = there.part(part.role, part.layer)
            assert twin is not None
            assert torch.equal(twin.read(rows), part.read(rows)), part.role


@pytest.mark.parametrize("architecture", ["qwen2", "phi3", "gemma2", "olmo2"])
def test_gguf_of_architectures_without_neighbouring_pairs_is_left_as_it_is(architecture: str) -> None:
    tensors = {gguf_name(name): tensor for name, tensor in llama().items()}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {**LLAMA_CONFIG, "model_type": architecture}))
    assert (anatomy.architecture, anatomy.rope, anatomy.gain_offset) == ("gguf", "half", 0.0)
    assert torch.equal(read(anatomy, "attn.q", 0), tensors["blk.0.attn_q.weight"])
    assert anatomy.embedding_scale == ("sqrt-d" if architecture == "gemma2" else "one")


@pytest.mark.parametrize(
    ("norm_names", "placement", "roles"),
    [
        (("attn_norm", "ffn_norm"), "pre", {"norm.attn", "norm.mlp"}),
        (("attn_norm", "post_attention_norm"), "pre", {"norm.attn", "norm.mlp"}),
        (("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"), "sandwich",
         {"norm.attn", "norm.attn.post", "norm.mlp", "norm.mlp.post"}),
        (("post_attention_norm", "post_ffw_norm"), "post-branch", {"norm.attn.post", "norm.mlp.post"}),
    ],
)  # fmt: skip
def test_which_norms_a_layer_has_tells_where_they_stand(
    norm_names: tuple[str, ...], placement: str, roles: set[str]
) -> None:
    tensors = {gguf_name(name): tensor for name, tensor in llama().items() if "layernorm" not in name}
    tensors |= {f"blk.{i}.{name}.weight": draw(D) for i in range(L) for name in norm_names}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {**LLAMA_CONFIG, "model_type": "glm4_moe"}))
    assert anatomy.norm_placement == placement
    assert {part.role for part in anatomy.parts() if part.layer == 1 and part.role.startswith("norm.")} == roles


def test_gguf_phi3_keeps_gate_and_up_in_one_tensor() -> None:
    tensors = {gguf_name(name): tensor for name, tensor in llama().items() if "gate_proj" not in name}
    for i in range(L):
        tensors[f"blk.{i}.ffn_up.weight"] = draw(2 * F, D)
        qkv = [tensors.pop(f"blk.{i}.attn_{x}.weight") for x in "qkv"]
        tensors[f"blk.{i}.attn_qkv.weight"] = torch.cat(qkv)
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {**LLAMA_CONFIG, "model_type": "phi3"}))
    assert anatomy.mlp == "glu"
    assert torch.equal(read(anatomy, "mlp.gate", 1), tensors["blk.1.ffn_up.weight"][:F])
    assert torch.equal(read(anatomy, "mlp.up", 1), tensors["blk.1.ffn_up.weight"][F:])
    assert torch.equal(read(anatomy, "attn.v", 1), tensors["blk.1.attn_qkv.weight"][-K * HD :])


def test_gguf_experts_are_packed_by_projection() -> None:
    tensors = {gguf_name(name): tensor for name, tensor in llama().items() if ".mlp." not in name}
    for i in range(L):
        at = f"blk.{i}."
        tensors |= {at + "ffn_gate_inp.weight": draw(3, D), at + "ffn_down_exps.weight": draw(3, D, F)}
        tensors |= {at + f"ffn_{x}_exps.weight": draw(3, F, D) for x in ("gate", "up")}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {**LLAMA_CONFIG, "model_type": "mixtral"}))
    assert (anatomy.mlp, anatomy.experts(0), anatomy.unmapped) == ("moe", 3, ())
    assert torch.equal(read(anatomy, "moe.expert.down", 1, 2), tensors["blk.1.ffn_down_exps.weight"][2])
    assert torch.equal(read(anatomy, "moe.expert.gate", 0, 0), tensors["blk.0.ffn_gate_exps.weight"][0])


MLA = {"q_rank": 24, "rank": 16, "nope": 16, "rope": 8, "value": 12}


def latent_attention(at: str) -> dict[str, torch.Tensor]:
    """Latent attention in the names of DeepSeek."""
    m = MLA
    return {
        at + "self_attn.q_a_proj.weight": draw(m["q_rank"], D),
        at + "self_attn.q_a_layernorm.weight": draw(m["q_rank"]),
        at + "self_attn.q_b_proj.weight": draw(H * (m["nope"] + m["rope"]), m["q_rank"]),
        at + "self_attn.kv_a_proj_with_mqa.weight": draw(m["rank"] + m["rope"], D),
        at + "self_attn.kv_a_layernorm.weight": draw(m["rank"]),
        at + "self_attn.kv_b_proj.weight": draw(H * (m["nope"] + m["value"]), m["rank"]),
        at + "self_attn.o_proj.weight": draw(D, H * m["value"]),
    }


def experts(at: str, n_experts: int, shared: str = "shared_experts", f: int = 20) -> dict[str, torch.Tensor]:
    """Routed and shared experts in the names of DeepSeek and Qwen."""
    tensors = {at + "mlp.gate.weight": draw(n_experts, D)}
    for name in [*(f"experts.{e}" for e in range(n_experts)), shared]:
        tensors |= {f"{at}mlp.{name}.{x}_proj.weight": draw(f, D) for x in ("gate", "up")}
        tensors[f"{at}mlp.{name}.down_proj.weight"] = draw(D, f)
    return tensors


def dense(at: str) -> dict[str, torch.Tensor]:
    tensors = {f"{at}mlp.{x}_proj.weight": draw(F, D) for x in ("gate", "up")}
    return tensors | {f"{at}mlp.down_proj.weight": draw(D, F)}


def norms(at: str, *names: str) -> dict[str, torch.Tensor]:
    return {f"{at}{name}.weight": draw(D) for name in names}


def outside() -> dict[str, torch.Tensor]:
    return {"model.embed_tokens.weight": draw(V, D), "model.norm.weight": draw(D), "lm_head.weight": draw(V, D)}


SANDWICH = ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm")


def test_pangu_ultra_moe_has_latent_attention_sandwich_norms_and_a_prediction_layer() -> None:
    tensors = outside()
    for i in range(4):
        at = f"model.layers.{i}."
        tensors |= latent_attention(at) | norms(at, *SANDWICH)
        tensors |= dense(at) if i == 0 else experts(at, 4) | {at + "mlp.e_score_correction_bias": draw(4)}
    at = "model.layers.3."
    tensors |= norms(at, "enorm", "hnorm", "shared_head.norm") | {at + "eh_proj.weight": draw(D, 2 * D)}
    tensors |= {at + "embed_tokens.weight": draw(V, D), at + "shared_head.head.weight": draw(V, D)}
    config = {"model_type": "pangu_ultra_moe", "num_hidden_layers": 3, "num_attention_heads": H}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, config))
    assert (anatomy.architecture, anatomy.norm_placement) == ("pangu_ultra_moe", "sandwich")
    assert (anatomy.n_layers, anatomy.n_heads, anatomy.head_dim, anatomy.mlp) == (3, H, 24, "mixed")
    assert anatomy.unmapped == ()
    assert anatomy.notes == ()
    assert torch.equal(read(anatomy, "norm.mlp", 0), tensors["model.layers.0.pre_mlp_layernorm.weight"])
    assert torch.equal(read(anatomy, "norm.attn.post", 0), tensors["model.layers.0.post_attention_layernorm.weight"])
    assert torch.equal(read(anatomy, "moe.router.bias", 1), tensors["model.layers.1.mlp.e_score_correction_bias"])
    assert torch.equal(read(anatomy, "mtp.project", 0), tensors["model.layers.3.eh_proj.weight"])
    assert torch.equal(read(anatomy, "mtp.head", 0), tensors["model.layers.3.shared_head.head.weight"])
    assert torch.equal(read(anatomy, "mtp.moe.expert.up", 0, 3), tensors["model.layers.3.mlp.experts.3.up_proj.weight"])
    assert anatomy.part("attn.o", 3) is None
    assert anatomy.part("mtp.attn.q_b", 0) is not None


def test_deepseek_v3_head_count_follows_from_the_shapes_of_latent_attention() -> None:
    tensors = outside()
    for i in range(2):
        at = f"model.layers.{i}."
        tensors |= latent_attention(at) | norms(at, *SANDWICH[:2]) | experts(at, 4)
        tensors[at + "mlp.gate.e_score_correction_bias"] = draw(4)
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {"model_type": "deepseek_v3", "num_attention_heads": 16}))
    assert (anatomy.architecture, anatomy.n_heads) == ("deepseek_v3", H)
    assert any("n_heads 16 contradicts" in note for note in anatomy.notes)


def test_gguf_latent_attention_joins_its_two_expansions() -> None:
    m, tensors = MLA, {"token_embd.weight": draw(V, D), "output_norm.weight": draw(D), "output.weight": draw(V, D)}
    whole = []
    for i in range(2):
        hf, at = latent_attention(""), f"blk.{i}."
        kv_b = hf["self_attn.kv_b_proj.weight"]
        whole.append(kv_b)
        key, value = kv_b.reshape(H, m["nope"] + m["value"], m["rank"]).split([m["nope"], m["value"]], dim=1)
        tensors |= {at + "attn_k_b.weight": key.transpose(1, 2).contiguous(), at + "attn_v_b.weight": value.clone()}
        tensors |= {at + "attn_q_a.weight": hf["self_attn.q_a_proj.weight"], at + "attn_norm.weight": draw(D)}
        tensors |= {at + "attn_q_b.weight": hf["self_attn.q_b_proj.weight"], at + "ffn_norm.weight": draw(D)}
        tensors |= {at + "attn_kv_a_mqa.weight": hf["self_attn.kv_a_proj_with_mqa.weight"]}
        tensors |= {at + "attn_output.weight": hf["self_attn.o_proj.weight"], at + "ffn_gate.weight": draw(F, D)}
        tensors |= {at + "ffn_up.weight": draw(F, D), at + "ffn_down.weight": draw(D, F)}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {"model_type": "deepseek_v3", "gguf.architecture": "deepseek2"}))
    assert (anatomy.n_heads, anatomy.head_dim, anatomy.rope, anatomy.unmapped) == (H, 24, "interleaved", ())
    for i in range(2):
        assert torch.equal(read(anatomy, "attn.kv_b", i), whole[i])
    part = anatomy.part("attn.kv_b", 1)
    assert part is not None
    assert torch.equal(part.read([40, 3, 40], [1, 0]), whole[1][[40, 3, 40]][:, [1, 0]])


def pangu_pro(layers: int) -> dict[str, torch.Tensor]:
    tensors = outside()
    for i in range(layers):
        at = f"model.layers.{i}."
        tensors |= norms(at, *SANDWICH[:2]) | experts(at, 4, "shared_expert")
        tensors |= {at + "self_attn.q_proj.weight": draw(H * HD, D), at + "self_attn.q_proj.bias": draw(H * HD)}
        tensors |= {at + "self_attn.o_proj.weight": draw(D, H * HD), at + "self_attn.o_proj.bias": draw(D)}
        tensors |= {at + f"self_attn.{x}_proj.weight": draw(K * HD, D) for x in "kv"}
        tensors |= {at + f"self_attn.{x}_proj.bias": draw(K * HD) for x in "kv"}
        tensors[at + "mlp.router_scale"] = draw(1, 4)
    return tensors


def test_pangu_pro_moe_has_biases_everywhere_and_a_router_scale() -> None:
    tensors = pangu_pro(2)
    config = {"model_type": "PanguProMoE", "num_attention_heads": H, "num_key_value_heads": K}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, config))
    assert (anatomy.architecture, anatomy.mlp, anatomy.unmapped) == ("pangu_pro_moe", "moe", ())
    assert torch.equal(read(anatomy, "moe.router.scale", 0), tensors["model.layers.0.mlp.router_scale"].reshape(-1))
    assert torch.equal(read(anatomy, "attn.o.bias", 1), tensors["model.layers.1.self_attn.o_proj.bias"])
    assert anatomy.part("moe.shared.gate", 0) is not None


@pytest.mark.parametrize("sandwich", [True, False])
def test_pangu_embedded_norms_mean_what_stands_beside_them(sandwich: bool) -> None:
    tensors = {k: t for k, t in pangu_pro(2).items() if ".mlp." not in k}
    for i in range(2):
        tensors |= dense(f"model.layers.{i}.")
        if sandwich:
            tensors |= norms(f"model.layers.{i}.", "pre_mlp_layernorm", "post_mlp_layernorm")
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {"model_type": "PanguEmbedded", "num_attention_heads": H}))
    assert anatomy.architecture == ("pangu_embedded_sandwich" if sandwich else "pangu_embedded")
    assert anatomy.norm_placement == ("sandwich" if sandwich else "pre")
    assert anatomy.unmapped == ()
    after_attention = tensors["model.layers.0.post_attention_layernorm.weight"]
    assert torch.equal(read(anatomy, "norm.attn.post" if sandwich else "norm.mlp", 0), after_attention)


def test_pangu_sinks_tell_how_wide_key_and_value_are_in_the_fused_projection() -> None:
    qk, value, n_sinks = 12, 8, 5
    tensors = outside()
    for i in range(2):
        at = f"model.layers.{i}."
        tensors |= norms(at, *SANDWICH) | experts(at, 4) | {at + "mlp.e_score_correction_bias": draw(4)}
        tensors |= {at + "self_attn.qkv_proj.weight": draw(H * qk + K * (qk + value), D)}
        tensors |= {at + "self_attn.o_proj.weight": draw(D, H * value), at + "self_attn.k_layernorm.weight": draw(qk)}
        tensors |= {at + "self_attn.param_sink_key": draw(n_sinks, K, qk)}
        tensors |= {at + "self_attn.param_sink_value": draw(n_sinks, K, value)}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {"model_type": "PanguProMoE", "num_attention_heads": H}))
    assert (anatomy.architecture, anatomy.n_heads, anatomy.n_kv_heads) == ("pangu_pro_moe_v2", H, K)
    assert anatomy.unmapped == ()
    q, k, v = tensors["model.layers.1.self_attn.qkv_proj.weight"].split([H * qk, K * qk, K * value])
    for role, wanted in (("attn.q", q), ("attn.k", k), ("attn.v", v)):
        assert torch.equal(read(anatomy, role, 1), wanted)
    sink = tensors["model.layers.0.self_attn.param_sink_key"]
    assert torch.equal(read(anatomy, "attn.sink.k", 0), sink.reshape(n_sinks, K * qk))


def alpha(i: int, names: tuple[str, ...], at: str = "") -> dict[str, torch.Tensor]:
    shapes = [(D,), (D, D), (D, D), (D, D), (D, D), (D,), (4 * D, D), (D, 4 * D)]
    tensors = {f"{at}{name}.weight": draw(*shape) for name, shape in zip(names, shapes, strict=True)}
    return tensors | {f"{at}{name}.bias": draw(shape[0]) for name, shape in zip(names, shapes, strict=True)}


def test_pangu_alpha_has_a_query_table_and_a_last_layer_that_reads_it() -> None:
    names = ("ln_1", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    tensors = {f"transformer.{x}.weight": draw(n, D) for x, n in (("wte", V), ("wpe", 16), ("wqe", 16))}
    tensors |= {"transformer.ln_f.weight": draw(D), "transformer.ln_f.bias": draw(D)}
    for i in range(3):
        tensors |= alpha(i, names, f"transformer.h.{i}.")
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {"model_type": "gpt_pangu", "num_heads": H}))
    assert (anatomy.architecture, anatomy.norm, anatomy.tied) == ("pangu_alpha", "layer", True)
    assert (anatomy.n_layers, anatomy.n_heads, anatomy.unmapped) == (3, H, ())
    assert torch.equal(read(anatomy, "embed.query"), tensors["transformer.wqe.weight"])
    assert torch.equal(read(anatomy, "mlp.up", 2), tensors["transformer.h.2.mlp.c_fc.weight"])


def test_pangu_alpha_of_mindspore_stores_three_maps_input_major_and_its_last_layer_apart() -> None:
    names = ("layernorm1", "attention.dense1", "attention.dense2", "attention.dense3", "attention.projection",
             "layernorm2", "output.mapping", "output.projection")  # fmt: skip
    tensors = {"backbone.word_embedding.embedding_table": draw(V, D)}
    tensors |= {f"backbone.{x}_embedding.embedding_table": draw(16, D) for x in ("position", "top_query")}
    tensors |= {"backbone.layernorm.gamma": draw(D), "backbone.layernorm.beta": draw(D)}
    for i, at in enumerate(("backbone.blocks.0.", "backbone.blocks.1.", "backbone.top_query_layer.")):
        for name, tensor in alpha(i, names, at).items():
            if "layernorm" in name:
                name = name.replace("weight", "gamma").replace("bias", "beta")
            turned = tensor.ndim == 2 and name.rsplit(".", 2)[1] in ("projection", "mapping")
            tensors[name] = tensor.T.contiguous() if turned else tensor
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {"num_heads": H}))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.unmapped) == ("pangu_alpha_mindspore", 3, ())
    last = tensors["backbone.top_query_layer.attention.projection.weight"]
    assert torch.equal(read(anatomy, "attn.o", 2), last.T)
    assert torch.equal(read(anatomy, "mlp.down", 0), tensors["backbone.blocks.0.output.projection.weight"].T)
    assert torch.equal(read(anatomy, "attn.q", 1), tensors["backbone.blocks.1.attention.dense1.weight"])


def gpt2_names(transposed: bool) -> dict[str, torch.Tensor]:
    def linear(rows: int, cols: int) -> torch.Tensor:
        return draw(cols, rows) if transposed else draw(rows, cols)

    tensors = {"transformer.wte.weight": draw(V, D), "transformer.wpe.weight": draw(16, D)}
    tensors["transformer.ln_f.weight"] = draw(D)
    for i in range(2):
        at = f"transformer.h.{i}."
        tensors |= {at + "attn.c_attn.weight": linear(3 * D, D), at + "attn.c_proj.weight": linear(D, D)}
        tensors |= {at + "mlp.c_fc.weight": linear(4 * D, D), at + "mlp.c_proj.weight": linear(D, 4 * D)}
        tensors |= {
            at + "ln_1.weight": draw(D),
            at + "ln_2.weight": draw(D),
            at + "attn.bias": torch.ones(1, 1, 16, 16),
        }
    return tensors


@pytest.mark.parametrize("transposed", [True, False])
def test_shapes_tell_conv1d_of_gpt2_from_linear_of_nanogpt(transposed: bool) -> None:
    tensors = gpt2_names(transposed)
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {"n_head": H, "n_layer": 2}))
    assert anatomy.architecture == "gpt2"
    assert (anatomy.notes == ()) == transposed
    assert any("stored [out, in]" in note for note in anatomy.notes) != transposed
    assert anatomy.constants == ("transformer.h.0.attn.bias", "transformer.h.1.attn.bias")
    square = tensors["transformer.h.0.attn.c_proj.weight"]
    assert torch.equal(read(anatomy, "attn.o", 0), square.T if transposed else square)
    fused = tensors["transformer.h.1.attn.c_attn.weight"]
    assert torch.equal(read(anatomy, "attn.k", 1), (fused.T if transposed else fused)[D : 2 * D])


def test_a_llama_stored_input_major_is_read_output_major() -> None:
    upright = llama()
    turned = {k: t.T.contiguous() if t.ndim == 2 and "embed" not in k else t for k, t in upright.items()}
    anatomy = read_anatomy(MemoryCheckpoint(turned, LLAMA_CONFIG))
    assert any("stored [in, out]" in note for note in anatomy.notes)
    for part in read_anatomy(MemoryCheckpoint(upright, LLAMA_CONFIG)).parts():
        assert torch.equal(read(anatomy, part.role, part.layer), part.read()), part.role


def test_original_llama_names_hold_neighbouring_pairs() -> None:
    names = {"model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output", "model.": "",
             "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
             "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
             "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm",
             "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    upright, original = llama(), {}
    for name, tensor in upright.items():
        heads = H if "q_proj" in name else K if "k_proj" in name else 0
        for old, new in names.items():
            name = name.replace(old, new)
        original[name] = neighbours(tensor, heads) if heads else tensor
    original["rope.freqs"] = torch.ones(HD // 2)
    anatomy = read_anatomy(MemoryCheckpoint(original, {"n_heads": H}))
    assert (anatomy.architecture, anatomy.unmapped, anatomy.constants) == ("llama_original", (), ("rope.freqs",))
    for part in read_anatomy(MemoryCheckpoint(upright, LLAMA_CONFIG)).parts():
        assert torch.equal(read(anatomy, part.role, part.layer), part.read()), part.role


@pytest.mark.parametrize("block", [(16, 16), None])
def test_blocks_of_8_bit_numbers_are_scaled_for_computing_and_not_for_the_bits(block: tuple[int, int] | None) -> None:
    side = 16 if block else 128
    tensors = llama(d=160, f=192)
    scaled = {}
    for name in [name for name in tensors if "mlp" in name]:
        rows, cols = tensors[name].shape
        scale = torch.rand(-(-rows // side), -(-cols // side)) + 0.5
        stored = tensors[name].to(torch.float8_e4m3fn)
        full = scale.repeat_interleave(side, 0)[:rows].repeat_interleave(side, 1)[:, :cols]
        scaled[name] = stored.float() * full
        tensors[name] = stored
        tensors[name + "_scale_inv"] = scale
    config: dict[str, Any] = dict(LLAMA_CONFIG)
    if block:
        config["quantization_config"] = {"weight_block_size": list(block)}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, config))
    assert anatomy.unmapped == ()
    part = anatomy.part("mlp.up", 1)
    assert part is not None
    assert part.dtype == "F8_E4M3"
    wanted = scaled["model.layers.1.mlp.up_proj.weight"]
    assert torch.allclose(part.read(), wanted)
    assert torch.allclose(part.read([190, 5, 17], [3, 150]), wanted[[190, 5, 17]][:, [3, 150]])
    assert part.read_native().dtype == torch.float8_e4m3fn


def test_a_prefix_clash_leaves_one_tensor_out_and_says_so() -> None:
    tensors = llama() | {"module.model.norm.weight": draw(D)}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, LLAMA_CONFIG))
    assert anatomy.unmapped == ("module.model.norm.weight",)
    assert any("module.model.norm.weight" in note for note in anatomy.notes)
