"""Models that are legitimate and unlike the others: they are compared, or said not to be testable, and never crash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from forensics.tiny_models import Sizes, llama, shaken, side, words
from torch import Tensor

from pedigree.forensics.comparison.changes import list_changes
from pedigree.forensics.comparison.direction import weigh_direction
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.record import unseen
from pedigree.forensics.comparison.verdict import Judgment, judge

PARENT = llama(0)
TOKENS = words(64)


def answer(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Judgment:
    left, right = side(a, tokens=TOKENS), side(b, tokens=TOKENS)
    return judge(left, right, measure(left, right, whole_bits=True))


def test_an_embedding_of_another_width_than_the_stream_is_left_out() -> None:
    """As in OPT-350m, where a projection stands between them."""
    rows = PARENT["model.embed_tokens.weight"].shape[0]

    def narrow(tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
        table = torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))
        return {**tensors, "model.embed_tokens.weight": table, "lm_head.weight": table.clone()}

    assert answer(narrow(PARENT, 0), narrow(shaken(PARENT, 1), 2)).verdict in ("related", "partly-related")
    assert answer(narrow(PARENT, 0), narrow(llama(9), 3)).verdict in ("unrelated", "inconclusive")


def left_out(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[str, str]:
    """The verdict, and what is said of tensors without a role."""
    left, right = side(a, tokens=TOKENS), side(b, tokens=TOKENS)
    found = measure(left, right, whole_bits=True)
    return judge(left, right, found).verdict, "; ".join(unseen(left, right, found, "standard"))


def test_a_packed_matrix_without_a_role_is_left_out_by_the_size_that_it_means() -> None:
    """As the mixer of a hybrid whose linear maps are all stored in four bits."""
    g = torch.Generator().manual_seed(0)
    packed = {
        "tower.0.mix.qweight": torch.randint(-(2**31), 2**31, (8, 64), generator=g).int(),
        "tower.0.mix.qzeros": torch.zeros(1, 8, dtype=torch.int32),
        "tower.0.mix.scales": torch.rand(1, 64, generator=g).half(),
    }
    verdict, told = left_out(PARENT, {**shaken(PARENT, 1), **packed})
    assert verdict == "related"
    assert "1 tensors of B" in told
    assert "tower.*.mix.weight" in told
    assert left_out({**PARENT, **packed}, {**PARENT, **packed})[0] == "identical"


def test_strangers_that_share_a_tower_are_unrelated_and_the_record_says_what_is_equal() -> None:
    g = torch.Generator().manual_seed(0)
    towers = [{f"vision.{i}.proj.weight": torch.randn(32, 32, generator=g) for i in range(3)} for _ in range(2)]
    verdict, told = left_out({**PARENT, **towers[0]}, {**llama(9), **towers[0]})
    assert verdict == "unrelated"
    assert "3 of those of B are equal, number for number, to such of A: vision.*.proj.weight" in told
    assert "equal, number for number" not in left_out({**PARENT, **towers[0]}, {**llama(9), **towers[1]})[1]


def test_a_head_with_fewer_rows_than_the_embedding_is_left_out() -> None:
    short = {**shaken(PARENT, 1), "lm_head.weight": PARENT["lm_head.weight"][:20].clone()}
    assert answer(PARENT, short).verdict == "related"


def test_a_block_whose_two_projections_do_not_belong_together_is_not_taken_for_a_feed_forward_one() -> None:
    """As in a state-space block, whose first projection makes two streams and whose second reads one."""
    width, inner, layers = 32, 48, 3
    generator = torch.Generator().manual_seed(0)
    model = {"backbone.embeddings.weight": torch.randn(64, width, generator=generator)}
    for i in range(layers):
        model[f"backbone.layers.{i}.mixer.in_proj.weight"] = torch.randn(2 * inner, width, generator=generator)
        model[f"backbone.layers.{i}.mixer.out_proj.weight"] = torch.randn(width, inner, generator=generator)
        model[f"backbone.layers.{i}.norm.weight"] = torch.rand(width, generator=generator)
    left, right = side(model, {}), side(model, {})
    assert judge(left, right, measure(left, right, whole_bits=True)).verdict in ("identical", "partly-related")


def test_layers_known_by_their_norms_alone_are_not_testable_or_equal() -> None:
    model = {
        name: tensor
        for name, tensor in llama(0, Sizes(layers=3)).items()
        if "norm" in name or "embed" in name or "head" in name
    }
    assert answer(model, model).verdict in ("identical", "partly-related", "not-testable")


def test_whole_numbers_against_floating_ones_are_different_numbers() -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    child = shaken(PARENT, 1)
    assert answer(PARENT, {**child, name: torch.round(child[name] * 100).to(torch.int8)}).verdict == "related"


@pytest.mark.parametrize("layers", [1, 2])
def test_shallow_models_are_compared(layers: int) -> None:
    model = llama(0, Sizes(layers=layers))
    assert answer(model, shaken(model, 1)).verdict == "related"
    assert answer(model, llama(5, Sizes(layers=layers))).verdict == "unrelated"


@pytest.mark.parametrize("number", [0.0, float("nan"), float("inf")])
def test_what_holds_no_numbers_is_not_testable_and_not_cleared(number: float) -> None:
    blank = {name: torch.full_like(tensor, number) for name, tensor in shaken(PARENT, 1).items()}
    for pair in ((PARENT, blank), (blank, PARENT)):
        told = answer(*pair)
        assert told.verdict == "not-testable"
        assert "hold no numbers to compare" in told.reasons[0]
        assert {part.verdict for part in told.components.values()} == {"not-testable"}


def test_numbers_that_are_not_finite_are_counted_by_tensor() -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    child = shaken(PARENT, 1)
    left, right = side(PARENT, tokens=TOKENS), side({**child, name: child[name] / 0.0}, tokens=TOKENS)
    found = measure(left, right, whole_bits=True)
    assert judge(left, right, found).verdict == "related"
    assert found.bits is not None
    assert (found.bits.damaged_a, found.bits.damaged_b) == ([], ["layers.1.mlp.up"])


def test_a_layer_number_without_tensors_has_no_layer_in_the_map() -> None:
    whole = llama(0, Sizes(layers=4))
    holed = {name: tensor for name, tensor in shaken(whole, 1).items() if ".layers.2." not in name}
    for a, b in ((whole, holed), (holed, whole)):
        left, right = side(a, tokens=TOKENS), side(b, tokens=TOKENS)
        found = measure(left, right, whole_bits=True)
        assert (found.layer_map, found.filled) == ([0, 1, None, 3], [])
        assert judge(left, right, found).verdict == "related"


def test_a_file_without_gains_says_nothing_of_norms() -> None:
    part = {name: tensor for name, tensor in PARENT.items() if "self_attn" in name}
    left, right = side(PARENT, tokens=TOKENS), side(part, tokens=TOKENS)
    right.anatomy = replace(right.anatomy, norm="layer")  # as the table of a kind without gains would say
    found = measure(left, right, whole_bits=True)
    assert not {"norm-converted", "norms-moved"} & {change.kind for change in list_changes(left, right, found)}
    # Every number of B is one of A: what differs once gains are folded is not B's doing.
    assert weigh_direction(left, right, found).log_odds == 0.0


def test_without_a_config_heads_are_cut_as_in_the_other_model() -> None:
    sizes = Sizes(head_dim=12, d=48)
    child = shaken(llama(0, sizes), 1)
    left, right = side(llama(0, sizes), sizes.config()), side(child, {"model_type": "llama"})
    assert (left.anatomy.head_dim, right.anatomy.head_dim) == (12, 8)
    assert (right.beside(left).anatomy.head_dim, left.beside(right)) == (12, left)
    assert not right.beside(left).anatomy.assumes_heads


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.T.contiguous()


def _narrower(tensor: Tensor) -> Tensor:
    return tensor[..., : tensor.shape[-1] * 2 // 3].contiguous()


def _shorter(tensor: Tensor) -> Tensor:
    return tensor[: tensor.shape[0] // 2].contiguous()


def _single(tensor: Tensor) -> Tensor:
    return tensor.flatten()[:1].clone()


DAMAGES = (_transposed, _narrower, _shorter, _single, Tensor.flatten, torch.zeros_like)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
@pytest.mark.parametrize(
    "name", sorted({key.split(".", 3)[3] for key in PARENT if key.startswith("model.layers.1.") and "proj" in key})
)
def test_a_matrix_that_does_not_fit_its_layer_hides_no_more_than_its_part(
    name: str, damage: Callable[[Tensor], Tensor]
) -> None:
    """One matrix of one layer, of whatever shape: the rest of the model still tells."""
    broken = dict(shaken(PARENT, 1, 0.15))
    broken[f"model.layers.1.{name}"] = damage(broken[f"model.layers.1.{name}"])
    assert answer(PARENT, broken).verdict in ("related", "partly-related")


def test_a_layer_of_few_units_is_not_called_foreign() -> None:
    """A child with one unit of eight: its score cannot pass the number of units, whatever they are. Where they kept
    their places, these tell; where they stand anywhere, nothing does."""
    small = {}
    for name, tensor in shaken(PARENT, 1).items():
        axis = 1 if "down_proj" in name else 0
        small[name] = tensor.narrow(axis, 0, 8).clone() if ".mlp." in name else tensor
    judgment = answer(PARENT, small)
    assert judgment.verdict == "related"
    assert judgment.components["mlp"].verdict == "related"
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    for name, tensor in small.items():
        if ".mlp." in name:
            small[name] = tensor.index_select(1 if "down_proj" in name else 0, order)
    assert answer(PARENT, small).components["mlp"].verdict == "inconclusive"


def test_layers_that_wrote_nothing_before_they_were_trained_are_not_new() -> None:
    """A model grown by silent layers and its child: units that write nothing can be confirmed by nothing."""
    sizes = Sizes(layers=4, d=64, heads=8, kv_heads=8, head_dim=8, inner=96)
    grown = llama(0, sizes)
    for layer in (1, 3):
        for name in ("mlp.up_proj", "mlp.down_proj", "self_attn.o_proj"):
            grown[f"model.layers.{layer}.{name}.weight"] *= 0.0
    woken = {name: tensor + 0.02 * llama(5, sizes)[name] for name, tensor in shaken(grown, 1).items()}
    left, right = (side(model, sizes.config(), tokens=TOKENS) for model in (grown, woken))
    found = measure(left, right, whole_bits=True)
    assert judge(left, right, found).verdict == "related"
    assert found.layer_map == [0, 1, 2, 3]
    assert not {"component-reinitialized", "layers-replaced"} & {one.kind for one in list_changes(left, right, found)}
