"""Runs of pico members on meshes, several in one start of the processes (`python -m tests.training.mesh_run DIR JOBS`).

Each leaves `seen.json`: what the guard saw of every step, and a sum over each weight and buffer after the last one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.training.tiny import VOCABULARY, settings
from tests.training.tiny_run import make_run

from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_state
from pedigree.model.members import member
from pedigree.training.guard import Signals
from pedigree.training.parallel import whole_weights
from pedigree.training.ranks import leave_ranks
from pedigree.training.run import Run

ROWS, LENGTH = 4, 32


def model_config(name: str, changes: dict[str, Any] | None = None) -> ModelConfig:
    """A pico member with the vocabulary of these tests."""
    config = member(f"{name}-pico").replace(vocab_size=VOCABULARY)
    if name == "pangu-pro-moe-72b":  # five query heads of one key head cannot be shared out
        config = config.replace(attention={**config.attention.model_dump(), "n_heads": 4, "n_kv_heads": 2})
    return config.replace(**(changes or {}))


def train(place: Path, job: dict[str, Any]) -> Run:
    """One run of a job: `name`, `out`, and where wanted `model`, `mesh`, `training`, `steps`, `take`, `one_expert`.

    With `take` so many steps of the run are taken, with their checkpoints, and it is left there.
    """
    config = model_config(job["name"], job.get("model"))
    given = {
        "log_every": 1, "batch_sequences": ROWS, "tokens": LENGTH * ROWS * job.get("steps", 3),
        "mesh": job.get("mesh", {}), "checkpoint": {"every": 0}, "guard": {"update_every": 1},
        **job.get("training", {}),
    }  # fmt: skip
    out = place / job["out"]
    model = Decoder(config)
    if job.get("one_expert"):  # equal logits: the first expert gets every token
        for mixture in model.mixtures():
            torch.nn.init.zeros_(mixture.router.weight)  # type: ignore[arg-type]
    run = make_run(place, out, settings(place, **given), model)
    signals: list[Signals] = []
    measure = run.stepper.measure

    def noted(*arguments: Any) -> Signals:
        signals.append(measure(*arguments))
        return signals[-1]

    run.stepper.measure = noted  # type: ignore[method-assign]
    run.start()
    if "take" in job:
        for _ in range(job["take"]):
            run.step()
        run.checkpoints.finish()
    else:
        run.work()
    weights = whole_weights(run.model)  # type: ignore[arg-type]
    if run.ranks.is_first:
        (out / "seen.json").write_text(json.dumps([asdict(signal) for signal in signals]), encoding="utf-8")
        save_file({name: value.clone() for name, value in weights.items()}, out / "whole.safetensors")
        export_state(config, weights, out / "model", force=True)
    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in json.loads(sys.argv[2]):
        train(Path(sys.argv[1]), one)
    leave_ranks()
