"""Grids of few-bit integers: found without knowing their groups, and who was rounded from whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.forensics.merge_shop import SIZES, Shop
from tests.forensics.tiny_models import side

from pedigree.forensics.compare import measure_pair
from pedigree.forensics.comparison.direction import weigh_direction
from pedigree.forensics.comparison.grids import IN_ORDER, in_order, is_on_grid, steps
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.number_edits import number_edits
from pedigree.surgery.operators.quantize import on_grid


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("group", [32, 64])
def test_rounded_numbers_are_on_a_grid_and_others_are_not(bits: int, group: int) -> None:
    x_RC = drawn(0, 64, 64)
    rounded_RC = on_grid(x_RC, bits, group)
    assert float((steps(rounded_RC.double().reshape(-1, 32)) > 0).double().mean()) > 0.9
    for other in (x_RC, x_RC.bfloat16(), x_RC.half(), rounded_RC + 0.01 * drawn(1, 64, 64)):
        assert float((steps(other.double().reshape(-1, 32)) > 0).double().mean()) < 0.05


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("grids"))
    base = shop["A"]
    rounded = {n: on_grid(t.float(), 4, 32) if t.ndim == 2 and "layers" in n else t for n, t in base.items()}
    g = torch.Generator().manual_seed(3)
    further = {n: t + 0.02 * t.std() * torch.randn(t.shape, generator=g) if t.ndim == 2 else t
               for n, t in rounded.items()}  # fmt: skip
    for name, tensors in (("A", base), ("rounded", rounded), ("further", further)):
        shop.add(name, tensors)
        shop.path(name)
    return shop


def place(shop: Shop, name: str) -> Path:
    return shop.folder / name


def test_a_rounded_copy_comes_after_what_it_was_rounded_from(shop: Shop) -> None:
    a, b, found, _ = measure_pair(place(shop, "A"), place(shop, "rounded"))
    assert found.rounded == "b"
    assert weigh_direction(a, b, found).verdict == "a-to-b"
    b, a, back, _ = measure_pair(place(shop, "rounded"), place(shop, "A"))
    assert back.rounded == "a"
    assert weigh_direction(b, a, back).verdict == "b-to-a"
    assert weigh_direction(b, a, replace(back, rounded=None)).log_odds > weigh_direction(b, a, back).log_odds


def turned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A GPT-2 of the numbers of a Llama: matrices are stored [in, out]."""
    out = {"wte.weight": tensors["model.embed_tokens.weight"], "ln_f.weight": tensors["model.norm.weight"],
           "wpe.weight": drawn(8, 32, SIZES.d), "ln_f.bias": torch.zeros(SIZES.d)}  # fmt: skip
    for layer in range(SIZES.layers):
        old, new = f"model.layers.{layer}.", f"h.{layer}."
        for norm, name in (("ln_1", "input"), ("ln_2", "post_attention")):
            out[f"{new}{norm}.weight"] = tensors[f"{old}{name}_layernorm.weight"]
            out[f"{new}{norm}.bias"] = torch.zeros(SIZES.d)
        query = tensors[old + "self_attn.q_proj.weight"]
        out[new + "attn.c_attn.weight"] = torch.cat([query, query.flip(0), query.roll(1, 0)]).T.contiguous()
        for name, source in (("attn.c_proj", "self_attn.o"), ("mlp.c_fc", "mlp.up"), ("mlp.c_proj", "mlp.down")):
            out[f"{new}{name}.weight"] = tensors[f"{old}{source}_proj.weight"].T.contiguous()
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            out[f"{new}{name}.bias"] = torch.zeros(out[f"{new}{name}.weight"].shape[1])
    return out


def test_a_matrix_that_is_stored_turned_is_rounded_by_what_stands_in_a_row_of_the_file(shop: Shop) -> None:
    """Groups of neighbors in the file are groups of a column there, and steps of none of its rows."""
    config = {"model_type": "gpt2", "n_embd": SIZES.d, "n_layer": SIZES.layers, "n_head": SIZES.heads,
              "n_inner": SIZES.inner, "vocab_size": SIZES.vocab}  # fmt: skip
    base = turned(shop["base"])
    rounded = {n: on_grid(t, 4, 32) if t.ndim == 2 and n.startswith("h.") else t for n, t in base.items()}
    a, b = side(base, config), side(rounded, config)
    found = measure(a, b, whole_bits=True)
    assert (found.rounded, found.in_order) == ("b", True)
    assert [one.kind for one in number_edits(found, stored_otherwise=False)] == ["quantized"]
    assert weigh_direction(a, b, found).verdict == "a-to-b"
    assert is_on_grid(b)
    assert not is_on_grid(a)


def test_what_was_moved_after_rounding_is_on_no_grid(shop: Shop) -> None:
    """The child of a rounded model is off the grid; that the parent is on one says nothing of their order."""
    _, _, found, _ = measure_pair(place(shop, "rounded"), place(shop, "further"))
    assert found.rounded is None


def lightly_trained(x_RC: torch.Tensor) -> torch.Tensor:
    """The same numbers moved by half a percent of their length along two directions."""
    moved_RC = drawn(5, x_RC.shape[0], 2) @ drawn(6, 2, x_RC.shape[1])
    return x_RC + 0.005 * moved_RC * x_RC.norm() / moved_RC.norm()


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (6, 32), (8, 64)])
def test_rounding_keeps_the_order_of_neighbors_and_training_does_not(bits: int, group: int) -> None:
    x_RC = drawn(0, 256, 256)
    assert bool(in_order(x_RC, on_grid(x_RC, bits, group)).all())
    assert float(in_order(lightly_trained(x_RC), on_grid(x_RC, bits, group)).double().mean()) < IN_ORDER
    assert float(in_order(drawn(1, 256, 256), x_RC).double().mean()) < 0.01


def test_a_sibling_of_a_rounded_model_is_not_what_it_was_rounded_from(shop: Shop) -> None:
    """Noise of rounding hides a little training: only the order of numbers tells that the trained one is no parent."""
    trained = {n: lightly_trained(t.float()) if t.ndim == 2 else t for n, t in shop["A"].items()}
    shop.add("trained", trained)
    shop.path("trained")
    a, b, found, _ = measure_pair(place(shop, "trained"), place(shop, "rounded"))
    assert found.rounded == "b"
    assert not found.in_order
    honest = replace(found, in_order=True)
    assert weigh_direction(a, b, found).log_odds < weigh_direction(a, b, honest).log_odds
