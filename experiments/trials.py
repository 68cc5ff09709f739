"""One training run of an experiment: made once, resumed after any stop, its numbers kept as JSON lines and one result.

<place>/<experiment>/<trial>/metrics.jsonl     numbers of every step
                             run.jsonl         record of the run
                             checkpoints/      the last state
                             result.json       what the tables need; a trial that has one is not run again
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.model.sizes import parameters
from pedigree.records.recorder import JsonlRecorder
from pedigree.training.config import TrainingConfig
from pedigree.training.fit import ModelFacts
from pedigree.training.metrics import read_metrics
from pedigree.training.run import Run
from pedigree.training.shards import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
DEVICE = torch.device("cpu")
Measure = Callable[[Run, Decoder], Mapping[str, Any]]


@dataclass(frozen=True)
class Trial:
    """A model, how it is trained, and what is measured on it at the end.

    Attributes:
        name: folder of the trial.
        labels: what the tables group by.
        measure: gives further numbers of the trained model, plain JSON values.
    """

    name: str
    model: ModelConfig
    training: TrainingConfig
    vocabulary: Vocabulary
    labels: Mapping[str, Any] = field(default_factory=dict)
    measure: Measure | None = None


def command(about: str, budget: str) -> argparse.ArgumentParser:
    """The words that every experiment knows: how many seeds, how long (`budget` names the unit), where things lie."""
    words = argparse.ArgumentParser(description=about)
    words.add_argument("--seeds", type=int, default=3, help="seeds, from 0 on")
    words.add_argument(f"--{budget}", type=int, default=None, help=f"{budget}, fewer for a first try")
    words.add_argument("--place", type=Path, default=ROOT / "build" / "experiments", help="runs and their numbers")
    words.add_argument("--out", type=Path, default=ROOT / "docs" / "experiments", help="tables and pictures")
    words.add_argument("--draw", action="store_true", help="run nothing: tables and pictures of what is there")
    return words


def settings(about: str) -> argparse.Namespace:
    """The words of the command of an experiment that is made of trials."""
    words = command(about, "steps")
    words.add_argument("--only", default="", help="trials whose name contains one of these words, with commas between")
    return words.parse_args()


def work_off(trials: list[Trial], folder: Path, told: argparse.Namespace) -> list[dict[str, Any]]:
    """The results of all trials, running those that have none yet (unless only drawing is asked for)."""
    torch.set_num_threads(1)
    for trial in trials:
        done = folder / trial.name / "result.json"
        if any(word in trial.name for word in told.only.split(",")) and not told.draw and not done.is_file():
            print(f"{trial.name}: {trial.training.steps} steps", flush=True)
            _run(trial, folder / trial.name)
    # Read at the end: another process may have worked off its part (`--only`) in the meantime.
    done_files = [folder / trial.name / "result.json" for trial in trials]
    return [json.loads(done.read_text(encoding="utf-8")) for done in done_files if done.is_file()]


def rows(folder: Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The numbers of the steps of a trial."""
    return [row for row in read_metrics(folder / result["trial"] / "metrics.jsonl") if "loss" in row]


def _run(trial: Trial, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    facts = ModelFacts(trial.model.to_dict(), trial.model.vocab_size, trial.model.n_positions)
    model = Decoder(trial.model, seed=trial.training.seed)
    run = Run(
        model, facts, trial.training, trial.vocabulary, output=output, cache=output.parents[1] / "tokens",
        recorder=JsonlRecorder(output / "run.jsonl"), device=DEVICE, origin={"experiment": output.parent.name},
    )  # fmt: skip
    run.start()
    summary = run.work()
    if summary.outcome == "interrupted":
        raise SystemExit(f"{trial.name}: interrupted; the same command goes on from step {summary.step}")
    counted = parameters(trial.model)
    scores = {score.domain: vars(score) for score in summary.scores}
    result = {
        "trial": trial.name, **trial.labels, "outcome": summary.outcome, "steps": summary.step,
        "tokens": summary.tokens, "seconds": summary.seconds, "loss": summary.loss, "scores": scores,
        "parameters": counted.total, "decisions": [d.to_dict() for d in summary.decisions if d.action != "clip"],
    }  # fmt: skip
    if trial.measure is not None and summary.outcome == "finished":
        model.train(False)
        result |= dict(trial.measure(run, model))
    hidden = output / f".result.{os.getpid()}"
    with hidden.open("w", encoding="utf-8") as stream:
        json.dump(result, stream)
        stream.flush()
        os.fsync(stream.fileno())
    hidden.replace(output / "result.json")
