"""Many layers of B scored at once have the scores that they have one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from forensics.tiny_models import gaussian_units, generator
from hypothesis import given, settings
from hypothesis import strategies as st

from pedigree.forensics.sides.gauge import identity_gauge
from pedigree.forensics.sides.views import UnitKind
from pedigree.forensics.units import row_score
from pedigree.forensics.units.matching import Table, make_table, score_layers
from pedigree.forensics.units.row_score import score_many

PLAIN = identity_gauge(32, 32)


def table(seed: int, n: int = 96, kind: UnitKind = "ffn", names: tuple[str, ...] = ("gate", "up")) -> Table:
    return replace(make_table(gaussian_units(seed, n, 32, names), PLAIN, "b"), kind=kind)


def related(a: Table, seed: int) -> Table:
    """The units of a table, shaken, in another order."""
    order = torch.randperm(len(a.match_UD), generator=generator(seed))
    units = gaussian_units(seed, len(order), 32, (a.name, *a.confirm_UD))
    rows = {a.name: a.match_UD, **a.confirm_UD}
    shaken = {name: (row + 0.05 * units.views_UD[name])[order] for name, row in rows.items()}
    return replace(make_table(replace(units, views_UD=shaken), PLAIN, "b"), kind=a.kind)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), most=st.sampled_from([None, 64, 9, 5]), kind=st.sampled_from(["ffn", "qk"]))
def test_scores_side_by_side_are_those_one_by_one(seed: int, most: int | None, kind: UnitKind) -> None:
    a = table(seed, kind=kind)
    copied = table(seed + 8, kind=kind)
    copied = replace(copied, match_UD=copied.match_UD[torch.arange(96) // 2])
    silent = table(seed + 9, kind=kind)
    silent = replace(silent, confirm_UD={"up": silent.confirm_UD["up"] * (torch.arange(96) % 3 > 0)[:, None]})
    others = [
        *(table(seed + k, kind=kind) for k in range(1, 5)),
        related(a, seed),
        table(seed + 5, 60, kind),
        table(seed + 6, kind=kind, names=("gate", "up", "down")),
        table(seed + 7, kind=kind, names=("up", "gate")),
        copied,
        silent,
    ]
    for other, found in zip(others, score_many(a, others, most), strict=True):
        wanted = score_layers(a, other, most)
        assert found.n == wanted.n
        assert found.z == pytest.approx(wanted.z, rel=1e-4, abs=1e-4)
        assert found.effect == pytest.approx(wanted.effect, rel=1e-4, abs=1e-6)
    assert most == 5 or max(s.z for s in score_many(a, others, most)) > 3


def test_layers_of_one_form_are_scored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(a: Table, b: Table, most: int | None) -> None:
        raise AssertionError("these are of one form")

    monkeypatch.setattr(row_score, "score_layers", one_by_one)
    assert len(score_many(table(1), [table(2), table(3)], 64)) == 2
