"""What a training step costs beside plain loops: the same model, tokens and precision, turn by turn in one process.

    python benchmarks/train.py [--rounds 5] [--steps 4] [--threads 1] [--out benchmarks/train.md]

Each round takes a few steps of every loop, in turn, so that other work on the machine falls on all of them alike.
A line is the median over all its steps.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from peers.plain_loop import plain_steps

from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_checkpoint
from pedigree.model.sizes import operations
from pedigree.records.recorder import NullRecorder
from pedigree.tokenizers.companions import written
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions
from pedigree.tokenizers.training import train as train_tokenizer
from pedigree.training.batches import Batches
from pedigree.training.config import SourceConfig, TrainingConfig
from pedigree.training.device import matmul_rate
from pedigree.training.fit import ModelFacts
from pedigree.training.run import Run
from pedigree.training.shards import Vocabulary
from pedigree.training.sources import excerpt

ROOT = Path(__file__).resolve().parent.parent
SOURCE = SourceConfig(kind="python-stdlib", domain="code", max_documents=60)
# name -> (channels, layers, inner width, sequences, tokens in a sequence)
SIZES = {"pico": (64, 4, 160, 16, 128), "small": (256, 4, 704, 8, 256)}
BASE = "plain loop, our decoder"


def model_config(size: str) -> ModelConfig:
    """A decoder in the shape of Llama."""
    width, layers, inner, _, length = SIZES[size]
    return ModelConfig.model_validate(
        {
            "vocab_size": 1024, "d_model": width, "n_layers": layers, "n_positions": length, "rope": {},
            "attention": {"kind": "gqa", "n_heads": width // 32, "n_kv_heads": width // 32, "head_dim": 32},
            "feed_forward": {"kind": "swiglu", "d_inner": inner},
        }
    )  # fmt: skip


def loops(size: str, place: Path) -> dict[str, Callable[[], float]]:
    """The loops to compare: each takes one step and gives its seconds."""
    _, _, _, batch, length = SIZES[size]
    config = model_config(size)
    vocabulary = Vocabulary.load(tokenizer(place))
    ours: dict[str, Callable[[], float]] = {}
    batches: Batches | None = None
    for name, masked in (("pedigree", True), ("pedigree, documents not masked", False)):
        settings = TrainingConfig(
            sources=(SOURCE,), tokens=10**9, sequence_length=length, batch_sequences=batch, document_mask=masked
        )
        run = Run(
            Decoder(config), ModelFacts({}, config.vocab_size), settings, vocabulary, output=place / name,
            cache=place / "tokens", recorder=NullRecorder(), device=torch.device("cpu"),
        )  # fmt: skip
        ours[name] = run_steps(run)
        batches = run.batches
    if batches is None:
        raise RuntimeError("no loop was made")
    ids = batches.corpora[0].train.ids
    decoder = Decoder(config)
    ours[BASE] = plain_steps(decoder, lambda x, y: decoder(x, targets_BT=y).loss, ids, batch, length)
    export_checkpoint(Decoder(config), place / "hf", force=True)
    from transformers import AutoModelForCausalLM

    peer: Any = AutoModelForCausalLM.from_pretrained(place / "hf")

    def peer_loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = peer(input_ids=x, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())

    ours["plain loop, transformers' Llama"] = plain_steps(peer.train(), peer_loss, ids, batch, length)
    return ours


def run_steps(run: Run) -> Callable[[], float]:
    """Single steps of a run: data, forward, backward, guard, update."""

    def step() -> float:
        begin = time.perf_counter()
        run.step()
        return time.perf_counter() - begin

    return step


def tokenizer(place: Path) -> Path:
    """A small tokenizer of the benchmark's corpus."""
    path = place / "tokenizer.json"
    if not path.exists():
        texts = [Text("code", tuple(excerpt(SOURCE, 2_000_000)), "document", "code")]
        encoder = train_tokenizer(texts, TrainingOptions(size=1024))
        path.write_text(written(encoder.definition), encoding="utf-8")
    return path


def measure(size: str, rounds: int, steps: int) -> list[str]:
    """The rows of one size."""
    with tempfile.TemporaryDirectory() as folder:
        made = loops(size, Path(folder))
        for step in made.values():
            step()
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(rounds):
            for name, step in made.items():
                seconds[name] += [step() for _ in range(steps)]
    _, _, _, batch, length = SIZES[size]
    work = operations(model_config(size), length).training
    rate = matmul_rate(torch.device("cpu"), "fp32")
    base = statistics.median(seconds[BASE])
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        speed = batch * length / median
        share = 100 * work * speed / rate
        rows.append(
            f"| {size} | {name} | {1000 * median:.1f} | {median / base:.2f} | {speed:,.0f} | {share:.0f} % |"
        )  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the page where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of each loop in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    rows = [row for size in options.sizes for row in measure(size, options.rounds, options.steps)]
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip() or "unknown"
    page = PAGE.format(
        rows="\n".join(rows), commit=commit, date=datetime.now(UTC).date(), cpu=_processor(), cores=os.cpu_count(),
        load=load, after=os.getloadavg()[0], torch=torch.__version__, **vars(options),
    )  # fmt: skip
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    return 0


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


PAGE = """# What a training step costs

Written by `python benchmarks/train.py --rounds {rounds} --steps {steps} --threads {threads}`; not by hand.

Commit {commit}, {date}. {cpu}, {cores} cores, {threads} of them used, torch {torch}, float32. Load average from
{load:.1f} to {after:.1f}: where it is above the number of cores others were using the machine, so compare the lines of
one size, not milliseconds of two pages.

Every loop takes {steps} steps in turn, {rounds} times; a line is the median over its steps, data and clipping included.
`pedigree` is a whole step of `pedigree train`: packed documents that do not see each other, gradient norms by block,
the guard with all its rules. The plain loops draw random windows and do none of this.

| size | loop | ms per step | of the plain loop | tokens per second | of the measured matmul rate |
| --- | --- | --- | --- | --- | --- |
{rows}
"""


if __name__ == "__main__":
    raise SystemExit(main())
