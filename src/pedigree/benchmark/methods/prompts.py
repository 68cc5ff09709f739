"""Texts that methods with forward passes are fed: lines of the library of the running Python, the same for all."""

from __future__ import annotations

from functools import lru_cache

from pedigree.benchmark.zoo.corpus import Corpus

PROMPTS = 200
PART = 2
"""Part of the corpus; roots are trained on another one."""
SHORTEST, LONGEST = 24, 100


@lru_cache(maxsize=4)
def prompts(count: int) -> tuple[str, ...]:
    """That many different lines of moderate length."""
    lines = (line.strip() for line in Corpus().text(PART, 200_000).splitlines())
    return tuple(dict.fromkeys(line for line in lines if SHORTEST <= len(line) <= LONGEST))[:count]
