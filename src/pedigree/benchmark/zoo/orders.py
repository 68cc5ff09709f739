"""What is asked of the zoo: a set of models on disk together with the truth about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pedigree.benchmark.zoo.catalog import recipes_of
from pedigree.benchmark.zoo.corpus import Corpus
from pedigree.benchmark.zoo.truth import Pair, Registry, write_truth
from pedigree.benchmark.zoo.workshop import Progress, Workshop
from pedigree.errors import UsageError

TRUTH = "truth.jsonl"
MINI_CHARS = 400_000


@dataclass(frozen=True)
class Zoo:
    """Models that are made.

    Args:
        directory: where they lie.
        models: name -> directory.
        pairs: the truth about every two of them.
        losses: name -> (mean of the first, mean of the last steps) in nats per token, for trained models.
        registry: the lineages behind the truth.
    """

    directory: Path
    models: Mapping[str, Path]
    pairs: Sequence[Pair]
    losses: Mapping[str, tuple[float, float]]
    registry: Registry

    def pair(self, a: str, b: str) -> Pair:
        """The truth about two models, in this order or the other.

        Raises:
            UsageError: one of them was not made.
        """
        for name in (a, b):
            if name not in self.models:
                raise UsageError("no such model in this zoo", got=name, expected=", ".join(self.models))
        return self.registry.pair(a, b)


def make(
    directory: Path,
    names: Sequence[str] | None = None,
    *,
    set_name: str = "llama",
    corpus: Corpus | None = None,
    max_chars: int = 3_000_000,
    progress: Progress | None = None,
) -> Zoo:
    """Make models of a set, with their ancestors, and write `truth.jsonl` beside them.

    Args:
        directory: where the models go; what is there already and up to date is kept.
        names: which models; None for all of the set.
        set_name: "llama", "architectures", "bank", "mini" or "demo".
        corpus: source of text; None for the standard library of the running Python.
        max_chars: characters of each part of the corpus that training draws from.
        progress: called with (model, steps done, steps in all, loss) after each step.

    Raises:
        UsageError: unknown set or name.
        MissingInput: transformers is not installed.
    """
    recipes = recipes_of(set_name)
    workshop = Workshop(directory, recipes, corpus or Corpus(), max_chars, progress)
    workshop.make(list(recipes) if names is None else names)
    made = [name for name in recipes if workshop.is_made(name)]
    registry = Registry(recipes)
    pairs = list(registry.pairs(made))
    write_truth(directory / TRUTH, pairs)
    losses: dict[str, tuple[float, float]] = {}
    for name in made:
        note = workshop.note(name)
        if note is not None and note["steps"]:
            losses[name] = (note["first_loss"], note["last_loss"])
    return Zoo(directory, {name: directory / name for name in made}, pairs, losses, registry)


def make_mini(directory: Path, names: Sequence[str] | None = None, progress: Progress | None = None) -> Zoo:
    """The set for tests: two seeds, a twin and derivatives, width 64; well under a minute on one core.

    Raises:
        MissingInput: transformers is not installed.
    """
    return make(directory, names, set_name="mini", max_chars=MINI_CHARS, progress=progress)


def make_demo(directory: Path, progress: Progress | None = None) -> Zoo:
    """The set of `pedigree demo`: "original", "stranger", "disguised", "disguised-deeper".

    Raises:
        MissingInput: transformers is not installed.
    """
    return make(directory, set_name="demo", max_chars=MINI_CHARS, progress=progress)
