"""One random seed in two models of which something differs: depth, size of the start, a component drawn anew, one that
was frozen before it learned anything. What they share was drawn and not handed down.

Each attack stands beside the relation that it imitates.

Shapes: D = residual width.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forensics.tiny_models import Sizes, Tensors, generator, llama, side, words
from safetensors.torch import save_file
from torch import Tensor

from pedigree.forensics.compare import compare, measure_pair
from pedigree.forensics.comparison.changes import list_changes
from pedigree.forensics.comparison.direction import weigh_direction
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.verdict import Judgment, judge

SIZES = Sizes(d=48, layers=2, head_dim=12, inner=112)
DEEPER = Sizes(d=48, layers=4, head_dim=12, inner=112)
CLAIMS = ("related", "identical")


def answers(a: Tensors, b: Tensors, deeper: bool = False) -> list[Judgment]:
    """Both ways."""
    left = side(a, SIZES.config(), tokens=words(SIZES.vocab))
    right = side(b, (DEEPER if deeper else SIZES).config(), tokens=words(SIZES.vocab))
    return [judge(x, y, measure(x, y, whole_bits=True)) for x, y in ((left, right), (right, left))]


def claims_nothing(judgment: Judgment) -> None:
    assert judgment.verdict in ("shared-initialization", "inconclusive"), judgment.verdict
    assert not {name for name, part in judgment.components.items() if part.verdict in CLAIMS}


def change(t: Tensor, seed: int, size: float) -> Tensor:
    """A few strong directions, and noise, as training leaves them."""
    g = generator(seed)
    strong = torch.randn(t.shape[0], 3, generator=g) @ torch.randn(3, t.shape[1], generator=g)
    return size * (strong + 0.5 * torch.randn(t.shape, generator=g))


def trained(start: Tensors, seed: int, size: float = 0.04, only: Callable[[str], bool] = lambda name: True) -> Tensors:
    """The start after a training of its own; gains begin at one."""
    out = {}
    for number, (name, t) in enumerate(start.items()):
        if t.ndim == 1:
            g = generator(1000 * seed + number)
            out[name] = 1.0 + 0.1 * torch.randn(t.shape, generator=g) if only(name) else torch.ones_like(t)
        else:
            out[name] = t + change(t, 1000 * seed + number, size) if only(name) else t.clone()
    return out


def continued(parent: Tensors, seed: int, size: float = 0.02) -> Tensors:
    """A child: it goes on from what its parent learned, gains too."""
    out = {}
    for number, (name, t) in enumerate(parent.items()):
        g = generator(2000 * seed + number)
        out[name] = t + 0.02 * torch.randn(t.shape, generator=g) if t.ndim == 1 else t + change(t, seed + number, size)
    return out


def in_deeper(model: Tensors, seed: int) -> Tensors:
    """A deeper stranger whose third layer has the feed-forward matrices of the model's second."""
    body = llama(seed, DEEPER)
    for name in ("gate", "up", "down"):
        body[f"model.layers.2.mlp.{name}_proj.weight"] = model[f"model.layers.1.mlp.{name}_proj.weight"]
    return body


def test_a_layer_drawn_from_one_seed_in_models_of_other_depth() -> None:
    start = llama(1, SIZES)
    for judgment in answers(trained(start, 2), trained(in_deeper(start, 8), 3), deeper=True):
        claims_nothing(judgment)


def test_a_layer_that_was_handed_down_to_a_deeper_stranger_is_listed() -> None:
    parent = trained(llama(1, SIZES), 2)
    for judgment in answers(parent, continued(in_deeper(parent, 8), 3, size=0.005), deeper=True):
        assert judgment.verdict == "partly-related"
        assert judgment.components["mlp"].verdict == "related"


@pytest.mark.parametrize("factor", [0.01, 0.4, 3.0])
def test_one_start_drawn_at_two_sizes(factor: float) -> None:
    start = llama(1, SIZES)
    scaled = {name: factor * t if t.ndim == 2 else t for name, t in start.items()}
    for judgment in answers(trained(start, 2), trained(scaled, 3, size=0.04 * factor)):
        claims_nothing(judgment)


def test_a_start_of_which_the_feed_forward_matrices_were_drawn_anew() -> None:
    start, other = llama(1, SIZES), llama(9, SIZES)
    mixed = {name: other[name] if "mlp" in name else t for name, t in start.items()}
    for judgment in answers(trained(start, 2, size=0.015), trained(mixed, 3, size=0.015)):
        claims_nothing(judgment)


@pytest.mark.parametrize("size", [0.03, 0.1])
def test_the_start_itself_is_not_told_from_a_training_too_short_to_be_seen(size: float) -> None:
    """A file that was never trained holds nothing that was learned, so nothing learned can have been handed down; and a
    body that moved a little under frozen gains looks like it."""
    start = {name: t if t.ndim == 2 else torch.ones_like(t) for name, t in llama(1, SIZES).items()}
    moved = {name: t + change(t, 7, 0.001) if "proj" in name else t for name, t in start.items()}
    for bare in (start, moved):
        sides = [side(m, SIZES.config(), tokens=words(SIZES.vocab)) for m in (bare, trained(start, 2, size=size))]
        for (a, b), arrow in ((sides, "a-to-b"), (sides[::-1], "b-to-a")):
            found = measure(a, b, whole_bits=True)
            judgment = judge(a, b, found)
            claims_nothing(judgment)
            assert judgment.open_origin
            assert weigh_direction(a, b, found).verdict == arrow  # if it is descent at all


def is_attention(name: str) -> bool:
    return "self_attn" in name and name.endswith("proj.weight")


def is_not_attention(name: str) -> bool:
    return "attn" not in name


def test_attention_that_was_frozen_before_it_learned_anything() -> None:
    """Equal number for number in both, and no sign of descent: both began with it."""
    start = llama(1, SIZES)
    for judgment in answers(trained(start, 2, only=is_not_attention), trained(start, 3, only=is_not_attention)):
        claims_nothing(judgment)


def test_attention_that_was_trained_and_copied_is_listed() -> None:
    parent, stranger = trained(llama(1, SIZES), 2), trained(llama(9, SIZES), 3)
    mixed = {name: parent[name] if "attn" in name else t for name, t in stranger.items()}
    for judgment in answers(parent, mixed):
        assert judgment.verdict == "partly-related"
        assert judgment.components["attn"].verdict == "related"
        assert judgment.components["mlp"].verdict == "unrelated"


def given(start: Tensors, part: Tensors, is_part: Callable[[str], bool]) -> Tensors:
    return {name: part[name] if is_part(name) else t for name, t in start.items()}


@pytest.mark.parametrize("kind", ["attn", "mlp", "layers.0", "q_proj"])
def test_trainings_of_one_start_with_a_frozen_part_of_a_third_model(kind: str) -> None:
    """The part is equal number for number, and was trained; the rest began alike and was trained apart."""
    third = trained(llama(9, SIZES), 4)
    start = given(llama(1, SIZES), third, lambda name: kind in name)
    one, other = (given(trained(start, seed), third, lambda name: kind in name) for seed in (2, 3))
    for judgment in answers(one, other):
        claims_nothing(judgment)


def test_the_same_where_one_was_rounded_since() -> None:
    """No matrix is equal then; what hardly moved beside the others is still no sign of where those come from. With
    tables and attention in common, gains learn alike."""

    def is_part(name: str) -> bool:
        return "attn" in name or name in ("model.embed_tokens.weight", "lm_head.weight")

    def alike(name: str, t: Tensor) -> Tensor:
        in_common = 0.1 * torch.randn(t.shape, generator=generator(len(name) + 40))
        return 1.0 + in_common + 0.5 * (t - 1.0) if t.ndim == 1 else t

    third = trained(llama(9, SIZES), 4)
    start = given(llama(1, SIZES), third, is_part)
    parts = (given(trained(start, seed, size=0.01), third, is_part) for seed in (2, 3))
    one, other = ({name: alike(name, t) for name, t in model.items()} for model in parts)
    for judgment in answers(one, shaken(other, 5, size=0.01)):
        claims_nothing(judgment)


@pytest.mark.parametrize("kind", ["attn", "mlp"])
def test_strangers_with_a_frozen_part_of_a_third_model(kind: str) -> None:
    third = trained(llama(9, SIZES), 4)
    one, other = (given(trained(llama(k, SIZES), k), third, lambda name: kind in name) for k in (2, 3))
    for judgment in answers(one, other):
        assert judgment.verdict == "partly-related"
        assert {name for name, part in judgment.components.items() if part.verdict in CLAIMS} == {kind}


def test_a_child_whose_attention_was_frozen() -> None:
    parent = trained(llama(1, SIZES), 2)
    child = given(continued(parent, 3), parent, lambda name: "attn" in name)
    for judgment in answers(parent, child):
        assert judgment.verdict == "related"


def test_a_frozen_part_that_was_drawn_with_directions_in_common() -> None:
    start = llama(1, SIZES)
    start = given(start, {name: t + change(t, 50, 0.03) for name, t in start.items() if t.ndim == 2}, is_attention)
    for judgment in answers(trained(start, 2, only=is_not_attention), trained(start, 3, only=is_not_attention)):
        claims_nothing(judgment)


def shaken(model: Tensors, seed: int, size: float = 0.1) -> Tensors:
    """Matrices with noise on them, as steps along random directions leave it."""
    return {
        name: t + size * t.std() * torch.randn(t.shape, generator=generator(3000 * seed + number)) if t.ndim == 2 else t
        for number, (name, t) in enumerate(model.items())
    }


@pytest.mark.parametrize("gains", ["learned elsewhere", "never trained"])
def test_noise_that_was_added_to_both_of_two_models_of_one_start(gains: str) -> None:
    """Both hold the same gains, and what lies between them is noise; but it belongs to both, and the start has none."""
    g = generator(5)
    learned = gains == "learned elsewhere"
    start = {
        name: t if t.ndim == 2 else 1.0 + 0.1 * learned * torch.randn(t.shape, generator=g)
        for name, t in llama(1, SIZES).items()
    }
    for judgment in answers(shaken(start, 2), shaken(start, 3)):
        claims_nothing(judgment)
    for judgment in answers(start, shaken(start, 3)):
        assert judgment.verdict == "related"


def written(folder: Path, model: Tensors) -> Path:
    folder.mkdir()
    save_file({name: t.contiguous() for name, t in model.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SIZES.config()))
    named = {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(SIZES.vocab)}, "unk_token": "w0"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": named}))
    return folder


def test_no_change_is_listed_between_trainings_of_one_start(tmp_path: Path) -> None:
    """What differs between the two was not done to either of them."""
    start = llama(1, SIZES)
    other = trained(start, 3) | {"model.embed_tokens.weight": llama(5, SIZES)["model.embed_tokens.weight"]}
    places = written(tmp_path / "a", trained(start, 2)), written(tmp_path / "b", other)
    left, right, found, judgment = measure_pair(*places)
    assert judgment.verdict == "shared-initialization"
    assert "embeddings-reinitialized" in {change.kind for change in list_changes(left, right, found)}
    assert compare(*places).result.transformations == []
