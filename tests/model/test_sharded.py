"""A decoder sharded over two processes: same start, same loss, same gradients; loads summed over the group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from pedigree.model.decoder import Decoder
from pedigree.model.groups import Groups
from pedigree.model.members import member
from pedigree.training.ranks import leave_ranks

torch.set_num_threads(1)
dist.init_process_group("gloo")
mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()
for name in sys.argv[1:]:
    config = member(name)
    whole = Decoder(config, seed=7)
    with torch.device("meta"):
        model = Decoder(config)
    for block in model.blocks():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    model.reset_parameters(7)
    model.set_groups(Groups(data=dist.group.WORLD, balance=dist.group.WORLD))
    ids = torch.randint(config.vocab_size, (2, 1, 33), generator=torch.Generator().manual_seed(0))
    mine = ids[rank]
    out = model(mine[:, :-1], targets_BT=mine[:, 1:])
    out.loss.backward()
    both = whole(ids[:, 0, :-1], targets_BT=ids[:, 0, 1:])
    both.loss.backward()
    for (key, sharded), full in zip(model.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(sharded.full_tensor(), full), key
        error = (sharded.grad.full_tensor() - full.grad).abs().max()
        assert error <= 1e-5 + 1e-4 * full.grad.abs().max(), (key, error)
    means = torch.stack([out.cross_entropy.detach(), *(v.detach() for v in out.aux.values())])
    dist.all_reduce(means)
    expected = torch.stack([both.cross_entropy, *both.aux.values()])
    assert torch.allclose(means / 2, expected, rtol=1e-5), (name, means / 2, expected)
print("agreed", rank)
leave_ranks()
"""


@pytest.mark.slow
def test_two_processes_hold_what_one_holds(tmp_path: Path) -> None:
    """The balance loss has group scope in one of them: pooled loads make it equal to the loss of the whole batch."""
    (tmp_path / "sharded.py").write_text(SCRIPT)
    members = ["pangu-ultra-135b-pico", "pangu-ultra-moe-718b-pico", "pangu-alpha-13b-pico"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [*command, str(tmp_path / "sharded.py"), *members],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agreed") == 2
