"""How large the models of a benchmark are, and how long their roots are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pedigree.benchmark.zoo.architecture import Sizes
from pedigree.benchmark.zoo.recipe import TokenizerRecipe
from pedigree.benchmark.zoo.train import Training
from pedigree.errors import UsageError

SEEDS_APART = 100_000
"""Between the starts of one seed of the benchmark and those of the next; families use 10,000 to 29,999."""
ORDERS_APART = 100


@dataclass(frozen=True)
class Scale:
    """One size of the whole benchmark.

    Args:
        name: "nano", "pico" or "micro".
        sizes: shape of a model.
        tokenizer, other_tokenizer: of roots, and of those whose vocabulary was replaced.
        original: training of a root; its steps are the unit of training distance.
        rate: peak learning rate of later training.
        max_chars: characters of each part of the corpus.
        wide_inner: FFN width of the family in which one unit of a hundred survives.
        seconds: processor time of one training step, mean over the designs, for the estimate that is printed first;
            measured on one core of a virtual machine of 2026.
        seed: of everything that is drawn: starts, order of texts, derivations. The benchmark that is reported has 0.
    """

    name: str
    sizes: Sizes
    tokenizer: TokenizerRecipe
    other_tokenizer: TokenizerRecipe
    original: Training
    rate: float
    max_chars: int
    wide_inner: int
    seconds: float
    seed: int = 0

    def start(self, seed: int) -> int:
        """The seed of a family's start under the seed of this scale."""
        return seed + SEEDS_APART * self.seed

    def trained(self) -> Training:
        """Training of a root: `original`, with the order of texts that the seed gives."""
        return replace(self.original, order=self.original.order + ORDERS_APART * self.seed)

    def later(self, distance: float, *, part: int = 1, order: int = 11, hot: bool = False) -> Training | None:
        """Training after the root's, of `distance` times its steps; None for a distance of zero."""
        steps = round(distance * self.original.steps)
        rate = self.original.lr if hot else self.rate
        warmup = min(self.original.warmup, max(1, steps // 4))
        order += ORDERS_APART * self.seed
        return replace(self.original, steps=steps, lr=rate, part=part, order=order, warmup=warmup) if steps else None


SCALES: Mapping[str, Scale] = {
    "nano": Scale(
        name="nano",
        sizes=Sizes(d_model=64, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=16, n_inner=128, vocab_size=512),
        tokenizer=TokenizerRecipe(vocab_size=512, part=0, max_chars=200_000),
        other_tokenizer=TokenizerRecipe(vocab_size=576, part=3, max_chars=200_000),
        original=Training(steps=200, lr=4e-3, part=0, order=0, n_sequences=8, n_tokens=64, warmup=20),
        rate=1e-3,
        max_chars=400_000,
        wide_inner=1024,
        seconds=0.023,
    ),
    "pico": Scale(
        name="pico",
        sizes=Sizes(d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, n_inner=96, vocab_size=320),
        tokenizer=TokenizerRecipe(vocab_size=320, part=0, max_chars=60_000),
        other_tokenizer=TokenizerRecipe(vocab_size=352, part=3, max_chars=60_000),
        original=Training(steps=60, lr=5e-3, part=0, order=0, n_sequences=8, n_tokens=32, warmup=6),
        rate=2e-3,
        max_chars=80_000,
        wide_inner=512,
        seconds=0.009,
    ),
    # Other proportions and another course of training, so that nothing hangs on those of nano.
    "micro": Scale(
        name="micro",
        sizes=Sizes(d_model=96, n_layers=5, n_heads=6, n_kv_heads=3, head_dim=16, n_inner=192, vocab_size=640),
        tokenizer=TokenizerRecipe(vocab_size=640, part=1, max_chars=200_000),
        other_tokenizer=TokenizerRecipe(vocab_size=700, part=2, max_chars=200_000),
        original=Training(steps=150, lr=3e-3, part=0, order=0, n_sequences=8, n_tokens=64, warmup=10),
        rate=1.5e-3,
        max_chars=400_000,
        wide_inner=1024,
        seconds=0.045,
    ),
}


def scale_of(name: str, seed: int = 0) -> Scale:
    """The scale of a name, under a seed.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in SCALES:
        raise UsageError("no such size", got=name, expected=", ".join(SCALES))
    return replace(SCALES[name], seed=seed)
