"""A frame fitted on vocabulary rows carries over to attention: what is seen in it, what a framer cannot choose.

Shapes: D = residual width, P = planes, G = key/value heads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forensics.tiny_models import turned
from safetensors.torch import save_file
from torch import Tensor

from pedigree.benchmark.framer import turn_for_planes
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.plane_agreement import PlaneMeter
from pedigree.forensics.frames.carried_planes import planes_agree, planes_of
from pedigree.forensics.frames.named_frame import EVEN_TOKENS, MOST_SPREAD, WHOLLY, tables_of
from pedigree.forensics.sides.anchors import SharedTokens
from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.linear import thin_qr
from pedigree.forensics.sides.sampling import choose_sample
from pedigree.forensics.sides.side import Side
from pedigree.forensics.units.shared_units import whitened
from pedigree.weights.checkpoint import open_checkpoint

Tensors = dict[str, Tensor]
WIDTH, LAYERS, HEADS, GROUPS, HEAD, WORDS = 64, 4, 4, 2, 16, 500
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
TOKENS = SharedTokens(torch.arange(WORDS), torch.arange(WORDS), "surface form", WORDS, WORDS)
PAIRS = [(j, j) for j in range(LAYERS)]


def drawn(seed: int) -> Tensors:
    """A Llama-like model drawn at random, with unlike gains."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    out = {name: random(WORDS, WIDTH) for name in TABLES}
    out["model.norm.weight"] = 1.0 + 10 * random(WIDTH)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", HEADS * HEAD), ("k", GROUPS * HEAD), ("v", GROUPS * HEAD)):
            out[f"{prefix}self_attn.{name}_proj.weight"] = random(rows, WIDTH)
        out[f"{prefix}self_attn.o_proj.weight"] = random(WIDTH, HEADS * HEAD)
        for name in ("gate", "up"):
            out[f"{prefix}mlp.{name}_proj.weight"] = random(128, WIDTH)
        out[f"{prefix}mlp.down_proj.weight"] = random(WIDTH, 128)
        for norm in ("input", "post_attention"):
            out[f"{prefix}{norm}_layernorm.weight"] = 1.0 + 10 * random(WIDTH)
    return out


@pytest.fixture
def side(tmp_path: Path) -> Iterator[object]:
    """Write a model and open it."""
    with ExitStack() as stack:

        def open_side(tensors: Tensors, **facts: object) -> Side:
            folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
            config = {
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
                "intermediate_size": 128, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
                "num_key_value_heads": GROUPS, "head_dim": HEAD, "vocab_size": WORDS, "hidden_act": "silu",
                "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "rope_theta": 10000.0,
            }  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config | facts))
            (folder / "vocab.json").write_text(json.dumps({f"word{row}": row for row in range(WORDS)}))
            return Side.read(stack.enter_context(open_checkpoint(folder)), choose_sample("full", 0))

        yield open_side


def merged(minor: Tensors, major: Tensors, share: float = 0.2) -> Tensors:
    return {name: share * tensor + (1.0 - share) * major[name] for name, tensor in minor.items()}


def hybrid(tensors: Tensors) -> Tensors:
    """The same under the names of Jamba, attention in every other layer."""
    names = {
        "mlp": "feed_forward",
        "post_attention_layernorm": "pre_ff_layernorm",
        "model.norm": "model.final_layernorm",
    }
    out = {}
    for name, tensor in tensors.items():
        if "self_attn" in name and int(name.split(".")[2]) % 2 == 0:
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        out[name] = tensor
    return out


def planes_moved(tensors: Tensors, seed: int) -> Tensors:
    """Planes of every head turned and scaled, query against key: the function stays."""
    generator, out = torch.Generator().manual_seed(seed), dict(tensors)
    half = HEAD // 2
    for layer in range(LAYERS):
        angle = torch.rand(GROUPS, 1, half, 1, generator=generator) * 6.3
        scale = torch.rand(GROUPS, 1, half, 1, generator=generator) + 0.5
        for name, factor in (("q", scale), ("k", 1.0 / scale)):
            key = f"model.layers.{layer}.self_attn.{name}_proj.weight"
            rows = tensors[key].reshape(GROUPS, -1, 2, half, WIDTH)
            first, second = rows[:, :, 0], rows[:, :, 1]
            moved = (angle.cos() * first - angle.sin() * second, angle.sin() * first + angle.cos() * second)
            out[key] = (torch.stack(moved, dim=2) * factor[:, :, None]).reshape(tensors[key].shape)
    return out


def heads_moved(tensors: Tensors, seed: int) -> Tensors:
    """Groups of heads, and query heads inside each, in another order: the function stays."""
    generator, out = torch.Generator().manual_seed(seed), dict(tensors)
    queries = HEADS // GROUPS
    for layer in range(LAYERS):
        group_G = torch.randperm(GROUPS, generator=generator)
        query_GQ = torch.stack([torch.randperm(queries, generator=generator) for _ in range(GROUPS)])
        head_H = (group_G[:, None] * queries + query_GQ).flatten()
        prefix = f"model.layers.{layer}.self_attn."
        for name, order in (("q", head_H), ("k", group_G), ("v", group_G)):
            rows = tensors[f"{prefix}{name}_proj.weight"].unflatten(0, (len(order), HEAD))
            out[f"{prefix}{name}_proj.weight"] = rows[order].flatten(0, 1)
        columns = tensors[f"{prefix}o_proj.weight"].unflatten(1, (HEADS, HEAD))
        out[f"{prefix}o_proj.weight"] = columns[:, head_H].flatten(1, 2)
    return out


def some_turn(seed: int) -> Tensor:
    return thin_qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


def blocks_of(one: Side) -> Tensor:
    found = planes_of(one, range(LAYERS), HEAD // 2)
    assert found is not None
    return found


def agree(a: Side, b: Side, tokens: SharedTokens = TOKENS) -> TestOutcome:
    return planes_agree(a, b, tokens, PAIRS, 0.0)


def test_the_minor_parent_of_a_merge_is_told_and_a_stranger_is_not(side) -> None:  # type: ignore[no-untyped-def]
    minor, major, stranger = drawn(0), drawn(1), drawn(2)
    merge = merged(minor, major)
    for pair in ((side(minor), side(merge)), (side(merge), side(minor))):
        outcome = agree(*pair)
        assert outcome.log10_p is not None
        assert outcome.log10_p < -12.0
        assert outcome.extra["even_tokens"] > EVEN_TOKENS[1]
    assert agree(side(stranger), side(merge)).log10_p == 0.0
    assert agree(side(minor), side(major)).log10_p == 0.0


def test_whoever_turns_the_stream_or_planes_or_moves_heads_changes_nothing(side) -> None:  # type: ignore[no-untyped-def]
    minor, merge = drawn(0), merged(drawn(0), drawn(1))
    plain = agree(side(minor), side(merge))
    all_of_it = heads_moved(planes_moved(turned(merge, some_turn(5)), 6), 7)
    for other in (turned(merge, some_turn(3)), planes_moved(merge, 4), heads_moved(merge, 8), all_of_it):
        assert agree(side(minor), side(other)).statistic == pytest.approx(plain.statistic, rel=1e-3)


def test_a_rotation_spent_on_query_key_planes_of_all_layers(side) -> None:  # type: ignore[no-untyped-def]
    """In the frame that he chose the planes agree by far; vocabulary rows do not share it, so nothing comes of it."""
    victim, innocent = drawn(0), drawn(1)
    sides = side(victim), side(innocent)
    blocks = [blocks_of(one) for one in sides]
    frame_DD = turn_for_planes(list(blocks[1]), list(blocks[0]))
    chosen = PlaneMeter()
    for a_PV2D, b_PV2D in zip(blocks[0], blocks[1], strict=True):
        chosen.add(a_PV2D, b_PV2D @ frame_DD)
    assert (chosen.outcome(0.0).log10_p or 0.0) < -100.0
    framed = side(turned(innocent, frame_DD))
    outcome = agree(sides[0], framed)
    assert outcome.statistic == pytest.approx(agree(*sides).statistic, rel=1e-3)
    assert outcome.log10_p == 0.0


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_rows_of_tokens_that_no_text_has_set_to_steer_the_frame(share: float, side) -> None:  # type: ignore[no-untyped-def]
    victim, innocent = drawn(0), drawn(1)
    sides = side(victim), side(innocent)
    left, right = (blocks_of(one) for one in sides)
    frame_DD = turn_for_planes(list(left), list(right)).float()
    rare_T = torch.randperm(WORDS, generator=torch.Generator().manual_seed(0))[: int(share * WORDS)]
    steered = dict(innocent)
    for name in TABLES:
        gain_a, gain_b = (
            t["model.norm.weight"] if name == TABLES[1] else torch.ones(WIDTH) for t in (victim, innocent)
        )
        steered[name] = innocent[name].clone()
        steered[name][rare_T] = (victim[name][rare_T] * gain_a) @ frame_DD / gain_b
    outcome = agree(sides[0], side(steered))
    assert outcome.log10_p == 0.0
    if share > 0.2:
        # Planes agree in the steered frame, but most tokens do not share it.
        assert outcome.statistic > 3.0
        assert outcome.extra["even_tokens"] < EVEN_TOKENS[1]


def test_a_frame_that_suits_all_tokens_and_is_held_by_a_few(side) -> None:  # type: ignore[no-untyped-def]
    """Tokens that have to be left alone agree in such a frame, so planes speak; that few rows pull gives it away."""
    victim, innocent = drawn(0), drawn(1)
    sides = side(victim), side(innocent)
    left, right = (blocks_of(one) for one in sides)
    tables = tables_of(*sides, TOKENS)
    rows = [torch.cat([unit_rows(whitened(table[k])) for table in tables]) for k in (0, 1)]
    frame_DD = turn_for_planes(list(left), list(right), beside=rows[0].T @ rows[1] / 3.0).float()
    rare_T = torch.randperm(WORDS, generator=torch.Generator().manual_seed(0))[: int(0.25 * WORDS)]
    steered = dict(innocent)
    for name, (table, _) in zip(TABLES, tables, strict=True):
        gain = innocent["model.norm.weight"] if name == TABLES[1] else torch.ones(WIDTH)
        steered[name] = innocent[name].clone()
        steered[name][rare_T] = table[rare_T] @ frame_DD / gain
    outcome = agree(sides[0], side(steered))
    assert outcome.statistic > 2.5
    assert outcome.extra["even_tokens"] > EVEN_TOKENS[1]
    assert outcome.extra["spread"] > MOST_SPREAD
    assert outcome.log10_p == 0.0


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_most_rows_mixed_half_and_half_with_the_victims(share: float, side) -> None:  # type: ignore[no-untyped-def]
    """All tokens agree then, those that were left alone as well; but these agree far less than the others."""
    victim, innocent = drawn(0), drawn(1)
    sides = side(victim), side(innocent)
    left, right = (blocks_of(one) for one in sides)
    tables = tables_of(*sides, TOKENS)
    rare_T = torch.randperm(WORDS, generator=torch.Generator().manual_seed(0))[: int(share * WORDS)]
    own_T = torch.ones(WORDS, dtype=torch.bool)
    own_T[rare_T] = False
    rows = [torch.cat([unit_rows(whitened(table[k]))[own_T] for table in tables]) for k in (0, 1)]
    frame_DD = turn_for_planes(list(left), list(right), beside=rows[0].T @ rows[1]).float()
    steered = dict(innocent)
    for name, (table, _) in zip(TABLES, tables, strict=True):
        gain = innocent["model.norm.weight"] if name == TABLES[1] else torch.ones(WIDTH)
        steered[name] = innocent[name].clone()
        steered[name][rare_T] = 0.5 * (table[rare_T] @ frame_DD / gain + innocent[name][rare_T])
    outcome = agree(sides[0], side(steered))
    assert outcome.extra["even_tokens"] > 0.98
    assert outcome.extra["low"] < WHOLLY
    assert outcome.log10_p == 0.0


def test_what_cannot_be_tested_says_why(side) -> None:  # type: ignore[no-untyped-def]
    one, other = side(drawn(0)), side(drawn(1))
    unnamed = agree(one, other, replace(TOKENS, by="row number"))
    assert unnamed.why_not is not None
    assert "tokenizer" in unnamed.why_not
    few = SharedTokens(torch.arange(40), torch.arange(40), "surface form", WORDS, WORDS)
    assert "vocabulary rows" in str(agree(one, other, few).why_not)
    sampled = one.at(replace(one.sample, max_units=16))
    assert "whole" in str(agree(sampled, other).why_not)
    more_heads = side(drawn(2), num_key_value_heads=1, num_attention_heads=2, head_dim=32)
    assert "form" in str(agree(one, more_heads).why_not)


def test_layers_of_hybrids_without_attention_take_no_part(side) -> None:  # type: ignore[no-untyped-def]
    """A fifth of a parent in a merge, beside foreign feed-forward units: planes of two layers are all that speaks."""
    minor, major = drawn(1), drawn(2)
    mixed = merged(minor, major)
    child = hybrid({name: major[name] if ".mlp." in name else tensor for name, tensor in mixed.items()})
    facts = {"architectures": ["JambaForCausalLM"], "model_type": "jamba"}
    planes = measure(side(hybrid(minor), **facts), side(child, **facts), whole_bits=False).exact["carried-planes"]
    assert planes.n == 2 * GROUPS * 6  # of eight planes of a head, two hardly turn
    assert planes.log10_p is not None
    assert planes.log10_p < -8.0
    other = measure(side(hybrid(drawn(3)), **facts), side(child, **facts), whole_bits=False).exact["carried-planes"]
    assert other.log10_p == 0.0
