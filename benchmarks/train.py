"""What a training step costs beside other people's loops: same model, tokens and precision, turn by turn.

    python benchmarks/train.py --peers PYTHON [--rounds 5] [--steps 3] [--threads 1] [--write benchmarks/train.md]

PYTHON is the interpreter of an environment of its own, since litgpt pins versions: `pip install litgpt transformers
accelerate` beside the same torch. Without it only the plain loop is there to compare with.
Every loop runs in a process of its own (`peers/training_process.py`) and takes a few steps when it is its turn, so that
other work on the machine falls on all of them alike. A line is the median over all steps but those of the first turn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from pedigree.model.config import ModelConfig
from pedigree.model.sizes import operations
from pedigree.tokenizers.companions import written
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions
from pedigree.tokenizers.training import train as train_tokenizer
from pedigree.training.batches import open_batches
from pedigree.training.config import SourceConfig, TrainingConfig
from pedigree.training.device import matmul_rate
from pedigree.training.shards import Vocabulary
from pedigree.training.sources import excerpt

ROOT = Path(__file__).resolve().parent.parent
PROCESS = ROOT / "benchmarks" / "peers" / "training_process.py"
SOURCE = SourceConfig(kind="python-stdlib", domain="code", max_documents=60)
IDS = 1024  # that the tokenizer knows; a model may have more


@dataclass(frozen=True)
class Size:
    """Shape of a model and of its batches."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    batch: int
    length: int
    experts: int = 0
    chosen: int = 0


SIZES = {
    "narrow": Size(1024, 64, 4, 2, 160, 16, 128),
    "medium": Size(4096, 256, 4, 4, 704, 4, 256),
    "vocabulary": Size(32768, 256, 4, 4, 704, 2, 256),
    "moe": Size(4096, 256, 4, 4, 128, 4, 256, experts=32, chosen=4),
}


@dataclass
class Loop:
    """A loop in its process, and what its steps cost: wall and processor seconds."""

    name: str
    process: subprocess.Popen[str]
    costs: list[tuple[float, float]] = field(default_factory=list)
    peak_bytes: int = 0

    def take(self, steps: int) -> list[tuple[float, float]]:
        """Let it take some steps."""
        asked, answers = _pipe(self.process.stdin), _pipe(self.process.stdout)
        print(steps, file=asked, flush=True)
        line = answers.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        answer = json.loads(line)
        self.peak_bytes = answer["peak_bytes"]
        return [(wall, processor) for wall, processor in answer["costs"]]

    def end(self) -> None:
        """Let it end."""
        _pipe(self.process.stdin).close()
        self.process.wait()
        _pipe(self.process.stdout).close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("a process without pipes")
    return stream


def model_config(size: Size) -> ModelConfig:
    """A decoder in the shape of Llama, or of Mixtral."""
    fields: dict[str, Any] = {
        "vocab_size": size.vocabulary, "d_model": size.width, "n_layers": size.layers, "n_positions": size.length,
        "rope": {}, "feed_forward": {"kind": "swiglu", "d_inner": size.inner},
        "attention": {
            "kind": "gqa", "n_heads": size.heads, "n_kv_heads": size.heads, "head_dim": size.width // size.heads,
        },
    }  # fmt: skip
    if size.experts:
        fields["experts"] = {
            "n_experts": size.experts, "top_k": size.chosen, "d_expert": size.inner, "renormalize": True,
            "balance": {"scope": "batch", "coefficient": 0.001},
        }  # fmt: skip
    return ModelConfig.model_validate(fields)


def settings(size: Size, precision: str, *, masked: bool = True) -> TrainingConfig:
    """Settings of our run."""
    return TrainingConfig.model_validate(
        {
            "sources": [SOURCE.model_dump()], "tokens": 10**9, "sequence_length": size.length,
            "batch_sequences": size.batch, "document_mask": masked, "precision": precision,
        }
    )  # fmt: skip


def tokens(place: Path) -> None:
    """A small tokenizer of the corpus, and the corpus as flat ids for everybody."""
    texts = [Text("code", tuple(excerpt(SOURCE, 2_000_000)), "document", "code")]
    encoder = train_tokenizer(texts, TrainingOptions(size=IDS))
    (place / "tokenizer.json").write_text(written(encoder.definition), encoding="utf-8")
    batches = open_batches(
        settings(SIZES["narrow"], "fp32"), Vocabulary.load(place / "tokenizer.json"), place / "tokens"
    )
    np.save(place / "ids.npy", np.asarray(batches.corpora[0].train.ids))


def loops(name: str, precision: str, place: Path, options: argparse.Namespace) -> list[Loop]:
    """The processes to compare."""
    size = SIZES[name]
    shape: dict[str, Any] = {
        **size.__dict__, "name": "masked", "precision": precision, "threads": options.threads,
        "ids": str(place / "ids.npy"), "config": model_config(size).model_dump(mode="json"), "implementation": None,
        "compiled": True, "settings": settings(size, precision).model_dump(mode="json"),
    }  # fmt: skip
    here = sys.executable
    wanted: list[tuple[str, str, str, dict[str, Any]]] = [("pedigree", here, "pedigree", {})]
    if size.experts and options.peers:
        wanted += [
            (f"transformers' Trainer, Mixtral, {label}", options.peers, "trainer", {"implementation": implementation})
            for implementation, label in (
                (None, "as it comes (grouped_mm)"), ("eager", "eager experts"), ("batched_mm", "batched_mm experts"),
            )
            if options.slow or implementation != "batched_mm"
        ]  # fmt: skip
    elif not size.experts:
        unmasked = settings(size, precision, masked=False).model_dump(mode="json")
        wanted += [
            ("pedigree, documents not masked", here, "pedigree", {"name": "unmasked", "settings": unmasked}),
            ("plain loop", here, "plain", {}),
        ]
        if options.peers:
            wanted += [
                ("transformers' Trainer, Llama", options.peers, "trainer", {}),
                ("litgpt, not compiled", options.peers, "litgpt", {"compiled": False}),
            ]
        if options.peers and options.slow:
            wanted.append(("litgpt, compiled (its default)", options.peers, "litgpt", {}))
    made = []
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads),
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    for number, (label, python, loop, changes) in enumerate(wanted):
        path = place / f"shape-{number}.json"
        path.write_text(json.dumps({**shape, **changes}), encoding="utf-8")
        process = subprocess.Popen(
            [python, str(PROCESS), loop, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=(place / f"stderr-{number}.txt").open("w"), text=True, env=environment,
        )  # fmt: skip
        made.append(Loop(label, process))
    return made


def measure(name: str, precision: str, options: argparse.Namespace) -> list[str]:
    """The rows of one size and precision."""
    size = SIZES[name]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tokens(place)
        made, kept = loops(name, precision, place, options), []
        for number, loop in enumerate(made):
            try:
                loop.take(2)
            except RuntimeError as error:
                lines = (place / f"stderr-{number}.txt").read_text(encoding="utf-8").strip().splitlines()
                print(error, *lines[-3:], sep="\n", file=sys.stderr)
                continue
            kept.append(loop)
        for turn in range(options.rounds):
            for loop in kept if turn % 2 == 0 else reversed(kept):
                loop.costs += loop.take(options.steps)
        for loop in kept:
            loop.end()
    rate = matmul_rate(torch.device("cpu"), "bf16" if precision == "bf16" else "fp32")
    work = operations(model_config(size), size.length).training
    ours = statistics.median(cost[1] for cost in kept[0].costs)
    return [_row(f"{name}, {precision}", loop, ours, size, work / rate) for loop in kept]


def _row(where: str, loop: Loop, ours: float, size: Size, ideal: float) -> str:
    wall, processor = (statistics.median(times) for times in zip(*loop.costs, strict=True))
    n_tokens = size.batch * size.length
    return (
        f"| {where} | {loop.name} | {n_tokens / processor:,.0f} | {processor / ours:.2f} | {1000 * processor:.0f} | "
        f"{1000 * wall:.0f} | {100 * ideal * n_tokens / processor:.0f} % | {loop.peak_bytes / 2**20:,.0f} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the page where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of each loop in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of an environment with litgpt and accelerate")
    parser.add_argument("--slow", action="store_true", help="litgpt compiled and batched_mm experts as well")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    load, rows = os.getloadavg()[0], []
    page = ""
    for size in options.sizes:
        for precision in options.precisions:
            rows += measure(size, precision, options)
            page = _page(rows, load, options)
            if options.write:  # after every size: what was measured outlives an interruption
                options.write.write_text(page, encoding="utf-8")
    print(page)
    return 0


def _page(rows: Sequence[str], load: float, options: argparse.Namespace) -> str:
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip() or "unknown"
    shapes = [
        f"`{name}` {s.vocabulary} tokens, {s.layers} layers of {s.width}, {s.heads} heads, inner width {s.inner}"
        + (f", {s.experts} experts, {s.chosen} chosen" if s.experts else "")
        + f", {s.batch} x {s.length} tokens a step"
        for name, s in SIZES.items()
        if name in options.sizes
    ]
    return PAGE.format(
        rows="\n".join(rows), commit=commit, date=datetime.now(UTC).date(), cpu=_processor(), cores=os.cpu_count(),
        load=load, after=os.getloadavg()[0], torch=torch.__version__, shapes=";\n".join(shapes),
        versions=_versions(options.peers), rounds=options.rounds, steps=options.steps, threads=options.threads,
    )  # fmt: skip


def _versions(python: str | None) -> str:
    if not python:
        return "no peers"
    words = "from importlib.metadata import version; print(*(f'{n} {version(n)}' for n in ('transformers', 'litgpt')))"
    return subprocess.run([python, "-c", words], check=True, capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


PAGE = """# What a training step costs

Written by `python benchmarks/train.py --rounds {rounds} --steps {steps} --threads {threads} --peers PYTHON`; not by
hand.

Commit {commit}, {date}. {cpu}, {cores} cores, {threads} of them used, torch {torch}, {versions}. Load average from
{load:.1f} to {after:.1f}: where it is above the number of cores others were using the machine. Rates and ratios are
therefore in processor time, and wall time stands beside it; compare lines of one size only.

Sizes: {shapes}.

Every loop has a process of its own and takes {steps} steps when it is its turn, {rounds} times, in an order that turns
round; a line is the median over these steps, data and clipping included. `pedigree` is a whole step of `pedigree train`
as it comes: packed documents that do not see each other, gradient norms by block, the guard with all its rules. The
others draw windows and do none of this; where a turn has one step, the Trainer's reading of data falls between turns.
Memory is the most that the process
held. The last share is that of the rate of a large square product, measured here in the same precision.

| size | loop | tokens / s | step, of ours | processor ms | wall ms | of matmul rate | MiB at most |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}
"""


if __name__ == "__main__":
    raise SystemExit(main())
