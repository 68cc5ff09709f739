"""Twenty models of two starts for family trees: every kind of line that a tree has to draw, a few minutes of one core.

base -> longer -> tuned-a -> chat          tuned-a, tuned-b -> merged      tuned-b -> quantized
               -> tuned-b, frozen, upcycled, permuted (the same weights in disguise)
     -> tuned-c, deeper -> deeper-tuned, wider, pruned, retokenized, permuted-tuned
stranger -> stranger-tuned                 tuned-c, stranger -> mixed
"""

from __future__ import annotations

from typing import Any

from pedigree.benchmark.zoo.architecture import Sizes
from pedigree.benchmark.zoo.recipe import Recipe, TokenizerRecipe
from pedigree.benchmark.zoo.train import Training

SIZES = Sizes(d_model=64, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=16, n_inner=128, vocab_size=512)
TOKENIZER = TokenizerRecipe(vocab_size=512, part=0, max_chars=200_000)
OTHER_TOKENIZER = TokenizerRecipe(vocab_size=576, part=3, max_chars=200_000)
MAX_CHARS = 400_000
"""Characters of each part of the corpus that training draws from."""

GROUP = "tree"


def _training(steps: int, part: int, order: int, lr: float = 1e-3, frozen: tuple[str, ...] = ()) -> Training:
    return Training(
        steps=steps,
        lr=lr,
        part=part,
        order=order,
        n_sequences=8,
        n_tokens=64,
        warmup=min(20, steps // 4),
        frozen=frozen,
    )


def _root(name: str, seed: int, steps: int) -> Recipe:
    training = _training(steps, 0, seed, lr=4e-3)
    return Recipe(name, GROUP, "llama", SIZES, seed, training=training, tokenizer=TOKENIZER)


def _child(
    name: str, *parents: str, operator: str | None = None, training: Training | None = None, **more: Any
) -> Recipe:
    arguments = more.pop("arguments", {})
    return Recipe(
        name, GROUP, seed=41_100, parents=parents, operator=operator, arguments=arguments, training=training, **more
    )


def recipes() -> list[Recipe]:
    """The models, parents before children."""
    upcycling = {"step": {"moe.upcycle": {"experts": 4, "top_k": 2, "op": "copy", "reinit": 0.25}}}
    return [
        _root("base", 41_001, 800),
        _root("stranger", 41_002, 600),
        _child("longer", "base", training=_training(300, 1, 11, 1.5e-3)),
        _child("tuned-a", "longer", training=_training(120, 2, 12)),
        _child("tuned-b", "longer", training=_training(120, 3, 13)),
        _child("tuned-c", "base", training=_training(160, 3, 14)),
        _child("chat", "tuned-a", training=_training(100, 1, 15)),
        _child("frozen", "longer", training=_training(120, 2, 16, frozen=("self_attn",))),
        _child("deeper", "base", operator="insert-layers", arguments={"after": [1]}, training=_training(150, 1, 17)),
        _child("deeper-tuned", "deeper", training=_training(100, 3, 18)),
        _child(
            "wider", "base", operator="widen-inner-copies", arguments={"n_inner": 192}, training=_training(150, 2, 19)
        ),
        _child("upcycled", "longer", operator="surgery", arguments=upcycling, training=_training(120, 3, 20)),
        _child("merged", "tuned-a", "tuned-b", operator="merge", arguments={"share": 0.5}),
        _child(
            "retokenized", "base", operator="swap-tokenizer", tokenizer=OTHER_TOKENIZER, training=_training(160, 3, 21)
        ),
        _child("quantized", "tuned-b", operator="quantize-int8"),
        _child("permuted", "longer", operator="permute"),
        _child("permuted-tuned", "base", operator="permute", training=_training(150, 1, 22)),
        _child("pruned", "base", operator="prune-inner", arguments={"n_inner": 96}, training=_training(150, 2, 23)),
        _child("stranger-tuned", "stranger", training=_training(150, 1, 24)),
        _child("mixed", "tuned-c", "stranger", operator="merge", arguments={"share": 0.6}),
    ]
