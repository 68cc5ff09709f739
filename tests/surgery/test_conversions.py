"""Conversions: each law on random small shapes, by the logits of our decoder, read back from what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.surgery.converting import OLD, convert, drawn, small

from pedigree.errors import PedigreeError
from pedigree.model.decoder import Decoder
from pedigree.surgery.exactness import Exactness

FEW = settings(
    max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
GATE = 1e-4  # of the spread of the logits; float32 stays ten times below


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    groups, per_group, dim = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.sampled_from([4, 6]))
    return {
        "heads": groups * per_group, "kv": groups, "dim": dim, "width": draw(st.sampled_from([12, 16, 20])),
        "inner": draw(st.integers(5, 30)), "layers": draw(st.integers(1, 3)),
    }  # fmt: skip


# -- norms ------------------------------------------------------------------------------------------------------------


@FEW
@given(shapes(), st.sampled_from(["", "qkvo", "qv"]), st.booleans(), st.sampled_from(["gelu", "swiglu"]))
def test_layer_norms_become_rms_norms(shape: dict[str, Any], bias: str, rotary: bool, kind: str) -> None:
    places = {"rope": {}} if rotary else {"learned_positions": True}
    made = convert(
        small(**shape, bias=bias, feed_forward=kind, ffn_bias="q" in bias, norm={"kind": "layer"}, **places),
        "convert.norm",
    )
    assert made.claimed is Exactness.FP1
    assert made.apart < GATE
    assert made.after.config.norm.kind == "rms"
    assert not any("norm.bias" in name for name, _ in made.after.named_parameters() if name.startswith("layers"))


def test_a_gpt2_becomes_rms_after_it_is_untied_and_keeps_its_function() -> None:
    made = convert(small(**OLD, tied=True), "convert.untie", "convert.norm")
    assert made.apart < GATE
    assert made.config["model_type"] == "pedigree_decoder"


def test_without_centered_writers_the_gate_would_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import pedigree.surgery.operators.norms as norms

    monkeypatch.setattr(norms, "_writers", lambda symbolic: [])
    assert convert(small(**OLD), "convert.norm").apart > 100 * GATE


@pytest.mark.parametrize(
    ("more", "match", "fix"),
    [
        ({"tied": True}, "row mean", "convert.untie` before this step: 848 numbers"),
        ({"query_layer": "after-norm"}, "query layer", "convert.query_layer"),
        ({"norm": {"kind": "layer", "placement": "sandwich"}}, "nothing centers", "convert.sandwich"),
        ({"norm": {"kind": "rms"}}, "already", ""),
    ],
)
def test_norms_that_cannot_be_converted_exactly_are_refused(more: dict[str, Any], match: str, fix: str) -> None:
    with pytest.raises(PedigreeError, match=match) as refused:
        convert(small(**{**OLD, **more}), "convert.norm")
    assert fix in str(refused.value.fix)


def test_a_query_layer_before_the_norm_keeps_its_queries() -> None:
    assert convert(small(**OLD, query_layer="before-norm"), "convert.norm").apart < GATE


# -- biases -----------------------------------------------------------------------------------------------------------


@FEW
@given(shapes(), st.booleans())
def test_biases_of_values_keys_and_norms_fold(shape: dict[str, Any], rotary: bool) -> None:
    places = {"rope": {}} if rotary else {"learned_positions": True}
    fold = ["v", "norms"] if rotary else ["v", "k", "norms"]
    old = {**OLD, "learned_positions": False, **places}
    made = convert(small(**shape, **old), {"convert.biases": {"fold": fold}})
    assert made.claimed is Exactness.FP1
    assert made.apart < GATE
    assert not made.after.config.attention.v_bias
    assert float(made.after.layers[0].attn_norm.bias.detach().abs().max()) == 0


def test_a_key_bias_that_turns_is_not_folded() -> None:
    with pytest.raises(PedigreeError, match="turn"):
        convert(small(bias="qkvo", rope={}), {"convert.biases": {"fold": ["k"]}})


def test_what_does_not_fold_has_to_be_dropped_by_name() -> None:
    config = small(bias="qkvo", rope={})
    with pytest.raises(PedigreeError, match="NFP"):
        convert(config, {"convert.biases": {"drop": ["q", "k", "o", "feed-forward"], "fold": ["v"]}})
    made = convert(config, {"convert.biases": {"drop": ["q", "k", "o", "feed-forward"], "fold": ["v"]}}, nfp=True)
    assert made.claimed is Exactness.NFP
    assert made.config["model_type"] == "llama"
    assert not any("bias" in name for name, _ in made.after.named_parameters())
    assert made.apart > 10 * GATE


def test_a_whole_old_model_becomes_one_without_biases_or_layer_norms() -> None:
    biases = {"fold": ["v", "k"], "drop": ["q", "o", "feed-forward", "final"]}
    made = convert(small(**OLD), "convert.norm", {"convert.biases": biases}, nfp=True)
    assert not any("bias" in name for name, _ in made.after.named_parameters())


# -- head and embedding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OLD, {"rope": {}}, {"rope": {}, "bias": "qkv", "ffn_bias": False}])
def test_an_untied_head_computes_the_same_bits(kind: dict[str, Any]) -> None:
    made = convert(small(**kind, tied=True), "convert.untie")
    assert made.claimed is Exactness.FP0
    assert made.apart == 0
    assert torch.equal(made.after.head_weight, made.before.embed.weight)


@pytest.mark.parametrize("keep", ["embed", "head", "mean"])
def test_a_tied_head_is_the_table_that_was_named(keep: str) -> None:
    model = drawn(small(rope={}))
    made = convert(model, {"convert.tie": {"keep": keep}}, nfp=True)
    embed, head = model.embed.weight.detach(), model.head_weight.detach()
    wanted = {"embed": embed, "head": head, "mean": (embed + head) / 2}[keep]
    assert torch.allclose(made.after.embed.weight, wanted, atol=1e-7)
    assert made.after.head is None
    assert made.apart > GATE


# -- activation -------------------------------------------------------------------------------------------------------


@FEW
@given(shapes(), st.sampled_from(["", "qkvo"]))
def test_gelu_is_lifted_into_swiglu_within_its_bound(shape: dict[str, Any], bias: str) -> None:
    config = small(**shape, bias=bias, feed_forward="gelu", rope={}, norm={"kind": "rms"})
    made = convert(config, "convert.activation")
    assert made.claimed is Exactness.FPE
    assert made.config["model_type"] == "llama"
    x = torch.randn(200, config.d_model, generator=torch.Generator().manual_seed(3)) * 3
    old, new = made.before.layers[0].ffn, made.after.layers[0].ffn
    with torch.no_grad():
        inner_before = torch.nn.functional.gelu(old.up(x), approximate="tanh")
        inner_after = torch.nn.functional.silu(new.gate(x)) * new.up(x)
    assert float((inner_before - inner_after).abs().max()) < 0.0207


def test_the_bounds_of_the_lift_are_those_that_are_told() -> None:
    u = torch.linspace(-12, 12, 48001, dtype=torch.float64)
    gelu = torch.nn.functional.gelu(u, approximate="tanh")

    def bound(slope: float) -> float:
        return float((torch.nn.functional.silu(slope * u) / slope - gelu).abs().max())

    assert 0.0206 < bound(1.702) < 0.0207
    assert 0.0142 < bound(1.774) < min(0.0143, bound(1.764), bound(1.784))
    erf = torch.nn.functional.gelu(u)
    assert 4.7e-4 < float((erf - gelu).abs().max()) < 4.8e-4


def test_the_other_form_of_gelu_is_a_word_in_the_config() -> None:
    made = convert(small(**OLD), {"convert.activation": {"to": "gelu-tanh"}})
    assert made.claimed is Exactness.FP0
    assert made.apart == 0


# -- PanGu-pi ---------------------------------------------------------------------------------------------------------


@FEW
@given(shapes(), st.integers(1, 3), st.integers(0, 2), st.sampled_from(["qkv", ""]))
def test_modules_of_pangu_pi_add_nothing_yet(shape: dict[str, Any], series: int, shortcuts: int, bias: str) -> None:
    if series == 1 and not shortcuts:
        series = 2
    config = small(**shape, bias=bias, ffn_bias=False, rope={})
    made = convert(config, {"convert.pi": {"series": series, "shortcuts": shortcuts, "reduction": 4}})
    assert made.claimed is Exactness.FP0
    assert made.apart == 0
    assert made.after.config.feed_forward.series == series


def test_the_wrap_of_row_15_is_exact_at_its_start() -> None:
    config = small(layers=4, kv=2, bias="qkv", ffn_bias=False, rope={"theta": 1e6})
    made = convert(
        config, {"grow.depth": {"op": "identity", "after": [1, 3]}}, {"grow.ffn": {"to": 31}},
        {"convert.pi": {"reduction": 4}},
    )  # fmt: skip
    assert made.claimed is Exactness.FP0
    assert made.apart < 1e-6
    assert (made.after.config.n_layers, made.after.config.feed_forward.d_inner) == (6, 31)
    assert made.after.config.shortcut is not None
    # Both kinds of module learn from the first step on.
    made.after.train()
    tokens = torch.arange(20)[None]
    loss = made.after(tokens, targets_BT=tokens.roll(-1, 1)).loss
    assert loss is not None
    loss.backward()
    assert float(made.after.layers[0].shortcuts[0].leave.weight.grad.abs().max()) > 0
    assert float(made.after.layers[0].ffn.series.slope.grad[1].abs().max()) > 0


PI = {"feed_forward": "swiglu", "rope": {}, "shortcut": {"reduction": 4}}


def pi_model() -> Decoder:
    config = small(**PI)
    return drawn(config.replace(feed_forward=config.feed_forward.replace(series=3)))


@pytest.mark.parametrize(
    "step",
    [{"grow.ffn": {"to": 40}}, {"grow.ffn": {"to": 40, "op": "copy"}}, {"grow.depth": {"op": "identity", "after": [0]}},
     {"grow.kv": {"to": 8, "op": "groups"}}, "launder.permute", "launder.rotate", "launder.rescale"],
)  # fmt: skip
def test_other_operators_keep_the_function_of_a_model_with_these_modules(step: Any) -> None:
    made = convert(pi_model(), step)
    assert made.claimed is not Exactness.NFP
    assert made.apart < GATE


def test_a_change_that_a_module_does_not_follow_is_refused_with_its_name() -> None:
    with pytest.raises(PedigreeError, match="does not follow the change"):
        convert(pi_model(), {"grow.hidden": {"to": 24}})


def test_narrower_modules_can_be_read_back() -> None:
    assert convert(pi_model(), {"prune.ffn": {"to": 9}}, nfp=True).after.layers[0].ffn.series.slope.shape == (3, 9)


# -- layouts ----------------------------------------------------------------------------------------------------------

SANDWICH = {"rope": {}, "norm": {"kind": "rms", "placement": "sandwich"}, "bias": "qkv", "ffn_bias": False}
EXPERTS = {"router": "softmax", "n_experts": 4, "top_k": 2, "d_expert": 6, "renormalize": True}


@pytest.mark.parametrize(
    ("kind", "ways"),
    [
        (SANDWICH, ["glm4", "PanguEmbedded", "pedigree_decoder"]),  # fused and interleaved, apart and in halves
        ({"rope": {}}, ["pedigree_decoder", "llama"]),
        (OLD, ["pedigree_decoder", "gpt2"]),  # fused and transposed
        ({"rope": {}, "experts": EXPERTS}, ["pedigree_decoder", "mixtral"]),  # in a stack, one by one
    ],
)
def test_the_same_model_in_another_storage_computes_the_same_bits(kind: dict[str, Any], ways: list[str]) -> None:
    made = convert(small(kv=None if kind is OLD else 2, **kind), *({"convert.layout": {"to": way}} for way in ways))
    assert made.claimed is Exactness.FP0
    assert made.apart < 1e-6  # interleaved channels are summed in another order
    assert made.config["model_type"] == ways[-1]


def test_each_storage_is_what_an_export_writes(tmp_path: Path) -> None:
    from tests.surgery.surgery_models import operate, tensors

    from pedigree.model.hf_checkpoint import export_checkpoint

    model = drawn(small(kv=2, **SANDWICH))
    for way in ("glm4", "PanguEmbedded", "pedigree_decoder"):
        written = model
        if way == "glm4":
            written = convert(model, {"convert.layout": {"to": way}}).after
        export_checkpoint(written, tmp_path / f"export-{way}", dialect=way)
        if not (tmp_path / "a").exists():
            export_checkpoint(model, tmp_path / "a", dialect="PanguEmbedded")
        operate(tmp_path / "a", tmp_path / way, [{"convert.layout": {"to": way}}])
        one, other = tensors(tmp_path / way), tensors(tmp_path / f"export-{way}")
        assert {*one} == {*other}
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_class_that_computes_something_else_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(PedigreeError, match="does not compute") as refused:
        convert(small(rope={}, bias="qv", ffn_bias=False), {"convert.layout": {"to": "llama"}})
    assert "biases are on qv" in str(refused.value.got)


def test_an_old_model_made_modern_loads_in_transformers_and_computes_what_ours_does(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    biases = {"fold": ["v"], "drop": ["q", "k", "o", "final"]}
    steps = ["convert.untie", {"convert.positions": {"op": "swap"}}, "convert.norm", {"convert.biases": biases}]
    made = convert(small(**OLD, tied=True), *steps, "convert.activation", nfp=True, keep=tmp_path / "b")
    assert made.config["model_type"] == "llama"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype=torch.float32).eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        ours = made.after(tokens, return_logits=True).logits
        assert torch.allclose(theirs(tokens).logits, ours, atol=1e-4)


def test_verify_runs_old_and_new_side_by_side(tmp_path: Path) -> None:
    from tests.surgery.surgery_models import operate

    from pedigree.model.hf_checkpoint import export_checkpoint
    from pedigree.surgery.verify import verify

    queries = {"query_layer": "after-norm", "homotopy": {"queries": 0.3}}
    for number, (kind, steps) in enumerate([
        ({**OLD, "query_layer": "before-norm"}, ["convert.norm", {"convert.biases": {"fold": ["v", "k"]}}]),
        ({**OLD, **queries}, [{"convert.positions": {"theta": 100}}]),
        ({"rope": {}, "kv": 1}, ["convert.latent"]),
    ]):  # fmt: skip
        source, target = tmp_path / f"a{number}", tmp_path / f"b{number}"
        export_checkpoint(drawn(small(**kind)), source)
        operate(source, target, steps)
        check = verify(target, tokens=64)
        assert check.verdict == "pass", check.reason


@pytest.mark.parametrize("kind", [{"rope": {}}, OLD, {"rope": {}, "experts": EXPERTS}])
def test_what_keeps_its_numbers_is_copied_and_not_computed(tmp_path: Path, kind: dict[str, Any]) -> None:
    from tests.surgery.surgery_models import write_recipe

    from pedigree.model.hf_checkpoint import export_checkpoint
    from pedigree.surgery.composition import compose
    from pedigree.surgery.recipe import read_recipe

    export_checkpoint(drawn(small(**kind, tied=True)), tmp_path / "a")
    composition = compose(read_recipe(write_recipe(tmp_path / "a", tmp_path / "b", ["convert.untie"])))
    origins = {output.name: output.origin for output in composition.outputs}
    composition.close()
    head = origins.pop("lm_head.weight")
    assert head in origins
    assert all(name == origin for name, origin in origins.items())


def test_experts_routed_at_random_are_converted_with_everything_else() -> None:
    experts = {"router": "random", "n_experts": 4, "n_groups": 1, "top_k": 1, "d_expert": 24, "first_dense": 1}
    config = small(**OLD, tied=True, layers=3, experts=experts, query_layer="before-norm")
    made = convert(config, "convert.untie", "convert.norm", "convert.positions")
    assert made.claimed is Exactness.FP1
    assert made.apart < GATE
    assert convert(config, "convert.untie", "convert.activation").after.config.feed_forward.kind == "swiglu"
