"""Architectures without a table: roles inferred from names and shapes, and said to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from memory_checkpoint import MemoryCheckpoint

from pedigree.weights.anatomy import Anatomy, read_anatomy
from pedigree.weights.checkpoint import open_checkpoint
from pedigree.weights.inference import find_stack, unglue

D, V, H, HD, F = 32, 50, 4, 8, 64
ATTENTION = {"attn.q", "attn.k", "attn.v", "attn.o"}
DENSE = {"mlp.up", "mlp.down"}
NORMS = {"norm.attn", "norm.mlp"}


def model(names: dict[str, tuple[int, ...]], n_layers: int = 2) -> dict[str, torch.Tensor]:
    """Random tensors; "{i}" in a name makes one per layer, "{h}" one per head."""
    tensors = {}
    for name, shape in names.items():
        for i in range(n_layers if "{i}" in name else 1):
            for h in range(H if "{h}" in name else 1):
                tensors[name.format(i=i, h=h)] = torch.randn(*shape)
    return tensors


def roles(anatomy: Anatomy, layer: int | None) -> set[str]:
    return {part.role for part in anatomy.parts() if part.layer == layer and not part.role.endswith(".bias")}


def check(tensors: dict[str, torch.Tensor], inside: set[str], outside: set[str]) -> Anatomy:
    anatomy = read_anatomy(MemoryCheckpoint(tensors))
    assert anatomy.inferred
    assert anatomy.architecture == "inferred"
    assert any("inferred from names and shapes" in note for note in anatomy.notes)
    assert anatomy.unmapped == ()
    assert roles(anatomy, None) == outside
    assert anatomy.d_model == D
    for layer in range(anatomy.n_layers):
        assert roles(anatomy, layer) == inside
    return anatomy


TUTORIALS: dict[str, dict[str, tuple[int, ...]]] = {
    "heads apart": {
        "token_embedding_table.weight": (V, D), "position_embedding_table.weight": (16, D), "ln_f.weight": (D,),
        "ln_f.bias": (D,), "lm_head.weight": (V, D), "lm_head.bias": (V,),
        "blocks.{i}.sa.heads.{h}.key.weight": (HD, D),
        "blocks.{i}.sa.heads.{h}.query.weight": (HD, D), "blocks.{i}.sa.heads.{h}.value.weight": (HD, D),
        "blocks.{i}.sa.proj.weight": (D, D), "blocks.{i}.sa.proj.bias": (D,), "blocks.{i}.ffwd.net.0.weight": (F, D),
        "blocks.{i}.ffwd.net.0.bias": (F,), "blocks.{i}.ffwd.net.2.weight": (D, F), "blocks.{i}.ffwd.net.2.bias": (D,),
        "blocks.{i}.ln1.weight": (D,), "blocks.{i}.ln1.bias": (D,), "blocks.{i}.ln2.weight": (D,),
        "blocks.{i}.ln2.bias": (D,),
    },
    "capital letters": {
        "token_embedding.weight": (V, D), "pos_embedding.weight": (16, D), "ln_f.weight": (D,),
        "lm_head.weight": (V, D), "blocks.{i}.self_attn.W_q.weight": (D, D), "blocks.{i}.self_attn.W_k.weight": (16, D),
        "blocks.{i}.self_attn.W_v.weight": (16, D), "blocks.{i}.self_attn.W_o.weight": (D, D),
        "blocks.{i}.self_attn.W_o.bias": (D,), "blocks.{i}.ffn.linear1.weight": (F, D),
        "blocks.{i}.ffn.linear2.weight": (D, F), "blocks.{i}.norm1.weight": (D,), "blocks.{i}.norm2.weight": (D,),
    },
    "minGPT of old": {
        "tok_emb.weight": (V, D), "pos_emb": (1, 16, D), "ln_f.weight": (D,), "head.weight": (V, D),
        "blocks.{i}.ln1.weight": (D,), "blocks.{i}.ln2.weight": (D,), "blocks.{i}.attn.key.weight": (D, D),
        "blocks.{i}.attn.query.weight": (D, D), "blocks.{i}.attn.value.weight": (D, D),
        "blocks.{i}.attn.proj.weight": (D, D), "blocks.{i}.mlp.0.weight": (F, D), "blocks.{i}.mlp.2.weight": (D, F),
    },
    "torch.nn": {
        "embedding.weight": (V, D), "pos_embedding.weight": (16, D), "norm.weight": (D,), "fc_out.weight": (V, D),
        "encoder.layers.{i}.self_attn.in_proj_weight": (3 * D, D),
        "encoder.layers.{i}.self_attn.in_proj_bias": (3 * D,),
        "encoder.layers.{i}.self_attn.out_proj.weight": (D, D), "encoder.layers.{i}.self_attn.out_proj.bias": (D,),
        "encoder.layers.{i}.linear1.weight": (F, D), "encoder.layers.{i}.linear2.weight": (D, F),
        "encoder.layers.{i}.norm1.weight": (D,), "encoder.layers.{i}.norm2.weight": (D,),
    },
    "glued numbers and slashes": {
        "params/wte/embedding": (V, D), "params/wpe/embedding": (16, D), "params/ln_f/scale": (D,),
        "params/lm_head/kernel": (D, V), "params/layer_{i}/attn/q_proj/kernel": (D, D),
        "params/layer_{i}/attn/k_proj/kernel": (D, D), "params/layer_{i}/attn/v_proj/kernel": (D, D),
        "params/layer_{i}/attn/o_proj/kernel": (D, D), "params/layer_{i}/mlp/up/kernel": (D, F),
        "params/layer_{i}/mlp/down/kernel": (F, D), "params/layer_{i}/attn_norm/scale": (D,),
        "params/layer_{i}/mlp_norm/scale": (D,),
    },
}  # fmt: skip


@pytest.mark.parametrize("case", TUTORIALS)
def test_names_of_well_known_tutorials_are_understood(case: str) -> None:
    anatomy = check(
        model(TUTORIALS[case]), ATTENTION | DENSE | NORMS, {"embed", "embed.position", "head", "norm.final"}
    )
    assert (anatomy.n_layers, anatomy.vocab_size, anatomy.rope, anatomy.tied) == (2, V, "none", False)
    for role, shape in {"mlp.up": (F, D), "mlp.down": (D, F), "attn.o": (D, D)}.items():
        part = anatomy.part(role, 1)
        assert part is not None
        assert part.shape == shape
        assert part.read().shape == shape


def test_heads_stored_apart_follow_each_other_and_count_themselves() -> None:
    tensors = model(TUTORIALS["heads apart"])
    anatomy = read_anatomy(MemoryCheckpoint(tensors))
    assert (anatomy.n_heads, anatomy.n_kv_heads, anatomy.head_dim) == (H, H, HD)
    part = anatomy.part("attn.k", 1)
    assert part is not None
    assert torch.equal(part.read(), torch.cat([tensors[f"blocks.1.sa.heads.{h}.key.weight"] for h in range(H)]))


def test_transformer_lens_axes_of_heads_are_merged() -> None:
    names = {
        "embed.W_E": (V, D), "pos_embed.W_pos": (16, D), "unembed.W_U": (D, V), "ln_final.w": (D,), "ln_final.b": (D,),
        "blocks.{i}.attn.W_Q": (H, D, HD), "blocks.{i}.attn.W_K": (H, D, HD), "blocks.{i}.attn.W_V": (H, D, HD),
        "blocks.{i}.attn.W_O": (H, HD, D), "blocks.{i}.attn.b_Q": (H, HD), "blocks.{i}.attn.b_O": (D,),
        "blocks.{i}.attn.mask": (16, 16), "blocks.{i}.mlp.W_in": (D, F), "blocks.{i}.mlp.b_in": (F,),
        "blocks.{i}.mlp.W_out": (F, D), "blocks.{i}.mlp.b_out": (D,), "blocks.{i}.ln1.w": (D,),
        "blocks.{i}.ln1.b": (D,), "blocks.{i}.ln2.w": (D,), "blocks.{i}.ln2.b": (D,),
    }  # fmt: skip
    tensors = model(names)
    anatomy = check(tensors, ATTENTION | DENSE | NORMS, {"embed", "embed.position", "head", "norm.final"})
    assert (anatomy.n_heads, anatomy.head_dim, anatomy.norm) == (H, HD, "layer")
    assert anatomy.constants == ("blocks.0.attn.mask", "blocks.1.attn.mask")
    expected = {
        "attn.q": tensors["blocks.1.attn.W_Q"].transpose(1, 2).reshape(H * HD, D),
        "attn.o": tensors["blocks.1.attn.W_O"].reshape(H * HD, D).T,
        "attn.q.bias": tensors["blocks.1.attn.b_Q"].reshape(-1),
        "attn.o.bias": tensors["blocks.1.attn.b_O"],
        "mlp.up": tensors["blocks.1.mlp.W_in"].T,
        "mlp.up.bias": tensors["blocks.1.mlp.b_in"],
    }
    for role, wanted in expected.items():
        part = anatomy.part(role, 1)
        assert part is not None, role
        assert torch.equal(part.read(), wanted), role


def test_three_feed_forward_matrices_are_a_gated_block() -> None:
    names = {"emb.weight": (V, D), "stack.{i}.attention.qkv.weight": (3 * D, D),
             "stack.{i}.attention.proj.weight": (D, D),
             "stack.{i}.ffn.w1.weight": (F, D), "stack.{i}.ffn.w3.weight": (F, D), "stack.{i}.ffn.w2.weight": (D, F),
             "stack.{i}.attention_norm.weight": (D,), "stack.{i}.ffn_norm.weight": (D,)}  # fmt: skip
    anatomy = check(model(names, 3), ATTENTION | DENSE | NORMS | {"mlp.gate"}, {"embed"})
    assert (anatomy.mlp, anatomy.rope, anatomy.tied, anatomy.n_layers) == ("glu", "half", True, 3)
    assert any("fused projection" in note for note in anatomy.notes)


def test_experts_of_an_unknown_architecture_are_counted() -> None:
    names = {
        "emb.weight": (V, D),
        "net.{i}.attn.wq.weight": (D, D),
        "net.{i}.attn.wk.weight": (D, D),
        "net.{i}.attn.wv.weight": (D, D),
        "net.{i}.attn.wo.weight": (D, D),
        "net.{i}.moe.router.weight": (3, D),
    }
    tensors = model(names)
    for i in range(2):
        for e in range(3):
            tensors |= {f"net.{i}.moe.experts.{e}.{x}.weight": torch.randn(F, D) for x in ("w1", "w3")}
            tensors[f"net.{i}.moe.experts.{e}.w2.weight"] = torch.randn(D, F)
    anatomy = read_anatomy(MemoryCheckpoint(tensors))
    assert (anatomy.mlp, anatomy.experts(1), anatomy.unmapped) == ("moe", 3, ())
    part = anatomy.part("moe.expert.down", 1, 2)
    assert part is not None
    assert torch.equal(part.read(), tensors["net.1.moe.experts.2.w2.weight"])


@pytest.mark.parametrize("tensors", [
    {},
    {"a": torch.randn(3)},
    {"w": torch.randn(()), "x.y": torch.randn(2, 3, 4, 5)},
    {"conv1.weight": torch.randn(8, 3, 3, 3), "conv1.bias": torch.randn(8), "fc.weight": torch.randn(10, 8)},
])  # fmt: skip
def test_what_is_no_transformer_gives_an_anatomy_without_layers(tensors: dict[str, torch.Tensor]) -> None:
    anatomy = read_anatomy(MemoryCheckpoint(tensors))
    assert anatomy.inferred
    assert anatomy.n_layers == 0
    assert all(part.layer is None for part in anatomy.parts())
    named = {name for part in anatomy.parts() for name in part.sources}
    assert named | set(anatomy.unmapped) == set(tensors)
    assert any("no layers" in note for note in anatomy.notes)


def test_the_layers_are_the_longest_run_of_numbers_from_zero() -> None:
    names = [f"encoder.block.{i}.{x}" for i in range(3) for x in "abc"] + [f"vision.block.{i}.a" for i in range(9)]
    assert find_stack(names) == "encoder.block"
    assert find_stack(["blocks.0.a", "blocks.0.b"]) == "blocks"
    assert find_stack(["conv.0.a", "conv.0.b"]) is None
    assert find_stack(["layers.1.a", "layers.1.b"]) is None
    assert find_stack(["a", "b.c"]) is None


def test_names_in_other_manners_become_those_of_torch() -> None:
    assert unglue("params/layer_3/attn/kernel") == "params.layer.3.attn.weight"
    assert unglue("block12.fc1.weight") == "block.12.fc1.weight"
    assert unglue("h.0.ln_1.g") == "h.0.ln_1.weight"
    assert unglue("self_attn.in_proj_bias") == "self_attn.in_proj.bias"
    assert unglue("layers.0.mlp.fc1.weight") == "layers.0.mlp.fc1.weight"


def test_real_models_of_others_are_understood(shared_data: Path) -> None:
    folder = shared_data / "weights"
    for name in ("gpt_pretrained", "gpt_finetuned"):
        with open_checkpoint(folder / "char-gpt-finetune" / f"{name}.pt", allow_pickle=True) as checkpoint:
            anatomy = read_anatomy(checkpoint)
            assert (anatomy.n_layers, anatomy.n_heads, anatomy.d_model, anatomy.vocab_size) == (4, 4, 64, 72)
            assert anatomy.unmapped == ()
            assert roles(anatomy, 3) == ATTENTION | DENSE | NORMS
            assert all(tuple(part.read().shape) == part.shape for part in anatomy.parts())
    for path in sorted((folder / "clock-and-pizza").glob("model_*.pt")):
        config = json.loads(path.with_name(path.name.replace("model_", "config_")).with_suffix(".json").read_text())
        with open_checkpoint(path, allow_pickle=True) as checkpoint:
            anatomy = read_anatomy(checkpoint)
            if "n_layers" in config:
                assert (anatomy.n_layers, anatomy.n_heads) == (config["n_layers"], config["n_heads"])
                assert roles(anatomy, 0) == ATTENTION | DENSE
            else:
                assert anatomy.n_layers == 0


def test_the_real_llama_of_llama2c_is_a_llama(shared_data: Path) -> None:
    with open_checkpoint(shared_data / "weights" / "llama2c-hf" / "stories260K") as checkpoint:
        anatomy = read_anatomy(checkpoint)
    assert (anatomy.architecture, anatomy.n_layers, anatomy.n_heads, anatomy.n_kv_heads) == ("llama", 5, 8, 4)
    assert (anatomy.tied, anatomy.unmapped, anatomy.notes) == (True, (), ())


def test_a_feed_forward_block_without_telling_names_is_known_by_its_shapes() -> None:
    block = {"stack.{i}.e": (F, D), "stack.{i}.f": (F, D), "stack.{i}.g": (D, F), "stack.{i}.a": (D, D)}
    names = {"table": (V, D), **block, "stack.{i}.s": (D,)}
    anatomy = read_anatomy(MemoryCheckpoint(model(names)))
    assert roles(anatomy, 1) == {"mlp.gate", "mlp.up", "mlp.down"}
    plain = {"table": (V, D), "stack.{i}.e": (F, D), "stack.{i}.g": (D, F), "stack.{i}.a": (D, D)}
    assert roles(read_anatomy(MemoryCheckpoint(model(plain))), 0) == {"mlp.up", "mlp.down"}


def test_several_blocks_of_one_shape_without_telling_names_are_left_alone() -> None:
    names: dict[str, tuple[int, ...]] = {
        "table": (V, D),
        **{f"stack.{{i}}.m{number}": (F, D) for number in range(3)},
        "stack.{i}.m4": (D, F),
    }
    assert not read_anatomy(MemoryCheckpoint(model(names))).n_layers


def test_numbers_inside_a_word_are_layers() -> None:
    assert unglue("block3_ln1_g") == "block.3.ln1_g"
    names = {"emb": (V, D), "block{i}_Wq": (D, D), "block{i}_Wk": (D, D), "block{i}_Wv": (D, D), "block{i}_Wo": (D, D),
             "block{i}_W1": (F, D), "block{i}_W2": (D, F)}  # fmt: skip
    assert roles(read_anatomy(MemoryCheckpoint(model(names))), 1) == ATTENTION - {"attn.o"} | DENSE
