"""Experts of plain networks with biases, from a model with learned positions and a query layer, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.surgery.test_experts import dense_model, difference, operated

from pedigree.errors import PedigreeError
from pedigree.model.decoder import Decoder
from pedigree.surgery.streamed import StreamedModel
from pedigree.weights.anatomy import read_anatomy
from pedigree.weights.checkpoint import open_checkpoint

ALPHA = "pangu-alpha-13b"
BOUND = 2e-5


@pytest.fixture(scope="module")
def alpha() -> Decoder:
    return dense_model(ALPHA, n_positions=32)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(
    copies=st.integers(2, 4), chosen=st.integers(1, 3), shards=st.sampled_from([1, 2, 4]), dense=st.integers(0, 1),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_copies_and_shards_of_plain_networks_keep_the_function_biases_included(
    tmp_path: Path, copies: int, chosen: int, shards: int, dense: int, seed: int
) -> None:
    model = dense_model(ALPHA, seed, n_positions=32)
    op = "copy" if shards == 1 else f"granular, shards: {shards}"
    k = min(chosen, copies) * shards
    step = f"{{experts: {copies * shards}, op: {op}, top_k: {k}, router_std: 1.0, first_dense: {dense}}}"
    made, word = operated(tmp_path, model, f"  - moe.upcycle: {step}")
    assert (word, made.config.n_sparse) == ("FP1", 2 - dense)
    assert difference(model, made) < BOUND


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(experts=st.integers(2, 16), dense=st.integers(0, 1), seed=st.integers(0, 99))
def test_randomly_routed_copies_keep_the_function(tmp_path: Path, experts: int, dense: int, seed: int) -> None:
    model = dense_model(ALPHA, seed, n_positions=32)
    step = f"  - moe.upcycle: {{experts: {experts}, router: random, first_dense: {dense}}}"
    made, word = operated(tmp_path, model, step)
    assert word == "FP1"
    assert difference(model, made) < BOUND
    tables = [layer.ffn.router.table for layer in made.layers if hasattr(layer.ffn, "router")]
    assert len(tables) == 2 - dense
    assert all(table.dtype == torch.int64 and 0 <= int(table.min()) <= int(table.max()) < experts for table in tables)
    assert len(tables) == 1 or not torch.equal(tables[0], tables[1])  # a table of its own for every layer


def test_the_shape_of_the_mixture_of_38_b_comes_out(tmp_path: Path) -> None:
    from pedigree.family.surgery_part import operated as planned
    from pedigree.model.members import member
    from pedigree.model.sizes import parameters
    from pedigree.surgery.catalog import BY_NAME
    from pedigree.surgery.recipe import PlannedStep

    upcycle = BY_NAME["moe.upcycle"]
    step = PlannedStep(upcycle, upcycle.parameters(experts=16, router="random", first_dense=32))  # type: ignore[call-arg]
    made = planned("moe", {"from": member(ALPHA)}, [step], seed=1, allow_nfp=False, vocabulary=None)
    wanted = member("moe-38b")
    assert (made.whole, made.model.experts, parameters(made.model)) == ("FP1", wanted.experts, parameters(wanted))


def test_grouped_experts_of_a_plain_network_add_its_bias_once(tmp_path: Path, alpha: Decoder) -> None:
    step = "  - moe.upcycle: {experts: 8, op: grouped, groups: 4, shared: 64, width: 60}"
    made, word = operated(tmp_path, alpha, step)
    assert word == "FP1"
    assert difference(alpha, made) < BOUND


def test_the_part_of_a_network_that_stays_is_kept_on_average_when_units_are_drawn_anew(
    tmp_path: Path, alpha: Decoder
) -> None:
    """Units drawn anew write zero on average, so the mean over many experts is (1 - r) of what the network adds."""
    made, _ = operated(tmp_path, alpha, "  - moe.upcycle: {experts: 256, reinit: 0.25, first_dense: 1}", nfp=True)
    x_Nd = torch.randn(16, alpha.config.d_model, generator=torch.Generator().manual_seed(1))
    dense, mixture = alpha.layers[1].ffn, made.layers[1].ffn
    with torch.no_grad():
        added_Nd = dense(x_Nd) - dense.down.bias
        load_E = torch.full((256,), 16)
        answers_ENd = mixture.experts(x_Nd.repeat(256, 1), load_E).unflatten(0, (256, 16)) - dense.down.bias
    mean_Nd = answers_ENd.mean(0)
    error_Nd = answers_ENd.std(0) / 256**0.5
    far = (mean_Nd - 0.75 * added_Nd).abs() / error_Nd
    assert float(far.max()) < 5.0  # of 16 x 64 standard scores
    assert abs(float(far.square().mean()) - 1) < 0.3
    assert float(((mean_Nd - added_Nd).abs() / error_Nd).square().mean()) > 2.0  # and not the whole of it


@pytest.mark.parametrize("router", ["softmax", "random"])
@pytest.mark.parametrize(
    "op",
    ["op: average", "op: average, align: false", "op: keep, experts: [2]", "op: keep, experts: [0, 1]",
     "op: concatenate", "op: select, width: 768"],
)  # fmt: skip
def test_equal_experts_become_the_dense_model_again_in_its_own_type(
    tmp_path: Path, alpha: Decoder, op: str, router: str
) -> None:
    steps = f"  - moe.upcycle: {{experts: 3, router: {router}}}\n  - moe.densify: {{{op}}}"
    made, word = operated(tmp_path, alpha, steps, nfp=True)
    assert word == "NFP"
    assert made.config.experts is None
    assert json.loads((tmp_path / "b" / "config.json").read_text())["model_type"] == "gpt_pangu"
    assert difference(alpha, made) < BOUND


def test_through_files_the_dense_model_comes_back_bit_for_bit(tmp_path: Path, alpha: Decoder) -> None:
    """The mixture is written in our own type, read again by its role table, and made dense."""
    mixture, _ = operated(tmp_path, alpha, "  - moe.upcycle: {experts: 4, router: random, first_dense: 1}")
    made, _ = operated(tmp_path, mixture, "  - moe.densify: {experts: [3]}", nfp=True)
    before, after = alpha.state_dict(), made.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_dense_and_sparse_layers_keep_one_width(tmp_path: Path, alpha: Decoder) -> None:
    upcycle = "  - moe.upcycle: {experts: 4, first_dense: 1}\n"
    with pytest.raises(PedigreeError, match="different widths"):
        operated(tmp_path, alpha, upcycle + "  - moe.densify: {op: concatenate}", nfp=True)
    made, _ = operated(tmp_path, alpha, upcycle + "  - moe.densify: {op: select, width: 256}", nfp=True)
    assert made.config.feed_forward.d_inner == 256


def test_a_mixture_of_our_own_type_is_read_by_its_roles(tmp_path: Path, alpha: Decoder) -> None:
    operated(tmp_path, alpha, "  - moe.upcycle: {experts: 4, router: random, first_dense: 1}")
    with open_checkpoint(str(tmp_path / "b")) as checkpoint:
        anatomy = read_anatomy(checkpoint)
        tokens_BT = torch.randint(0, 200, (2, 24), generator=torch.Generator().manual_seed(5))
        streamed = StreamedModel(checkpoint).logits(tokens_BT)
    assert (anatomy.architecture, anatomy.inferred) == ("pedigree_decoder", False)
    assert (anatomy.notes, anatomy.unmapped) == ((), ())
    assert (anatomy.norm, anatomy.rope, anatomy.mlp, anatomy.tied) == ("layer", "none", "mixed", True)
    part = anatomy.part("moe.expert.up", 1, 3)
    assert part is not None
    assert torch.equal(part.read(), alpha.layers[1].ffn.up.weight)
    with torch.no_grad():
        whole = alpha(tokens_BT, return_logits=True).logits
    assert whole is not None
    assert torch.allclose(streamed, whole.reshape(streamed.shape), atol=BOUND)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("{experts: 4, router: random, top_k: 2}", "names one expert"),
        ("{experts: 4, router: random, op: granular, shards: 2}", "names one expert"),
        ("{experts: 4, first_dense: 2}", "no layer would get experts"),
    ],
)
def test_plain_experts_that_cannot_be_are_refused(tmp_path: Path, alpha: Decoder, step: str, words: str) -> None:
    with pytest.raises(PedigreeError, match=words):
        operated(tmp_path, alpha, f"  - moe.upcycle: {step}")
    assert not (tmp_path / "b").exists()
