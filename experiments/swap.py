"""Another tokenizer for a trained model, with care and without: does it come back to what it could?

    python experiments/swap.py [--seeds 3] [--tokens 400000] [--draw]

A model is trained, its vocabulary replaced by one twice as large, and all weights trained on. With care, rows of shared
tokens are kept and others made of their pieces; without, shared tokens lose their rows too, as where tables are
exchanged without a token map; between the two, only new rows are random. Beside them: the model trained on without a
swap, and one with the new vocabulary from nothing. Bits per byte, so that the tokenizers can be compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corpora import documentation
from curves import mean_of
from families import bits, curve, made, settings
from growth import LENGTH, SEQUENCES, shape, training
from pages import COLORS, DASHES, figure, origin, put, save, table

TOKENS, OLD, NEW, AFTER = 400_000, 640, 1280, 0.5  # tokens before; ids; share of these tokens after the swap
RATE = 2e-3
ARMS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "careful": ("rows of shared tokens kept, others of their pieces", {"init": "subtoken"}),
    "half": ("rows of shared tokens kept, others random", {"init": "random"}),
    "careless": ("all rows random", {"init": "random", "shared": "make"}),
    "no-swap": ("trained on, no swap", None),
}


def recipe(place: Path, seeds: int, tokens: int) -> dict[str, Any]:
    """The family: of each seed a base, its swaps, each trained on, and two models to compare with."""
    source = documentation(place)
    models: dict[str, Any] = {}
    after = round(AFTER * tokens)
    for seed in range(seeds):
        start = {"kind": "train", "corpus": "text"}
        models[f"base-{seed}"] = {
            **start, "tokenizer": "old", "model": {**shape(6), "vocab_size": OLD},
            "training": training(tokens, seed, {}),
        }  # fmt: skip
        for arm, (_, parameters) in ARMS.items():
            goes_on = {**training(after, seed + 100, {}), "optimizer": {"lr": RATE}}
            goes_on["evaluation"] = {**goes_on["evaluation"], "every": 15}
            parent = f"base-{seed}"
            if parameters is not None:
                parent = f"{arm}-{seed}-start"
                models[parent] = {
                    "kind": "surgery", "from": f"base-{seed}", "tokenizer": "new", "allow": "nfp",
                    "steps": [{"vocab.swap": {"tokenizer": "new", **parameters}}],
                }  # fmt: skip
            models[f"{arm}-{seed}"] = {"kind": "train", "from": parent, "corpus": "text", "training": goes_on}
        models[f"nothing-{seed}"] = {
            **start, "tokenizer": "new", "model": {**shape(6), "vocab_size": NEW},
            "training": training(after, seed, {}),
        }  # fmt: skip
    kind = {"kind": "byte-level", "corpus": "text"}
    return {
        "recipe": 1, "family": "swap",
        "corpora": {
            "text": {"kind": "text", "path": source.path, "domain": source.domain, "held_out": source.held_out}
        },
        "tokenizers": {"old": {**kind, "vocabulary": OLD}, "new": {**kind, "vocabulary": NEW, "pattern": "qwen2"}},
        "models": models,
    }  # fmt: skip


def report(members: dict[str, dict[str, Any]], folder: Path, out: Path, seeds: int, tokens: int) -> None:
    """Table and picture."""
    before = [bits(members[f"base-{seed}"], "documentation") for seed in range(seeds)]
    lines = [["before the swap", "", mean_of(before), "", ""]]
    for arm, (words, parameters) in ARMS.items():
        at_once = [
            bits(members[f"{arm}-{seed}-start"], "documentation") for seed in range(seeds) if parameters is not None
        ]
        last = [bits(members[f"{arm}-{seed}"], "documentation") for seed in range(seeds)]
        backs = [_back(folder, f"{arm}-{seed}", goal) for seed, goal in enumerate(before)]
        lines.append(
            [
                words, mean_of(at_once) if at_once else "", mean_of(last),
                mean_of([end - start for end, start in zip(last, before, strict=True)]),
                ", ".join(f"{n:,}" if n else "not" for n in backs) if parameters else "",
            ]
        )  # fmt: skip
    nothing = [bits(members[f"nothing-{seed}"], "documentation") for seed in range(seeds)]
    lines.append(["new vocabulary from nothing, as many tokens", "", mean_of(nothing), "", ""])
    head = [
        "", "right after the swap", f"after {AFTER * tokens:,.0f} tokens", "minus before the swap",
        "tokens until it is back, by seed",
    ]  # fmt: skip
    measured = (
        f"{table(head, lines)}\n\n{seeds} seeds, bits per byte on held-out text; means with 95 % intervals (Student's "
        f"t). Back: an evaluation at or below the model before the swap.\n{origin('python experiments/swap.py')}\n\n"
        f"![Bits per byte after the swap](swap.svg)"
    )
    put(out / "swap.md", "A vocabulary swapped, with care and without", measured)
    _draw(members, folder, out / "swap.svg", seeds, before)


def _back(folder: Path, name: str, goal: float) -> int | None:
    """Tokens after which the model is where it was before the swap."""
    way = curve(folder, name, "documentation", LENGTH * SEQUENCES)
    return next((tokens for tokens, value in way if value <= goal), None)


def _draw(members: dict[str, dict[str, Any]], folder: Path, path: Path, seeds: int, before: list[float]) -> None:
    drawn, axes = figure(1, seeds, 3.0)
    for seed, axis in enumerate(axes.flat):
        for style, (arm, (words, parameters)) in enumerate(ARMS.items()):
            way = curve(folder, f"{arm}-{seed}", "documentation", LENGTH * SEQUENCES)
            if parameters is not None:
                way = [(0, bits(members[f"{arm}-{seed}-start"], "documentation")), *way]
            axis.plot(
                [tokens / 1000 for tokens, _ in way], [value for _, value in way], label=words, linewidth=0.9,
                color=COLORS[style], linestyle=DASHES[style],
            )  # fmt: skip
        axis.axhline(before[seed], color="#6b7280", linewidth=0.7, linestyle=":")
        axis.set_title(f"seed {seed}")
        axis.set_xlabel("thousand tokens after the swap")
        axis.set_ylim(before[seed] - 0.55, before[seed] + 1.1)
    axes[0][0].set_ylabel("bits per byte, held out\n(dotted: before the swap)")
    drawn.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save(drawn, path)


if __name__ == "__main__":
    told = settings(__doc__ or "")
    length = told.tokens or TOKENS
    place = told.place / "swap"
    family = made(recipe(told.place, told.seeds, length), place, draw=told.draw)
    report(family, place, told.out, told.seeds, length)
