"""Exchange with Hugging Face directories: same numbers both ways, every tensor accounted for, nothing overwritten."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from model.pico import MEMBERS, config, decoder, domains, logits, tokens
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pedigree.errors import MalformedFile, MissingInput, OutputExists, UsageError
from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_checkpoint, import_checkpoint, plan
from pedigree.model.hf_config import DIALECTS, choose_dialect, config_from_hf, config_to_hf
from pedigree.model.hf_layout import empty_state
from pedigree.model.members import member, names
from pedigree.weights.anatomy import read_anatomy
from pedigree.weights.checkpoint import open_checkpoint

transformers = pytest.importorskip("transformers")

EXACT = 1e-4
# One decoder for each native class, and variants of a class that differ in names or mechanisms.
EXPERTS = {"n_experts": 6, "top_k": 2, "d_expert": 24}
YARN = {"kind": "yarn", "factor": 4.0, "low": 1.0, "high": 4.0, "original_positions": 32}
NATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("llama-3-8b-pico", {}),
    "LlamaForCausalLM tied": ("llama-3-8b-pico", {"tied": True}),
    "LlamaForCausalLM biases": ("pangu-embedded-7b-pico", {"feed_forward": {"d_inner": 96, "bias": True}}),
    "LlamaForCausalLM scaled": (
        "llama-3-8b-pico",
        {"rope": {"theta": 100.0, "scaling": {"factor": 8.0, "low": 1.0, "high": 4.0, "original_positions": 64}}},
    ),
    "LlamaForCausalLM linear": (
        "llama-3-8b-pico",
        {"rope": {"theta": 100.0, "scaling": {"kind": "linear", "factor": 4.0}}},
    ),
    "LlamaForCausalLM dynamic": (
        "llama-3-8b-pico",
        {
            "n_positions": 8,
            "rope": {"theta": 100.0, "scaling": {"kind": "dynamic", "factor": 2.0, "original_positions": 8}},
        },
    ),
    "LlamaForCausalLM yarn": ("llama-3-8b-pico", {"rope": {"theta": 100.0, "scaling": YARN}}),
    "LlamaForCausalLM yarn, whole channels off": (
        "llama-3-8b-pico",
        {"rope": {"theta": 100.0, "scaling": {**YARN, "truncate": False, "attention_factor": 1.3}}},
    ),
    "Qwen2ForCausalLM": ("qwen2.5-14b-pico", {}),
    "Qwen3ForCausalLM": ("qwen3-8b-pico", {}),
    "Glm4ForCausalLM": (
        "pangu-ultra-135b-pico",
        {"rope": {"layout": "interleaved", "fraction": 0.5, "theta": 100.0}, "norm": {"placement": "sandwich"}},
    ),
    "Glm4ForCausalLM biases": (
        "qwen2.5-14b-pico",
        {"rope": {"layout": "interleaved"}, "norm": {"placement": "depth-scaled-sandwich"}},
    ),
    "GPT2LMHeadModel": ("dense-71b-pico", {}),
    "GPT2LMHeadModel untied": ("dense-71b-pico", {"tied": False}),
    "MixtralForCausalLM": ("mixtral-8x7b-pico", {}),
    "Qwen2MoeForCausalLM": (
        "qwen2.5-14b-pico",
        {"experts": {**EXPERTS, "d_shared": 40, "shared_gate": True, "first_dense": 1}},
    ),
    "Qwen3MoeForCausalLM": ("qwen3-8b-pico", {"experts": {**EXPERTS, "renormalize": True}}),
    "DeepseekV3ForCausalLM": ("deepseek-v3-pico", {}),
    "DeepseekV3ForCausalLM yarn": (
        "deepseek-v3-pico",
        {"rope": {"theta": 100.0, "layout": "interleaved", "scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}},
    ),
    "DeepseekV3ForCausalLM yarn, two scales": (
        "deepseek-v3-pico",
        {"rope": {"theta": 100.0, "layout": "interleaved", "scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.5}}},
    ),
    "DeepseekV3ForCausalLM without query latent": ("deepseek-v3-pico", {"mtp": None}),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No progress bars and hints of transformers."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return


def native(case: str) -> Decoder:
    name, changes = NATIVE[case]
    if "without query latent" in case:
        changes = {**changes, "attention": {**member(name).attention.model_dump(), "q_rank": None}}
    model = decoder(name, **changes)
    for mixture in model.mixtures():
        bias = getattr(mixture.router, "expert_bias", None)
        if bias is not None:
            bias.copy_(torch.randn(bias.shape, generator=torch.Generator().manual_seed(4)) * 0.1)
    return model


def read_by_transformers(directory: Path) -> Any:
    keys = json.loads((directory / "config.json").read_text())
    model_class = getattr(transformers, keys["architectures"][0])
    model, report = model_class.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"], report["missing_keys"]
    assert not report["mismatched_keys"], report["mismatched_keys"]
    assert all(".4." in key for key in report["unexpected_keys"]), report["unexpected_keys"]  # multi-token layers
    return model.eval()


@pytest.mark.parametrize("case", NATIVE)
def test_transformers_computes_what_we_export(case: str, tmp_path: Path) -> None:
    model = native(case)
    export_checkpoint(model, tmp_path / "m")
    theirs = read_by_transformers(tmp_path / "m")
    assert type(theirs).__name__ == case.split()[0]
    ids = tokens(model, 2, 20)
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, logits(model, ids), atol=EXACT)


@pytest.mark.parametrize("case", NATIVE)
def test_we_compute_what_transformers_saves(case: str, tmp_path: Path) -> None:
    """Through their class and back, without our key in the config and with other numbers."""
    model = native(case)
    export_checkpoint(model, tmp_path / "m")
    theirs = read_by_transformers(tmp_path / "m")
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    theirs.config.__dict__.pop("pedigree", None)
    theirs.config.num_nextn_predict_layers = 0
    theirs.save_pretrained(tmp_path / "t")
    assert "pedigree" not in json.loads((tmp_path / "t" / "config.json").read_text())
    back = import_checkpoint(tmp_path / "t")
    ids = tokens(model, 2, 20)
    with torch.no_grad():
        expected = theirs(ids).logits
    assert torch.allclose(logits(back, ids), expected, atol=EXACT)
    assert not torch.allclose(logits(model, ids), expected, atol=1e-3), "other numbers must give other logits"


@pytest.mark.parametrize("case", [case for case in NATIVE if set(case.split()) & {"linear", "dynamic", "yarn"}])
def test_each_part_of_a_scaled_rotation_counts(case: str) -> None:
    """Without one of its numbers the logits are others: an agreement above is no accident."""
    model = native(case)
    ids = tokens(model, 2, 20)
    whole = logits(model, ids)
    scaling = model.config.rope.scaling.model_dump(exclude_none=True)
    changes: list[dict[str, Any] | None] = [None]
    changes += [{**scaling, "attention_factor": 1.0}] if "yarn" in case else []
    changes += [{k: v for k, v in scaling.items() if k != "mscale_all_dim"}] if "mscale_all_dim" in scaling else []
    for changed in changes:
        rope = {**model.config.rope.model_dump(), "scaling": changed}
        other = Decoder(model.config.replace(rope=rope))
        other.load_state_dict(model.state_dict())
        same = "attention_factor" in (changed or {}) and model.config.rope.scaling.turn_factor == 1
        assert torch.allclose(logits(other.eval(), ids), whole, atol=1e-3) == same, changed


def test_the_old_spelling_of_scaling_is_read() -> None:
    keys = {
        "model_type": "deepseek_v3",
        **config_to_hf(member("deepseek-v3-pico"), choose_dialect(member("deepseek-v3-pico"))),
        "rope_theta": 10000,
        "rope_scaling": {
            "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
        },
    }  # fmt: skip
    del keys["pedigree"], keys["rope_parameters"]
    scaling = config_from_hf(keys)[0].rope.scaling
    assert (scaling.kind, scaling.high, scaling.original_positions, scaling.turn_factor) == ("yarn", 32, 4096, 1.0)
    assert scaling.softmax_factor == pytest.approx((0.1 * math.log(40) + 1) ** 2)
    llama = config_to_hf(member("llama-3-8b-pico"), choose_dialect(member("llama-3-8b-pico")))
    del llama["pedigree"], llama["rope_parameters"]
    found = config_from_hf({**llama, "rope_scaling": {"type": "linear", "factor": 2.0}})[0]
    assert (found.rope.scaling.kind, found.rope.scaling.factor) == ("linear", 2.0)


@pytest.mark.parametrize(
    ("scaling", "match"),
    [
        ({"kind": "yarn", "factor": 4.0}, "original_positions"),
        ({"kind": "linear", "factor": 4.0, "mscale": 1.0}, "mscale"),
        ({"kind": "ntk", "factor": 4.0}, "kind"),
    ],
)
def test_scaling_that_cannot_be_is_refused(scaling: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        member("llama-3-8b-pico").replace(rope={"scaling": scaling})
    with pytest.raises(UsageError, match=r"Rope\.theta"):
        member("llama-3-8b-pico").replace(rope={"theta": 1.0, "scaling": YARN})


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = decoder(name)
    export_checkpoint(model, tmp_path / "m")
    back = import_checkpoint(tmp_path / "m")
    assert back.config == model.config
    state, again = model.state_dict(), back.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[key], again[key]) for key in state)


@pytest.mark.parametrize("name", MEMBERS)
def test_the_classes_we_ship_load_what_transformers_has_no_class_for(name: str, tmp_path: Path) -> None:
    from pedigree.model import hf_classes

    model = decoder(name)
    if choose_dialect(model.config).native:
        pytest.skip("transformers has the class")
    hf_classes.register()
    export_checkpoint(model, tmp_path / "m")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert type(theirs).__name__ == choose_dialect(model.config).architecture
    ids = tokens(model, 2, 12)
    if domains(model, ids) is not None:
        return
    with torch.no_grad():
        out = theirs(ids, labels=ids)
    assert torch.equal(out.logits, logits(model, ids))
    expected = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert out.loss is not None
    if not model.config.mtp and not model.config.experts:
        assert out.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    theirs.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "m" / "model.safetensors"
    ).read_bytes()


def test_a_shipped_class_generates_and_masks_padding_on_the_left() -> None:
    from pedigree.model import hf_classes
    from pedigree.model.generation import generate

    model = decoder("pangu-alpha-13b-pico")
    theirs = hf_classes.wrapped(model)
    ids = tokens(model, 1, 6)
    text = theirs.generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(text, generate(model, ids, 5))
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    with torch.no_grad():
        assert torch.allclose(theirs(padded, attention_mask=mask).logits[:, 3:], logits(model, ids), atol=1e-5)


@pytest.mark.parametrize("name", names())
def test_every_tensor_of_every_member_has_one_place_at_true_size(name: str) -> None:
    full = member(name)
    if full.experts is not None and full.experts.n_experts > 64:
        full = full.replace(experts={**full.experts.model_dump(), "n_experts": 40, "n_groups": 1, "topk_groups": 1})
    state = empty_state(full)
    for dialect in DIALECTS.values():
        if [*dialect.reasons(full)]:
            continue
        layout = plan(full, dialect)
        stored = [slot.name for slot in layout]
        assert len(stored) == len(set(stored))
        numbers = sum(torch.Size(slot.shape(state)).numel() for slot in layout if not slot.is_copy)
        assert numbers == sum(t.numel() for t in state.values())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "pangu-alpha-13b-pico",
            ["transformer.wqe.weight", "transformer.h.3.attn.out_proj.bias", "transformer.h.0.mlp.c_fc.weight"],
        ),
        (
            "pangu-pro-moe-72b-pico",
            [
                "model.layers.0.mlp.router_scale",
                "model.layers.1.mlp.experts.15.down_proj.weight",
                "model.layers.0.mlp.shared_expert.up_proj.weight",
                "model.layers.0.self_attn.o_proj.bias",
                "model.layers.0.mlp.gate.weight",
            ],
        ),
        (
            "pangu-ultra-moe-718b-pico",
            [
                "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
                "model.layers.0.pre_mlp_layernorm.weight",
                "model.layers.0.post_mlp_layernorm.weight",
                "model.layers.0.mlp.gate_proj.weight",
                "model.layers.1.mlp.shared_experts.up_proj.weight",
                "model.layers.4.eh_proj.weight",
                "model.layers.4.shared_head.head.weight",
                "model.layers.4.embed_tokens.weight",
                "model.layers.4.mlp.experts.3.gate_proj.weight",
            ],
        ),
        (
            "pangu-ultra-135b-pico",
            ["model.layers.5.pre_mlp_layernorm.weight", "model.layers.5.post_attention_layernorm.weight"],
        ),
    ],
)
def test_published_names_are_the_published_ones(name: str, wanted: list[str]) -> None:
    small = member(name)
    stored = {slot.name for slot in plan(small, choose_dialect(small))}
    assert set(wanted) <= stored


@pytest.mark.parametrize(
    "name", ["pangu-alpha-13b-pico", "pangu-pro-moe-72b-pico", "pangu-ultra-moe-718b-pico", "pangu-ultra-135b-pico"]
)
def test_the_role_tables_understand_what_we_export(name: str, tmp_path: Path) -> None:
    model = decoder(name)
    export_checkpoint(model, tmp_path / "m")
    with open_checkpoint(tmp_path / "m") as checkpoint:
        anatomy = read_anatomy(checkpoint)
    assert not anatomy.unmapped, anatomy.unmapped


def test_both_key_dialects_of_latent_attention_are_written_and_read() -> None:
    small = member("pangu-ultra-moe-718b-pico")
    keys = config_to_hf(small, choose_dialect(small))
    assert keys["attention_kv_lora_dim"] == keys["kv_lora_rank"] == small.attention.kv_rank  # type: ignore[union-attr]
    original = {k: v for k, v in keys.items() if "lora_rank" not in k and "head_dim" not in k and k != "pedigree"}
    read, _ = config_from_hf(original)
    assert read.attention == small.attention


def test_what_the_class_cannot_know_travels_in_our_key_until_someone_edits_the_file() -> None:
    small = config("llama-3-8b-pico", init={"kind": "tiny", "embedding_std": 0.5}, dropout=0.1).replace(name="mine")
    keys = config_to_hf(small, choose_dialect(small))
    assert config_from_hf(json.loads(json.dumps(keys)))[0] == small
    edited = {**keys, "rope_theta": 77.0, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}
    read, _ = config_from_hf(edited)
    assert read.rope is not None
    assert read.rope.theta == 77.0
    assert read.name == "llama"


def test_the_released_configs_are_read_as_what_they_are() -> None:
    """Keys as the released configs of Pangu Pro MoE and openPangu-Embedded-7B have them."""
    pro, _ = config_from_hf(
        {
            "model_type": "PanguProMoE",
            "vocab_size": 153376,
            "hidden_size": 5120,
            "num_hidden_layers": 48,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "hidden_act": "silu",
            "max_position_embeddings": 131072,
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-5,
            "rope_theta": 16000000.0,
            "tie_word_embeddings": False,
            "moe_intermediate_size": 1344,
            "shared_expert_intermediate_size": 5376,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "router_aux_loss_coef": 0.001,
            "output_router_logits": False,
        }
    )
    published = member("pangu-pro-moe-72b")
    assert pro.experts == published.experts
    assert (pro.attention, pro.rope, pro.norm) == (published.attention, published.rope, published.norm)
    embedded, _ = config_from_hf(
        {
            "model_type": "PanguEmbedded",
            "vocab_size": 153376,
            "hidden_size": 4096,
            "num_hidden_layers": 34,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 12800,
            "hidden_act": "silu",
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5,
            "rope_theta": 16000000.0,
            "bias": True,
            "tie_word_embeddings": False,
        }
    )
    assert embedded.attention == member("pangu-embedded-7b").attention


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_type": "mamba"}, "model type"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope_type"),
        ({"hidden_act": "relu2"}, "hidden_act"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"use_sliding_window": True}, "sliding_window"),
    ],
)
def test_a_mechanism_that_is_not_built_is_refused_by_name(change: dict[str, Any], match: str) -> None:
    small = member("llama-3-8b-pico")
    keys = config_to_hf(small, choose_dialect(small))
    del keys["pedigree"]
    with pytest.raises(UsageError, match=match):
        config_from_hf({**keys, **change})


def test_missing_and_impossible_keys_are_named() -> None:
    small = member("llama-3-8b-pico")
    keys = config_to_hf(small, choose_dialect(small))
    del keys["pedigree"]
    with pytest.raises(MalformedFile, match="hidden_size"):
        config_from_hf({k: v for k, v in keys.items() if k != "hidden_size"})
    with pytest.raises(UsageError, match="vocab_size"):
        config_from_hf({**keys, "vocab_size": -4})


def test_a_dialect_that_computes_something_else_is_refused_with_its_reasons() -> None:
    with pytest.raises(UsageError, match="query layer") as caught:
        choose_dialect(member("pangu-alpha-13b-pico"), "gpt2")
    assert caught.value.fix == "write it as gpt_pangu"
    with pytest.raises(UsageError, match="No such dialect") as caught:
        choose_dialect(member("llama-3-8b-pico"), "lama")
    assert caught.value.fix == "did you mean llama?"


def test_nothing_is_overwritten_unless_asked_and_other_files_stay(tmp_path: Path) -> None:
    first, second = decoder("llama-2-7b-pico", seed=1), decoder("llama-2-7b-pico", seed=2)
    export_checkpoint(first, tmp_path / "m", max_shard_bytes=40_000)
    (tmp_path / "m" / "tokenizer.json").write_text("mine")
    shards = sorted(p.name for p in (tmp_path / "m").glob("*.safetensors"))
    assert len(shards) > 2
    with pytest.raises(OutputExists, match="already"):
        export_checkpoint(second, tmp_path / "m")
    assert torch.equal(import_checkpoint(tmp_path / "m").embed.weight, first.embed.weight)
    export_checkpoint(second, tmp_path / "m", force=True)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert torch.equal(import_checkpoint(tmp_path / "m").embed.weight, second.embed.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["m"], "no temporary folder stays behind"


def test_a_directory_that_holds_only_other_files_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "tokenizer.json").write_text("mine")
    export_checkpoint(decoder("llama-2-7b-pico"), tmp_path / "m")
    assert (tmp_path / "m" / "tokenizer.json").read_text() == "mine"


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pedigree.model.hf_checkpoint as module

    def break_off(*_args: Any, **_options: Any) -> None:
        raise KeyboardInterrupt("stop")

    monkeypatch.setattr(module, "_write_json", break_off)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        export_checkpoint(decoder("llama-2-7b-pico"), tmp_path / "m")
    assert not [*tmp_path.iterdir()]


def test_shards_hold_every_tensor_once_and_keep_the_limit(tmp_path: Path) -> None:
    model = decoder("mixtral-8x7b-pico")
    limit = 400_000
    export_checkpoint(model, tmp_path / "m", max_shard_bytes=limit)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    found: dict[str, str] = {}
    for path in (tmp_path / "m").glob("*.safetensors"):
        assert path.stat().st_size < limit * 1.1
        with safe_open(path, "pt") as file:
            found |= dict.fromkeys(file.keys(), path.name)
    assert found == index["weight_map"]
    assert index["metadata"]["total_size"] == sum(p.numel() * 4 for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_stored_type_is_kept_and_selection_biases_stay_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = decoder("deepseek-v3-pico")
    export_checkpoint(model, tmp_path / "m", dtype=dtype, extra_keys={"eos_token_id": 7})
    keys = json.loads((tmp_path / "m" / "config.json").read_text())
    assert keys["torch_dtype"] == str(dtype).removeprefix("torch.")
    assert keys["eos_token_id"] == 7
    back = import_checkpoint(tmp_path / "m")
    assert {p.dtype for p in back.parameters()} == {dtype}
    assert {b.dtype for b in back.buffers()} == {torch.float32}
    assert torch.equal(back.embed.weight, model.embed.weight.to(dtype))
    assert import_checkpoint(tmp_path / "m", dtype=torch.float32).embed.weight.dtype == torch.float32


def spoiled(tmp_path: Path, name: str, change: Any) -> Path:
    """An export whose tensors a function has changed."""
    export_checkpoint(decoder(name), tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    return tmp_path / "m"


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    place = spoiled(tmp_path, "llama-2-7b-pico", lambda t: t.pop("model.norm.weight"))
    with pytest.raises(MissingInput, match="A tensor that the config asks for") as caught:
        import_checkpoint(place)
    assert caught.value.expected == "model.norm.weight"


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    place = spoiled(tmp_path, "llama-2-7b-pico", lambda t: t.update({"model.norm.weight": torch.ones(3)}))
    with pytest.raises(MalformedFile, match=r"model\.norm\.weight"):
        import_checkpoint(place)


def test_a_tensor_that_nobody_asked_for_is_named(tmp_path: Path) -> None:
    place = spoiled(tmp_path, "llama-2-7b-pico", lambda t: t.update({"model.layers.0.extra.weight": torch.ones(3)}))
    with pytest.raises(MalformedFile, match=r"model\.layers\.0\.extra\.weight"):
        import_checkpoint(place)


def test_a_second_embedding_in_a_multi_token_layer_must_be_the_first(tmp_path: Path) -> None:
    name = "model.layers.4.embed_tokens.weight"
    place = spoiled(tmp_path, "deepseek-v3-pico", lambda t: t.update({name: t[name] + 1}))
    with pytest.raises(MalformedFile, match="must repeat"):
        import_checkpoint(place)
    (tmp_path / "again").mkdir()
    assert import_checkpoint(spoiled(tmp_path / "again", "deepseek-v3-pico", lambda t: t.pop(name)))


def test_a_tied_head_that_is_stored_must_be_the_embedding(tmp_path: Path) -> None:
    def store(tensors: dict[str, torch.Tensor], shift: float) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + shift

    (tmp_path / "same").mkdir()
    assert import_checkpoint(spoiled(tmp_path / "same", "pangu-alpha-13b-pico", lambda t: store(t, 0.0)))
    with pytest.raises(MalformedFile, match=r"must repeat another.*lm_head"):
        import_checkpoint(spoiled(tmp_path, "pangu-alpha-13b-pico", lambda t: store(t, 0.5)))


def test_weights_without_a_config_are_not_guessed(tmp_path: Path) -> None:
    export_checkpoint(decoder("llama-2-7b-pico"), tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(MissingInput, match="config"):
        import_checkpoint(tmp_path / "m")
