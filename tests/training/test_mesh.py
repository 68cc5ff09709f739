"""Cut and sharded over real processes a run takes the steps of one; impossible meshes are refused before any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.training.mesh_run import model_config, train
from tests.training.tiny import settings, write_tokenizer
from tests.training.tiny_run import make_run

from pedigree.errors import PedigreeError
from pedigree.model.decoder import Decoder
from pedigree.model.members import member
from pedigree.training.config import MeshConfig
from pedigree.training.spread import spread_problems

ROOT = Path(__file__).resolve().parents[2]
Job = dict[str, Any]

DENSE, LATENT, GROUPED, RANDOM = "pangu-embedded-1b", "deepseek-v3", "pangu-pro-moe-72b", "moe-38b"
MEMBERS = (DENSE, "qwen3-8b", "pangu-pi-1b", "pangu-alpha-13b", LATENT, GROUPED, RANDOM, "mixtral-8x7b")
FSDP, TP, EP = {"dp_shard": 2}, {"tp": 2}, {"dp_shard": 2, "ep": 2}


def start(place: Path, ranks: int, jobs: list[Job]) -> None:
    """The jobs one after another in one start of so many processes."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    words += ["-m", "tests.training.mesh_run", str(place), json.dumps(jobs)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def prepared(place: Path) -> Path:
    settings(place)
    write_tokenizer(place)
    return place


def same(one: Path, many: Path, rel: float = 1e-5) -> None:
    """Losses, gradient norms (whole and by block) and updates of every step, weights and export at the end."""
    seen, other = (json.loads((out / "seen.json").read_text(encoding="utf-8")) for out in (one, many))
    assert len(seen) == len(other) > 0
    for a, b in zip(seen, other, strict=True):
        for key in ("loss", "cross_entropy", "grad_norm"):
            assert b[key] == pytest.approx(a[key], rel=rel), (many.name, a["step"], key)
        assert b["block_norms"] == pytest.approx(a["block_norms"], rel=10 * rel, abs=rel * a["grad_norm"])
        if a["update_ratio"] is not None:
            assert b["update_ratio"] == pytest.approx(a["update_ratio"], rel=100 * rel)
    mine, theirs = load_file(one / "whole.safetensors"), load_file(many / "whole.safetensors")
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        if name.endswith(("expert_bias", "table")):  # loads of all ranks move it, by whole steps
            assert torch.equal(value, theirs[name]), (many.name, name)
    assert layout(one / "model") == layout(many / "model")


def layout(folder: Path) -> dict[str, tuple[list[int], str]]:
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                found[name] = (part.get_shape(), part.get_dtype())
    return found


def compared(place: Path, ranks: int, jobs: list[Job], rel: float = 1e-5) -> None:
    """Each job on its mesh against the same on one process."""
    prepared(place)
    start(place, ranks, jobs)
    for job in jobs:
        alone = {**job, "mesh": {}, "out": f"one-{job['out']}"}
        train(place, alone)
        same(place / alone["out"], place / job["out"], rel)


def test_two_ranks_take_the_steps_of_one(tmp_path: Path) -> None:
    jobs = [
        {"name": DENSE, "mesh": TP, "out": "dense-tp", "steps": 2},
        {"name": LATENT, "mesh": EP, "out": "latent-ep", "steps": 2, "training": {"optimizer": {"name": "muon"}}},
    ]
    compared(tmp_path, 2, jobs)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_member_on_two_ranks(tmp_path: Path, optimizer: str) -> None:
    training = {"optimizer": {"name": optimizer}}
    jobs = [
        {"name": name, "mesh": mesh, "out": f"{name}-{i}", "training": training}
        for name in MEMBERS
        for i, mesh in enumerate((FSDP, TP, EP))
        if mesh is not EP or member(name).experts is not None
    ]
    compared(tmp_path, 2, jobs)


@pytest.mark.slow
def test_combinations_on_four_ranks(tmp_path: Path) -> None:
    both, wide = {"dp_shard": 2, "tp": 2}, {"dp_shard": 4}
    jobs = [
        {"name": name, "mesh": mesh, "out": f"{name}-{i}", "training": {"optimizer": {"name": optimizer}}}
        for name, optimizer in ((DENSE, "adamw"), (LATENT, "adamw"), (GROUPED, "muon"), (RANDOM, "adamw"))
        for i, mesh in enumerate((both, wide, {**wide, "ep": 2}, {**wide, "ep": 4}, {**both, "ep": 2}, {"tp": 4}))
        if ("ep" not in mesh or name != DENSE) and (mesh != {"tp": 4} or name != LATENT)  # it has two heads
    ]
    compared(tmp_path, 4, jobs)


@pytest.mark.slow
def test_a_rank_whose_experts_nobody_chose_takes_part_all_the_same(tmp_path: Path) -> None:
    experts = member("mixtral-8x7b-pico").experts
    assert experts is not None
    lone = {**experts.model_dump(), "top_k": 1, "balance": {"scope": "none"}}
    jobs = [
        {"name": "mixtral-8x7b", "model": {"experts": lone}, "mesh": mesh, "out": f"{i}", "one_expert": True}
        for i, mesh in enumerate((EP, TP))
    ]
    compared(tmp_path, 2, jobs)


@pytest.mark.slow
def test_accumulation_recomputation_and_low_precision_on_a_mesh(tmp_path: Path) -> None:
    mesh = {"dp_shard": 2, "ep": 2, "tp": 2}
    parts = {"name": LATENT, "mesh": mesh, "out": "parts", "training": {"accumulation": 2, "batch_sequences": 8}}
    again = {"name": GROUPED, "mesh": mesh, "out": "again", "training": {"activation_checkpointing": True}}
    compared(tmp_path, 4, [parts, again])
    low = [
        {"name": GROUPED, "mesh": mesh, "out": precision, "training": {"precision": precision}}
        for precision in ("bf16", "fp16")
    ]
    compared(tmp_path, 4, low, rel=2e-2)  # in bf16 sums in another order move a gradient norm by 7e-3


@pytest.mark.slow
def test_loads_are_balanced_within_each_expert_group(tmp_path: Path) -> None:
    """Two expert groups of two ranks see what one process sees in two parts, each balanced by itself."""
    name, plain = "pangu-ultra-moe-718b", {"mtp": None}
    job = {"name": name, "model": plain, "mesh": {"dp_shard": 4, "ep": 2}, "out": "groups"}
    start(prepared(tmp_path), 4, [job])
    train(tmp_path, {"name": name, "model": plain, "out": "parts", "training": {"accumulation": 2}})
    same(tmp_path / "parts", tmp_path / "groups")
    train(tmp_path, {"name": name, "model": plain, "out": "whole"})
    whole, groups = (json.loads((tmp_path / out / "seen.json").read_text())[0]["loss"] for out in ("whole", "groups"))
    assert whole != pytest.approx(groups, rel=1e-6)  # the scope is another, and it shows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "meshes"),
    [
        (LATENT, [(2, EP), (4, {"dp_shard": 2, "ep": 2, "tp": 2}), (1, {})]),
        (GROUPED, [(1, {}), (2, TP), (2, EP)]),
    ],
)
def test_what_one_mesh_saved_another_goes_on_from(
    tmp_path: Path, name: str, meshes: list[tuple[int, dict[str, int]]]
) -> None:
    prepared(tmp_path)
    job: Job = {"name": name, "steps": 6, "training": {"checkpoint": {"every": 2, "keep": 9}}}
    rows: list[dict[str, Any]] = []
    for leg, (ranks, mesh) in enumerate(meshes):
        part = {**job, "mesh": mesh, "out": "moved", **({"take": 2} if leg < 2 else {})}
        if ranks == 1:
            train(tmp_path, part)
        else:
            start(tmp_path, ranks, [part])
        rows += json.loads((tmp_path / "moved" / "seen.json").read_text())
    train(tmp_path, {**job, "out": "one"})
    alone = json.loads((tmp_path / "one" / "seen.json").read_text())
    assert [row["step"] for row in rows] == [row["step"] for row in alone] == [0, 1, 2, 3, 4, 5]
    for row, expected in zip(rows, alone, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
    assert layout(tmp_path / "one" / "model") == layout(tmp_path / "moved" / "model")


def test_a_part_of_a_step_holds_the_same_rows_on_any_mesh(tmp_path: Path) -> None:
    batches = make_run(tmp_path, tmp_path / "out", settings(tmp_path, batch_sequences=12)).batches
    window = batches.window(3)
    for ranks in (1, 2, 3):
        for part in (0, 1):
            dealt = [window.dealt(rank, ranks, 2).part(part, 2).tokens_BT for rank in range(ranks)]
            assert (np.concatenate(dealt) == window.part(part, 2).tokens_BT).all()


# -- what is refused --------------------------------------------------------------------------------------------------

REFUSED = [
    ("pangu-ultra-135b", {"tp": 5}, "heads cannot be shared out evenly", "96 by 5", "tp: 4 or 6"),
    ("pangu-ultra-135b", {"tp": 12}, "key heads are neither shared out nor copied", "8 key heads by tp 12", "tp: 8"),
    ("pangu-ultra-135b", {"ep": 2}, "this model has no experts", "2", "ep: 1"),
    ("pangu-ultra-moe-718b", {"ep": 3}, "experts cannot be shared out evenly", "256 by 3", "ep: 2 or 4"),
    ("pangu-pro-moe-72b", {"tp": 8, "ep": 16}, "experts cannot be shared out evenly", "64 by 128", "ep x tp: 32 or 64"),
    ("pangu-pro-moe-72b", {"ep": 16}, "ranks would hold parts of groups", "8 groups by ep 16", "ep: 4 or 8"),
    ("mixtral-8x7b", {"dp_shard": 6, "ep": 4}, "data ranks cannot be shared out evenly", "6 by 4", "ep: 2 or 3"),
    ("deepseek-v3", {"dp_shard": 5, "tp": 2}, "channels of the key latent cannot", "512 by 5", "dp_shard: 2 or 4"),
]


@pytest.mark.parametrize(("name", "mesh", "what", "got", "fix"), REFUSED)
def test_an_impossible_mesh_is_refused_with_its_numbers(
    name: str, mesh: dict[str, int], what: str, got: str, fix: str
) -> None:
    found = spread_problems(member(name), MeshConfig(**mesh), mesh.get("dp_shard", 0))
    told = [(problem.got, problem.fix) for problem in found if problem.what.startswith(what)]
    assert told == [(got, fix)]


@pytest.mark.parametrize(
    ("name", "mesh", "world", "match"),
    [
        (DENSE, {"tp": 3}, 3, r"heads cannot be shared out evenly, in mesh\.tp, got 4 by 3"),
        (DENSE, {"dp_shard": 2, "ep": 2}, 2, r"no experts, in mesh\.ep"),
        (LATENT, {"ep": 3}, 4, r"4 by 3|16 by 3"),
        (LATENT, {"dp_shard": 2, "tp": 2}, 2, r"got 2 processes, expected 4 processes: dp_shard 2 x tp 2"),
    ],
)
def test_a_run_on_an_impossible_mesh_ends_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mesh: dict[str, int], world: int, match: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(PedigreeError, match=match) as caught:
        make_run(tmp_path, tmp_path / "out", settings(tmp_path, mesh=mesh), Decoder(model_config(name)))
    assert caught.value.fix or "problems" in str(caught.value)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_model_of_another_kind_is_not_cut(tmp_path: Path) -> None:
    with pytest.raises(PedigreeError, match=r"cannot be cut, in mesh\.tp, got TinyModel"):
        make_run(tmp_path, tmp_path / "out", settings(tmp_path, mesh={"tp": 2}))
