"""Layouts: fused by group, interleaved, 8-bit blocks, prediction layers. Operators never see them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.surgery.surgery_models import operate, quick_folder, tensors, write_model

from pedigree.errors import PedigreeError
from pedigree.weights.anatomy import read_anatomy
from pedigree.weights.checkpoint import open_checkpoint
from pedigree.weights.layout import half_split_order

K, G, E = 2, 2, 4
NAMES = {
    "model.embed_tokens": "model.tok_embeddings", "input_layernorm": "attention_norm",
    "self_attn.o_proj": "attention.wo", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2", "lm_head": "output",
}  # fmt: skip
STEPS = [{"grow.heads": {"to": 8}}, {"grow.hidden": {"to": 24}}, {"grow.depth": {"op": "identity", "after": [1]}}]


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as made:
        yield made


def _renamed(source: Path, target: Path, model_type: str, *, fuse: bool, interleave: bool) -> Path:
    """A Llama stored as InternLM2 (fused by group) or in the original layout (interleaved rotary rows)."""
    old = tensors(source)
    new: dict[str, torch.Tensor] = {}
    for name, tensor in old.items():
        for before, after in NAMES.items():
            name = name.replace(before, after)
        new[name] = tensor
    for layer in range(2):
        opening = f"model.layers.{layer}."
        q, k, v = (new.pop(f"{opening}self_attn.{x}_proj.weight") for x in "qkv")
        if interleave:
            q, k = (w[half_split_order(len(w) // E, E, E).argsort()] for w in (q, k))
        if fuse:
            groups = [torch.cat([q[g * G * E : (g + 1) * G * E], k[g * E : (g + 1) * E], v[g * E : (g + 1) * E]])
                      for g in range(K)]  # fmt: skip
            new[f"{opening}attention.wqkv.weight"] = torch.cat(groups)
        else:
            for x, w in zip("qkv", (q, k, v), strict=True):
                new[f"{opening}attention.w{x}.weight"] = w
    target.mkdir()
    save_file(new, target / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
    return target


@pytest.mark.parametrize(("fuse", "interleave"), [(True, False), (False, True)])
def test_other_layouts_give_the_same_parts(folder: Path, fuse: bool, interleave: bool) -> None:
    llama = write_model(folder / "llama", "llama")
    other = _renamed(llama, folder / "other", "internlm2" if fuse else "llama", fuse=fuse, interleave=interleave)
    operate(llama, folder / "a", STEPS)
    operate(other, folder / "b", STEPS)
    with open_checkpoint(str(folder / "a")) as a, open_checkpoint(str(folder / "b")) as b:
        first, second = read_anatomy(a), read_anatomy(b)
        assert first.by_key.keys() == second.by_key.keys()
        assert second.n_layers == 3
        for key, part in first.by_key.items():
            assert torch.equal(part.read(), second.by_key[key].read()), key
    if fuse:
        assert any(name.endswith("wqkv.weight") for name in tensors(folder / "b"))


def _eight_bits(source: Path, target: Path) -> Path:
    """The down projections in 8 bits with one scale for a block, as DeepSeek-V3 stores them."""
    new = tensors(source)
    for name in [name for name in new if name.endswith("down_proj.weight")]:
        new[f"{name}_scale_inv"] = torch.full((1, 1), 0.5)
        new[name] = (new[name] * 2).to(torch.float8_e4m3fn)
    target.mkdir()
    save_file(new, target / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_eight_bit_blocks_are_multiplied_in_by_a_cast(folder: Path) -> None:
    source = _eight_bits(write_model(folder / "llama", "llama"), folder / "source")
    operate(source, folder / "target", [{"cast": {"to": "bfloat16"}}, {"grow.ffn": {"to": 30}}])
    new = tensors(folder / "target")
    assert not any(name.endswith("_scale_inv") for name in new)
    name = "model.layers.0.mlp.down_proj.weight"
    expected = (tensors(source)[name].float() * 0.5).bfloat16()
    assert torch.equal(new[name][:, :24], expected)
    assert torch.equal(new[name][:, 24:], torch.zeros(16, 6, dtype=torch.bfloat16))
    assert "quantization_config" not in json.loads((folder / "target" / "config.json").read_text())


def test_eight_bit_blocks_travel_with_their_scales_and_are_not_rewritten(folder: Path) -> None:
    source = _eight_bits(write_model(folder / "llama", "llama"), folder / "source")
    operate(source, folder / "target", [{"grow.depth": {"op": "stack", "times": 2}}], allow="nfp")
    old, new = tensors(source), tensors(folder / "target")
    for end in ("weight", "weight_scale_inv"):
        assert torch.equal(
            new[f"model.layers.3.mlp.down_proj.{end}"].float(), old[f"model.layers.1.mlp.down_proj.{end}"].float()
        )
    with pytest.raises(PedigreeError, match="quantized type"):
        operate(source, folder / "other", [{"grow.ffn": {"to": 30}}])


def test_a_vocabulary_padded_beyond_the_tokenizer_stays_as_it_is(folder: Path) -> None:
    """Rows without a token are never cut off."""
    source = write_model(folder / "source", "llama", vocab_size=64)
    (source / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}))
    operate(source, folder / "target", [{"grow.ffn": {"to": 30}}])
    assert tensors(folder / "target")["model.embed_tokens.weight"].shape[0] == 64
    assert (folder / "target" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_layers_of_a_pattern_are_copied_with_their_kind(folder: Path) -> None:
    kinds = ["sliding_attention", "full_attention"]
    source = write_model(folder / "source", "qwen3", layer_types=kinds, sliding_window=4, use_sliding_window=True,
                         max_window_layers=0)  # fmt: skip
    config = json.loads((source / "config.json").read_text())
    config.pop("max_window_layers", None)
    config["use_sliding_window"] = False
    (source / "config.json").write_text(json.dumps(config))
    operate(source, folder / "target", [{"grow.depth": {"op": "identity", "after": [1]}}])
    assert json.loads((folder / "target" / "config.json").read_text())["layer_types"] == [*kinds, kinds[1]]
