"""fp16 with dynamic loss scaling against bf16 and fp32: the same model, tokens and seeds, three number types.

    python experiments/precision.py [--seeds 3] [--steps 800] [--draw]

The model is that of the chips that had nothing but fp16: PanGu-alpha 13 B at pico size. Products are rounded to the
type (autocast), weights and moments stay in float32, as in any run of `pedigree train`.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from corpora import documentation, vocabulary
from curves import mean_of, smoothed
from members import LENGTH, RATE, SEQUENCES, STEPS, pico
from pages import COLORS, DASHES, figure, origin, put, save, table
from trials import Trial, rows, settings, work_off

from pedigree.training.config import TrainingConfig

MEMBER = "pangu-alpha-13b"
TYPES = ("fp32", "bf16", "fp16")


def trials(place: Path, seeds: int, steps: int) -> list[Trial]:
    """Each type with each seed; one seed of everything first."""
    config, source = pico(MEMBER), documentation(place)
    words = vocabulary(place, (source,), config.vocab_size)
    tokens = steps * LENGTH * SEQUENCES
    found = []
    for seed in range(seeds):
        for kind in TYPES:
            training = TrainingConfig.model_validate(
                {
                    "name": kind, "sources": (source,), "sequence_length": LENGTH, "batch_sequences": SEQUENCES,
                    "seed": seed, "tokens": tokens, "precision": kind, "log_every": 1, "optimizer": {"lr": RATE},
                    "checkpoint": {"every": 0, "keep": 1}, "schedule": {"warmup_tokens": tokens // 20},
                    "evaluation": {"max_tokens": 4000},
                }
            )  # fmt: skip
            found.append(Trial(f"{kind}-{seed}", config, training, words, {"type": kind, "seed": seed}))
    return found


def report(results: list[dict[str, Any]], folder: Path, out: Path) -> None:
    """Table and picture of what is there."""
    loss = {(r["type"], r["seed"]): next(iter(r["scores"].values()))["nats_per_token"] for r in results}
    bits = {(r["type"], r["seed"]): next(iter(r["scores"].values()))["bits_per_byte"] for r in results}
    lines = []
    for kind in TYPES:
        seeds = [seed for name, seed in loss if name == kind]
        if not seeds:
            continue
        apart = [loss[kind, seed] - loss["fp32", seed] for seed in seeds if ("fp32", seed) in loss]
        here = [r for r in results if r["type"] == kind]
        skipped = sum(d["rule"] == "non-finite" for r in here for d in r["decisions"])
        scales = [rows(folder, r)[-1]["scale"] for r in here]
        lines.append(
            [
                kind, len(seeds), mean_of([loss[kind, seed] for seed in seeds]),
                mean_of([bits[kind, seed] for seed in seeds]), "" if kind == "fp32" else mean_of(apart),
                skipped, ", ".join(f"{scale:g}" for scale in scales),
            ]
        )  # fmt: skip
    over_seeds = [value for (kind, _), value in loss.items() if kind == "fp32"]
    noise = f"{statistics.stdev(over_seeds):.4f}" if len(over_seeds) > 1 else "unknown with one seed"
    head = [
        "products in", "seeds", "held-out nats per token", "bits per byte", "minus fp32 of the same seed",
        "steps skipped for overflow", "loss scale at the end",
    ]  # fmt: skip
    measured = (
        f"{table(head, lines)}\n\nStandard deviation of fp32 over seeds: {noise} nats. Means with 95 % intervals "
        f"(Student's t).\n{origin('python experiments/precision.py')}\n\n![Loss curves and loss scale](precision.svg)"
    )
    put(out / "precision.md", "Precision", measured)
    _draw(results, folder, out / "precision.svg")


def _draw(results: list[dict[str, Any]], folder: Path, path: Path) -> None:
    drawn, axes = figure(1, 2, 2.8)
    for style, kind in zip((3, 2, 0), TYPES, strict=True):
        for result in results:
            if result["type"] == kind:
                steps = rows(folder, result)
                looks = {"color": COLORS[style], "linewidth": 0.9, "linestyle": DASHES[style]}
                label = kind if result["seed"] == 0 else None
                axes[0][0].plot(smoothed([row["cross_entropy"] for row in steps], 9), label=label, **looks)
                if kind == "fp16":
                    axes[0][1].step(range(len(steps)), [row["scale"] for row in steps], **looks)
    axes[0][0].set_ylabel("cross entropy, nats per token\n(median of 9 steps)")
    axes[0][0].legend(frameon=False)
    axes[0][1].set_ylabel("loss scale, fp16")
    axes[0][1].set_yscale("log", base=2)
    for axis in axes.flat:
        axis.set_xlabel("step")
    save(drawn, path)


if __name__ == "__main__":
    told = settings(__doc__ or "")
    place = told.place / "precision"
    report(work_off(trials(told.place, told.seeds, told.steps or STEPS), place, told), place, told.out)
