"""Heads and position rows in the frame of vocabulary rows: what is seen there, what a framer cannot choose.

Shapes: D = residual width, P = positions, T = tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.frames.carried_heads import EVEN_WITH_POSITIONS, heads_agree
from pedigree.forensics.frames.named_frame import MOST_SPREAD, evenness, frame_of, tables_of
from pedigree.forensics.sides.anchors import SharedTokens
from pedigree.forensics.sides.gauge import polar, unit_rows
from pedigree.forensics.sides.linear import thin_qr
from pedigree.forensics.sides.sampling import choose_sample
from pedigree.forensics.sides.side import Side
from pedigree.forensics.units.shared_units import whitened
from pedigree.weights.checkpoint import open_checkpoint

Tensors = dict[str, Tensor]
OpenSide = Callable[..., Side]
WIDTH, LAYERS, HEADS, WORDS, POSITIONS = 64, 4, 4, 700, 256
TOKENS = SharedTokens(torch.arange(WORDS), torch.arange(WORDS), "surface form", WORDS, WORDS)
PAIRS = [(j, j) for j in range(LAYERS)]
WORD_ROWS, POSITION_ROWS = "transformer.wte.weight", "transformer.wpe.weight"


def drawn(seed: int) -> Tensors:
    """A GPT-2 drawn at random, with unlike gains."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    out = {WORD_ROWS: random(WORDS, WIDTH), POSITION_ROWS: random(POSITIONS, WIDTH)}
    norms = ["ln_f"]
    for layer in range(LAYERS):
        block = f"h.{layer}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        for name, rows, columns in (
            ("attn.c_attn", WIDTH, 3 * WIDTH), ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 2 * WIDTH), ("mlp.c_proj", 2 * WIDTH, WIDTH),
        ):  # fmt: skip
            out[f"transformer.{block}.{name}.weight"] = random(rows, columns)
            out[f"transformer.{block}.{name}.bias"] = torch.zeros(columns)
    for norm in norms:
        out[f"transformer.{norm}.weight"] = 1.0 + 10 * random(WIDTH)
        out[f"transformer.{norm}.bias"] = torch.zeros(WIDTH)
    return out


@pytest.fixture
def side(tmp_path: Path) -> Iterator[OpenSide]:
    """Write a model and open it."""
    with ExitStack() as stack:

        def open_side(tensors: Tensors, **facts: object) -> Side:
            folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
            config = {
                "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": WIDTH, "n_inner": 2 * WIDTH,
                "n_layer": LAYERS, "n_head": HEADS, "vocab_size": WORDS, "n_positions": POSITIONS,
                "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
            }  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config | facts))
            return Side.read(stack.enter_context(open_checkpoint(folder)), choose_sample("full", 0))

        yield open_side


def merged(minor: Tensors, major: Tensors, share: float = 0.2) -> Tensors:
    return {name: share * tensor + (1.0 - share) * major[name] for name, tensor in minor.items()}


def agree(a: Side, b: Side, tokens: SharedTokens = TOKENS, standing: bool = True) -> TestOutcome:
    return heads_agree(a, b, tokens, PAIRS, 0.0, standing=standing)


def told(outcome: TestOutcome) -> bool:
    return outcome.log10_p is not None and outcome.log10_p <= -12.0


def turn(seed: int) -> Tensor:
    """A rotation that leaves alone what a LayerNorm removes."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.cat([torch.ones(WIDTH, 1), torch.randn(WIDTH, WIDTH - 1, generator=generator)], dim=1).double()
    basis = thin_qr(first)[0]
    inner = torch.eye(WIDTH, dtype=torch.float64)
    drawn_DD = torch.randn(WIDTH - 1, WIDTH - 1, generator=generator, dtype=torch.float64)
    inner[1:, 1:] = thin_qr(drawn_DD)[0]
    return basis @ inner @ basis.T


def turned(tensors: Tensors, turn_DD: Tensor) -> Tensors:
    """The residual stream turned, gains folded into readers first: the function stays."""
    out = dict(tensors)
    for name, tensor in tensors.items():
        if name in (WORD_ROWS, POSITION_ROWS) or name.endswith("c_proj.weight"):
            wide = tensor.double() - tensor.double().mean(dim=1, keepdim=True)
            out[name] = (wide @ turn_DD).float()
        elif name.endswith(("c_attn.weight", "c_fc.weight")):
            norm = "ln_1" if "c_attn" in name else "ln_2"
            gain = tensors[".".join([*name.split(".")[:3], norm, "weight"])].double()
            out[name] = (turn_DD.T @ (tensor.double() * gain[:, None])).float()
        elif ".ln_" in name and name.endswith("weight"):
            out[name] = torch.ones_like(tensor)
    return out


def heads_mixed(tensors: Tensors, seed: int) -> Tensors:
    """The dimensions of every head mixed, values against outputs and queries against keys: the function stays."""
    generator, out, size = torch.Generator().manual_seed(seed), dict(tensors), WIDTH // HEADS
    for layer in range(LAYERS):
        block = f"transformer.h.{layer}.attn"
        query, key, value = (
            part.reshape(WIDTH, HEADS, size).clone() for part in tensors[f"{block}.c_attn.weight"].double().chunk(3, 1)
        )
        writes = tensors[f"{block}.c_proj.weight"].double().reshape(HEADS, size, WIDTH).clone()
        for head in range(HEADS):
            for read, other in ((query, key), (value, None)):
                mix = torch.eye(size, dtype=torch.float64) * 1.5 + 0.2 * torch.randn(
                    size, size, generator=generator, dtype=torch.float64
                )
                read[:, head] = read[:, head] @ mix
                if other is None:
                    writes[head] = torch.linalg.inv(mix) @ writes[head]
                else:
                    other[:, head] = other[:, head] @ torch.linalg.inv(mix).T
        joined = torch.cat([part.reshape(WIDTH, WIDTH) for part in (query, key, value)], dim=1)
        out[f"{block}.c_attn.weight"] = joined.float()
        out[f"{block}.c_proj.weight"] = writes.reshape(WIDTH, WIDTH).float()
    return out


def heads_moved(tensors: Tensors, seed: int) -> Tensors:
    """Heads in another order: the function stays."""
    generator, out, size = torch.Generator().manual_seed(seed), dict(tensors), WIDTH // HEADS
    for layer in range(LAYERS):
        block, order_H = f"transformer.h.{layer}.attn", torch.randperm(HEADS, generator=generator)
        reads = tensors[f"{block}.c_attn.weight"].reshape(WIDTH, 3, HEADS, size)
        writes = tensors[f"{block}.c_proj.weight"].reshape(HEADS, size, WIDTH)
        out[f"{block}.c_attn.weight"] = reads[:, :, order_H].reshape(WIDTH, 3 * WIDTH)
        out[f"{block}.c_proj.weight"] = writes[order_H].reshape(WIDTH, WIDTH)
    return out


def test_the_minor_parent_of_a_merge_is_told_and_a_stranger_is_not(side: OpenSide) -> None:
    minor, major, stranger = drawn(0), drawn(1), drawn(2)
    merge = merged(minor, major)
    for pair in ((side(minor), side(merge)), (side(merge), side(minor))):
        outcome = agree(*pair)
        assert told(outcome)
        assert outcome.extra["kinds"] == ["qk", "vo"]
        assert outcome.extra["spread"] < MOST_SPREAD
    assert agree(side(stranger), side(merge)).log10_p == 0.0
    assert agree(side(minor), side(major)).log10_p == 0.0


def test_whoever_turns_the_stream_or_mixes_heads_changes_nothing(side: OpenSide) -> None:
    minor, merge = drawn(0), merged(drawn(0), drawn(1))
    plain = agree(side(minor), side(merge))
    # Mixing moves the second moment that rows are whitened with, so the score moves a little.
    for other, most in ((turned(merge, turn(3)), 1e-3), (heads_mixed(merge, 4), 0.1)):
        outcome = agree(side(minor), side(other))
        assert outcome.statistic == pytest.approx(plain.statistic, rel=most)
        assert outcome.extra["positions"] == pytest.approx(plain.extra["positions"], rel=1e-3)


def test_whoever_moves_heads_and_units_changes_nothing_but_that_position_rows_take_no_part(side: OpenSide) -> None:
    minor, merge = drawn(0), merged(drawn(0), drawn(1), 0.3)
    plain, other = (agree(side(minor), side(model), standing=False) for model in (merge, heads_moved(merge, 4)))
    assert plain.extra["heads"] > 4.0
    assert other.extra["heads"] == pytest.approx(plain.extra["heads"], rel=1e-3)
    assert other.log10_p == pytest.approx(plain.log10_p, rel=1e-2)


def test_rows_of_positions_that_no_text_reaches_set_to_agree(side: OpenSide) -> None:
    """Three quarters of the rows are the victim's in the very frame that will be fitted; the first quarter is not."""
    victim, innocent = drawn(0), drawn(1)
    sides = side(victim), side(innocent)
    frame_DK, lens_DK = frame_of(tables_of(*sides, TOKENS))
    steered = dict(innocent)
    steered[POSITION_ROWS] = innocent[POSITION_ROWS].clone()
    steered[POSITION_ROWS][POSITIONS // 4 :] = (
        victim[POSITION_ROWS].double()[POSITIONS // 4 :] @ frame_DK @ lens_DK.T
    ).float()
    outcome = agree(sides[0], side(steered))
    assert outcome.extra["positions"] > 30.0
    assert outcome.log10_p == 0.0


def test_tables_without_a_body_are_not_enough(side: OpenSide) -> None:
    victim, innocent = drawn(0), drawn(1)
    grafted = dict(innocent)
    for name in (WORD_ROWS, POSITION_ROWS):
        grafted[name] = 0.5 * victim[name] + 0.5 * innocent[name]
    outcome = agree(side(victim), side(grafted))
    assert outcome.extra["positions"] > 15.0
    assert outcome.extra["body_log10_p"] > -3.0
    assert outcome.log10_p == 0.0
    # Where no unit stands where it stood, position rows take no part at all.
    assert "positions" not in agree(side(victim), side(grafted), standing=False).extra


@pytest.mark.parametrize(("share", "strength"), [(0.3, 0.5), (0.3, 1.0)])
def test_a_frame_chosen_for_tokens_and_positions_and_held_by_rows_of_tokens_that_no_text_has(
    share: float, strength: float, side: OpenSide
) -> None:
    """Tokens that have to be left alone do not contradict such a frame. That few rows pull for all gives it away."""
    victim, innocent = drawn(0), drawn(1)
    sides = side(victim), side(innocent)
    left, right = tables_of(*sides, TOKENS)[0]
    rows = [(rows[POSITION_ROWS] - rows[POSITION_ROWS].mean(0)) for rows in (victim, innocent)]
    white = [unit_rows(whitened(part)) for part in (left, right, *rows)]
    chosen_DD = polar(white[0].T @ white[1] + white[2].T @ white[3])
    rare_T = torch.randperm(WORDS, generator=torch.Generator().manual_seed(0))[: int(share * WORDS)]
    steered = dict(innocent)
    steered[WORD_ROWS] = innocent[WORD_ROWS].clone()
    steered[WORD_ROWS][rare_T] = (
        strength * victim[WORD_ROWS][rare_T] @ chosen_DD + (1 - strength**2) ** 0.5 * innocent[WORD_ROWS][rare_T]
    )
    held = side(steered)
    even = evenness(tables_of(sides[0], held, TOKENS), (rows[0], rows[1]))
    assert even.share > EVEN_WITH_POSITIONS
    assert even.spread > MOST_SPREAD
    outcome = agree(sides[0], held)
    assert outcome.extra["positions"] > 5.0
    assert outcome.log10_p == 0.0


def test_what_cannot_be_tested_says_why(side: OpenSide) -> None:
    one, other = side(drawn(0)), side(drawn(1))
    assert "tokenizer" in str(agree(one, other, replace(TOKENS, by="row number")).why_not)
    few = SharedTokens(torch.arange(40), torch.arange(40), "surface form", WORDS, WORDS)
    assert "vocabulary rows" in str(agree(one, other, few).why_not)
    sampled = one.at(replace(one.sample, max_units=16))
    assert "whole" in str(agree(sampled, other).why_not)
    assert "form" in str(agree(one, side(drawn(2), n_head=2)).why_not)
    assert "heads" in str(agree(one, side(drawn(2), n_head=1)).why_not)
