"""How one model of the zoo is made, as a value.

Law  equal keys mean equal models: a key digests the recipe, the keys of the parents, the tokenizer and the text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pedigree.benchmark.zoo.architecture import Sizes
from pedigree.benchmark.zoo.train import Training

# Raised by hand when the meaning of a recipe changes.
VERSION = 1


@dataclass(frozen=True)
class TokenizerRecipe:
    """A tokenizer of the zoo: trained on the first `max_chars` characters of a part."""

    vocab_size: int = 2048
    part: int | str = 0
    max_chars: int = 1_000_000

    def to_dict(self) -> dict[str, Any]:
        """The recipe as a JSON-ready mapping."""
        return {"vocab_size": self.vocab_size, "part": self.part, "max_chars": self.max_chars}


@dataclass(frozen=True)
class Recipe:
    """One model: a fresh start or an operator applied to parents, then training or none.

    Args:
        name: directory name.
        group: models of one group are compared with each other.
        architecture, sizes, seed: of a fresh start; architecture None where there are parents.
        parents: names of the models the operator takes, the first one gives config and tokenizer.
        operator: key of the operator registry; None with a parent means a plain continuation.
        arguments: keyword arguments of the operator.
        training: None for an untrained derivative.
        tokenizer: the tokenizer of a fresh start, or the new one of a vocabulary operator.
        teacher: model whose predictions are the target instead of text.
        root: name of the training this one is a part of, where it is not its own.
        follows: an intermediate checkpoint of the same training.
        compared: False for a broken step on the way that no truth is told about.
    """

    name: str
    group: str
    architecture: str | None = None
    sizes: Sizes | None = None
    seed: int = 0
    parents: tuple[str, ...] = ()
    operator: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    training: Training | None = None
    tokenizer: TokenizerRecipe | None = None
    teacher: str | None = None
    root: str | None = None
    follows: str | None = None
    compared: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The recipe as a JSON-ready mapping."""
        return {
            "architecture": self.architecture,
            "sizes": self.sizes.to_dict() if self.sizes else None,
            "seed": self.seed,
            "operator": self.operator,
            "arguments": dict(self.arguments),
            "training": self.training.to_dict() if self.training else None,
            "tokenizer": self.tokenizer.to_dict() if self.tokenizer else None,
        }

    def key(self, parent_keys: tuple[str, ...]) -> str:
        """Content address of the model this recipe makes from parents of these keys."""
        content = json.dumps([VERSION, self.to_dict(), parent_keys], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
