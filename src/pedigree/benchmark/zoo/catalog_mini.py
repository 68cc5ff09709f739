"""The set for tests: two seeds, a twin, and most kinds of derivative, in less than a minute of one core."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pedigree.benchmark.zoo.architecture import Sizes
from pedigree.benchmark.zoo.recipe import Recipe, TokenizerRecipe
from pedigree.benchmark.zoo.train import Training

GROUP = "mini"
SIZES = Sizes(d_model=64, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=16, n_inner=192, vocab_size=1024)
TOKENIZER = TokenizerRecipe(vocab_size=1024, part=0, max_chars=200_000)
OTHER_TOKENIZER = TokenizerRecipe(vocab_size=1152, part=1, max_chars=200_000)
PRETRAINING = Training(steps=130, lr=4e-3, part=0, order=0, n_sequences=16, n_tokens=64)
CONTINUATION = replace(PRETRAINING, steps=35, lr=1e-3, part=1, order=11)


def _base(name: str, seed: int, training: Training = PRETRAINING) -> Recipe:
    return Recipe(name, GROUP, "llama", SIZES, seed, training=training, tokenizer=TOKENIZER)


def _derived(name: str, operator: str, *parents: str, **arguments: Any) -> Recipe:
    tokenizer = arguments.pop("tokenizer", None)
    return Recipe(
        name,
        GROUP,
        seed=9,
        parents=parents or ("base0",),
        operator=operator,
        arguments=arguments,
        tokenizer=tokenizer,
    )


def _continued(name: str, parent: str) -> Recipe:
    return Recipe(name, GROUP, parents=(parent,), training=CONTINUATION)


def recipes() -> list[Recipe]:
    """The recipes of the set, parents first."""
    return [
        _base("base0", 40),
        _base("base1", 41),
        _base("twin", 40, replace(PRETRAINING, part=2, order=7)),
        _derived("resharded", "reshard", n_shards=2),
        _derived("fused", "fuse"),
        _derived("permuted", "permute"),
        _derived("rotated", "rotate"),
        _derived("disguised", "disguise"),
        _derived("inserted", "insert-layers", after=[1]),
        _derived("stacked", "arrange-layers", order=[0, 1, 2, 1, 2, 3]),
        _derived("dropped", "arrange-layers", order=[0, 1, 3]),
        _derived("widened", "widen-inner-copies", n_inner=256),
        _derived("wider", "widen-residual", d_model=80),
        _derived("biased", "add-biases"),
        _derived("moe", "upcycle", n_experts=4, top_k=2),
        _derived("moe-granular", "upcycle-granular", n_experts=4, width=96, top_k=2, noise=0.3),
        _derived("retokenized", "swap-tokenizer", tokenizer=OTHER_TOKENIZER),
        _derived("pruned-inner", "prune-inner", n_inner=128),
        _derived("pruned-residual", "prune-residual", d_model=48),
        _derived("noisy", "noise", sigma=0.5),
        _derived("merged-20", "merge", "base0", "base1", share=0.2),
        _derived("spliced", "splice-layers", "base0", "base1", layers=[2, 3]),
        _continued("continued", "base0"),
        _continued("disguised+", "disguised"),
        _continued("inserted+", "inserted"),
        _continued("moe-granular+", "moe-granular"),
        _continued("retokenized+", "retokenized"),
    ]
