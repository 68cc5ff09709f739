"""Every named member trains at pico size: below the unigram entropy of its text, with a sample that can be read.

    python experiments/members.py [--seeds 1] [--only NAME] [--draw]

Two bars, both in nats per token: the unigram entropy of the corpus, and what the frequencies of the corpus (plus one)
cost on the very tokens that the member is scored on. A member must end below both.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpora import documentation, vocabulary
from curves import cost, entropy, smoothed
from pages import figure, origin, put, save, table
from trials import Trial, rows, settings, work_off

from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.model.generation import Sampling, generate
from pedigree.model.members import member, names
from pedigree.training.config import SourceConfig, TrainingConfig
from pedigree.training.run import Run

LENGTH, SEQUENCES, STEPS, RATE = 128, 8, 800, 6e-3
ROOM = 512  # least vocabulary: where the dial gives fewer ids, nearly all of them are bytes
PROMPT, WRITTEN = "Return the ", 80  # tokens


def pico(name: str) -> ModelConfig:
    """The pico sibling of a member; with room for words where the dial gives fewer ids."""
    config = member(f"{name}-pico")
    return config if config.vocab_size >= ROOM else config.replace(vocab_size=ROOM)


def trial(name: str, place: Path, source: SourceConfig, steps: int, seed: int = 0) -> Trial:
    """One member on one corpus, with a tokenizer of the size of its vocabulary."""
    config = pico(name)
    tokens = steps * LENGTH * SEQUENCES
    training = TrainingConfig.model_validate(
        {
            "name": name, "sources": (source,), "sequence_length": LENGTH, "batch_sequences": SEQUENCES, "seed": seed,
            "tokens": tokens, "log_every": 1, "optimizer": {"lr": RATE}, "checkpoint": {"every": 100, "keep": 1},
            "schedule": {"warmup_tokens": tokens // 20}, "evaluation": {"max_tokens": 4000},
        }
    )  # fmt: skip
    words = vocabulary(place, (source,), config.vocab_size)
    return Trial(f"{name}-{seed}", config, training, words, {"member": name, "seed": seed}, bar_and_sample)


def bar_and_sample(run: Run, model: Decoder) -> dict[str, Any]:
    """The two bars, and a line that the model wrote."""
    separator, size = run.vocabulary.separator, run.vocabulary.size
    held_out = np.concatenate([text.ids for text in run.texts])
    trained = np.concatenate([np.asarray(corpus.train.ids) for corpus in run.batches.corpora])
    there, seen = (np.bincount(ids[ids != separator], minlength=size).tolist() for ids in (held_out, trained))
    return {
        "unigram_held_out": cost(there, seen), "unigram_corpus": entropy(seen), "sample": written_by(run, model)
    }  # fmt: skip


def written_by(run: Run, model: Decoder) -> str:
    """What the model writes behind a prompt, drawn at temperature 0.5 from the 20 likeliest tokens, on one line."""
    prompt = [run.vocabulary.separator, *run.vocabulary.tokenizer.encode(PROMPT, add_special_tokens=False).ids]
    domain = 0 if model.config.experts is not None and model.config.experts.router == "random" else None
    drawn = Sampling(temperature=0.5, top_k=20)
    ids = generate(model, torch.tensor([prompt]), WRITTEN, sampling=drawn, domain=domain)[0].tolist()
    return " ".join(run.vocabulary.tokenizer.decode(ids[1:]).split())


def report(results: list[dict[str, Any]], folder: Path, out: Path) -> None:
    """Table and picture of what is there."""
    lines = []
    for result in results:
        score = next(iter(result["scores"].values()))
        gain = min(result["unigram_held_out"], result["unigram_corpus"]) - score["nats_per_token"]
        lines.append(
            [
                f"{result['member']}-pico", f"{result['parameters']:,}", f"{result['tokens']:,}",
                f"{score['bits_per_byte']:.3f}", f"{score['nats_per_token']:.3f}",
                f"{result['unigram_held_out']:.3f}", f"{result['unigram_corpus']:.3f}", f"{gain:.3f}",
                f"{result['seconds']:.0f}",
            ]
        )  # fmt: skip
    head = [
        "member", "parameters", "tokens", "bits per byte", "nats per token", "unigram, same tokens",
        "unigram, corpus",
        "below by", "seconds",
    ]  # fmt: skip
    below = sum(float(line[7]) > 0 for line in lines)
    said = "\n".join(f"- **{r['member']}**: `{' '.join(r['sample'].replace('`', ' ').split())[:240]}`" for r in results)
    measured = (
        f"{below} of {len(lines)} members end below both bars.\n\n"
        f"{table(head, lines)}\n\n{origin('python experiments/members.py')}\n\n"
        f"![Nats per token above and below the unigram entropy](members.svg)\n\n"
        f"What each wrote behind `{PROMPT.strip()}`:\n\n{said}"
    )
    put(out / "members.md", "Members", measured)
    _draw(results, folder, out / "members.svg")


def _draw(results: list[dict[str, Any]], folder: Path, path: Path) -> None:
    columns = 6
    n_rows = math.ceil(len(results) / columns)
    drawn, axes = figure(n_rows, columns, 1.25 * n_rows + 0.3)
    for axis in axes.flat[len(results) :]:
        axis.axis("off")
    for axis, result in zip(axes.flat, results, strict=False):
        steps = rows(folder, result)
        losses = smoothed([row["cross_entropy"] for row in steps], 9)
        axis.plot([row["tokens"] / 1000 for row in steps], losses, color="#2f6ea5", linewidth=0.9)
        axis.axhline(result["unigram_corpus"], color="#c4500a", linewidth=0.8, linestyle="--")
        axis.set_title(result["member"], fontsize=6.5)
        axis.tick_params(labelsize=6)
    drawn.supxlabel("thousand tokens (dashed: unigram entropy of the corpus)", fontsize=7.5)
    drawn.supylabel("nats per token", fontsize=7.5)
    save(drawn, path)


if __name__ == "__main__":
    told = settings(__doc__ or "")
    place = told.place / "members"
    text = documentation(told.place)
    todo = [trial(name, told.place, text, told.steps or STEPS) for name in names()]
    report(work_off(todo, place, told), place, told.out)
