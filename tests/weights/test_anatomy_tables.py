"""The role tables themselves: every data file is sound, and says something different from the others."""

from __future__ import annotations

import itertools
import json
from importlib import resources

import pytest

from pedigree.errors import InternalError
from pedigree.weights.prefix import strip_prefix, strip_prefixes
from pedigree.weights.roles import PLACES, SPACES, Axis, axes_from, axes_of, role_axes
from pedigree.weights.table import Table, make_table, tables

NAMED = {
    "llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "gpt_neox", "opt", "phi3", "mixtral", "qwen2_moe",
    "qwen3_moe", "deepseek_v2", "deepseek_v3", "glm4", "olmo2", "bert", "pangu_alpha", "pangu_embedded",
    "pangu_pro_moe", "pangu_ultra_moe", "gguf",
}  # fmt: skip
FACTS = {
    "norm": {"rms", "layer"},
    "gain_offset": {0.0, 1.0},
    "norm_placement": {"pre", "post", "sandwich", "post-branch"},
    "rope": {"half", "interleaved", "none"},
    "mlp": {"glu", "plain"},
    "residual": {"sequential", "parallel"},
    "embedding_scale": {"one", "sqrt-d"},
    "tied": {True, False},
    "activation": {"silu", "gelu", "relu", "xielu"},
}
EVERY_TABLE = pytest.mark.parametrize("table", tables(), ids=lambda table: table.name)


def test_every_architecture_we_promise_has_a_table() -> None:
    assert {table.name for table in tables()} >= NAMED


@EVERY_TABLE
def test_a_table_states_every_fact_in_known_words(table: Table) -> None:
    assert set(FACTS) <= set(table.facts)
    stated = [table.facts, *table.facts_by_type.values()]
    stated += [facts for by_value in table.facts_by_flag.values() for facts in by_value.values()]
    for facts, (key, words) in itertools.product(stated, FACTS.items()):
        if key in facts:
            assert facts[key] in words, (key, facts[key])


@EVERY_TABLE
def test_a_table_names_roles_that_have_axes_and_patterns_that_differ(table: Table) -> None:
    patterns = [entry.pattern for entry in (*table.entries, *table.constants)]
    assert len(patterns) == len(set(patterns))
    for entry in table.entries:
        for role in (*entry.roles, *entry.halves):
            axes = entry.axes_for(role)
            assert 1 <= len(axes) <= 2
            assert all(axis.space in SPACES and axis.part in PLACES for axis in axes)
        assert (len(entry.roles) > 1) == bool(entry.fused)
        assert entry.packed <= ("{i}" in entry.pattern)


@EVERY_TABLE
def test_a_pattern_filled_in_matches_its_own_entry(table: Table) -> None:
    for entry in table.entries:
        name = entry.pattern.format(i=3, e=7, h=1)
        exact = name.rpartition(".")[2] in ("bias", "weight")
        match = table.match("model." + name, name if exact else name + ".weight")
        assert match is not None, entry.pattern
        assert match.entry is entry
        assert match.layer == (3 if "{i}" in entry.pattern else None)
        assert match.expert == (7 if "{e}" in entry.pattern else None)
        assert match.name == "model." + name


def test_no_two_tables_are_hinted_by_one_model_type_unless_their_names_differ() -> None:
    for first, second in itertools.combinations(tables(), 2):
        if first.model_types & second.model_types:
            wanted = [{e.pattern for e in t.entries if e.required} for t in (first, second)]
            assert wanted[0] != wanted[1], (first.name, second.name)


def test_data_files_extend_tables_that_exist_and_remove_patterns_that_exist() -> None:
    folder = resources.files("pedigree.weights").joinpath("data")
    raw = {p.name: json.loads(p.read_text("utf-8")) for p in folder.iterdir() if p.name.endswith(".json")}
    del raw["roles.json"]
    assert all(file == f"{record['name']}.json" for file, record in raw.items())
    by_name = {table.name: table for table in tables()}
    for record in raw.values():
        patterns = {e.pattern for e in by_name[record["extends"]].entries} if "extends" in record else set()
        assert set(record.get("remove", ())) <= patterns, record["name"]
        known = {"name", "extends", "model_types", "facts", "facts_by_type", "facts_by_flag", "tensors", "optional"}
        assert set(record) <= known | {"remove", "constants", "by_hint"}, record["name"]


def test_axes_say_who_reads_and_who_writes_the_residual_stream() -> None:
    assert axes_of("mlp.gate") == (Axis("inner", "writer"), Axis("residual", "reader"))
    assert axes_of("mlp.down") == (Axis("residual", "writer"), Axis("inner", "reader"))
    assert axes_of("embed") == (Axis("vocabulary", "table"), Axis("residual", "writer"))
    assert axes_of("attn.k") == (Axis("kv_heads", "writer"), Axis("residual", "reader"))
    assert axes_of("norm.attn") == (Axis("residual", "gain"),)
    assert axes_of("attn.q.bias") == (Axis("heads", "bias"),)
    assert axes_of("mtp.moe.expert.down") == axes_of("mlp.down")
    assert axes_of("mtp.attn.k.bias") == (Axis("kv_heads", "bias"),)
    assert all(axes_of(role) == axes for role, axes in role_axes().items())


@pytest.mark.parametrize("wrong", ["inner:friend", "nowhere:reader", "inner"])
def test_a_data_file_with_unknown_axes_is_our_bug(wrong: str) -> None:
    with pytest.raises(InternalError, match="unknown axis"):
        axes_from(wrong)


def test_an_unknown_role_is_our_bug() -> None:
    with pytest.raises(InternalError, match="No axes are known"):
        axes_of("attn.z")


def test_integers_in_names_are_layers_only_where_the_pattern_says_so() -> None:
    table = next(table for table in tables() if table.name == "llama")
    assert table.match("x", "layers.12.mlp.up_proj.weight") is not None
    assert table.match("x", "layers.x.mlp.up_proj.weight") is None
    assert table.match("x", "layers.12.mlp.up_proj.qweight") is None
    assert table.match("x", "layers.99999999999.mlp.up_proj.weight") is None
    assert make_table("empty", (), {}).match("x", "layers.0.mlp.up_proj.weight") is None


def test_prefixes_come_off_in_any_order_and_never_take_the_whole_name() -> None:
    assert strip_prefix("module._orig_mod.model.layers.0.x") == "layers.0.x"
    assert strip_prefix("model.language_model.layers.0.x") == "layers.0.x"
    assert strip_prefix("base_model.model.model.layers.0.q_proj.base_layer.weight") == "layers.0.q_proj.weight"
    assert strip_prefix("vision_tower.layers.0.x") == "vision_tower.layers.0.x"
    assert strip_prefix("model.") == "model."
    kept, doubled = strip_prefixes(["a.b", "model.a.b", "module.model.a.b"])
    assert kept == {"a.b": "a.b"}
    assert doubled == ["model.a.b", "module.model.a.b"]
