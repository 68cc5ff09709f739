"""Every operator's law, on random small shapes of several architectures, by the logits that transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.surgery.surgery_models import ARCHITECTURES, GROUPED, drift, operate, quick_folder, tensors, write_model

from pedigree.errors import PedigreeError
from pedigree.surgery.exactness import Exactness

FEW = settings(
    max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


@st.composite
def shapes(draw: st.DrawFn, kinds: tuple[str, ...] = ARCHITECTURES) -> tuple[str, dict[str, Any]]:
    """An architecture and sizes it can have."""
    kind = draw(st.sampled_from(kinds))
    layers = draw(st.integers(1, 3))
    if kind == "gpt2":
        heads = draw(st.integers(1, 3))
        return kind, {"n_layer": layers, "n_head": heads, "n_embd": heads * draw(st.sampled_from([4, 6]))}
    if kind == "gpt_neox":
        heads = draw(st.integers(1, 2))
        return kind, {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": heads * 16,
                      "use_parallel_residual": draw(st.booleans())}  # fmt: skip
    groups, per_group, dim = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([4, 6]))
    heads = groups * per_group
    return kind, {
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": dim,
        "hidden_size": heads * draw(st.sampled_from([4, 6])), "intermediate_size": draw(st.integers(5, 20)),
        "tie_word_embeddings": draw(st.booleans()),
    }  # fmt: skip


def check(shape: tuple[str, dict[str, Any]], steps: list[dict[str, Any]], expected: Exactness) -> tuple[float, float]:
    """Run the steps on a model of a shape: the claim, and that the logits keep it."""
    with quick_folder() as folder:
        source = write_model(folder / "source", shape[0], **shape[1])
        _, claimed = operate(source, folder / "target", steps)
        largest, bound = drift(source, folder / "target")
    assert claimed is expected
    assert largest <= bound, (shape, steps)
    return largest, bound


@FEW
@given(shapes(), st.integers(1, 3))
def test_an_identity_block_changes_no_bit(shape: tuple[str, dict[str, Any]], times: int) -> None:
    largest, _ = check(shape, [{"grow.depth": {"op": "identity", "after": [0] * times}}], Exactness.FP0)
    assert largest == 0.0


@FEW
@given(shapes(), st.integers(1, 9))
def test_fresh_inner_units_write_nothing(shape: tuple[str, dict[str, Any]], more: int) -> None:
    check(shape, [{"grow.ffn": {"to": 70 + more}}], Exactness.FP0)


@FEW
@given(shapes(), st.integers(1, 60), st.sampled_from(["copy", "split"]), st.booleans())
def test_copied_inner_units_share_what_they_write(
    shape: tuple[str, dict[str, Any]], more: int, op: str, noisy: bool
) -> None:
    noise = {"noise": {"antisym": 0.3}} if noisy else {}
    check(shape, [{"grow.ffn": {"to": 70 + more, "op": op, **noise}}], Exactness.FP1)


@FEW
@given(shapes(GROUPED), st.integers(1, 20))
def test_a_padded_stream_keeps_its_function_at_any_width(shape: tuple[str, dict[str, Any]], more: int) -> None:
    width = shape[1]["hidden_size"] + more * shape[1]["num_attention_heads"]
    check(shape, [{"grow.hidden": {"to": width}}], Exactness.FP1)


@FEW
@given(shapes(), st.integers(2, 3), st.booleans())
def test_a_cloned_stream_keeps_its_function_under_any_norm(
    shape: tuple[str, dict[str, Any]], times: int, noisy: bool
) -> None:
    width = shape[1].get("hidden_size") or shape[1]["n_embd"]
    noise = {"noise": {"antisym": 0.3}} if noisy else {}
    check(shape, [{"grow.hidden": {"to": times * width, "op": "clone", **noise}}], Exactness.FP1)


@FEW
@given(shapes(("qwen2", "qwen3")), st.integers(1, 2), st.sampled_from(["zero", "copy"]))
def test_query_heads_join_their_group(shape: tuple[str, dict[str, Any]], more: int, op: str) -> None:
    sizes = shape[1]
    heads = sizes["num_attention_heads"] + more * sizes["num_key_value_heads"]
    check(shape, [{"grow.heads": {"to": heads, "op": op}}], Exactness.FP0 if op == "zero" else Exactness.FP1)


@FEW
@given(shapes(("qwen2", "qwen3")), st.integers(1, 2))
def test_a_fresh_group_writes_nothing(shape: tuple[str, dict[str, Any]], more: int) -> None:
    groups = shape[1]["num_key_value_heads"] + more
    check(shape, [{"grow.kv": {"to": groups, "op": "groups"}}], Exactness.FP0)


@pytest.mark.parametrize("kind", GROUPED)
def test_key_value_heads_stand_several_times_in_place(kind: str) -> None:
    check((kind, {"num_attention_heads": 8, "num_key_value_heads": 2}), [{"grow.kv": {"to": 4}}], Exactness.FP0)
    check((kind, {"num_attention_heads": 8, "num_key_value_heads": 2}), [{"grow.kv": {"to": 8}}], Exactness.FP0)


@pytest.mark.parametrize("new", [6, 8, 10, 12])  # multiples keep the base of the rotation, others change it
@pytest.mark.parametrize("kind", GROUPED)
def test_rotary_pairs_keep_their_frequencies_in_larger_heads(kind: str, new: int) -> None:
    expected = Exactness.FPE if kind == "qwen3" else Exactness.FP1
    with quick_folder() as folder:
        source = write_model(folder / "source", kind, rms_norm_eps=1e-9)
        _, claimed = operate(source, folder / "target", [{"grow.head_dim": {"to": new}}])
        largest, bound = drift(source, folder / "target")
    assert claimed is expected
    assert largest <= bound


def test_a_naive_place_of_rotary_pairs_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate sees what it must: pairs put side by side without a new base are far beyond the bound."""
    import pedigree.surgery.operators.heads as heads

    monkeypatch.setattr(heads, "_new_base", lambda *_: None)
    with quick_folder() as folder:
        source = write_model(folder / "source", "llama")
        operate(source, folder / "target", [{"grow.head_dim": {"to": 6}}])
        largest, bound = drift(source, folder / "target")
    assert largest > 20 * bound


@FEW
@given(shapes())
def test_a_random_order_keeps_the_function(shape: tuple[str, dict[str, Any]]) -> None:
    check(shape, ["launder.permute"], Exactness.FP1)  # type: ignore[list-item]


@FEW
@given(shapes(GROUPED))
def test_factors_that_cancel_keep_the_function(shape: tuple[str, dict[str, Any]]) -> None:
    largest, _ = check(shape, [{"launder.rescale": {"octaves": 2}}], Exactness.FP1)
    assert largest == 0.0  # powers of two


@FEW
@given(shapes(GROUPED), st.integers(2, 8))
def test_a_rotated_stream_keeps_the_function(shape: tuple[str, dict[str, Any]], block: int) -> None:
    untied = (shape[0], {**shape[1], "tie_word_embeddings": False})
    check(untied, [{"launder.rotate": {"block": block}}], Exactness.FP1)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_many_steps_are_one_pass_and_keep_the_function(kind: str) -> None:
    steps: list[Any] = [
        {"grow.depth": {"op": "identity", "after": "every 1"}}, {"grow.ffn": {"to": 50, "op": "copy"}},
        {"grow.hidden": {"to": 22}}, {"grow.heads": {"to": 8}}, {"grow.kv": {"to": 4}}, {"grow.head_dim": {"to": 8}},
        "launder.permute",
    ]  # fmt: skip
    with quick_folder() as folder:
        source = write_model(folder / "source", kind, rms_norm_eps=1e-9)
        outcome, _ = operate(source, folder / "target", steps)
        largest, bound = drift(source, folder / "target")
    assert largest <= bound
    assert outcome.resumed == 0


@pytest.mark.parametrize(
    ("parameters", "order"),
    [
        ({"op": "stack", "times": 2}, [0, 1, 2, 0, 1, 2]),
        ({"op": "interpose", "times": 2}, [0, 0, 1, 1, 2, 2]),
        ({"op": "solar", "cut": 1}, [0, 1, 1, 2]),
        ({"op": "order", "order": [2, 0, 0]}, [2, 0, 0]),
    ],
)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_layers_come_in_the_order_that_was_asked_for(kind: str, parameters: dict[str, Any], order: list[int]) -> None:
    with quick_folder() as folder:
        size = {"n_layer": 3} if kind == "gpt2" else {"num_hidden_layers": 3}
        source = write_model(folder / "source", kind, **size)
        _, claimed = operate(source, folder / "target", [{"grow.depth": parameters}], allow="nfp")
        old, new = tensors(source), tensors(folder / "target")
        drift(source, folder / "target")  # transformers finds every tensor
    assert claimed is Exactness.NFP
    opening = "transformer.h." if kind == "gpt2" else "model.layers."
    for layer, before in enumerate(order):
        for name, tensor in old.items():
            if name.startswith(f"{opening}{before}."):
                assert torch.equal(new[name.replace(f"{opening}{before}.", f"{opening}{layer}.")], tensor)
    assert not any(name.startswith(f"{opening}{len(order)}.") for name in new)


def test_pruned_units_are_the_small_ones_and_all_three_matrices_agree() -> None:
    with quick_folder() as folder:
        source = write_model(folder / "source", "llama", num_hidden_layers=1)
        operate(source, folder / "target", [{"prune.ffn": {"to": 10}}], allow="nfp")
        old, new = tensors(source), tensors(folder / "target")
    mlp = "model.layers.0.mlp."
    up, gate, down = (old[f"{mlp}{name}_proj.weight"].double() for name in ("up", "gate", "down"))
    score = up.square().sum(1) * gate.square().sum(1) * down.square().sum(0)
    keep = score.topk(10).indices.sort().values
    assert torch.equal(new[mlp + "up_proj.weight"], old[mlp + "up_proj.weight"][keep])
    assert torch.equal(new[mlp + "gate_proj.weight"], old[mlp + "gate_proj.weight"][keep])
    assert torch.equal(new[mlp + "down_proj.weight"], old[mlp + "down_proj.weight"][:, keep])


@pytest.mark.parametrize(
    "step",
    [{"prune.heads": {"to": 2}}, {"prune.kv": {"to": 1}}, {"prune.hidden": {"to": 12}}, {"prune.depth": {"drop": [1]}},
     {"launder.noise": {"snr": 30}}],
)  # fmt: skip
def test_what_does_not_keep_the_function_must_be_allowed_and_can_be_loaded(step: dict[str, Any]) -> None:
    with quick_folder() as folder:
        source = write_model(folder / "source", "qwen2")
        with pytest.raises(PedigreeError, match="NFP"):
            operate(source, folder / "target", [step])
        assert not (folder / "target").exists()
        _, claimed = operate(source, folder / "target", [step], allow="nfp")
        largest, bound = drift(source, folder / "target")
    assert claimed is Exactness.NFP
    assert largest > bound


def test_pruning_takes_back_what_growing_added() -> None:
    """Fresh units, heads and groups write nothing, so they are the first to go: the old model comes back."""
    steps: list[Any] = [{"grow.ffn": {"to": 40}}, {"grow.heads": {"to": 8}}, {"prune.ffn": {"to": 24}},
                        {"prune.heads": {"to": 4}}]  # fmt: skip
    with quick_folder() as folder:
        source = write_model(folder / "source", "qwen2")
        operate(source, folder / "target", steps, allow="nfp")
        old, new = tensors(source), tensors(folder / "target")
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


@FEW
@given(shapes(GROUPED), st.integers(1, 8), st.integers(0, 2))
def test_layers_widths_and_groups_that_write_nothing_can_be_taken_away_again(
    shape: tuple[str, dict[str, Any]], more: int, after: int
) -> None:
    sizes = shape[1]
    groups, layers = sizes["num_key_value_heads"], sizes["num_hidden_layers"]
    at = min(after, layers - 1)
    steps: list[Any] = [
        {"grow.depth": {"op": "identity", "after": [at]}}, {"grow.ffn": {"to": sizes["intermediate_size"] + more}},
        {"prune.ffn": {"to": sizes["intermediate_size"]}}, {"prune.depth": {"drop": [at + 1]}},
    ]  # fmt: skip
    if shape[0] != "llama":
        steps[1:1] = [{"grow.kv": {"to": groups + 1, "op": "groups"}}, {"prune.kv": {"to": groups}}]
    with quick_folder() as folder:
        source = write_model(folder / "source", shape[0], **sizes)
        operate(source, folder / "target", steps, allow="nfp")
        old, new = tensors(source), tensors(folder / "target")
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old), steps


@FEW
@given(shapes(), st.sampled_from(["float16", "bfloat16", "float64"]))
def test_a_cast_gives_the_nearest_number_of_its_type(shape: tuple[str, dict[str, Any]], to: str) -> None:
    kind: torch.dtype = getattr(torch, to)
    with quick_folder() as folder:
        source = write_model(folder / "source", shape[0], **shape[1])
        _, claimed = operate(source, folder / "target", [{"cast": {"to": to}}])
        old, new = tensors(source), tensors(folder / "target")
    assert claimed is (Exactness.FP0 if to == "float64" else Exactness.FPE)
    assert all(new[name].dtype == kind and torch.equal(new[name], old[name].to(kind)) for name in old)


def test_every_operator_is_held_to_its_law_by_a_test() -> None:
    from pedigree.surgery.catalog import OPERATORS

    written = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    spelled = {one.name: (f'"{one.name}"', f" {one.name}:", f"{{{one.name}:") for one in OPERATORS}
    assert [name for name, ways in spelled.items() if not any(way in written for way in ways)] == []


@pytest.mark.parametrize(
    ("kind", "step", "words"),
    [
        ("gpt2", {"grow.hidden": {"to": 20}}, "layer norm"),
        ("gpt2", {"grow.heads": {"to": 4}}, "key/value head for each query head"),
        ("llama", {"grow.hidden": {"to": 8}}, "not wider"),
        ("llama", {"grow.heads": {"to": 5}}, "do not divide"),
        ("llama", {"grow.kv": {"to": 3}}, r"one of \[4\]"),
        ("llama", {"grow.depth": {"op": "identity", "after": [7]}}, "no such layers"),
        ("qwen2", {"grow.head_dim": {"to": 5}}, "even number"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_byte_is_written(kind: str, step: dict[str, Any], words: str) -> None:
    with quick_folder() as folder:
        source = write_model(folder / "source", kind)
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(PedigreeError, match=words) as caught:
            operate(source, folder / "target", [step])
        left = sorted(path.name for path in folder.iterdir() if not path.name.endswith(".yaml"))
    assert left == before
    assert str(next(iter(step))) in caught.value.sentence() or "config.json" in caught.value.sentence()
