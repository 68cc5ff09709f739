"""Does growing pay: a grown model against one of its final shape that was trained from nothing, by floating-point work.

    python experiments/growth.py [--seeds 3] [--tokens 600000] [--draw]

A small model is trained for a while, grown without a change of its function (every layer copied with outputs of zero;
inner width doubled with new units that write nothing; both), and trained on. Its twin has the final shape from the
start. Whole work counts: that of the small model and of the grown one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corpora import documentation
from curves import mean_of
from families import bits, curve, made, settings
from pages import COLORS, DASHES, figure, origin, put, save, table

from pedigree.model.config import ModelConfig
from pedigree.model.sizes import operations

TOKENS, LENGTH, SEQUENCES, RATE, VOCABULARY = 600_000, 128, 8, 2e-3, 1024
SMALL_SHARE, WORK_SHARE = 0.6, 0.8  # tokens of the small model; all work of the grown one, both of the twin's
LAYERS, INNER = 4, 192
ARMS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {  # operators, and the shape that they end in
    "depth": ({"grow.depth": {"op": "identity", "after": "every 1"}}, {"n_layers": 2 * LAYERS}),
    "width": ({"grow.ffn": {"to": 2 * INNER}}, {"d_inner": 2 * INNER}),
    "both": (
        {"grow.depth": {"op": "identity", "after": "every 1"}, "grow.ffn": {"to": 2 * INNER}},
        {"n_layers": 2 * LAYERS, "d_inner": 2 * INNER},
    ),
}


def shape(n_layers: int = LAYERS, d_inner: int = INNER) -> dict[str, Any]:
    """A decoder in the shape of Llama."""
    return {
        "vocab_size": VOCABULARY, "d_model": 96, "n_layers": n_layers, "n_positions": LENGTH,
        "attention": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 4, "head_dim": 24},
        "feed_forward": {"kind": "swiglu", "d_inner": d_inner}, "rope": {"theta": 1e4},
    }  # fmt: skip


def work(config: dict[str, Any]) -> float:
    """Floating-point operations of training on one token."""
    return operations(ModelConfig.model_validate(config), LENGTH).training


def grown_tokens(arm: str, tokens: int) -> int:
    """Tokens for which the grown model is trained, so that all its work is the promised share of its twin's."""
    large = work(shape(**ARMS[arm][1]))
    left = WORK_SHARE * tokens * large - SMALL_SHARE * tokens * work(shape())
    return round(left / large / (LENGTH * SEQUENCES)) * LENGTH * SEQUENCES


def training(tokens: int, seed: int, schedule: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run."""
    return {
        "tokens": tokens, "seed": seed, "sequence_length": LENGTH, "batch_sequences": SEQUENCES,
        "optimizer": {"lr": RATE}, "checkpoint": {"every": 0},
        "schedule": {"warmup_tokens": min(20_000, tokens // 10), **schedule},
        "evaluation": {"max_tokens": 6000, "every": 50}, "log_every": 10,
    }  # fmt: skip


def recipe(place: Path, seeds: int, tokens: int) -> dict[str, Any]:
    """The family: of each seed a small model, and of each way to grow a grown one and its twin."""
    source = documentation(place)
    models: dict[str, Any] = {}
    for seed in range(seeds):
        small = round(SMALL_SHARE * tokens)
        start = {"kind": "train", "tokenizer": "words", "corpus": "text"}
        models[f"small-{seed}"] = {
            **start, "model": shape(), "training": training(small, seed, {"name": "constant"}),
        }  # fmt: skip
        for arm, (operators, ends) in ARMS.items():
            steps = [{name: values} for name, values in operators.items()]
            models[f"{arm}-{seed}-start"] = {"kind": "surgery", "from": f"small-{seed}", "steps": steps}
            models[f"{arm}-{seed}"] = {
                "kind": "train", "from": f"{arm}-{seed}-start",
                "training": training(grown_tokens(arm, tokens), seed + 100, {}),
            }  # fmt: skip
            models[f"{arm}-{seed}-twin"] = {**start, "model": shape(**ends), "training": training(tokens, seed, {})}
    folder = {"kind": "text", "path": source.path, "domain": source.domain, "held_out": source.held_out}
    return {
        "recipe": 1, "family": "growth", "corpora": {"text": folder},
        "tokenizers": {"words": {"kind": "byte-level", "corpus": "text", "vocabulary": VOCABULARY}}, "models": models,
    }  # fmt: skip


def report(members: dict[str, dict[str, Any]], folder: Path, out: Path, seeds: int, tokens: int) -> None:
    """Table and picture."""
    lines = []
    for arm in ARMS:
        large = work(shape(**ARMS[arm][1]))
        spent = SMALL_SHARE * tokens * work(shape()) + grown_tokens(arm, tokens) * large
        grown = [bits(members[f"{arm}-{seed}"], "documentation") for seed in range(seeds)]
        twin = [bits(members[f"{arm}-{seed}-twin"], "documentation") for seed in range(seeds)]
        reached = [
            _reached(_way(members, folder, arm, seed, tokens), twin[seed], tokens * large) for seed in range(seeds)
        ]
        shares = ", ".join("not reached" if share is None else f"{share:.0%}" for share in reached)
        lines.append(
            [
                arm, f"{spent / 1e12:.2f}", f"{tokens * large / 1e12:.2f}", f"{spent / tokens / large:.0%}",
                mean_of(grown), mean_of(twin), mean_of([g - t for g, t in zip(grown, twin, strict=True)]), shares,
            ]
        )  # fmt: skip
    head = [
        "grown in", "TFLOP, small and grown", "TFLOP, twin", "share", "bits per byte, grown", "bits per byte, twin",
        "grown minus twin", "work at which the twin's end is reached, by seed",
    ]  # fmt: skip
    measured = (
        f"{table(head, lines)}\n\n{seeds} seeds; means with 95 % intervals (Student's t). Bits per byte on held-out "
        f"text.\n{origin('python experiments/growth.py')}\n\n![Bits per byte against work](growth.svg)"
    )
    put(out / "growth.md", "Does growing pay", measured)
    _draw(members, folder, out / "growth.svg", seeds, tokens)


def _way(
    members: dict[str, dict[str, Any]], folder: Path, arm: str, seed: int, tokens: int
) -> list[tuple[float, float]]:
    """Work and bits per byte along the small and then the grown model, to its end."""
    before, large = work(shape()), work(shape(**ARMS[arm][1]))
    small = SMALL_SHARE * tokens * before
    first = [(n * before, y) for n, y in curve(folder, f"small-{seed}", "documentation", LENGTH * SEQUENCES)]
    then = [(small + n * large, y) for n, y in curve(folder, f"{arm}-{seed}", "documentation", LENGTH * SEQUENCES)]
    end = (small + grown_tokens(arm, tokens) * large, bits(members[f"{arm}-{seed}"], "documentation"))
    return [*first, *then, end]


def _reached(way: list[tuple[float, float]], goal: float, all_work: float) -> float | None:
    """Share of the twin's work at which an evaluation of the grown model lies at or below the twin's end."""
    return next((spent / all_work for spent, value in way if value <= goal), None)


def _draw(members: dict[str, dict[str, Any]], folder: Path, path: Path, seeds: int, tokens: int) -> None:
    drawn, axes = figure(1, len(ARMS), 2.6)
    for axis, arm in zip(axes.flat, ARMS, strict=True):
        large = work(shape(**ARMS[arm][1]))
        for seed in range(seeds):
            grown = _way(members, folder, arm, seed, tokens)
            twin = curve(folder, f"{arm}-{seed}-twin", "documentation", LENGTH * SEQUENCES)
            axis.plot(
                [x / 1e12 for x, _ in grown], [y for _, y in grown], color=COLORS[0], linewidth=0.9,
                linestyle=DASHES[0], label=None if seed else "small, then grown",
            )  # fmt: skip
            axis.plot(
                [n * large / 1e12 for n, _ in twin], [y for _, y in twin], color=COLORS[3], linewidth=0.9,
                linestyle=DASHES[1], label=None if seed else "twin from nothing",
            )  # fmt: skip
        axis.set_title(f"grown in {arm}")
        axis.set_xlabel("TFLOP")
        axis.set_ylim(top=3.2)
    axes[0][0].set_ylabel("bits per byte, held out")
    axes[0][0].legend(frameon=False)
    save(drawn, path)


if __name__ == "__main__":
    told = settings(__doc__ or "")
    length = told.tokens or TOKENS
    place = told.place / "growth"
    family = made(recipe(told.place, told.seeds, length), place, draw=told.draw)
    report(family, place, told.out, told.seeds, length)
