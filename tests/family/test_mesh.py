"""Meshes: how they are written, and what a model cannot be spread over."""

from __future__ import annotations

from typing import Any

import pytest

from pedigree.errors import UsageError
from pedigree.family.mesh import Mesh, mesh_of, mesh_problems, parse_mesh, with_micro
from pedigree.model.members import member
from pedigree.training.config import TrainingConfig


def training(**changes: Any) -> TrainingConfig:
    values = {"sources": [{"kind": "arithmetic"}], "tokens": 10**9, "sequence_length": 4096, "batch_sequences": 1024}
    return TrainingConfig.model_validate({**values, **changes})


def test_a_mesh_is_read_as_it_is_written() -> None:
    assert parse_mesh(" dp=128, tp=8 ,pp=8,noop=2,") == Mesh(dp=128, tp=8, pp=8, noop=2)
    assert parse_mesh("dp=128,tp=8,pp=8").devices == 8192


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "the mesh is empty"),
        (",,", "the mesh is empty"),
        ("dq=2", "there is no such axis"),
        ("tp", "this is not a size"),
        ("tp=", "this is not a size"),
        ("tp=0", "this is not a size"),
        ("tp=-2", "this is not a size"),
        ("tp=2.5", "this is not a size"),
        ("tp=²", "this is not a size"),
        ("tp=" + "9" * 5000, "this is not a size"),
        ("tp=2,tp=2", "this axis stands twice"),
        ("zero=4", "there is no such stage"),
    ],
)
def test_what_is_no_mesh_is_refused(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        parse_mesh(text)
    assert caught.value.fix


def test_a_misspelt_axis_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="no such axis") as caught:
        parse_mesh("dp=8,mircо=1".replace("о", "o"))
    assert caught.value.fix == "did you mean 'micro'?"


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("pangu-alpha-13b", "tp=8,dp=128"),
        ("pangu-alpha-200b", "tp=16,pp=16,dp=8"),
        ("pangu-ultra-135b", "dp=128,tp=8,pp=8,vpp=6,noop=2"),
        ("pangu-pro-moe-72b", "dp=64,tp=8,ep=2,pp=5,vpp=5,noop=2"),
        ("pangu-ultra-moe-718b", "dp=32,tp=8,pp=16,vpp=2,ep=4,noop=3"),
    ],
)
def test_published_meshes_are_possible(name: str, mesh: str) -> None:
    config = training()
    assert not mesh_problems("step", member(name), config, with_micro(parse_mesh(mesh + ",micro=1"), config))


IMPOSSIBLE = [
    ("pangu-ultra-135b", "tp=5", "heads cannot be shared out evenly", "96 by tp=5", "tp=4 or 6"),
    ("pangu-ultra-135b", "tp=12", "key heads are neither shared out nor copied", "8 by tp=12", "tp=8"),
    ("pangu-pro-moe-72b", "tp=40", "units of an expert cannot be shared out evenly", "1344 by tp=40", "tp=42 or 32"),
    ("pangu-pro-moe-72b", "dp=3,ep=3", "experts cannot be shared out evenly", "64 by ep=3", "ep=2 or 4"),
    ("pangu-pro-moe-72b", "dp=2,ep=4", "copies cannot be shared out evenly", "2 by ep=4", "ep=2 or 1"),
    ("pangu-ultra-135b", "ep=2,dp=2", "this model has no experts", "ep=2", "ep=1"),
    (
        "pangu-ultra-135b",
        "pp=8",
        "layers cannot be cut into equal stages",
        "94 + 0 layers by pp=8",
        "noop=2 adds empty layers",
    ),
    (
        "pangu-ultra-135b",
        "pp=8,vpp=6",
        "layers cannot be cut into equal stages",
        "94 + 0 layers by pp=8, vpp=6",
        "noop=2 adds empty layers",
    ),
    ("dense-71b", "vpp=2", "shorter stages need stages", "vpp=2 and pp=1", "vpp=1"),
    ("dense-71b", "pp=112,noop=56", "there are more stages than layers", "pp=112", "pp=56"),
    ("pangu-ultra-135b", "dp=3", "sequences of a step cannot be shared out evenly", "1024 by dp=3", "dp=2 or 4"),
    (
        "pangu-ultra-135b",
        "dp=2,micro=3",
        "sequences of a device cannot be shared out evenly",
        "512 by micro=3",
        "micro=2 or 4",
    ),
    (
        "dense-71b",
        "tp=16384",
        "positions of a sequence cannot be shared out evenly",
        "4096 by tp=16384",
        "tp=4096 or 2048",
    ),
]


@pytest.mark.parametrize(("name", "mesh", "what", "got", "fix"), IMPOSSIBLE, ids=[row[2] for row in IMPOSSIBLE])
def test_an_impossible_mesh_is_told_with_a_possible_one(name: str, mesh: str, what: str, got: str, fix: str) -> None:
    config = training()
    found = mesh_problems("base", member(name), config, with_micro(parse_mesh(mesh), config))
    told = {problem.what: (problem.got, problem.fix, problem.where) for problem in found}
    assert told[what] == (got, fix, "--mesh, step base")


def test_the_size_that_is_proposed_is_possible() -> None:
    config = training()
    for name, mesh, what, *_ in IMPOSSIBLE:
        found = mesh_problems("base", member(name), config, with_micro(parse_mesh(mesh), config))
        fix = next(problem.fix for problem in found if problem.what == what)
        changed = parse_mesh(mesh).model_copy(update=parse_mesh(str(fix).split(" ")[0]).model_dump(exclude_unset=True))
        again = mesh_problems("base", member(name), config, with_micro(changed, config))
        assert what not in {problem.what for problem in again}, (name, mesh, fix)


def test_the_recipe_gives_the_mesh_and_the_micro_batch_where_nothing_else_does() -> None:
    config = training(mesh={"dp_shard": 16, "tp": 2, "ep": 4}, accumulation=8)
    mesh = with_micro(mesh_of(config), config)
    assert (mesh.dp, mesh.tp, mesh.ep, mesh.pp, mesh.zero, mesh.micro) == (16, 2, 4, 1, 3, 8)
    assert with_micro(Mesh(dp=16, micro=2), config).micro == 2
