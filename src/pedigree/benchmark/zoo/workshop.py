"""Makes the models of a catalog in a directory: resumable, and nothing is made twice.

Beside the models lies `.workshop/`: cached tokens, tokenizers and one note per model (key, losses, seconds).

Law  a model whose note carries the key of its recipe is left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.benchmark.zoo.architecture import fresh_model, open_model, save_model
from pedigree.benchmark.zoo.catalog import operator_of
from pedigree.benchmark.zoo.corpus import Corpus, encode, train_tokenizer
from pedigree.benchmark.zoo.recipe import Recipe, TokenizerRecipe
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.benchmark.zoo.train import smoothed, train
from pedigree.errors import InternalError, UsageError

if TYPE_CHECKING:
    import numpy as np

Progress = Callable[[str, int, int, float], None]
"""Called with (model name, steps done, steps in all, loss)."""


@dataclass
class Workshop:
    """A directory in which zoo models are made.

    Args:
        directory: where the models go, one directory each.
        recipes: every recipe by name; parents must be among them.
        corpus: source of text.
        max_chars: characters of a part that training draws from.
        progress: called during training.
    """

    directory: Path
    recipes: Mapping[str, Recipe]
    corpus: Corpus = field(default_factory=Corpus)
    max_chars: int = 3_000_000
    progress: Progress | None = None

    def make(self, names: Sequence[str]) -> list[Path]:
        """Make the named models and, before them, their ancestors; returns their directories.

        Raises:
            UsageError: a name is not in the catalog.
            MissingInput: transformers is not installed or there is no text.
        """
        return [self._make_one(name) for name in names]

    def note(self, name: str) -> dict[str, Any] | None:
        """What was written down when the model was made: key, losses, seconds; None where it was not."""
        path = self._desk / f"{name}.json"
        return dict(json.loads(path.read_text())) if path.is_file() else None

    def is_made(self, name: str) -> bool:
        """Whether the model lies in the directory, made by its present recipe."""
        note = self.note(name)
        return note is not None and note["key"] == self.key(name) and (self.directory / name / "config.json").is_file()

    def key(self, name: str) -> str:
        """Content address of a model, its ancestors, its tokenizer and its text."""
        recipe = self._recipe(name)
        used = [*recipe.parents, *([recipe.teacher] if recipe.teacher else [])]
        text = (self._text_digest(recipe.training.part),) if recipe.training else ()
        return recipe.key((*(self.key(parent) for parent in used), *text))

    def tokenizer(self, recipe: TokenizerRecipe) -> str:
        """The trained tokenizer of a recipe, from the cache where it is there."""
        key = hashlib.sha256(
            json.dumps([recipe.to_dict(), self._text_digest(recipe.part)], sort_keys=True).encode()
        ).hexdigest()[:16]
        path = self._desk / f"tokenizer-{key}.json"
        if not path.is_file():
            trained = train_tokenizer(self.corpus.text(recipe.part, recipe.max_chars), recipe.vocab_size)
            _write(path, trained.encode())
        return path.read_text()

    def ids(self, tokenizer_json: str, part: int | str) -> np.ndarray:
        """Token ids of a part of the corpus, from the cache where they are there."""
        import numpy as np

        digest = hashlib.sha256(tokenizer_json.encode()).hexdigest()[:16]
        path = self._desk / f"ids-{digest}-{self._text_digest(part)[:16]}.npy"
        if not path.is_file():
            _write(path, encode(tokenizer_json, self.corpus.text(part, self.max_chars)).astype("int64").tobytes())
        return np.frombuffer(path.read_bytes(), dtype="int64")

    @property
    def _desk(self) -> Path:
        desk = self.directory / ".workshop"
        desk.mkdir(parents=True, exist_ok=True)
        return desk

    def _recipe(self, name: str) -> Recipe:
        if name not in self.recipes:
            raise UsageError("no such model in the catalog", got=name, expected=", ".join(sorted(self.recipes)))
        return self.recipes[name]

    def _text_digest(self, part: int | str) -> str:
        cache: dict[int | str, str] = self.__dict__.setdefault("_digests", {})
        if part not in cache:
            text = self.corpus.text(part, self.max_chars)
            cache[part] = hashlib.sha256(text.encode()).hexdigest()
        return cache[part]

    def _make_one(self, name: str) -> Path:
        recipe = self._recipe(name)
        target = self.directory / name
        if self.is_made(name):
            return target
        for parent in (*recipe.parents, *([recipe.teacher] if recipe.teacher else [])):
            self._make_one(parent)
        started = time.monotonic()
        losses = self._build(recipe, target)
        first, last = smoothed(losses)
        content = {
            "key": self.key(name),
            "steps": len(losses),
            "first_loss": round(first, 4),
            "last_loss": round(last, 4),
            "seconds": round(time.monotonic() - started, 1),
        }
        _write(self._desk / f"{name}.json", json.dumps(content, sort_keys=True).encode())
        return target

    def _build(self, recipe: Recipe, target: Path) -> list[float]:
        if recipe.parents:
            tokenizer_json = self._derive(recipe, target)
        elif recipe.architecture and recipe.sizes and recipe.tokenizer:
            tokenizer_json = self.tokenizer(recipe.tokenizer)
            save_model(fresh_model(recipe.architecture, recipe.sizes, recipe.seed), target, tokenizer_json)
        else:
            raise UsageError("a recipe needs parents, or architecture, sizes and tokenizer", got=recipe.name)
        if recipe.training is None:
            return []
        model = open_model(target)
        total = recipe.training.stop or recipe.training.steps
        report = self.progress
        losses = train(
            model,
            self.ids(tokenizer_json, recipe.training.part),
            recipe.training,
            teacher=open_model(self.directory / recipe.teacher) if recipe.teacher else None,
            progress=None if report is None else lambda step, loss: report(recipe.name, step, total, loss),
        )
        save_model(model, target, tokenizer_json)
        return losses

    def _derive(self, recipe: Recipe, target: Path) -> str:
        parents = [Snapshot.load(self.directory / parent) for parent in recipe.parents]
        if recipe.operator is None:
            parents[0].save(target)
            return parents[0].tokenizer
        operator = operator_of(recipe)
        arguments = dict(recipe.arguments)
        if recipe.tokenizer is not None:
            arguments["tokenizer"] = self.tokenizer(recipe.tokenizer)
        if operator.seeded:
            arguments["seed"] = recipe.seed
        child = operator.apply(*parents, **arguments)
        child.save(target)
        if operator.exact:
            check_function(self.directory / recipe.parents[0], target)
        return child.tokenizer


def check_function(parent: Path, child: Path, tolerance: float = 1e-4) -> float:
    """Largest difference of two models' logits on 256 random tokens.

    Raises:
        InternalError: it is above `tolerance`; an operator that claims to be exact is not.
    """
    import torch

    one, two = open_model(parent), open_model(child)
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(2, int(one.config.vocab_size), (4, 64), generator=generator)
    with torch.no_grad():
        difference = float((one(input_ids=ids_BT).logits - two(input_ids=ids_BT).logits).abs().max())
    if not difference <= tolerance:
        raise InternalError(
            "an operator that claims to keep the function changed it",
            where=str(child),
            got=f"logits differ by {difference:.2e}",
            expected=f"at most {tolerance:.0e}",
        )
    return difference


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.rename(path)
