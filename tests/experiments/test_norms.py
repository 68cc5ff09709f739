"""The arms of the ablation of norms differ in what the ablation is about."""

from __future__ import annotations

import math

import pytest
import torch
from tests.experiments.scripts import script

from pedigree.model.decoder import Decoder

norms = script("norms")


def test_the_common_start_is_the_published_one_and_tiny_is_smaller() -> None:
    d, deep = norms.WIDTH, norms.DEPTH
    common, tiny = (Decoder(norms.model(arm)) for arm in ("pre-norm", "depth-scaled, TinyInit"))
    assert float(torch.cat([x.attn.q.weight.detach().flatten() for x in common.layers]).std()) == pytest.approx(
        math.sqrt(2 / (5 * d)), rel=0.03
    )
    assert float(torch.cat([x.attn.o.weight.detach().flatten() for x in common.layers]).std()) == pytest.approx(
        math.sqrt(1 / (5 * d * deep)), rel=0.03
    )
    assert float(torch.cat([x.attn.q.weight.detach().flatten() for x in tiny.layers]).std()) == pytest.approx(
        math.sqrt(1 / (2 * d * deep)), rel=0.03
    )
    for model in (common, tiny):
        assert float(model.embed.weight.detach().std()) == pytest.approx(0.5, rel=0.03)


def test_the_arms_differ_in_norm_and_start_alone() -> None:
    told = {arm: norms.model(arm).to_dict() for arm in norms.ARMS}
    for arm in norms.ARMS:
        differing = {key for key in told[arm] if told[arm][key] != told["pre-norm"][key]}
        assert differing <= {"name", "norm", "init"}
    assert told["sandwich"]["init"] == told["depth-scaled"]["init"] == told["pre-norm"]["init"]


def test_one_seed_of_everything_comes_first_and_nothing_twice() -> None:
    runs = norms.order(3)
    assert {run[2] for run in runs[: len(norms.ARMS)]} == set(norms.ARMS)
    assert {run[0] for run in runs[: len(norms.ARMS)]} == {0}
    assert len(runs) == len(set(runs)) == 3 * (len(norms.ARMS) + len(norms.ENDS))
