"""A run of the tiny model in this process or in one of its own (`python -m tests.training.tiny_run DIR OUT JSON`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tests.training.tiny import VOCABULARY, TinyModel, settings, write_tokenizer

from pedigree.records.recorder import JsonlRecorder
from pedigree.training.config import TrainingConfig
from pedigree.training.fit import ModelFacts
from pedigree.training.ranks import leave_ranks
from pedigree.training.run import Run
from pedigree.training.shards import Vocabulary

FACTS = ModelFacts({"name": "tiny", "width": 32}, VOCABULARY)


def make_run(directory: Path, output: Path, config: TrainingConfig, model: Any = None, **changes: Any) -> Run:
    """A run whose corpora lie in `directory`."""
    tokenizer = directory / "tokenizer.json"
    if not tokenizer.exists():
        write_tokenizer(directory)
    given: dict[str, Any] = {
        "output": output, "cache": directory / "cache", "device": torch.device("cpu"),
        "recorder": JsonlRecorder(output / "run.jsonl"), **changes,
    }  # fmt: skip
    facts = given.pop("facts", FACTS)
    return Run(model or TinyModel(), facts, config, Vocabulary.load(tokenizer), **given)


def decoder(member: str | None) -> Any:
    """A pico member of the family with the vocabulary of these tests; None for the tiny model."""
    if member is None:
        return None
    from pedigree.model.decoder import Decoder
    from pedigree.model.members import member as config_of

    return Decoder(config_of(f"{member}-pico").replace(vocab_size=VOCABULARY))


def losses(output: Path) -> dict[int, tuple[float, float, str]]:
    """Loss, gradient norm and action of each logged step."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["step"]: (row["loss"], row["grad_norm"], row["action"]) for row in rows if "loss" in row}


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, out, changes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    model = decoder(changes.pop("member", None))
    run = make_run(place, out, settings(place, **changes), model)
    run.start()
    summary = run.work()
    if run.ranks.is_first:
        Path(out, "summary.json").write_text(json.dumps(summary.to_dict()), encoding="utf-8")
    leave_ranks()
