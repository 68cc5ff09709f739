"""Rows in the frame of tokens: no turn of the stream changes them, relatives show in it, strangers do not.

Shapes: U = rows, M = tokens, D = residual width.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.forensics.merge_shop import write_model
from tests.forensics.tiny_models import Sizes, Tensors, generator, llama, random_rotation, shaken, turned, unit_set

from pedigree.benchmark.zoo import Zoo
from pedigree.errors import MalformedFile
from pedigree.forensics.fingerprints.fingerprint import Fingerprint, from_bytes, make_fingerprint
from pedigree.forensics.fingerprints.fingerprint_compare import compare_fingerprints
from pedigree.forensics.fingerprints.thin_side import turned_sides
from pedigree.forensics.fingerprints.token_frame import FRAME_TOKENS, key_dimensions, token_frame
from pedigree.forensics.frames.turned_planes import planes_side_by_side
from pedigree.forensics.sides.gauge import token_gauge
from pedigree.forensics.sides.views import read_units
from pedigree.forensics.units.matching import make_table, score_layers

WIDE = Sizes(d=256, layers=3, heads=8, kv_heads=4, head_dim=32, inner=320, vocab=700)
"""Wider than the coordinates that a fingerprint holds, so that its own rows are no help in another frame."""


def write(folder: Path, tensors: Tensors, sizes: Sizes = WIDE) -> Path:
    place = write_model(folder, tensors, sizes, torch.float32)
    (place / "vocab.json").write_text(json.dumps({f"word{row}": row for row in range(sizes.vocab)}))
    return place


def reordered_heads(tensors: Tensors, sizes: Sizes, seed: int) -> Tensors:
    """Key/value heads with their queries in another order, and every plane turned by an angle of its own."""
    g, out = generator(seed), dict(tensors)
    for layer in range(sizes.layers):
        order = torch.randperm(sizes.kv_heads, generator=g)
        angle = torch.polar(torch.ones(1), 6.28 * torch.rand(sizes.kv_heads, sizes.head_dim // 2, generator=g))
        for name in "qkvo":
            key = f"model.layers.{layer}.self_attn.{name}_proj.weight"
            rows = out[key].T if name == "o" else out[key]
            heads = rows.reshape(sizes.kv_heads, -1, sizes.head_dim, sizes.d)[order]
            if name in "qk":
                first, second = heads.unflatten(2, (2, -1)).unbind(2)
                plane = torch.complex(first, second) * angle[:, None, :, None]
                heads = torch.cat([plane.real, plane.imag], dim=2)
            rows = heads.reshape(-1, sizes.d)
            out[key] = rows.T.contiguous() if name == "o" else rows
    return out


class Prints:
    """Fingerprints of a parent, its child in two disguises, and a stranger."""

    def __init__(self, folder: Path) -> None:
        parent = llama(1, WIDE)
        child = shaken(parent, 2)
        frame = random_rotation(WIDE.d, 3)
        self.models = {
            "parent": parent,
            "same turned": turned(parent, frame),
            "child turned": turned(child, frame),
            "child reordered": turned(reordered_heads(child, WIDE, 4), frame),
            "stranger": turned(llama(7, WIDE), frame),
        }
        self.paths = {name: write(folder / name, tensors) for name, tensors in self.models.items()}
        self.made = {name: make_fingerprint(path) for name, path in self.paths.items()}

    def __getitem__(self, name: str) -> Fingerprint:
        return self.made[name]


@pytest.fixture(scope="module")
def prints(tmp_path_factory: pytest.TempPathFactory) -> Prints:
    return Prints(tmp_path_factory.mktemp("prints"))


def rows(fingerprint: Fingerprint, kind: str) -> torch.Tensor:
    return fingerprint.model.tensors[f"token_frame.{kind}"].float()


def test_a_turn_of_the_stream_changes_no_row(prints: Prints) -> None:
    for kind in ("gate", "up", "k", "q"):
        before, after = rows(prints["parent"], kind), rows(prints["same turned"], kind)
        assert before.shape == (WIDE.layers, len(prints["parent"].model.units) if kind in ("gate", "up") else 64, 128)
        torch.testing.assert_close(before, after, rtol=0.02, atol=0.002)
    name = "model.layers.1.mlp.up_proj.weight"
    before, after = (prints[which].model.tensors[name].float() for which in ("parent", "same turned"))
    assert float((before - after).norm() / before.norm()) > 1.0


def test_the_frame_keeps_lengths_and_its_halves_share_nothing() -> None:
    table_TD = torch.randn(400, 48, generator=generator(1))
    frame_ND = token_frame(table_TD)
    assert frame_ND is not None
    loud_MD, quiet_MD = frame_ND.split(FRAME_TOKENS)
    for half_MD, other_MD in ((loud_MD, quiet_MD), (quiet_MD, loud_MD)):
        basis = torch.linalg.svd(half_MD, full_matrices=False).Vh[:24]
        assert float((other_MD @ basis.T).norm()) < 1e-4
    vector_D = torch.randn(48, generator=generator(2))
    whole = float((frame_ND @ vector_D).square().sum()) * 400 / FRAME_TOKENS
    assert whole == pytest.approx(float(vector_D.square().sum()), rel=0.5)
    assert token_frame(table_TD[:100]) is None
    assert token_frame(torch.zeros(400, 48)) is None


def test_planes_are_held_whole_and_of_every_head() -> None:
    held = key_dimensions("", (8, 128))
    assert len(held) == 64
    assert {head for head, _ in held} == set(range(8))
    assert {(head, dim + 64) for head, dim in held if dim < 64} == {(head, dim) for head, dim in held if dim >= 64}
    assert key_dimensions("words", (8, 128)) != held
    assert key_dimensions("", (0, 0)) == []


@pytest.mark.parametrize("name", ["same turned", "child turned", "child reordered"])
def test_a_turned_relative_is_seen_without_a_word_on_descent_that_nobody_could_give(prints: Prints, name: str) -> None:
    """These models learned nothing, so start and descent cannot be told: that they share numbers is what is said."""
    found = compare_fingerprints(prints["parent"], prints[name])
    assert found.result.verdict in ("related", "inconclusive")
    assert found.result.layer_map == [0, 1, 2]
    assert found.result.gauge.fitted_on == ["vocabulary rows of shared tokens"]
    assert any("laid side by side in the frame that vocabulary rows give" in w for w in found.result.not_checked)


def test_a_stranger_is_not_seen(prints: Prints) -> None:
    found = compare_fingerprints(prints["parent"], prints["stranger"])
    assert found.result.verdict == "inconclusive"
    assert found.result.layer_map == [None] * 3
    assert found.result.gauge.kind == "none"


def test_trained_relatives_in_disguise_are_found_and_trained_strangers_and_twins_are_not(zoo: Zoo) -> None:
    names = ("base0", "base1", "twin", "rotated", "permuted", "disguised")
    prints = {name: make_fingerprint(zoo.models[name]) for name in names if name in zoo.models}
    words = {name: compare_fingerprints(prints["base0"], prints[name]).result.verdict for name in prints}
    assert words["rotated"] == words["permuted"] == words["disguised"] == "related"
    assert words["base1"] == "inconclusive"


def test_planes_are_brought_back_to_their_heads_and_angles(prints: Prints) -> None:
    sides = turned_sides(prints["parent"], prints["child reordered"])
    assert sides is not None
    left, right = (read_units(side.anatomy, 1, "qk", side.sample) for side in sides)
    assert left is not None
    assert right is not None
    pairs = planes_side_by_side(left, right)
    assert len(pairs) == 2
    for x_PW, y_PW in pairs:
        cosine = torch.nn.functional.cosine_similarity(x_PW, y_PW, dim=1)
        assert float(cosine.mean()) > 0.7
        assert float(cosine.min()) > 0.4


def test_queries_that_stand_with_gates_have_a_fingerprint(tmp_path: Path) -> None:
    """Twice as many rows of queries as columns of outputs, as in Qwen3-Next."""
    sizes, g = Sizes(d=64, layers=2, heads=4, kv_heads=2, head_dim=16, inner=128, vocab=400), generator(1)
    parent = llama(1, sizes)
    for layer in range(sizes.layers):
        parent[f"model.layers.{layer}.self_attn.q_proj.weight"] = 0.1 * torch.randn(128, 64, generator=g)
    prints = [make_fingerprint(write(tmp_path / str(k), t, sizes)) for k, t in enumerate((parent, shaken(parent, 2)))]
    assert prints[0].model.tensors["model.layers.0.self_attn.o_proj.weight"].shape == (64, 32)
    assert compare_fingerprints(*prints).result.layer_map == [0, 1]


def test_planes_of_heads_in_another_basis_are_not_laid_side_by_side() -> None:
    """Where no position turns planes a head may have any basis: each plane is spread over all, and would look dead."""
    g, heads, dims = generator(11), 4, 16
    names = ("k", "q")
    before = {name: torch.randn(heads * dims, 64, generator=g) for name in names}
    basis_HCC = torch.linalg.qr(torch.randn(heads, dims, dims, generator=g))[0]
    mixed = {
        name: torch.einsum("hcd,hdw->hcw", basis_HCC, rows_UW.reshape(heads, dims, -1)).flatten(0, 1)
        for name, rows_UW in before.items()
    }
    twin = {name: rows_UW + 2 * torch.randn(rows_UW.shape, generator=g) for name, rows_UW in before.items()}
    one = unit_set(before, "qk", heads)
    assert planes_side_by_side(one, unit_set(mixed, "qk", heads)) == []
    assert len(planes_side_by_side(one, unit_set(twin, "qk", heads))) == 2


def test_scores_of_independent_models_in_the_frame_of_tokens_keep_their_level(tmp_path: Path) -> None:
    """Forty pairs of layers of eight fresh models: standard scores have mean zero and deviation one, or less."""
    sizes = Sizes(d=48, layers=3, inner=96, vocab=200)
    made = [make_fingerprint(write(tmp_path / str(seed), llama(100 + seed, sizes), sizes)) for seed in range(6)]
    z = []
    for k, one in enumerate(made):
        for other in made[:k]:
            sides = turned_sides(one, other)
            assert sides is not None
            gauge = replace(token_gauge(FRAME_TOKENS), lens_BK=torch.eye(2 * FRAME_TOKENS)[:, FRAME_TOKENS:])
            for kind in ("ffn", "qk"):
                for i in range(3):
                    pair = [read_units(side.anatomy, i, kind, side.sample) for side in sides]  # type: ignore[arg-type]
                    assert pair[0] is not None
                    assert pair[1] is not None
                    a, b = make_table(pair[0], gauge, "a"), make_table(pair[1], gauge, "b")
                    z.append(score_layers(a, b).z)
    assert len(z) == 90
    assert abs(float(np.mean(z))) < 0.4
    assert float(np.std(z)) < 1.3
    assert max(z) < 5.0


def test_rows_that_bear_other_names_give_no_word(prints: Prints, tmp_path: Path) -> None:
    """Whoever renames rows chooses the frame; output rows then do not stand to each other as rows of those names do."""
    held = prints["child turned"]
    g = generator(5)
    order = torch.randperm(WIDE.vocab, generator=g)
    moved = dict(prints.models["child turned"])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        moved[name] = moved[name][order]
    renamed = make_fingerprint(write(tmp_path / "renamed", moved))
    tensors = renamed.model.tensors | {
        f"token_frame.{kind}": held.model.tensors[f"token_frame.{kind}"] for kind in ("gate", "up", "k", "q")
    }
    crafted = replace(renamed, model=replace(renamed.model, tensors=tensors))
    found = compare_fingerprints(prints["parent"], crafted)
    assert found.result.verdict == "inconclusive"
    assert "whoever renames rows chooses that frame" in found.result.strength


def test_rows_that_agree_at_a_part_of_the_tokens_give_no_word(prints: Prints) -> None:
    """So a frame looks that a few set vocabulary rows have pulled to where weights agree."""
    mine, other = prints["parent"].model.tensors, dict(prints["stranger"].model.tensors)
    other["token_frame.names"] = mine["token_frame.names"]
    for name in [f"token_frame.{kind}" for kind in ("gate", "up", "k", "q")]:
        mixed = other[name].clone()
        for half in (0, FRAME_TOKENS):
            mixed[..., half : half + FRAME_TOKENS // 3] = mine[name][..., half : half + FRAME_TOKENS // 3]
        other[name] = mixed
    crafted = replace(prints["stranger"], model=replace(prints["stranger"].model, tensors=other))
    found = compare_fingerprints(prints["parent"], crafted)
    assert found.result.verdict not in ("related", "partly-related", "shared-initialization")


def test_a_file_is_the_same_file_again_and_salts_choose_other_tokens(prints: Prints) -> None:
    data = prints["parent"].to_bytes()
    assert from_bytes(data, "x").to_bytes() == data
    salted = make_fingerprint(prints.paths["parent"], salt="words")
    assert not torch.equal(rows(salted, "k"), rows(prints["parent"], "k"))


def second_version(fingerprint: Fingerprint) -> Fingerprint:
    """The same as version 2 holds it."""
    tensors = {n: t for n, t in fingerprint.model.tensors.items() if not n.startswith("token_frame.")}
    bare = replace(
        fingerprint, model=replace(fingerprint.model, tensors=tensors), facts=fingerprint.facts | {"version": 2}
    )
    return from_bytes(bare.to_bytes(), fingerprint.location)


def test_a_file_of_the_second_version_is_compared_in_place_and_says_so(prints: Prints) -> None:
    old = second_version(prints["child turned"])
    found = compare_fingerprints(prints["parent"], old)
    assert found.result.verdict == "inconclusive"
    assert any("the fingerprint of B holds no frame of vocabulary rows" in words for words in found.result.not_checked)


@pytest.mark.parametrize("change", ["layers", "rows", "tokens", "dtype", "version", "name"])
def test_rows_that_contradict_the_metadata_are_refused(prints: Prints, change: str) -> None:
    made = prints["parent"]
    tensors, facts = dict(made.model.tensors), made.facts
    key = tensors["token_frame.k"]
    if change == "version":
        facts = facts | {"version": 2}
    elif change == "name":
        tensors["token_frame.v"] = key.clone()
    else:
        tensors["token_frame.k"] = {
            "layers": key[:-1], "rows": key[:, 1:], "tokens": key[..., 1:], "dtype": key.float(),
        }[change].contiguous()  # fmt: skip
    crafted = replace(made, model=replace(made.model, tensors=tensors), facts=facts)
    with pytest.raises(MalformedFile, match="token_frame"):
        from_bytes(crafted.to_bytes(), "x")
