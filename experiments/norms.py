"""Depth-scaled sandwich norm and TinyInit against pre-norm, deep and thin (Pangu Ultra, arXiv 2504.07866, section 2).

    python experiments/norms.py [--seeds 3] [--steps 300] [--draw]

Four decoders of 48 layers and 32 channels that differ in their norms and in how they start; same data in the same
order, same rate, no anomaly guard (a guard would hide what is asked for).
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from corpora import documentation, vocabulary
from curves import PAST, mean_of, smoothed, spikes, surges, unevenness
from pages import COLORS, DASHES, figure, origin, put, save, table
from trials import Trial, rows, settings, work_off

from pedigree.model.config import ModelConfig
from pedigree.training.config import TrainingConfig

WIDTH, DEPTH, VOCABULARY, LENGTH, SEQUENCES, STEPS = 32, 48, 512, 64, 4, 300
RATES = (0.02, 0.005)  # one that is too high for some, and a moderate one for the two ends
WARMUP = 0.1  # share of the steps
# The common start that the report compares TinyInit with: N(0, 2 / 5d), outputs of branches N(0, 1 / 5dL).
COMMON = {"kind": "gpt2", "std": math.sqrt(2 / (5 * WIDTH)), "embedding_std": 0.5}
TINY = {"kind": "tiny", "embedding_std": 0.5}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "pre-norm": ("pre", COMMON),
    "sandwich": ("sandwich", COMMON),
    "depth-scaled": ("depth-scaled-sandwich", COMMON),
    "depth-scaled, TinyInit": ("depth-scaled-sandwich", TINY),
}
ENDS = ("pre-norm", "depth-scaled, TinyInit")


def model(arm: str) -> ModelConfig:
    """The decoder of an arm."""
    placement, start = ARMS[arm]
    return ModelConfig.model_validate(
        {
            "name": arm, "vocab_size": VOCABULARY, "d_model": WIDTH, "n_layers": DEPTH, "n_positions": LENGTH,
            "attention": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1, "head_dim": 16}, "rope": {},
            "feed_forward": {"kind": "swiglu", "d_inner": 72}, "init": start,
            "norm": {"placement": placement, "eps": 1e-5},
        }
    )  # fmt: skip


def order(seeds: int) -> list[tuple[int, float, str]]:
    """Seed, rate and arm of every run, the most wanted first: all arms at the high rate, the ends at the other."""
    wanted = [(seed, RATES[0], arm) for seed in range(seeds) for arm in ARMS]
    wanted.sort(key=lambda run: (run[0] > 0, run[2] not in ENDS))  # one seed of each, then the ends, then the others
    return wanted + [(seed, RATES[1], arm) for seed in range(seeds) for arm in ENDS]


def trials(place: Path, seeds: int, steps: int) -> list[Trial]:
    """The runs in their order."""
    source = (documentation(place),)
    words = vocabulary(place, source, VOCABULARY)
    tokens = steps * LENGTH * SEQUENCES
    found = []
    for seed, rate, arm in order(seeds):
        training = TrainingConfig.model_validate(
            {
                "name": arm, "sources": source, "sequence_length": LENGTH, "batch_sequences": SEQUENCES,
                "tokens": tokens, "seed": seed, "document_mask": False, "log_every": 1,
                "optimizer": {"lr": rate}, "guard": {"rules": ("non-finite",)},
                "schedule": {"warmup_tokens": int(WARMUP * tokens), "name": "constant"},
                "checkpoint": {"every": 150, "keep": 1}, "evaluation": {"max_tokens": 8000},
            }
        )  # fmt: skip
        name = f"{arm.replace(', ', '-')}-{rate:g}-{seed}"
        found.append(Trial(name, model(arm), training, words, {"arm": arm, "rate": rate, "seed": seed}))
    return found


def measured(result: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, float]:
    """The numbers of one run; those of the curves leave out the first 32 steps, which have no past, but for one."""
    losses = [row["cross_entropy"] for row in steps]
    norms = [row["grad_norm"] for row in steps]
    score = next(iter(result["scores"].values()), {"bits_per_byte": math.nan})
    late = norms[PAST:]
    return {
        "loss spikes": len(spikes(losses)),
        "norm spikes": len(surges(norms)),
        "unevenness of the norm": unevenness(late),
        "largest norm / median": max(late) / statistics.median(late),
        "largest norm, first 32 steps": max(norms[:PAST]),
        "loss, last 50 steps": statistics.fmean(losses[-50:]),
        "bits per byte": score["bits_per_byte"],
    }


def report(results: list[dict[str, Any]], folder: Path, out: Path) -> None:
    """Table and picture of what is there."""
    curves = {result["trial"]: rows(folder, result) for result in results}
    numbers = {result["trial"]: measured(result, curves[result["trial"]]) for result in results}
    lines = []
    for rate in RATES:
        for arm in ARMS:
            here = [numbers[r["trial"]] for r in results if r["arm"] == arm and r["rate"] == rate]
            if here:
                lines.append([f"{rate:g}", arm, len(here), *(mean_of([n[key] for n in here]) for key in here[0])])
    head = ["rate", "norm and start", "seeds", *next(iter(numbers.values()))]
    steps = max(result["steps"] for result in results)
    about = f"{steps} steps of {LENGTH * SEQUENCES} tokens. Mean over seeds and its 95 % interval (Student's t)."
    where = origin("python experiments/norms.py")
    picture = "![Loss and gradient norm of the four arms](norms.svg)"
    put(out / "norms.md", "Norms", f"{table(head, lines)}\n\n{about} {where}\n\n{picture}")
    _draw(results, curves, out / "norms.svg")


def _draw(results: list[dict[str, Any]], curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    rates = [rate for rate in RATES if any(result["rate"] == rate for result in results)]
    drawn, axes = figure(2, len(rates), 5.0)
    for column, rate in enumerate(rates):
        for style, arm in enumerate(ARMS):
            for result in results:
                if result["arm"] != arm or result["rate"] != rate:
                    continue
                steps = curves[result["trial"]]
                label = arm if result["seed"] == 0 else None
                looks = {"color": COLORS[style], "linewidth": 0.8, "linestyle": DASHES[style]}
                losses = smoothed([row["cross_entropy"] for row in steps], 5)
                axes[0][column].plot(losses, label=label, **looks)
                axes[1][column].plot([row["grad_norm"] for row in steps], label=label, **looks)
        axes[0][column].set_title(f"peak rate {rate:g}")
        axes[1][column].set_yscale("log")
        axes[1][column].set_xlabel("step")
    axes[0][0].set_ylabel("cross entropy, nats per token\n(median of 5 steps)")
    axes[1][0].set_ylabel("gradient norm before clipping")
    axes[0][0].legend(frameon=False)
    save(drawn, path)


if __name__ == "__main__":
    told = settings(__doc__ or "")
    place = told.place / "norms"
    done = work_off(trials(told.place, told.seeds, told.steps or STEPS), place, told)
    report(done, place, told.out)
