"""A cipher in front of a tokenizer: every text is replaced by another, so that every vocabulary row bears another name.

A guilty model cannot hide behind it, also where the stream was turned, heads and units that are never heard were added
and rows were put in another order; an innocent one is no more alike than before. Whoever may give single rows the names
that suit him, in a file that writes no text any more, can choose a frame; output rows do not stand to each other then
as those of one language do.

Shapes: D = residual width.
"""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import Sizes, Tensors, generator, llama, random_rotation, side, vocabulary, words

from pedigree.benchmark.framer import names_that_suit, turn_for_planes
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.record import unseen
from pedigree.forensics.comparison.verdict import Judgment, judge
from pedigree.forensics.frames.borne_names import ONE_LANGUAGE
from pedigree.forensics.frames.carried_planes import planes_of
from pedigree.forensics.frames.named_frame import tables_of
from pedigree.forensics.sides.anchors import SharedTokens
from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.side import Side
from pedigree.forensics.units.shared_units import whitened
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


def is_found(judgment: Judgment) -> bool:
    """Whether the body agrees. These models learned so little that without gains descent itself may be open."""
    return {judgment.components[name].verdict for name in ("attn", "mlp")} in ({"related"}, {"inconclusive"})


def test_a_child_under_a_cipher_in_another_frame_is_found() -> None:
    assert is_found(answer(llama(1, SIZES), turned(child(llama(1, SIZES)), 7)))


@pytest.mark.parametrize("size", [4.0, 20.0])
def test_a_child_under_a_cipher_in_another_frame_with_parts_that_are_never_heard(size: float) -> None:
    """Second moments of such parts are whatever one likes, and rows of a vocabulary have other names."""
    hidden = with_silent_parts(turned(child(llama(1, SIZES)), 7), 8, size)
    assert is_found(answer(llama(1, SIZES), hidden, WIDER))


@pytest.mark.parametrize("turn", [False, True])
def test_parts_that_are_never_heard_and_so_long_that_they_move_the_mean(turn: bool) -> None:
    """No cipher: a mean that such rows may choose lets all others point away from it, in any frame."""
    names = named(ciphered=False)
    moved = turned(child(llama(1, SIZES)), 7) if turn else child(llama(1, SIZES))
    left = side(llama(1, SIZES), SIZES.config(), tokens=names)
    right = side(with_silent_parts(moved, 8, 100.0), WIDER.config(), tokens=names)
    assert is_found(judge(left, right, measure(left, right, whole_bits=True)))


def test_an_innocent_model_under_a_cipher_is_no_more_alike() -> None:
    assert answer(llama(1, SIZES), turned(llama(2, SIZES), 7)).verdict == "unrelated"


def test_the_record_says_that_names_lead_nowhere() -> None:
    left = side(llama(1, SIZES), SIZES.config(), tokens=named(ciphered=False))
    right = side(turned(llama(2, SIZES), 7), SIZES.config(), tokens=named(ciphered=True))
    found = measure(left, right, whole_bits=True)
    assert any("a cipher" in words for words in unseen(left, right, found, "full"))


NARROW = Sizes(d=64, layers=4, head_dim=16, inner=128, vocab=500)


def speaking(seed: int) -> Tensors:
    """A narrow model whose output rows stand to each other as one language has it, in a frame of its own."""
    use_VK = torch.randn(NARROW.vocab, 8, generator=generator(99))
    own = random_rotation(NARROW.d, seed)[:8]
    return {**llama(seed, NARROW), TABLES[1]: 0.1 * use_VK @ own + 0.2 * llama(seed, NARROW)[TABLES[1]]}


def open_narrow(tensors: Tensors) -> Side:
    return side(tensors, NARROW.config(), tokens=words(NARROW.vocab))


def renamed(victim: Tensors, innocent: Tensors) -> Tensors:
    """The innocent model with its rows under the names that suit the frame in which its attention resembles the
    victim's most."""
    sides = open_narrow(victim), open_narrow(innocent)
    layers = range(NARROW.layers)
    left, right = (
        list(blocks) for one in sides if (blocks := planes_of(one, layers, NARROW.head_dim // 2)) is not None
    )
    order_V = torch.arange(NARROW.vocab)
    tables = tables_of(*sides, SharedTokens(order_V, order_V, "surface form", NARROW.vocab, NARROW.vocab))
    rows = [[unit_rows(whitened(pair[k])) for pair in tables] for k in (0, 1)]
    beside = None
    for _ in range(2):
        frame_DD = turn_for_planes(left, right, beside=beside)
        order_V = names_that_suit(rows[0], rows[1], frame_DD)
        beside = torch.stack([x.T @ y[order_V] for x, y in zip(*rows, strict=True)]).sum(0)
    return {**innocent, **{name: innocent[name][order_V] for name in TABLES}}


def test_rows_renamed_one_by_one_to_suit_the_frame_in_which_attention_agrees() -> None:
    """In the frame of these names attention agrees beyond any chance, but rows of a language do not stand so."""
    victim = speaking(1)
    left, right = open_narrow(victim), open_narrow(renamed(victim, speaking(2)))
    for a, b in ((left, right), (right, left)):
        found = measure(a, b, whole_bits=True)
        judgment = judge(a, b, found)
        assert found.exact["carried-planes"].extra["log10_p_by_name"] < -100.0
        assert judgment.verdict == "inconclusive"
        assert "whoever renames rows" in judgment.reasons[0]
        assert not {part.verdict for part in judgment.components.values()} & {"related", "shared-initialization"}


def test_the_minor_parent_of_a_merge_whose_rows_bear_their_names_and_the_record_says_that_they_are_believed() -> None:
    minor, major = speaking(1), speaking(2)
    left, right = open_narrow(minor), open_narrow({name: 0.25 * t + 0.75 * major[name] for name, t in minor.items()})
    found = measure(left, right, whole_bits=True)
    assert found.carried
    assert found.exact["carried-planes"].extra["naming"] > ONE_LANGUAGE
    assert any("bear their own names" in words for words in unseen(left, right, found, "full"))
