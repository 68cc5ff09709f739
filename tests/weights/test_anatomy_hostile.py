"""Configs and headers that lie: an anatomy, or a clear error; never a crash, never a huge allocation."""

from __future__ import annotations

import math
import time
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_checkpoint import Info, MemoryCheckpoint

from pedigree.errors import PedigreeError
from pedigree.weights.anatomy import MOST_NOTES, read_anatomy
from pedigree.weights.table import tables

D, V = 16, 20


def llama(n_layers: int = 2) -> dict[str, torch.Tensor]:
    tensors = {"model.embed_tokens.weight": torch.randn(V, D), "model.norm.weight": torch.randn(D)}
    for i in range(n_layers):
        at = f"model.layers.{i}."
        tensors |= {at + f"self_attn.{x}_proj.weight": torch.randn(D, D) for x in "qkvo"}
        tensors |= {at + f"mlp.{x}_proj.weight": torch.randn(40, D) for x in ("gate", "up")}
        tensors |= {at + "mlp.down_proj.weight": torch.randn(D, 40), at + "input_layernorm.weight": torch.randn(D)}
        tensors |= {at + "post_attention_layernorm.weight": torch.randn(D)}
    return tensors


class HeaderOnly(MemoryCheckpoint):
    """Names and shapes without any numbers behind them."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], config: Any = None) -> None:
        super().__init__({}, config)
        self.tensors = {name: Info(name, "BF16", shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("value", [10**9, -4, 0, "four", 4.0, True, None, [], {}, [1, 2], "4" * 5000, 1e400])
@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "vocab_size"]
)
def test_an_impossible_number_in_a_config_is_noted_and_the_shapes_decide(key: str, value: object) -> None:
    config = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 4, key: value}
    anatomy = read_anatomy(MemoryCheckpoint(llama(), config))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.d_model, anatomy.vocab_size) == ("llama", 2, D, V)
    assert anatomy.n_heads is not None
    assert anatomy.n_heads * (anatomy.head_dim or 0) == D
    impossible = isinstance(value, bool | float | str | dict) or (isinstance(value, int) and value <= 0)
    if impossible:
        assert any(key in note for note in anatomy.notes)
    assert all(len(note) < 400 for note in anatomy.notes)


@pytest.mark.parametrize("heads", [3, 7, 5000])
def test_heads_that_do_not_divide_the_rows_are_noted(heads: int) -> None:
    anatomy = read_anatomy(MemoryCheckpoint(llama(), {"model_type": "llama", "num_attention_heads": heads}))
    assert any(f"n_heads {heads} contradicts the shapes" in note for note in anatomy.notes)
    assert any("is assumed" in note for note in anatomy.notes)


@pytest.mark.parametrize("config", [
    {"model_type": 5, "text_config": {"text_config": {}}, "rope_parameters": [], "quantization_config": 3},
    {"text_config": {"num_attention_heads": "x"}, "rope_parameters": {"partial_rotary_factor": -1}},
    {"quantization_config": {"weight_block_size": [0, -5]}, "partial_rotary_factor": float("nan")},
    {"model_type": ["llama"], "tie_word_embeddings": "yes"},
])  # fmt: skip
def test_a_config_of_wrong_types_is_no_hindrance(config: dict[str, Any]) -> None:
    assert read_anatomy(MemoryCheckpoint(llama(), config)).architecture == "llama"


def test_missing_layers_are_noted() -> None:
    tensors = {name: tensor for name, tensor in llama(4).items() if ".1." not in name}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {"model_type": "llama"}))
    assert anatomy.n_layers == 4
    assert anatomy.part("attn.q", 1) is None
    assert any("1 of 4 layer numbers have no tensors" in note for note in anatomy.notes)


def test_a_layer_number_beyond_all_reason_is_left_unmapped() -> None:
    tensors = llama() | {"model.layers.999999.mlp.up_proj.weight": torch.randn(40, D)}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {"model_type": "llama"}))
    assert anatomy.n_layers == 2
    assert anatomy.unmapped == ("model.layers.999999.mlp.up_proj.weight",)


@pytest.mark.parametrize("shape", [(), (0, D), (D,), (2, 3, D), (2, 3, 4, D), (0,)])
def test_a_tensor_of_a_shape_that_cannot_play_its_role_is_left_unmapped(shape: tuple[int, ...]) -> None:
    tensors = llama() | {"model.layers.1.mlp.up_proj.weight": torch.zeros(shape)}
    anatomy = read_anatomy(MemoryCheckpoint(tensors, {"model_type": "llama"}))
    if len(shape) != 3:
        assert anatomy.unmapped == ("model.layers.1.mlp.up_proj.weight",)
        assert any("its shape cannot be that of mlp.up" in note for note in anatomy.notes)
    assert anatomy.part("mlp.up", 0) is not None


def test_shapes_without_limit_allocate_nothing() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in llama().items()}
    shapes["model.layers.0.self_attn.q_proj.weight"] = (10**13, D)
    shapes["model.layers.0.self_attn.k_proj.weight"] = (10**13, D)
    for model_type in ("llama", "glm", "deepseek_v3"):
        anatomy = read_anatomy(HeaderOnly(shapes, {"model_type": model_type}))
        assert anatomy.part("attn.q", 0) is None
    packed = {f"model.layers.{i}.mlp.experts.gate_up_proj": (10**12, 8, D) for i in range(2)}
    packed |= {f"model.layers.{i}.mlp.experts.down_proj": (10**12, D, 4) for i in range(2)}
    shapes = {name: shape for name, shape in shapes.items() if ".mlp." not in name} | packed
    shapes |= {f"model.layers.{i}.mlp.gate.weight": (4, D) for i in range(2)}
    anatomy = read_anatomy(HeaderOnly(shapes))
    assert anatomy.experts(0) == 0
    assert set(packed) <= set(anatomy.unmapped)


def test_notes_stay_few_enough_to_read() -> None:
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (i + 1,) for i in range(500)}
    shapes |= {name: tuple(tensor.shape) for name, tensor in llama(500).items() if "up_proj" not in name}
    anatomy = read_anatomy(HeaderOnly(shapes))
    assert len(anatomy.unmapped) == 500
    assert len(anatomy.notes) == MOST_NOTES + 1
    assert anatomy.notes[-1].endswith("more")


def test_the_anatomy_of_a_model_with_fifty_thousand_tensors_takes_seconds() -> None:
    d, f, n_experts = 7168, 2048, 256
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (129280, d), "model.norm.weight": (d,)}
    for i in range(61):
        at = f"model.layers.{i}."
        shapes |= {at + "input_layernorm.weight": (d,), at + "post_attention_layernorm.weight": (d,)}
        shapes |= {at + "self_attn.q_a_proj.weight": (1536, d), at + "self_attn.q_a_layernorm.weight": (1536,)}
        shapes |= {at + "self_attn.q_b_proj.weight": (24576, 1536), at + "self_attn.kv_a_layernorm.weight": (512,)}
        shapes |= {at + "self_attn.kv_a_proj_with_mqa.weight": (576, d), at + "self_attn.o_proj.weight": (d, 16384)}
        shapes |= {at + "self_attn.kv_b_proj.weight": (32768, 512), at + "mlp.gate.weight": (n_experts, d)}
        shapes[at + "mlp.gate.e_score_correction_bias"] = (n_experts,)
        for e in [f"experts.{e}" for e in range(n_experts)] + ["shared_experts"]:
            shapes |= {f"{at}mlp.{e}.{x}_proj.weight": (f, d) for x in ("gate", "up")}
            shapes[f"{at}mlp.{e}.down_proj.weight"] = (d, f)
    before = time.process_time()
    anatomy = read_anatomy(HeaderOnly(shapes, {"model_type": "deepseek_v3"}))
    assert (anatomy.architecture, anatomy.n_layers, anatomy.n_heads, anatomy.experts(60)) == (
        "deepseek_v3",
        61,
        128,
        256,
    )
    assert anatomy.unmapped == ()
    assert time.process_time() - before < 30  # a guard against quadratic work, not a measurement


WORDS = sorted(
    {word for table in tables() for entry in table.entries for word in entry.pattern.split(".") if "{" not in word}
    | {"model", "layers", "h", "blocks", "blk", "attn", "mlp", "experts", "heads", "weight", "bias", "0", "1", "2", "7"}
)
PATTERNS = sorted({entry.pattern for table in tables() for entry in table.entries})
NAMES = st.one_of(
    st.builds(
        lambda pattern, i, e, end: pattern.format(i=i, e=e, h=e) + end,
        st.integers(0, len(PATTERNS) - 1).map(PATTERNS.__getitem__),
        st.integers(0, 200),
        st.integers(0, 3),
        st.sampled_from(["", ".weight", ".bias", "_scale_inv", ".weight_scale_inv"]),
    ),
    st.lists(st.integers(0, len(WORDS) - 1).map(WORDS.__getitem__), min_size=1, max_size=6).map(".".join),
    st.text(max_size=12),
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 16, 24, 32, 48, 10**6, 2**62]), max_size=5).map(tuple)
KEYS = st.sampled_from(
    ["model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "num_hidden_layers",
     "rotary_dim", "partial_rotary_factor", "text_config", "rope_parameters", "quantization_config",
     "tie_word_embeddings", "gguf.architecture", "use_parallel_residual"]
)  # fmt: skip
KINDS = st.integers(0, 400).map(
    lambda n: (every := sorted({k for table in tables() for k in (*table.model_types, *table.facts_by_type)}))[
        n % len(every)
    ]
)
CONFIGS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 40), st.floats(), st.just(10**30), KINDS, st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=12,
)


def check_sound(shapes: dict[str, tuple[int, ...]], config: dict[str, Any] | None) -> None:
    """An anatomy whose parts and left-overs are all the tensors, or a clear error."""
    try:
        anatomy = read_anatomy(HeaderOnly(shapes, config))
    except PedigreeError:
        return
    used = {name for part in anatomy.parts() for name in part.sources}
    helpers = {name for name in shapes if name.endswith(("_scale_inv", "_scale"))}
    assert used | set(anatomy.unmapped) | set(anatomy.constants) | helpers == set(shapes) | helpers
    assert not used & set(anatomy.unmapped)
    for part in anatomy.parts():
        assert len(part.axes) == len(part.shape)
        assert part.shape[0] == sum(piece.n_rows for piece in part.pieces)
        assert all(size > 0 for size in part.shape)
        assert anatomy.part(part.role, part.layer, part.expert) is part
        for piece in part.pieces:  # no row reaches past what is stored
            stored = math.prod(shapes[piece.source])
            last = piece.stop - 1 if piece.order is None else int(piece.order.max())
            width = part.shape[1] if len(part.shape) == 2 else 1
            assert last >= 0
            assert (last + 1) * width <= stored


ANY_CONFIG = st.one_of(st.none(), st.dictionaries(KEYS, st.one_of(CONFIGS, st.sampled_from([1, 2, 4, 8])), max_size=8))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shapes=st.dictionaries(NAMES, SHAPES, max_size=24), config=ANY_CONFIG)
def test_any_names_shapes_and_config_give_an_anatomy_or_a_clear_error(
    shapes: dict[str, tuple[int, ...]], config: dict[str, Any] | None
) -> None:
    check_sound(shapes, config)


@pytest.mark.parametrize("name", [table.name for table in tables()])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=ANY_CONFIG, seed=st.integers(0, 2**32))
def test_true_names_with_any_shapes_give_an_anatomy_or_a_clear_error(
    name: str, config: dict[str, Any] | None, seed: int
) -> None:
    random = Random(seed)
    table = next(table for table in tables() if table.name == name)
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in table.entries:
        n_axes = len(entry.axes_for(entry.roles[0])) + entry.packed
        for i in range(2):
            for twin, rank in ((".weight", n_axes), (".bias", 1)):
                rank = rank if random.random() < 0.95 else random.randrange(5)
                if random.random() < (0.95 if twin == ".weight" and entry.required else 0.3):
                    shape = tuple(random.choice([4, 8, 8, 8, 16, 24, 32]) for _ in range(rank))
                    shapes["model." + entry.pattern.format(i=i, e=i, h=i) + twin] = shape
    check_sound(shapes, config)
