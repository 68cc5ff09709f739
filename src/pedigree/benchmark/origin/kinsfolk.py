"""Families in which kinds of kinship are hard to tell apart: trainings of one random start, and their descendants.

Each family has one random start. Several models are trained from it: on other text, in another order, at another
rate, for more or fewer steps, hardly at all. Each of those is a twin of the others. Children continue some of them, on
the same and on other text; some stand in another frame or have a fresh vocabulary. What two models are follows from
their names alone: the part before the first dot says which training of the start they come from.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pedigree.benchmark.zoo.architecture import Sizes, fresh_model, open_model, save_model
from pedigree.benchmark.zoo.derive_gauge import permute_residual, permute_units, rotate_residual
from pedigree.benchmark.zoo.derive_survival import fresh_tables
from pedigree.benchmark.zoo.recipe import TokenizerRecipe
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.benchmark.zoo.train import Training, train
from pedigree.benchmark.zoo.workshop import Workshop

Kind = Literal["twin", "parent", "sibling"]
LLAMA_LIKE = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True)
class Kin:
    """A family: its design and size, how its members are trained, and how large its random start is drawn.

    Args:
        name, architecture, sizes, seed: of the start.
        steps, rate: training of the root.
        scale: factor on every matrix of the start.
        n_tokens: length of a sequence; eight of them are a batch.
    """

    name: str
    architecture: str
    sizes: Sizes
    seed: int
    steps: int
    rate: float
    scale: float = 1.0
    n_tokens: int = 32


def _small(width: int, layers: int = 3, inner: int = 3) -> Sizes:
    return Sizes(width, layers, 4, 2, width // 4, inner * width, 320 if width < 64 else 512)


CALIBRATION = (
    Kin("llama-a", "llama", _small(32), 50_001, 60, 5e-3),
    Kin("gpt2-a", "gpt2", _small(32), 50_002, 60, 5e-3),
    Kin("qwen3-large", "qwen3", _small(48), 50_003, 100, 3e-3, 3.0),
    Kin("gemma2-a", "gemma2", _small(32), 50_004, 40, 2e-3),
    Kin("gpt_neox-small", "gpt_neox", _small(32), 50_005, 60, 5e-3, 0.3),
    Kin("mixtral-a", "mixtral", _small(32, inner=2), 50_006, 60, 5e-3),
    Kin("llama-bare", "llama", _small(64), 50_007, 30, 1e-3),
    Kin("llama-large", "llama", _small(64), 50_008, 100, 3e-3, 5.0),
    Kin("olmo2-a", "olmo2", _small(64), 50_009, 80, 4e-3),
    Kin("gpt2-b", "gpt2", _small(64), 50_010, 150, 1e-3),
    Kin("qwen2-a", "qwen2", _small(96, inner=2), 50_011, 80, 2e-3),
    Kin("llama-b", "llama", _small(96), 50_012, 120, 2e-3, 1.5),
)
"""What thresholds may be set on."""

TEST = (
    Kin("llama-c", "llama", _small(48), 60_001, 80, 4e-3),
    Kin("qwen2-c", "qwen2", _small(32), 60_002, 50, 8e-3),
    Kin("gpt2-c", "gpt2", _small(48), 60_003, 120, 2e-3),
    Kin("gemma2-c", "gemma2", _small(64), 60_004, 60, 5e-3),
    Kin("llama-d", "llama", _small(64, 4), 60_005, 150, 3e-3, 2.0),
    Kin("gpt_neox-c", "gpt_neox", _small(64), 60_006, 80, 2e-3),
    Kin("llama-e", "llama", _small(32, 2), 60_007, 25, 3e-3),
    Kin("opt-c", "opt", _small(48), 60_008, 80, 3e-3),
    Kin("deepseek_v3-c", "deepseek_v3", _small(64, inner=2), 60_009, 60, 4e-3),
    Kin("qwen3-c", "qwen3", _small(96), 60_010, 100, 1e-3),
    Kin("llama-f", "llama", _small(64), 60_011, 80, 5e-3, 0.4),
    Kin("olmo2-c", "olmo2", _small(48), 60_012, 60, 3e-3, 2.5),
)
"""What is counted, once."""

TWINS: dict[str, tuple[float, float, int, int]] = {
    "root": (1.0, 1.0, 0, 0), "data": (1.0, 1.0, 2, 8), "order": (1.0, 1.0, 0, 9), "slow": (1.0, 1 / 3, 0, 0),
    "fast": (1.0, 2.0, 0, 0), "short": (1 / 3, 1.0, 0, 0), "long": (3.0, 1.0, 0, 0), "bare": (0.1, 1.0, 2, 7),
    "far": (4.0, 1.0, 2, 10),
}  # fmt: skip
"""Trainings of the start: steps and rate in units of the root's, part of the text, order."""

CHILDREN: dict[str, tuple[float, float, int, int]] = {
    "root.low": (0.3, 0.25, 1, 11), "root.same": (0.3, 0.25, 0, 13), "root.hot": (1.0, 1.0, 2, 15),
    "root.again": (1.0, 1.0, 0, 16), "root.long": (3.0, 0.25, 2, 22), "data.low": (0.3, 0.25, 1, 17),
    "data.hot": (1.0, 1.0, 0, 0), "bare.low": (0.3, 0.25, 1, 18), "bare.hot": (1.0, 1.0, 1, 19),
    "bare.other": (1.0, 1.0, 2, 20), "short.hot": (1.0, 1.0, 1, 21), "root.hot.low": (0.3, 0.25, 1, 23),
}  # fmt: skip
"""Trainings of a finished model, likewise; the parent is what stands before the last dot."""

MOVED = ("data.moved", "data.fresh", "root.low.moved", "root.low.fresh")
"""Models in another frame, and with tables that were drawn anew and trained for a while."""


def make(kin: Kin, place: Path, only: Sequence[str] = ()) -> Path:
    """Train the members of a family that are not there yet; returns their directory.

    Args:
        kin: the family.
        place: its directory gets the family's name.
        only: names of members, parents among them; all by default.
    """
    home = place / kin.name
    desk = Workshop(place, {}, max_chars=200_000)
    words = desk.tokenizer(TokenizerRecipe(vocab_size=kin.sizes.vocab_size, part=0, max_chars=60_000))
    whole = Training(steps=kin.steps, lr=kin.rate, n_sequences=8, n_tokens=kin.n_tokens)
    for name, (length, rate, part, order) in {**TWINS, **CHILDREN}.items():
        if (only and name not in only) or (home / name / "config.json").is_file():
            continue
        steps = max(2, round(length * kin.steps))
        how = replace(
            whole, steps=steps, lr=kin.rate * rate, part=part, order=order, warmup=min(kin.steps // 10, steps // 4)
        )
        model = open_model(home / name.rpartition(".")[0]) if "." in name else _start(kin)
        train(model, desk.ids(words, part), how)
        save_model(model, home / name, words)
    for name in MOVED:
        if (not only or name in only) and not (home / name / "config.json").is_file():
            _move(kin, home, name, desk.ids(words, 1), replace(whole, steps=max(2, kin.steps // 5), order=31, warmup=2))
    return home


def _start(kin: Kin) -> Any:
    import torch

    model = fresh_model(kin.architecture, kin.sizes, kin.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(kin.scale)
    return model


def _move(kin: Kin, home: Path, name: str, ids: Any, how: Training) -> None:
    parent, _, move = name.rpartition(".")
    before = Snapshot.load(home / parent)
    if move == "moved":
        turned = permute_units(before, seed=3) if kin.architecture not in ("mixtral", "deepseek_v3") else before
        if kin.architecture in LLAMA_LIKE:
            turned = (
                rotate_residual(turned, seed=4) if kin.architecture == "llama" else permute_residual(turned, seed=4)
            )
        turned.save(home / name)
    elif kin.architecture in LLAMA_LIKE:
        fresh_tables(before, seed=5).save(home / name)
        model = open_model(home / name)
        train(model, ids, how)
        save_model(model, home / name, before.tokenizer)


def kind_of_pair(a: str, b: str) -> Kind:
    """What two members of a family are, from their names."""
    if a.split(".")[0] != b.split(".")[0]:
        return "twin"
    return "parent" if a.startswith(f"{b}.") or b.startswith(f"{a}.") else "sibling"


ONE_RUN = ("root", "slow", "fast", "short", "long")
"""Trainings of one start that read the same text in the same order."""


def is_one_run(a: str, b: str) -> bool:
    """Whether two twins, or what they descend from, read the same text in the same order: the hardest case."""
    one, two = a.split(".")[0], b.split(".")[0]
    return one != two and one in ONE_RUN and two in ONE_RUN


def pairs(home: Path, most: int = 110) -> Iterator[tuple[str, str, Kind]]:
    """Pairs of a family in an order drawn by hash; all of descent, and as many twins as are wanted; parents first."""
    names = sorted(path.parent.name for path in home.glob("*/config.json"))
    every = [(a, b, kind_of_pair(a, b)) for a, b in itertools.combinations(names, 2)]
    kept = [pair for pair in every if pair[2] != "twin"]
    apart = sorted((pair for pair in every if pair[2] == "twin"), key=_draw)
    yield from sorted([*kept, *apart[: max(0, most - len(kept))]], key=_draw)


def _draw(pair: tuple[str, str, Kind]) -> bytes:
    return hashlib.sha256("|".join(pair).encode()).digest()
