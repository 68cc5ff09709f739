"""The null bank: many independent trainings of one recipe, data and data order included."""

from __future__ import annotations

from dataclasses import replace

from pedigree.benchmark.zoo.architecture import Sizes
from pedigree.benchmark.zoo.recipe import Recipe, TokenizerRecipe
from pedigree.benchmark.zoo.train import Training

TOKENIZER = TokenizerRecipe(vocab_size=2048, part=0)
SIZES = Sizes(d_model=64, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=16, n_inner=192)
PRETRAINING = Training(steps=200, lr=3e-3, part=0, order=0)
N_LLAMA = 16
N_GPT2 = 8


def recipes() -> list[Recipe]:
    """Sixteen Llama and eight GPT-2 models that differ in nothing but their seed."""
    plain = replace(SIZES, n_inner=256)
    return [
        *[
            Recipe(f"llama-{i:02d}", "bank-llama", "llama", SIZES, 500 + i, training=PRETRAINING, tokenizer=TOKENIZER)
            for i in range(N_LLAMA)
        ],
        *[
            Recipe(f"gpt2-{i:02d}", "bank-gpt2", "gpt2", plain, 600 + i, training=PRETRAINING, tokenizer=TOKENIZER)
            for i in range(N_GPT2)
        ],
    ]
