"""The main set: Llama bases of one recipe and everything that was done to the first of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pedigree.benchmark.zoo.architecture import Sizes
from pedigree.benchmark.zoo.recipe import Recipe, TokenizerRecipe
from pedigree.benchmark.zoo.train import Training

GROUP = "llama"
SIZES = Sizes()
PRETRAINING = Training(steps=400, lr=3e-3, part=0, order=0)
CONTINUATION = Training(steps=130, lr=1e-3, part=1, order=11)
TOKENIZER = TokenizerRecipe(vocab_size=2048, part=0)
OTHER_TOKENIZER = TokenizerRecipe(vocab_size=2304, part=3)


def _base(name: str, seed: int, training: Training = PRETRAINING, **changes: Any) -> Recipe:
    recipe = Recipe(
        name=name,
        group=GROUP,
        architecture="llama",
        sizes=SIZES,
        seed=seed,
        training=training,
        tokenizer=TOKENIZER,
    )
    return replace(recipe, **changes)


def _bases() -> list[Recipe]:
    half = replace(PRETRAINING, stop=200)
    return [
        _base("base0-half", 100, half, root="base0"),
        _base("base0", 100, follows="base0-half"),
        *[_base(f"base{i}", 100 + i) for i in (1, 2, 3)],
        _base("twin", 100, Training(steps=400, lr=3e-3, part=2, order=7)),
    ]


def _derived(name: str, operator: str, *parents: str, **arguments: Any) -> Recipe:
    tokenizer = arguments.pop("tokenizer", None)
    seed = arguments.pop("seed", 1)
    return Recipe(
        name=name,
        group=GROUP,
        parents=parents or ("base0",),
        operator=operator,
        arguments=arguments,
        seed=seed,
        tokenizer=tokenizer,
        compared=operator != "reinitialize",
    )


def _untrained() -> list[Recipe]:
    inserted = [1, 4]
    return [
        _derived("resharded", "reshard", n_shards=3),
        _derived("renamed", "rename", prefix="language_model.", n_shards=2),
        _derived("fused", "fuse"),
        _derived("cast-bf16", "cast", dtype="bfloat16"),
        _derived("cast-bf16-back", "cast", "cast-bf16", dtype="float32"),
        _derived("quantized-int8", "quantize-int8"),
        _derived("permuted", "permute", seed=21),
        _derived("permuted-units", "permute-units", seed=22),
        _derived("permuted-heads", "permute-heads", seed=23),
        _derived("rotated", "rotate", seed=24),
        _derived("disguised", "disguise", seed=25),
        _derived("inserted", "insert-layers", after=inserted),
        _derived("stacked", "arrange-layers", order=[0, 1, 2, 3, 2, 3, 4, 5]),
        _derived("interposed", "arrange-layers", order=[0, 0, 1, 2, 2, 3, 4, 5, 5]),
        _derived("dropped", "arrange-layers", order=[0, 1, 3, 5]),
        _derived("widened-zeros", "widen-inner-zeros", n_inner=512),
        _derived("widened-copies", "widen-inner-copies", n_inner=512),
        _derived("wider", "widen-residual", d_model=160),
        _derived("biased", "add-biases"),
        _derived("moe-full", "upcycle", n_experts=4, top_k=2),
        _derived("moe-granular", "upcycle-granular", n_experts=8, width=192, top_k=4, noise=0.3),
        _derived("moe-granular-qwen", "upcycle-granular-qwen", n_experts=8, width=192, top_k=4, noise=0.3),
        _derived("retokenized", "swap-tokenizer", tokenizer=OTHER_TOKENIZER),
        _derived("reembedded", "fresh-embeddings", tokenizer=OTHER_TOKENIZER, seed=31),
        _derived("extended", "extend-vocabulary", tokens=["<tool>", "</tool>", "<think>"], n_padding=61),
        _derived("renumbered", "shuffle-vocabulary", seed=32),
        _derived("pruned-inner", "prune-inner", n_inner=256),
        _derived("pruned-residual", "prune-residual", d_model=96),
        _derived("noisy", "noise", sigma=1.0, seed=33),
        _derived("merged-50", "merge", "base0", "base1", share=0.5),
        _derived("merged-20", "merge", "base0", "base1", share=0.2),
        _derived("spliced", "splice-layers", "base0", "base1", layers=[3, 4, 5]),
        _derived("spliced-odd", "splice-layers", "base0", "base1", layers=[1, 3, 5]),
        _derived("low-rank", "low-rank", rank=4, strength=0.2, seed=34),
        _derived("no-ffn", "reinitialize", branch="mlp", seed=35),
        _derived("no-attention", "reinitialize", branch="attn", seed=36),
        _derived("no-body", "reinitialize", branch="body", seed=37),
        _derived("rotated-reembedded", "fresh-embeddings", "disguised", tokenizer=OTHER_TOKENIZER, seed=38),
        _derived("rotated-moe", "upcycle-granular", "rotated", n_experts=6, width=128, top_k=3, noise=0.5),
        _derived("retokenized-moe", "upcycle-granular-qwen", "retokenized", n_experts=8, width=192, top_k=4, noise=0.3),
        _derived("dropped-pruned", "prune-inner", "dropped", n_inner=256),
        _derived("permuted-inserted", "insert-layers", "permuted", after=inserted),
        _derived("wider-widened", "widen-inner-copies", "wider", n_inner=512),
    ]


# Derivatives whose continuation is also in the set, under the name with "+" appended.
_CONTINUED = (
    "permuted",
    "rotated",
    "disguised",
    "inserted",
    "stacked",
    "interposed",
    "dropped",
    "widened-zeros",
    "widened-copies",
    "wider",
    "biased",
    "moe-full",
    "moe-granular",
    "moe-granular-qwen",
    "retokenized",
    "reembedded",
    "extended",
    "pruned-inner",
    "pruned-residual",
    "noisy",
    "merged-50",
    "merged-20",
    "spliced",
    "low-rank",
    "no-ffn",
    "no-attention",
    "no-body",
    "rotated-reembedded",
    "rotated-moe",
    "retokenized-moe",
    "dropped-pruned",
    "permuted-inserted",
    "wider-widened",
    "quantized-int8",
)
# These start from a broken model and are trained as long as a base.
_LONG = ("no-ffn", "no-attention", "no-body")


def _continued(parent: str, name: str | None = None, training: Training = CONTINUATION) -> Recipe:
    return Recipe(name=name or f"{parent}+", group=GROUP, parents=(parent,), training=training)


def _trained() -> list[Recipe]:
    long = replace(CONTINUATION, steps=400, lr=3e-3)
    frozen = replace(CONTINUATION, frozen=(r"embed_tokens", r"layers\.[012]\.", r"lm_head"))
    return [
        _continued("base0", "continued"),
        *[_continued(parent, training=long if parent in _LONG else CONTINUATION) for parent in _CONTINUED],
        _continued("base0", "continued-long", replace(CONTINUATION, steps=400)),
        _continued("base0", "continued-hot", long),
        _continued("base0", "continued-sibling", replace(CONTINUATION, part=3, order=12)),
        _continued("base1", "continued-stranger"),
        _continued("base0", "continued-frozen", frozen),
        _continued("rotated", "rotated-long", replace(CONTINUATION, steps=400)),
        _continued("continued", "grandchild", replace(CONTINUATION, part=3, order=13)),
        _base("distilled", 900, Training(steps=400, lr=3e-3, part=1, order=14), teacher="base0"),
    ]


def recipes() -> list[Recipe]:
    """The recipes of the set, parents first."""
    return [*_bases(), *_untrained(), *_trained()]
