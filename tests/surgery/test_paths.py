"""Conversions over a stretch of training: both ends keep the function, and between them acts what was said."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.surgery.converting import OLD, convert, drawn, logits, small, standing
from tests.surgery.surgery_models import operate
from tests.training.tiny import write_text, write_tokenizer

from pedigree.errors import PedigreeError
from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_checkpoint, import_checkpoint
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.influence import tokens_of
from pedigree.weights.checkpoint import open_checkpoint

FEW = settings(
    max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
MIDDLE = 0.4


def with_config(model: Decoder, **changes: Any) -> Decoder:
    """The same weights under another config."""
    other = Decoder(model.config.replace(**changes)).eval()
    other.load_state_dict(model.state_dict())
    return other


def apart(a: Decoder, b: Decoder) -> float:
    return float((logits(a) - logits(b)).abs().max())


# -- positions --------------------------------------------------------------------------------------------------------


@FEW
@given(st.sampled_from([2, 4, 6]), st.sampled_from(["none", "after-norm", "before-norm"]), st.booleans())
def test_a_rotation_of_angle_zero_turns_nothing(dim: int, query: Any, tied: bool) -> None:
    config = small(**OLD, heads=2, dim=dim, width=2 * dim, query_layer=query, tied=tied)
    made = convert(config, {"convert.positions": {"theta": 5000}})
    assert made.claimed is Exactness.FP0
    assert made.apart == 0
    assert made.after.config.homotopy is not None
    assert made.after.config.homotopy.moved == {"angles": 0}
    turned = with_config(made.after, homotopy=None)
    assert apart(turned, made.after) > 1e-3  # the rotation is there: only its angles are held back


def test_a_table_that_no_longer_acts_is_taken_away() -> None:
    config = standing(small(**OLD, rope={}), positions=0.0)
    made = convert(config, {"convert.positions": {"op": "finish"}})
    assert made.claimed is Exactness.FP0
    assert made.apart == 0
    assert made.after.positions is None
    assert made.after.config.homotopy is None


@pytest.mark.parametrize(
    ("more", "op", "match"),
    [
        ({}, "finish", "still acts"),
        ({"rope": {}}, "finish", "still acts"),
        ({"rope": {}}, "start", "turn already"),
        ({"learned_positions": False, "rope": {}}, "start", "no table"),
        ({"rope": {}, "query_layer": "before-norm", "homotopy": {"positions": 0.0}}, "finish", "query layer"),
    ],
)
def test_ends_that_were_not_reached_are_refused(more: dict[str, Any], op: str, match: str) -> None:
    with pytest.raises(PedigreeError, match=match):
        convert(small(**{**OLD, **more}), {"convert.positions": {"op": op}})


def test_a_swap_without_training_has_to_be_allowed() -> None:
    with pytest.raises(PedigreeError, match="NFP"):
        convert(small(**OLD), {"convert.positions": {"op": "swap"}})
    made = convert(small(**OLD), {"convert.positions": {"op": "swap"}}, nfp=True)
    assert made.apart > 0.01
    assert made.after.positions is None
    assert made.after.config.rope is not None


# -- the query layer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["after-norm", "before-norm"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_query_layer_at_the_end_of_its_path_is_an_ordinary_layer(
    topology: Literal["after-norm", "before-norm"], tied: bool
) -> None:
    config = standing(small(**OLD, query_layer=topology, tied=tied), queries=0.0)
    made = convert(config, "convert.query_layer")
    assert made.claimed is Exactness.FP0
    assert made.apart == 0
    assert made.after.query_positions is None
    assert made.config["model_type"] == "gpt2"


@pytest.mark.parametrize("topology", ["after-norm", "before-norm"])
def test_the_path_of_a_query_layer_leads_from_one_to_the_other(topology: str) -> None:
    whole = drawn(small(**OLD, query_layer=topology))
    middle, end = (with_config(whole, homotopy={"queries": value}) for value in (MIDDLE, 0.0))
    assert apart(with_config(whole, homotopy={"queries": 1.0}), whole) == 0
    steps = apart(whole, middle), apart(middle, end), apart(whole, end)
    assert min(steps) > 1e-3
    near = with_config(whole, homotopy={"queries": 0.999})
    assert apart(near, whole) < 0.05 * steps[2]


def test_a_query_layer_that_still_acts_is_refused_and_a_swap_must_be_allowed() -> None:
    config = small(**OLD, query_layer="after-norm", tied=True)
    with pytest.raises(PedigreeError, match="still takes queries") as refused:
        convert(config, "convert.query_layer")
    assert "training.anneal" in str(refused.value.fix)
    made = convert(config, {"convert.query_layer": {"op": "swap"}}, nfp=True)
    assert made.claimed is Exactness.NFP
    assert made.apart > 0.01


# -- sandwich norms ---------------------------------------------------------------------------------------------------


@FEW
@given(st.sampled_from([OLD, {"rope": {}}, {"rope": {}, "bias": "qkv", "ffn_bias": False}]), st.booleans())
def test_norms_behind_the_branches_do_not_act_at_first(kind: dict[str, Any], sized: bool) -> None:
    gains = {"gain_attention": 0.7, "gain_feed_forward": 0.2} if sized else {}
    made = convert(small(**kind), {"convert.sandwich": {"op": "in", **gains}})
    assert made.claimed is Exactness.FP0
    assert made.apart == 0
    acting = with_config(made.after, homotopy=None)
    assert apart(acting, made.after) > 1e-3
    wanted = 0.7 if sized else 0.283 / 2**0.5
    assert float(made.after.layers[1].attn_post_norm.weight.detach()[0]) == pytest.approx(wanted)


def test_norms_that_no_longer_act_are_taken_away() -> None:
    sandwich = small(rope={}, norm={"kind": "rms", "placement": "sandwich"})
    with pytest.raises(PedigreeError, match="still act"):
        convert(sandwich, {"convert.sandwich": {"op": "out"}})
    made = convert(standing(sandwich, post_norms=0.0), {"convert.sandwich": {"op": "out"}})
    assert made.claimed is Exactness.FP0
    assert made.apart == 0
    assert made.config["model_type"] == "llama"


def with_text(folder: Path, config: ModelConfig) -> Path:
    """A model with a tokenizer of bytes, and a text beside it."""
    model = drawn(config.replace(vocab_size=257, n_positions=256))
    export_checkpoint(model, folder / "a")
    write_tokenizer(folder / "a")
    write_text(folder / "text.txt", 200)
    return folder / "a"


def test_gains_are_the_sizes_of_the_branches_on_a_text(tmp_path: Path) -> None:
    source = with_text(tmp_path, small(rope={}))
    step = {"convert.sandwich": {"op": "in", "text": "text.txt", "tokens": 512}}
    operate(source, tmp_path / "b", [step])
    model = import_checkpoint(tmp_path / "b")
    with open_checkpoint(source) as checkpoint:
        tokens_BT = tokens_of(checkpoint, tmp_path / "text.txt", 512)
    with torch.no_grad():
        seen: list[torch.Tensor] = []
        model.layers[0].ffn.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        model(tokens_BT, return_logits=True)
        wanted = float(seen[0].square().mean(-1).sqrt().mean())
    assert float(model.layers[0].ffn_post_norm.weight.detach()[0]) == pytest.approx(wanted, rel=1e-4)


def test_a_folded_sandwich_is_nearer_than_one_without_constants(tmp_path: Path) -> None:
    config = small(rope={}, norm={"kind": "rms", "placement": "sandwich"})
    source = with_text(tmp_path, config)
    before = import_checkpoint(source)
    with open_checkpoint(source) as checkpoint:
        tokens_BT = tokens_of(checkpoint, tmp_path / "text.txt", 512)
    operate(source, tmp_path / "b", [{"convert.sandwich": {"op": "fold", "text": "text.txt"}}], allow="nfp")
    folded = import_checkpoint(tmp_path / "b")
    bare = Decoder(folded.config).eval()
    bare.load_state_dict({name: value for name, value in before.state_dict().items() if "post_norm" not in name})
    with torch.no_grad():
        old, new, without = (one(tokens_BT, return_logits=True).logits for one in (before, folded, bare))
    assert folded.config.norm.placement == "pre"
    assert float((new - old).square().mean()) < 0.5 * float((without - old).square().mean())


def test_a_fold_needs_its_text() -> None:
    with pytest.raises(PedigreeError, match="needs a text"):
        convert(small(rope={}, norm={"kind": "rms", "placement": "sandwich"}), {"convert.sandwich": {"op": "fold"}})


# -- coefficients -----------------------------------------------------------------------------------------------------


def test_a_coefficient_needs_something_to_act_on() -> None:
    with pytest.raises(PedigreeError, match="fit together"):
        standing(small(rope={}), positions=0.5)
    with pytest.raises(PedigreeError, match="impossible"):
        standing(small(rope={}), angles=1.5)


def test_a_model_on_its_way_is_read_back_as_it_was_written() -> None:
    config = standing(small(**OLD, rope={}, query_layer="after-norm"), angles=0.25, positions=0.5, queries=MIDDLE)
    made = convert(config, "launder.permute")
    assert made.after.config.homotopy == config.homotopy
    assert made.apart < 1e-4


def test_the_cache_sees_a_model_on_its_way_as_the_whole_pass_does() -> None:
    from pedigree.model.cache import Cache

    model = drawn(standing(small(**OLD, rope={}, query_layer="after-norm"), angles=0.25, positions=0.5, queries=MIDDLE))
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        whole = model(tokens, return_logits=True).logits
        cache = Cache(12)
        first = model(tokens[:, :7], return_logits=True, cache=cache).logits
        rest = model(tokens[:, 7:], return_logits=True, cache=cache).logits
    assert torch.allclose(torch.cat([first, rest], 1), whole, atol=1e-4)
