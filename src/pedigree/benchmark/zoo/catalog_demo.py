"""The set of `pedigree demo`: two models trained alike from different seeds, and the first one again in disguise."""

from __future__ import annotations

from pedigree.benchmark.zoo.architecture import Sizes
from pedigree.benchmark.zoo.recipe import Recipe, TokenizerRecipe
from pedigree.benchmark.zoo.train import Training

GROUP = "demo"
SIZES = Sizes(d_model=96, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=24, n_inner=288, vocab_size=1536)
TOKENIZER = TokenizerRecipe(vocab_size=1536, part=0, max_chars=600_000)
PRETRAINING = Training(steps=200, lr=3e-3, part=0, order=0, n_sequences=16, n_tokens=96)


def recipes() -> list[Recipe]:
    """The recipes of the set, parents first."""
    bases = [
        Recipe(name, GROUP, "llama", SIZES, seed, training=PRETRAINING, tokenizer=TOKENIZER)
        for name, seed in (("original", 70), ("stranger", 71))
    ]
    return [
        *bases,
        Recipe("disguised", GROUP, seed=72, parents=("original",), operator="disguise"),
        Recipe(
            "disguised-deeper", GROUP, parents=("disguised",), operator="insert-layers", arguments={"after": [1, 3]}
        ),
    ]
