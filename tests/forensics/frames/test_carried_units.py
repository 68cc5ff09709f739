"""Units in the frame of vocabulary rows: few are enough, and neither a chosen turn nor other names get through."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from tests.forensics.fingerprints.test_token_frame import write
from tests.forensics.tiny_models import Sizes, Tensors, generator, llama, random_rotation, shaken, turned

from pedigree.forensics.comparison.findings import CLEAR_LOG10_P, Findings
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.verdict import judge
from pedigree.forensics.fingerprints.fingerprint import make_fingerprint
from pedigree.forensics.fingerprints.thin_side import sides, turned_sides

NARROW = Sizes(d=64, layers=3, heads=4, kv_heads=4, head_dim=16, inner=128, vocab=700)


def reordered(tensors: Tensors, seed: int) -> Tensors:
    """Feed-forward units in another order, so that a fingerprint holds few that the other one holds."""
    g, out = generator(seed), dict(tensors)
    for layer in range(NARROW.layers):
        order = torch.randperm(NARROW.inner, generator=g)
        for name in ("gate", "up", "down"):
            key = f"model.layers.{layer}.mlp.{name}_proj.weight"
            out[key] = (out[key][:, order] if name == "down" else out[key][order]).contiguous()
    return out


def renamed(tensors: Tensors) -> Tensors:
    """Vocabulary rows in another order: they bear each other's names."""
    order = torch.randperm(NARROW.vocab, generator=generator(5))
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    return {name: t[order].contiguous() if name in tables else t for name, t in tensors.items()}


@pytest.fixture(scope="module")
def parent() -> Tensors:
    return llama(1, NARROW)


def measured(parent: Tensors, child: Tensors, folder: Path) -> Findings:
    prints = [make_fingerprint(write(folder / name, t, NARROW)) for name, t in (("a", parent), ("b", child))]
    a, b, _ = sides(*prints)
    found = measure(a, b, whole_bits=False)
    judge(a, b, found)
    return found


def test_few_reordered_units_of_a_fingerprint_are_beyond_a_chosen_frame(parent: Tensors, tmp_path: Path) -> None:
    found = measured(parent, reordered(shaken(parent, 2), 3), tmp_path)
    assert found.layers_hit("ffn") == [0, 1, 2]
    assert found.log10_p("units-read") > CLEAR_LOG10_P
    assert found.log10_p("carried-units") < 2 * CLEAR_LOG10_P
    assert not found.within_reach


def test_units_that_agree_under_other_names_stay_within_reach(parent: Tensors, tmp_path: Path) -> None:
    found = measured(parent, renamed(reordered(shaken(parent, 2), 3)), tmp_path)
    assert found.log10_p("units-read") > CLEAR_LOG10_P
    assert found.log10_p("carried-units") == 0.0
    assert found.within_reach


def test_a_stranger_turned_and_reordered_onto_the_units_that_are_read_stays_within_reach(
    parent: Tensors, tmp_path: Path
) -> None:
    """Its stream is turned, and its units ordered, so that those at the positions of a fingerprint lie over the other's
    as far as they can: they agree, and nothing of that is seen in the frame that vocabulary rows give."""
    held = make_fingerprint(write(tmp_path / "held", parent, NARROW)).model
    rows = torch.tensor([unit for _, unit in held.units])
    goal, framed = (turned(tensors, torch.eye(NARROW.d)) for tensors in (parent, llama(9, NARROW)))
    turn, names = torch.eye(NARROW.d), [f"model.layers.0.mlp.{kind}_proj.weight" for kind in ("gate", "up")]
    for _ in range(12):
        suit_UW = sum((framed[name] @ turn @ goal[name][rows].T for name in names), torch.zeros(()))
        from_U, to_W = (torch.from_numpy(side) for side in linear_sum_assignment(suit_UW.numpy(), maximize=True))
        order = torch.full((NARROW.inner,), -1)
        order[rows[to_W]] = from_U
        order[order < 0] = torch.tensor(sorted(set(range(NARROW.inner)) - set(from_U.tolist())))
        for name in names:
            framed[name] = framed[name][order]
        down = "model.layers.0.mlp.down_proj.weight"
        framed[down] = framed[down][:, order]
        left, _, right = torch.linalg.svd(sum(framed[name][rows].T @ goal[name][rows] for name in names))
        turn = left @ right
    found = measured(goal, turned(framed, turn), tmp_path)
    assert found.layers_hit("ffn") == [0]
    assert found.log10_p("carried-units") == 0.0
    assert found.within_reach


def test_reordered_units_are_seen_at_tokens_where_these_are_the_coordinates(parent: Tensors, tmp_path: Path) -> None:
    child = turned(reordered(shaken(parent, 2), 3), random_rotation(NARROW.d, 4))
    prints = [make_fingerprint(write(tmp_path / name, t, NARROW)) for name, t in (("a", parent), ("b", child))]
    both = turned_sides(*prints)
    assert both is not None
    found = measure(*both, whole_bits=False)
    assert found.layers_hit("ffn") == [0, 1, 2]
    assert found.log10_p("units-read") > CLEAR_LOG10_P
    assert found.log10_p("carried-units") < CLEAR_LOG10_P
