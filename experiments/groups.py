"""Grouped experts (MoGE) against plain top-k with as many experts active (Pangu Pro MoE, arXiv 2505.21411).

    python experiments/groups.py [--seeds 3] [--steps 500] [--draw]

Both are Pangu Pro MoE at pico size: 16 experts, 4 of them active, 4 groups, each group the experts of one device. One
chooses the best expert of every group, the other the 4 best of all 16; nothing else differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from corpora import code, documentation, sums, vocabulary
from curves import mean_of, smoothed
from members import pico
from pages import COLORS, DASHES, figure, origin, put, save, table
from torch import Tensor
from trials import DEVICE, Trial, rows, settings, work_off

from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.training.config import TrainingConfig
from pedigree.training.evaluation import bits_per_byte
from pedigree.training.moe_health import moe_health
from pedigree.training.run import Run

MEMBER, VOCABULARY, LENGTH, SEQUENCES, STEPS, RATE = "pangu-pro-moe-72b", 1024, 128, 8, 500, 6e-3
ARMS = ("grouped", "top-k")
BATCHES = (16, 64, 256, 1024)  # tokens over which the imbalance is taken


def model(arm: str) -> ModelConfig:
    """The decoder of an arm."""
    config = pico(MEMBER).replace(vocab_size=VOCABULARY)
    if arm == "grouped" or config.experts is None:
        return config
    return config.replace(experts=config.experts.replace(router="softmax", n_groups=1).model_dump())


def imbalance(experts_NK: Tensor, n_experts: int, n_devices: int, batch: int) -> float:
    """Mean over batches of (most - fewest choices of a device) / tokens; a device holds neighboring experts.

    Args:
        experts_NK: the choices of N tokens.
        n_experts, n_devices: experts, and devices that share them out evenly.
        batch: tokens of a batch; what is left over at the end is not counted.
    """
    n = len(experts_NK) // batch
    device = experts_NK[: n * batch] // (n_experts // n_devices)
    load = torch.nn.functional.one_hot(device.reshape(n, batch * device.shape[1]), n_devices).sum(1)
    return float((load.amax(1) - load.amin(1)).double().mean() / batch) if n else math.nan


def information(counts: Tensor) -> float:
    """Mutual information of row and column of a table of counts in bits, less the bias of finite counts (Miller 1955).

    The bias is (rows - 1)(columns - 1) / 2n nats, of rows and columns that occur; choices of neighboring tokens are
    not independent, so some bias stays.
    """
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0].double()
    total = counts.sum()
    expected = counts.sum(1, keepdim=True) * counts.sum(0, keepdim=True) / total
    seen = counts > 0
    nats = float((counts[seen] * (counts[seen] / expected[seen]).log()).sum() / total)
    bias = (counts.shape[0] - 1) * (counts.shape[1] - 1) / (2 * float(total))
    return max(0.0, nats - bias) / math.log(2)


class Watch:
    """The choices of every sparse layer on held-out text, with token and domain."""

    def __init__(self, mixtures: list[Any]) -> None:
        self.choices: list[list[Tensor]] = [[] for _ in mixtures]
        self._handles = [
            mixture.router.register_forward_hook(self._noting(layer)) for layer, mixture in enumerate(mixtures)
        ]

    def _noting(self, layer: int) -> Any:
        def note(_module: Any, _given: Any, choice: Any) -> None:
            self.choices[layer].append(choice.experts_NK.clone())

        return note

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()


@torch.no_grad()
def routing(run: Run, model: Decoder) -> Mapping[str, Any]:
    """Imbalance and specialization of every layer, and what the product's own health page says."""
    mixtures = list(model.mixtures())
    part = mixtures[0].part
    watch = Watch(mixtures)
    domains, tokens = [], []
    tokenized = model.embed.register_forward_hook(lambda _m, given, _o: tokens.append(given[0].reshape(-1).clone()))
    for number, text in enumerate(run.texts):
        before = len(tokens)
        bits_per_byte(model, text, run.config, run.vocabulary, DEVICE)
        domains += [torch.full_like(ids, number) for ids in tokens[before:]]
    watch.close()
    tokenized.remove()
    domain_N, token_N = torch.cat(domains), torch.cat(tokens)
    layers = []
    for kept in watch.choices:
        experts_NK = torch.cat(kept)
        load = experts_NK.flatten().bincount(minlength=part.n_experts).double()
        layers.append(
            {
                "imbalance": {str(b): imbalance(experts_NK, part.n_experts, 4, b) for b in BATCHES},
                "domain_bits": information(_counts(domain_N, experts_NK, len(run.texts), part.n_experts)),
                "token_bits": information(_counts(token_N, experts_NK, VOCABULARY, part.n_experts)),
                "peak": float(load.max() / load.mean()),
            }
        )
    health = moe_health(model, run.texts, run.config, run.vocabulary, DEVICE)
    return {"layers": layers, "effect": health.ablations, "health": health.sentence, "nats": health.nats}


def _counts(rows_N: Tensor, experts_NK: Tensor, n_rows: int, n_experts: int) -> Tensor:
    """How often each row value met each expert, over all choices."""
    joint = rows_N[:, None] * n_experts + experts_NK
    return joint.flatten().bincount(minlength=n_rows * n_experts).reshape(n_rows, n_experts)


def trials(place: Path, seeds: int, steps: int) -> list[Trial]:
    """Both routers with each seed."""
    sources = (documentation(place), code(), sums())
    words = vocabulary(place, sources, VOCABULARY)
    tokens = steps * LENGTH * SEQUENCES
    found = []
    for seed in range(seeds):
        for arm in ARMS:
            training = TrainingConfig.model_validate(
                {
                    "name": arm, "sources": sources, "sequence_length": LENGTH, "batch_sequences": SEQUENCES,
                    "seed": seed, "tokens": tokens, "log_every": 1, "optimizer": {"lr": RATE},
                    "checkpoint": {"every": 0, "keep": 1}, "schedule": {"warmup_tokens": tokens // 20},
                    "evaluation": {"max_tokens": 2000},
                }
            )  # fmt: skip
            found.append(Trial(f"{arm}-{seed}", model(arm), training, words, {"arm": arm, "seed": seed}, routing))
    return found


def measured(result: dict[str, Any]) -> dict[str, float]:
    """The numbers of one run; those of the layers are means over the layers."""
    layers = result["layers"]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        **{f"imbalance, {b} tokens": mean([layer["imbalance"][str(b)] for layer in layers]) for b in BATCHES},
        "busiest expert / mean": mean([layer["peak"] for layer in layers]),
        "held-out nats per token": result["nats"],
        **{f"bits per byte, {name}": score["bits_per_byte"] for name, score in result["scores"].items()},
        "expert tells the domain, bits": mean([layer["domain_bits"] for layer in layers]),
        "expert tells the token, bits": mean([layer["token_bits"] for layer in layers]),
        "nats lost by random experts": result["effect"]["random experts"],
    }


def report(results: list[dict[str, Any]], folder: Path, out: Path) -> None:
    """Table and picture of what is there."""
    of = {arm: {r["seed"]: measured(r) for r in results if r["arm"] == arm} for arm in ARMS}
    both = sorted(set(of["grouped"]) & set(of["top-k"]))
    lines = []
    for key in next(iter(of["grouped"].values())):
        apart = [of["grouped"][seed][key] - of["top-k"][seed][key] for seed in both]
        lines.append([key, *(mean_of([n[key] for n in of[arm].values()]) for arm in ARMS), mean_of(apart)])
    head = ["", f"grouped ({len(of['grouped'])} seeds)", f"top-k ({len(of['top-k'])} seeds)", "difference, by seed"]
    said = "\n".join(f"- {r['arm']}, seed {r['seed']}: {r['health']}" for r in results)
    text = (
        f"{table(head, lines)}\n\n{max(r['steps'] for r in results)} steps of {LENGTH * SEQUENCES} tokens. Means over "
        f"seeds with 95 % intervals (Student's t).\n{origin('python experiments/groups.py')}\n\n"
        f"![Loss, imbalance by batch, specialization by layer](groups.svg)\n\nWhat the health page says:\n\n{said}"
    )
    put(out / "groups.md", "Groups", text)
    _draw(results, folder, out / "groups.svg")


def _draw(results: list[dict[str, Any]], folder: Path, path: Path) -> None:
    drawn, axes = figure(1, 3, 2.7)
    for style, arm in zip((3, 0), ARMS, strict=True):
        for result in (r for r in results if r["arm"] == arm):
            looks = {"color": COLORS[style], "linewidth": 1.0, "linestyle": DASHES[style]}
            looks["label"] = arm if result["seed"] == 0 else None
            losses = [row["cross_entropy"] for row in rows(folder, result)]
            axes[0][0].plot(smoothed(losses, 9), **looks)
            numbers = measured(result)
            axes[0][1].plot(BATCHES, [numbers[f"imbalance, {b} tokens"] for b in BATCHES], marker="o", ms=2.5, **looks)
            bits = [layer["domain_bits"] for layer in result["layers"]]
            axes[0][2].plot(range(len(bits)), bits, marker="o", ms=2.5, **looks)
    axes[0][0].set_xlabel("step")
    axes[0][0].set_ylabel("cross entropy, nats per token\n(median of 9 steps)")
    axes[0][0].legend(frameon=False)
    axes[0][1].set_xscale("log", base=2)
    axes[0][1].set_xlabel("tokens of a batch")
    axes[0][1].set_ylabel("imbalance score over 4 devices")
    axes[0][2].set_xlabel("layer")
    axes[0][2].set_xticks(range(len(results[0]["layers"])))
    axes[0][2].set_ylabel("expert tells the domain, bits")
    save(drawn, path)


if __name__ == "__main__":
    told = settings(__doc__ or "")
    place = told.place / "groups"
    report(work_off(trials(told.place, told.seeds, told.steps or STEPS), place, told), place, told.out)
