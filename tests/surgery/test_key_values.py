"""Fewer key/value heads: turns are exact, equal heads average to themselves, and a fit loses less than an average."""

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
from pedigree.surgery.head_alignment import alignment

FEW = settings(
    max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


def disguised(model: Decoder, group: int, seed: int = 4) -> Decoder:
    """Key/value heads of each group made equal, and then turned apart in ways that keep the function."""
    generator = torch.Generator().manual_seed(seed)
    a, rotary = model.config.attention, model.config.rotary_dim
    per_query = a.n_heads // a.n_kv_heads
    with torch.no_grad():
        for block in model.layers:
            for part in (block.attn.k, block.attn.v):
                for tensor in (part.weight, part.bias):
                    if tensor is not None:
                        heads = tensor.unflatten(0, (-1, group, a.head_dim))
                        heads.copy_(heads[:, :1].expand_as(heads).clone())
            for head in range(a.n_kv_heads):
                rows = slice(head * a.head_dim, (head + 1) * a.head_dim)
                queries = slice(head * per_query * a.head_dim, (head + 1) * per_query * a.head_dim)
                turn_k = torch.eye(a.head_dim)
                angles = torch.rand(rotary // 2, generator=generator) * 6
                i, j = torch.arange(rotary // 2), torch.arange(rotary // 2, rotary)
                turn_k[i, i], turn_k[j, j], turn_k[i, j], turn_k[j, i] = (
                    angles.cos(), angles.cos(), -angles.sin(), angles.sin()
                )  # fmt: skip
                free = a.head_dim - rotary
                turn_k[rotary:, rotary:] = torch.linalg.qr(torch.randn(free, free, generator=generator))[0]
                turn_v = torch.linalg.qr(torch.randn(a.head_dim, a.head_dim, generator=generator))[0]
                for part, where, turn in (
                    (block.attn.k, rows, turn_k), (block.attn.v, rows, turn_v)
                ):  # fmt: skip
                    part.weight[rows] = turn @ part.weight[rows]
                    if part.bias is not None:
                        part.bias[where] = turn @ part.bias[where]
                for one in range(per_query):
                    place = slice(queries.start + one * a.head_dim, queries.start + (one + 1) * a.head_dim)
                    block.attn.q.weight[place] = turn_k @ block.attn.q.weight[place]
                    if block.attn.q.bias is not None:
                        block.attn.q.bias[place] = turn_k @ block.attn.q.bias[place]
                    block.attn.o.weight[:, place] = block.attn.o.weight[:, place] @ turn_v.T
    return model


@FEW
@given(
    st.integers(1, 2), st.integers(2, 3), st.integers(1, 2), st.sampled_from(["", "qkv", "qkvo"]),
    st.sampled_from([1.0, 0.5, 0.0]),
)  # fmt: skip
def test_heads_that_are_equal_up_to_turns_average_to_themselves(
    groups: int, group: int, per_query: int, bias: str, fraction: float
) -> None:
    places: dict[str, Any] = {"rope": {"fraction": fraction}} if fraction else {"learned_positions": True}
    kv = groups * group
    config = small(heads=kv * per_query, kv=kv, dim=8, width=24, bias=bias, ffn_bias=False, **places)
    model = disguised(drawn(config), group)
    made = convert(model, {"convert.kv": {"to": groups}}, nfp=True)
    assert made.apart < 1e-3
    assert made.after.config.attention.n_kv_heads == groups
    plain = convert(model, {"convert.kv": {"to": groups, "align": False}}, nfp=True)
    assert plain.apart > 20 * made.apart


def test_turns_are_orthogonal_and_commute_with_the_rotation() -> None:
    turns = alignment(torch.randn(4, 8, 20, generator=torch.Generator().manual_seed(0)), 2, 6)
    eye = torch.eye(8, dtype=torch.float64)
    for turn in turns:
        assert torch.allclose(turn @ turn.T, eye, atol=1e-12)
        for angle in (0.3, 2.0):
            rope = torch.eye(8, dtype=torch.float64)
            for pair in range(3):
                c, s = torch.tensor(angle * (pair + 1)).cos(), torch.tensor(angle * (pair + 1)).sin()
                rope[pair, pair], rope[pair + 3, pair + 3], rope[pair, pair + 3], rope[pair + 3, pair] = c, c, -s, s
            assert torch.allclose(turn @ rope, rope @ turn, atol=1e-12)


def test_a_fit_on_text_follows_the_wider_model_better(tmp_path: Path) -> None:
    from tests.surgery.surgery_models import operate, write_recipe
    from tests.training.tiny import write_text, write_tokenizer

    from pedigree.model.hf_checkpoint import export_checkpoint, import_checkpoint
    from pedigree.surgery.composition import compose
    from pedigree.surgery.influence import tokens_of
    from pedigree.surgery.recipe import read_recipe
    from pedigree.weights.checkpoint import open_checkpoint

    model = drawn(small(heads=4, kv=4, dim=8, width=32, inner=48, rope={}).replace(vocab_size=257, n_positions=256))
    source = tmp_path / "a"
    export_checkpoint(model, source)
    write_tokenizer(source)
    write_text(tmp_path / "text.txt", 400)
    write_text(tmp_path / "other.txt", 20, seed=9)
    fresh_BT = tokens_of(open_checkpoint(source), tmp_path / "other.txt", 1024)
    steps = {"fit": {"to": 2, "text": "text.txt", "tokens": 4096}, "plain": {"to": 2, "align": False}}
    apart = {}
    for name, parameters in steps.items():
        operate(source, tmp_path / name, [{"convert.kv": parameters}], allow="nfp")
        after = import_checkpoint(tmp_path / name)
        with torch.no_grad():
            old, new = (one(fresh_BT, return_logits=True).logits for one in (model, after))
        apart[name] = float((new - old).square().mean())
    assert apart["fit"] < 0.7 * apart["plain"]
    recipe = write_recipe(source, tmp_path / "told", [{"convert.kv": steps["fit"]}], allow="nfp")
    composition = compose(read_recipe(recipe))
    notes = " ".join(composition.symbolic.notes)
    composition.close()
    assert "held-out loss" in notes
    assert "with 4 key/value heads" in notes


@pytest.mark.parametrize(
    ("to", "match"), [(4, "not fewer"), (3, "do not divide"), (9, "not fewer")]
)  # fmt: skip
def test_numbers_of_heads_that_make_no_groups_are_refused(to: int, match: str) -> None:
    with pytest.raises(PedigreeError, match=match):
        convert(small(heads=4, kv=4, rope={}), {"convert.kv": {"to": to}}, nfp=True)


def test_an_old_model_can_have_fewer_heads_too() -> None:
    made = convert(small(**OLD), {"convert.kv": {"to": 2}}, nfp=True)
    assert made.config["model_type"] == "pedigree_decoder"
    assert made.after.config.attention.n_kv_heads == 2
