"""A cipher in front of a tokenizer: every text is replaced by another, so that every vocabulary row bears another name.

A guilty model cannot hide behind it, also where the stream was turned, heads and units that are never heard were added
and rows were put in another order; an innocent one is no more alike than before. Whoever may give single rows the names
that suit him, in a file that writes no text any more, can choose a frame: the record says that names were believed.

Shapes: D = residual width.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from forensics.tiny_models import Sizes, Tensors, generator, llama, random_rotation, side, vocabulary
from safetensors.torch import save_file

from pedigree.forensics.compare import measure_pair
from pedigree.forensics.measure import measure
from pedigree.forensics.record import unseen
from pedigree.forensics.verdict import Judgment, judge
from pedigree.tokenizers.vocabulary import Vocabulary

SIZES = Sizes(d=48, layers=2, head_dim=12, inner=112, vocab=300)
WIDER = Sizes(d=48, layers=2, heads=8, kv_heads=4, head_dim=12, inner=112 + 2 * 160, vocab=300)
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def named(ciphered: bool) -> Vocabulary:
    """Names of the rows, in order; the cipher turns each name into one that another row had."""
    order = torch.randperm(SIZES.vocab, generator=generator(4)).tolist() if ciphered else range(SIZES.vocab)
    return vocabulary({f"w{name}".encode(): row for row, name in enumerate(order)})


def folded(tensors: Tensors) -> Tensors:
    """Gains of one, taken into the rows that read through them."""
    out = dict(tensors)
    for name, gain_D in tensors.items():
        if gain_D.ndim == 1:
            layer = name.rpartition(".layers.")[2].split(".")[0]
            readers = ("q", "k", "v") if "input" in name else ("gate", "up")
            keys = [k for k in out if f"layers.{layer}." in k and k.split(".")[-2].split("_")[0] in readers]
            for key in keys if "layers" in name else ["lm_head.weight"]:
                out[key] = out[key] * gain_D
            out[name] = torch.ones_like(gain_D)
    return out


def turned(tensors: Tensors, seed: int) -> Tensors:
    """The same function in another frame of the residual stream."""
    turn_DD = random_rotation(SIZES.d, seed)
    out = {}
    for name, t in folded(tensors).items():
        out[name] = (
            t if t.ndim == 1 else turn_DD.T @ t if name.endswith(("o_proj.weight", "down_proj.weight")) else t @ turn_DD
        )
    return out


def with_silent_parts(tensors: Tensors, seed: int, size: float) -> Tensors:
    """Heads that write nothing and pairs of units that cancel, with rows as long as one likes."""
    g, out = generator(seed), dict(tensors)

    def loud(rows: int) -> torch.Tensor:
        spread_D = torch.where(torch.rand(SIZES.d, generator=g) < 0.15, 8.0, 1.0)
        return size * 0.1 * (torch.randn(rows, SIZES.d, generator=g) * spread_D) @ random_rotation(SIZES.d, seed)

    for layer in range(SIZES.layers):
        at = f"model.layers.{layer}."
        for name, heads in (("q", 4), ("k", 2), ("v", 2)):
            key = f"{at}self_attn.{name}_proj.weight"
            out[key] = torch.cat([out[key], loud(12 * heads)])
        key = f"{at}self_attn.o_proj.weight"
        out[key] = torch.cat([out[key], torch.zeros_like(out[key])], dim=1)
        for name in ("gate", "up"):
            key, rows = f"{at}mlp.{name}_proj.weight", loud(160)
            out[key] = torch.cat([out[key], rows, rows])
        key, columns = f"{at}mlp.down_proj.weight", loud(160).T
        out[key] = torch.cat([out[key], columns, -columns], dim=1)
    return out


def answer(a: Tensors, b: Tensors, sizes: Sizes = SIZES) -> Judgment:
    left = side(a, SIZES.config(), tokens=named(ciphered=False))
    right = side(b, sizes.config(), tokens=named(ciphered=True))
    return judge(left, right, measure(left, right, whole_bits=True))


def child(parent: Tensors) -> Tensors:
    g = generator(12)
    return {n: t + 0.02 * torch.randn(t.shape, generator=g) if t.ndim == 2 else t for n, t in parent.items()}


def test_a_child_under_a_cipher_in_another_frame_is_found() -> None:
    judgment = answer(llama(1, SIZES), turned(child(llama(1, SIZES)), 7))
    assert {judgment.components[name].verdict for name in ("attn", "mlp")} == {"related"}


@pytest.mark.parametrize("size", [4.0, 20.0])
def test_a_child_under_a_cipher_in_another_frame_with_parts_that_are_never_heard(size: float) -> None:
    """Second moments of such parts are whatever one likes, and rows of a vocabulary have other names."""
    hidden = with_silent_parts(turned(child(llama(1, SIZES)), 7), 8, size)
    judgment = answer(llama(1, SIZES), hidden, WIDER)
    assert judgment.verdict in ("related", "partly-related")
    assert {judgment.components[name].verdict for name in ("attn", "mlp")} == {"related"}


@pytest.mark.parametrize("turn", [False, True])
def test_parts_that_are_never_heard_and_so_long_that_they_move_the_mean(turn: bool) -> None:
    """No cipher: a mean that such rows may choose lets all others point away from it, in any frame."""
    names = named(ciphered=False)
    moved = turned(child(llama(1, SIZES)), 7) if turn else child(llama(1, SIZES))
    left = side(llama(1, SIZES), SIZES.config(), tokens=names)
    right = side(with_silent_parts(moved, 8, 100.0), WIDER.config(), tokens=names)
    judgment = judge(left, right, measure(left, right, whole_bits=True))
    assert judgment.verdict in ("related", "partly-related")
    assert {judgment.components[name].verdict for name in ("attn", "mlp")} == {"related"}


def test_an_innocent_model_under_a_cipher_is_no_more_alike() -> None:
    assert answer(llama(1, SIZES), turned(llama(2, SIZES), 7)).verdict == "unrelated"


def test_the_record_says_that_names_lead_nowhere() -> None:
    left = side(llama(1, SIZES), SIZES.config(), tokens=named(ciphered=False))
    right = side(turned(llama(2, SIZES), 7), SIZES.config(), tokens=named(ciphered=True))
    found = measure(left, right, whole_bits=True)
    assert any("a cipher" in words for words in unseen(left, right, found, "full"))


def test_whoever_may_rename_rows_chooses_the_frame_and_the_record_says_so(tmp_path: Path) -> None:
    """A fifth of a parent in a merge is told by attention in the frame of vocabulary rows alone: names are believed."""
    sizes = Sizes(d=64, layers=4, head_dim=16, inner=128, vocab=500)
    minor, major = (llama(seed, sizes) for seed in (1, 2))
    mixed = {name: 0.25 * t + 0.75 * major[name] for name, t in minor.items()}
    for name, tensors in (("minor", minor), ("merge", mixed)):
        (tmp_path / name).mkdir()
        save_file({key: t.contiguous() for key, t in tensors.items()}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps(sizes.config()))
        model = {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(sizes.vocab)}, "unk_token": "w0"}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    a, b, found, _ = measure_pair(tmp_path / "minor", tmp_path / "merge")
    assert found.carried
    assert any("bear their own names" in words for words in unseen(a, b, found, "full"))
