"""Prefixes of tensor names: wrappers that say how a model was held, not what it is.

`model.layers.0.x`, `module.model.layers.0.x` and `model.language_model.layers.0.x` are the same tensor of the same
architecture. Known wrappers are taken off one after the other, in any order; a word that nobody knows is one where
most names begin with it (`without_wrapper`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

WRAPPERS = (
    "model.",
    "transformer.",
    "module.",
    "language_model.",
    "text_model.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "base_model.",
    "gpt_neox.",
    "bert.",
    "roberta.",
    "distilbert.",
    "electra.",
    "deberta.",
    "camembert.",
    "ernie.",
    "esm.",
    "nezha.",
    "layoutlm.",
    "backbone.",
    "model_state_dict.",
    "state_dict.",
    "llm.",
    "thinker.",
    "biogpt.",
    "albert.",
    "rwkv.",
)
_INNER = (".base_layer.", "._orig_mod.", "._fsdp_wrapped_module.", ".module.")


def strip_prefix(name: str) -> str:
    """A tensor name without the wrappers around it."""
    for inner in _INNER:
        name = name.replace(inner, ".")
    while name.startswith(WRAPPERS):
        stripped = name
        for wrapper in WRAPPERS:
            if stripped.startswith(wrapper) and len(stripped) > len(wrapper):
                stripped = stripped[len(wrapper) :]
        if stripped == name:  # a wrapper alone
            break
        name = stripped
    return name


def strip_prefixes(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Stripped names for all tensors.

    Returns:
        The stripped name of each tensor, and the tensors left out because another one strips to the same name (the
        one with the shorter full name keeps it).
    """
    by_stripped: dict[str, str] = {}
    doubled: list[str] = []
    for name in sorted(names, key=lambda text: (len(text), text)):
        stripped = strip_prefix(name)
        if stripped in by_stripped:
            doubled.append(name)
        else:
            by_stripped[stripped] = name
    return {name: stripped for stripped, name in by_stripped.items()}, doubled


SHARED = 0.75
"""Share of the names that have to begin with one word for it to be a wrapper."""


def without_wrapper(stripped: Mapping[str, str]) -> dict[str, str] | None:
    """Names without a first word that most of them share (`policy.`, `ema_model.`); None where there is none, or where
    two names would become one.

    Args:
        stripped: names without the wrappers that are known, by full name.
    """
    first = Counter(short.partition(".")[0] for short in stripped.values() if "." in short)
    word, count = max(first.items(), key=lambda item: item[1], default=("", 0))
    if not word or count < SHARED * len(stripped):
        return None
    inner = {name: strip_prefix(short.removeprefix(word + ".")) for name, short in stripped.items()}
    return inner if len(set(inner.values())) == len(inner) else None
