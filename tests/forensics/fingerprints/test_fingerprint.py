"""Fingerprints: same bytes for the same model, relatives found, strangers never called, hostile files refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.forensics.merge_shop import SIZES, Shop, tuned
from tests.forensics.tiny_models import EVERYTHING, Sizes, llama

from pedigree.benchmark.zoo import Zoo
from pedigree.errors import InputError, MalformedFile, UsageError
from pedigree.forensics.compare import compare
from pedigree.forensics.comparison.bank import error_rate
from pedigree.forensics.fingerprints.fingerprint import (
    Fingerprint,
    from_bytes,
    is_fingerprint,
    make_fingerprint,
    read_fingerprint,
)
from pedigree.forensics.fingerprints.fingerprint_compare import compare_fingerprints
from pedigree.forensics.fingerprints.positions import choose
from pedigree.forensics.fingerprints.thin_model import place, query_groups, thin
from pedigree.forensics.sides.views import read_layer
from pedigree.weights.anatomy import read_anatomy


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("fingerprints"))


def test_the_same_model_and_salt_give_the_same_bytes(shop: Shop) -> None:
    first, again = (make_fingerprint(shop.path("A"), salt=s).to_bytes() for s in ("", ""))
    assert first == again
    assert make_fingerprint(shop.path("A"), salt="word").to_bytes() != first
    assert from_bytes(first, "x").to_bytes() == first


def test_positions_of_a_larger_range_include_those_that_fall_into_the_smaller() -> None:
    small, large = choose("", "coordinate", 300, 192), choose("", "coordinate", 330, 192)
    assert len(set(small)) == 192
    assert {c for c in large if c < 300} <= set(small)
    assert choose("a", "coordinate", 300, 192) != small


def test_a_relative_is_found_and_an_order_of_units_is_what_makes_it_exact(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "a.fingerprint"
    file.write_bytes(make_fingerprint(shop.path("base")).to_bytes())
    assert is_fingerprint(file)
    found = compare(file, shop.path("B"), decoys=[shop.path("stranger")])
    assert found.result.verdict == "related"
    assert [decoy.verdict for decoy in found.result.controls.decoys] == ["inconclusive"]
    assert found.result.log10_p is not None
    assert found.result.log10_p < -50
    assert found.result.operating_points is None
    rate = found.result.error_rate
    assert rate is not None
    assert "fingerprints alone" in rate.note
    weights = error_rate()
    assert weights is not None
    assert rate.benchmark != weights.benchmark
    assert any("fingerprints hold few units, at chosen positions" in words for words in found.result.not_checked)
    assert found.inputs.a.format == "fingerprint"


def test_a_stranger_is_neither_related_nor_cleared(shop: Shop) -> None:
    a, x = (make_fingerprint(shop.path(name)) for name in ("A", "stranger"))
    found = compare_fingerprints(a, x)
    assert found.result.verdict == "inconclusive"
    assert found.result.log10_p is None


def test_equal_fingerprints_are_never_called_identical(shop: Shop) -> None:
    a = make_fingerprint(shop.path("A"))
    assert compare_fingerprints(a, a).result.verdict == "related"


def test_trained_relatives_are_found_and_trained_strangers_are_not(zoo: Zoo) -> None:
    prints = {name: make_fingerprint(zoo.models[name]) for name in ("base0", "base1", "continued", "inserted", "moe")}
    words = {name: compare_fingerprints(prints["base0"], prints[name]).result.verdict for name in prints}
    assert words == {
        "base0": "related", "base1": "inconclusive", "continued": "related", "inserted": "related", "moe": "related",
    }  # fmt: skip


def test_forms_recognize_a_rotated_model(zoo: Zoo) -> None:
    forms = {n: make_fingerprint(zoo.models[n]).model.tensors["forms"].float() for n in ("base0", "base1", "disguised")}
    same = (forms["base0"] * forms["disguised"]).sum((1, 2))
    other = torch.einsum("iab,jab->ij", forms["base0"], forms["base1"])
    assert float(same.min()) > 0.95
    assert float(other.abs().max()) < 0.5


def test_p_values_on_fingerprints_are_uniform_or_larger_under_the_null() -> None:
    """Sixty pairs of fresh models: the sign test on the few positions a fingerprint holds keeps its level."""
    from tests.memory_checkpoint import MemoryCheckpoint

    from pedigree.forensics.exact.sign_flip import family_flip

    sizes = Sizes(d=48, layers=2, inner=64, vocab=80)
    p_values = []
    for seed in range(60):
        a, b = (
            thin(read_anatomy(MemoryCheckpoint(llama(1000 + 2 * seed + k, sizes), sizes.config())), None)  # type: ignore[arg-type]
            for k in (0, 1)
        )
        products = [
            (a.tensors[n].float() * b.tensors[n].float()).sum(1)
            for n in sorted(a.tensors)
            if n.endswith("up_proj.weight")
        ]
        flip = family_flip(torch.cat(products))
        assert flip is not None
        p_values.append(10**flip.log10_p)
    for level in (0.05, 0.1, 0.25, 0.5):
        share = float(np.mean(np.array(p_values) <= level))
        assert share <= level + 2.5 * (level * (1 - level) / 60) ** 0.5


def test_salts_must_agree(shop: Shop, tmp_path: Path) -> None:
    salted, plain = tmp_path / "salted", tmp_path / "plain"
    salted.write_bytes(make_fingerprint(shop.path("base"), salt="word").to_bytes())
    plain.write_bytes(make_fingerprint(shop.path("base")).to_bytes())
    for file, salt in ((salted, ""), (salted, "other"), (plain, "word")):
        with pytest.raises(UsageError, match="salt"):
            read_fingerprint(file, salt=salt)
    assert compare(salted, shop.path("B"), salt="word").result.verdict == "related"
    facts = read_fingerprint(salted, salt="word").facts
    assert "word" not in json.dumps(facts)


def with_facts(data: bytes, **changes: object) -> bytes:
    """The file with other metadata."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["pedigree"]) | changes
    header["__metadata__"]["pedigree"] = json.dumps(facts)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 4},
        {"version": 0},
        {"version": 1},
        {"version": True},
        {"format": "other"},
        {"layers": 10**9},
        {"layers": 1},
        {"width": -1},
        {"width": True},
        {"inner": [[0, 1 << 40]]},
        {"inner": [[0, 7]]},
        {"inner": "x"},
        {"heads": [1]},
        {"heads": [2, 4]},
        {"left_out": [7]},
    ],
    ids=str,
)
def test_a_file_that_contradicts_itself_is_refused(shop: Shop, changes: dict[str, object]) -> None:
    data = with_facts(make_fingerprint(shop.path("A")).to_bytes(), **changes)
    with pytest.raises(MalformedFile, match=r"fingerprint"):
        from_bytes(data, "x")


@pytest.mark.parametrize("cut", [0, 7, 100, 5000, -1])
def test_a_file_that_was_cut_is_refused(shop: Shop, cut: int) -> None:
    with pytest.raises(InputError, match=r"."):
        from_bytes(make_fingerprint(shop.path("A")).to_bytes()[:cut], "x")


def test_latent_attention_is_held_as_plain_heads() -> None:
    """Two heads of five value dimensions and six keys without position: four dimensions of each, multiplied out."""
    from tests.forensics.sides.test_views import latent_model
    from tests.memory_checkpoint import MemoryCheckpoint

    anatomy = read_anatomy(MemoryCheckpoint(*latent_model()))  # type: ignore[arg-type]
    held, whole = thin(anatomy, None), read_layer(anatomy, 1, EVERYTHING).units
    assert held.heads == (2, 4)
    assert held.left_out == []
    assert sorted(held.dims) == [(head, dim) for head in range(2) for dim in range(4)]
    for name, kind, size in (("v", "vo", 5), ("o", "vo", 5), ("k", "qk", 6), ("q", "qk", 6)):
        places = [head * size + dim for head, dim in held.dims]
        rows_UC = whole[kind].rows(name)[places][:, held.coordinates].bfloat16()  # type: ignore[index]
        stored = held.tensors[f"model.layers.1.self_attn.{name}_proj.weight"]
        torch.testing.assert_close(stored.T if name == "o" else stored, rows_UC, rtol=1e-2, atol=1e-2)


def test_gates_that_stand_behind_queries_are_left_out() -> None:
    """Qwen3-Next: a head's query and its gate in one matrix, twice as high as the output is wide."""
    from tests.memory_checkpoint import MemoryCheckpoint

    assert query_groups(4096, 512, 4096) == (8, 1)
    assert query_groups(8192, 512, 4096) == (8, 2)
    plain, sizes = llama(0), Sizes()
    gated = dict(plain)
    for name, rows_UD in plain.items():
        if "q_proj" in name:
            heads_HUD = rows_UD.unflatten(0, (sizes.heads, -1))
            gated[name] = torch.cat([heads_HUD, torch.ones_like(heads_HUD)], dim=1).flatten(0, 1)
    held, without = (thin(read_anatomy(MemoryCheckpoint(x, sizes.config())), None) for x in (gated, plain))  # type: ignore[arg-type]
    assert held.tensors.keys() == without.tensors.keys()
    assert all(torch.equal(held.tensors[name], without.tensors[name]) for name in without.tensors)


def test_other_widths_share_positions() -> None:
    a, b = (place("", 2, width, [(0, 160)], (2, 16)) for width in (64, 80))
    assert a.units == b.units
    assert set(a.coordinates) <= set(b.coordinates)


def test_a_tuned_relative_of_another_inner_width_is_compared_on_common_units(shop: Shop) -> None:
    wide = tuned(shop["A"], 0.05, 30)
    for name in [n for n in wide if ".mlp." in n]:
        axis = 1 if "down" in name else 0
        extra = torch.randn(*[40 if k == axis else s for k, s in enumerate(wide[name].shape)]) * 0.1
        wide[name] = torch.cat([wide[name], extra], dim=axis)
    a, b = make_fingerprint(shop.path("A")), make_fingerprint(shop.add("wide", wide))
    assert compare_fingerprints(a, b).result.verdict == "related"
    assert isinstance(b, Fingerprint)
    assert SIZES.inner == 160
