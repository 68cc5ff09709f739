"""Units shared by models that do not agree as wholes: found, counted, and not found where there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mini_zoo import Compare, Write
from torch import Tensor

from pedigree.benchmark.zoo import Zoo
from pedigree.benchmark.zoo.derive_gauge import fold_gains
from pedigree.benchmark.zoo.derive_survival import surviving_units
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.forensics.exact.gram_agreement import GramMeter, log_pairings
from pedigree.forensics.sides.sampling import choose_sample
from pedigree.forensics.sides.side import Side
from pedigree.forensics.units.shared_units import KeptUnits, UnitRows, can_be_whitened, find_kept_units, units_in_place
from pedigree.weights.checkpoint import open_checkpoint

LAYERS, WIDTH = range(4), 64
MLP = "model.layers.{}.mlp.{}_proj.weight"


def rows_of(folder: Path) -> UnitRows:
    return UnitRows(Side.read(open_checkpoint(folder), choose_sample("full", 0)))


def reordered(snapshot: Snapshot, seed: int) -> Snapshot:
    """Units of every layer in another order, every other one negated."""
    moved: dict[str, Tensor] = {}
    for layer in LAYERS:
        order_U = torch.randperm(192, generator=torch.Generator().manual_seed(seed + layer))
        sign_U = torch.where(torch.arange(192) % 2 == 0, 1.0, -1.0)
        for name, axis in (("gate", 0), ("up", 0), ("down", 1)):
            tensor = snapshot.tensors[MLP.format(layer, name)].index_select(axis, order_U)
            bent = tensor if name == "gate" else tensor * (sign_U[:, None] if axis == 0 else sign_U)
            moved[MLP.format(layer, name)] = bent
    return snapshot.changed(moved)


@pytest.fixture(scope="module")
def survivors(zoo: Zoo) -> Snapshot:
    """Six units of each layer of a model, in one that was drawn anew."""
    return surviving_units(Snapshot.load(zoo.models["base0"]), share=0.03, seed=3)


def test_few_kept_units_make_models_partly_related(survivors: Snapshot, write: Write, compared: Compare) -> None:
    comparison = compared("base0", write(survivors))
    result = comparison.result
    assert result.verdict == "partly-related"
    assert result.components["mlp"].verdict == "related"
    assert result.components["mlp"].layers == [0, 1, 2, 3]
    assert result.components["attn"].verdict == "unrelated"
    assert result.log10_p is not None
    assert result.log10_p < -12.0
    named = {change.kind: change.detail() for change in result.transformations}
    assert named["units-kept"] == {"kept": 24, "of": 768, "layers": [0, 1, 2, 3]}
    assert {test.name for test in result.tests} >= {"gram-agreement, kept-units", "gram-agreement, units-in-place"}


def test_kept_units_are_traced_to_their_places_after_reordering(zoo: Zoo, survivors: Snapshot, write: Write) -> None:
    a, b = rows_of(zoo.models["base0"]), rows_of(write(reordered(survivors, 5)))
    found = find_kept_units(a, b)
    assert found.count == 24
    assert found.outcome is not None
    assert found.outcome.log10_p is not None
    assert found.outcome.log10_p < -12.0
    for (i, j), pairs_K2 in found.pairs.items():
        assert i == j
        order_U = torch.randperm(192, generator=torch.Generator().manual_seed(5 + j))
        assert torch.equal(order_U[pairs_K2[:, 1]], pairs_K2[:, 0])


def test_strangers_share_no_unit(zoo: Zoo, compared: Compare) -> None:
    found = find_kept_units(rows_of(zoo.models["base0"]), rows_of(zoo.models["base1"]))
    assert found.count == 0
    assert found.searched == found.layer_pairs == 16
    result = compared("base0", "base1").result
    assert result.verdict == "unrelated"
    limit = next(words for words in result.not_checked if words.startswith("an overlap below"))
    assert float(limit.split()[3].rstrip("%")) < 4.0


def test_a_stranger_with_a_few_units_of_the_victim_is_told_which(zoo: Zoo, write: Write, compared: Compare) -> None:
    """Units that are really there are named, however they came there; the rest of the model is not drawn in."""
    victim, planted = Snapshot.load(zoo.models["base0"]), Snapshot.load(zoo.models["base1"])
    moved = {}
    for layer in (1, 2):
        for name, axis in (("gate", 0), ("up", 0), ("down", 1)):
            key = MLP.format(layer, name)
            moved[key] = planted.tensors[key].clone()
            moved[key].narrow(axis, 40, 10).copy_(victim.tensors[key].narrow(axis, 40, 10))
    result = compared("base0", write(planted.changed(moved))).result
    assert result.verdict == "partly-related"
    assert result.components["mlp"].layers == [1, 2]
    assert result.components["mlp"].n == 20


def test_units_in_place_agree_in_frames_that_nothing_else_joins(zoo: Zoo, write: Write) -> None:
    """A child with a turned residual stream and fresh vocabulary rows: no token, no coordinate in common."""
    base = Snapshot.load(zoo.models["base0"])
    folded = fold_gains(base)
    turned = {}
    spin_DD = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)))[0]
    for layer in LAYERS:
        for name in ("gate", "up"):
            turned[MLP.format(layer, name)] = folded.tensors[MLP.format(layer, name)] @ spin_DD
        turned[MLP.format(layer, "down")] = spin_DD.T @ folded.tensors[MLP.format(layer, "down")]
    pairs = [(i, i) for i in LAYERS]
    a, child, stranger = (
        rows_of(folder) for folder in (zoo.models["base0"], write(folded.changed(turned)), zoo.models["base1"])
    )
    outcome = units_in_place(a, child, pairs)
    assert outcome.log10_p is not None
    assert outcome.log10_p < -1000.0
    assert not units_in_place(a, stranger, pairs).applicable


def test_copies_that_two_models_have_alike_are_no_kinship() -> None:
    """Both models hold each unit four times, in the same places: experts of one block, layers that were repeated."""
    meters = GramMeter(), GramMeter()
    for meter, copies in zip(meters, (1, 4), strict=True):
        for seed in (1, 2):
            generator = torch.Generator().manual_seed(seed)
            single = [torch.randn(40, 3, 16, generator=generator) for _ in range(2)]
            a_UVD, b_UVD = ((s / s.norm(dim=-1, keepdim=True)).repeat(copies, 1, 1) for s in single)
            meter.add(a_UVD, b_UVD)
    alone, copied = (m.outcome(log_pairings(40, 40, 40)) for m in meters)
    assert alone.log10_p == 0.0
    assert copied.statistic > alone.statistic + 1.0  # why copies are taken once before the test


def test_copies_are_taken_once(zoo: Zoo, write: Write, compared: Compare) -> None:
    """Two strangers that were widened alike, every unit twice, share nothing but the recipe."""

    def doubled(name: str) -> Path:
        base, moved = Snapshot.load(zoo.models[name]), {}
        for layer in LAYERS:
            for projection, axis in (("gate", 0), ("up", 0), ("down", 1)):
                tensor = base.tensors[MLP.format(layer, projection)]
                moved[MLP.format(layer, projection)] = torch.cat([tensor, tensor], dim=axis)
        return write(base.changed(moved, {"intermediate_size": 384}))

    one, other = doubled("base0"), doubled("base1")
    result = compared(one, other).result
    assert result.verdict == "unrelated"
    pairs = [(i, i) for i in LAYERS]
    outcome = units_in_place(rows_of(one), rows_of(other), pairs)
    assert not outcome.applicable or outcome.log10_p == 0.0


def test_models_that_were_not_read_whole_are_not_searched(zoo: Zoo) -> None:
    side = rows_of(zoo.models["base0"]).side
    assert can_be_whitened(side, side)
    assert not can_be_whitened(side, side.at(replace(side.sample, max_units=64)))
    assert KeptUnits().count == 0
