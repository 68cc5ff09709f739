"""The second set: three bases of each architecture and a handful of derivatives of the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pedigree.benchmark.zoo.architecture import Sizes
from pedigree.benchmark.zoo.recipe import Recipe, TokenizerRecipe
from pedigree.benchmark.zoo.train import Training

TOKENIZER = TokenizerRecipe(vocab_size=2048, part=0)
SIZES = Sizes(d_model=96, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=32, n_inner=288)
PRETRAINING = Training(steps=200, lr=3e-3, part=0, order=0)
CONTINUATION = Training(steps=70, lr=1e-3, part=1, order=11)

# architecture -> sizes
ARCHITECTURES: Mapping[str, Sizes] = {
    "gpt2": replace(SIZES, n_inner=384, head_dim=24),
    "gpt_neox": replace(SIZES, n_inner=384, head_dim=24),
    "opt": replace(SIZES, n_inner=384, head_dim=24),
    "bert": replace(SIZES, n_inner=384, head_dim=24),
    "qwen2": replace(SIZES, head_dim=24),
    "qwen3": SIZES,
    "gemma2": SIZES,
    "olmo2": replace(SIZES, head_dim=24),
    "mixtral": replace(SIZES, n_inner=192),
    "deepseek_v3": replace(SIZES, n_inner=192, head_dim=24),
}

# architecture -> suffix -> operator
_GAUGE: Mapping[str, Mapping[str, str]] = {
    "gpt2": {"channels": "permute-channels", "heads": "permute-full-heads", "units": "permute-units"},
    "gpt_neox": {"channels": "permute-channels", "heads": "permute-full-heads", "units": "permute-units"},
    "opt": {"channels": "permute-channels", "rebased": "rebase-heads", "units": "permute-units"},
    "bert": {"channels": "permute-channels", "rebased": "rebase-heads", "units": "permute-units"},
    "qwen2": {"disguised": "permute", "units": "permute-units"},
    "qwen3": {"disguised": "permute", "units": "permute-units"},
    "gemma2": {"disguised": "permute", "units": "permute-units"},
    "olmo2": {"channels": "permute-residual", "units": "permute-units"},
    "mixtral": {"channels": "permute-residual", "experts": "permute-experts"},
    "deepseek_v3": {"channels": "permute-residual", "experts": "permute-experts"},
}


def _family(architecture: str, sizes: Sizes) -> list[Recipe]:
    group = architecture
    masked = architecture == "bert"
    pretraining = replace(PRETRAINING, masked=masked)
    # Masked prediction sees a seventh of the targets, so it is given more steps.
    pretraining = replace(pretraining, steps=400) if masked else pretraining
    continuation = replace(CONTINUATION, masked=masked)

    def base(name: str, seed: int, training: Training) -> Recipe:
        return Recipe(
            f"{architecture}-{name}", group, architecture, sizes, seed, training=training, tokenizer=TOKENIZER
        )

    def derived(name: str, operator: str, **arguments: Any) -> Recipe:
        parents = (f"{architecture}-base0",)
        return Recipe(f"{architecture}-{name}", group, seed=5, parents=parents, operator=operator, arguments=arguments)

    def continued(name: str, parent: str) -> Recipe:
        parents = (f"{architecture}-{parent}",)
        return Recipe(f"{architecture}-{name}", group, parents=parents, training=continuation)

    found = [
        *[base(f"base{i}", 300 + i, pretraining) for i in range(3)],
        base("twin", 300, replace(pretraining, part=2, order=7)),
        continued("continued", "base0"),
        derived("noisy", "noise", sigma=0.5),
        derived("dropped", "arrange-layers", order=[0, 1, 3]),
        *[derived(name, operator) for name, operator in _GAUGE[architecture].items()],
        *[continued(f"{name}+", name) for name in ("dropped", *_GAUGE[architecture])],
    ]
    if architecture == "bert":  # blocks of a post-norm model cannot be silent
        found.append(derived("inserted", "arrange-layers", order=[0, 1, 1, 2, 3]))
    else:
        found.append(derived("inserted", "insert-layers", after=[1]))
    found.append(continued("inserted+", "inserted"))
    if architecture not in ("mixtral", "deepseek_v3"):
        found.append(derived("pruned", "drop-units", n_inner=sizes.n_inner * 3 // 4))
        found.append(continued("pruned+", "pruned"))
    return found


def recipes() -> list[Recipe]:
    """The recipes of the set, parents first."""
    return [recipe for architecture, sizes in ARCHITECTURES.items() for recipe in _family(architecture, sizes)]
