"""What models are made from: the corpora and tokenizers of a recipe at one size, each with its digest.

What is wrong is added to the problems; what could not be made is left out, so that reading goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pedigree.family.sections import MixtureKeys, TokenizerKeys
from pedigree.family.sized import SizedRecipe
from pedigree.records.canonical import canonical_digest
from pedigree.records.places import Path
from pedigree.training.config import SourceConfig


@dataclass(frozen=True)
class Corpus:
    """Sources with their weights, in the order of the file."""

    name: str
    sources: tuple[SourceConfig, ...]
    digest: str


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer to be made or read: its keys, and the digest of these and of its corpus."""

    name: str
    keys: TokenizerKeys
    digest: str

    @property
    def vocabulary(self) -> int:
        """Tokens in all."""
        return self.keys.vocabulary


def corpora_of(recipe: SizedRecipe) -> dict[str, Corpus]:
    """The corpora by name: plain ones first, then mixtures of them."""
    made: dict[str, Corpus] = {}
    entries = recipe.entries("corpora")
    for name, node in entries.items():
        if "mixture" not in node.children:
            source = recipe.problems.fitted(SourceConfig, node.plain(), recipe.tree, ("corpora", name))
            if source is not None:
                made[name] = _corpus(name, (source,))
    plain = dict(made)
    for name, node in entries.items():
        if "mixture" in node.children:
            keys = recipe.problems.fitted(MixtureKeys, node.plain(), recipe.tree, ("corpora", name))
            corpus = _mixture(recipe, name, keys, plain) if keys is not None else None
            if corpus is not None:
                made[name] = corpus
    return made


def _mixture(recipe: SizedRecipe, name: str, keys: MixtureKeys, plain: Mapping[str, Corpus]) -> Corpus | None:
    sources = []
    for part, share in keys.mixture.items():
        path: Path = ("corpora", name, "mixture", part)
        if part in plain:
            source = plain[part].sources[0]
            sources.append(source.model_copy(update={"weight": source.weight * share}))
        elif recipe.tree.reaches(("corpora", part, "mixture")):
            _, mark = recipe.tree.find(path)
            recipe.problems.add(mark, "a mixture is made of plain corpora", path=path, got=f"the mixture {part!r}")
        else:
            recipe.unknown("corpora", part, path)
    return _corpus(name, tuple(sources)) if len(sources) == len(keys.mixture) else None


def _corpus(name: str, sources: tuple[SourceConfig, ...]) -> Corpus:
    return Corpus(name, sources, canonical_digest([source.model_dump(mode="json") for source in sources]))


def tokenizers_of(recipe: SizedRecipe, corpora: Mapping[str, Corpus]) -> dict[str, Tokenizer]:
    """The tokenizers by name."""
    made: dict[str, Tokenizer] = {}
    for name, node in recipe.entries("tokenizers").items():
        path: Path = ("tokenizers", name)
        keys = recipe.problems.fitted(TokenizerKeys, node.plain(), recipe.tree, path)
        if keys is None:
            continue
        if keys.corpus is not None and keys.corpus not in corpora:
            recipe.unknown("corpora", keys.corpus, (*path, "corpus"))
            continue
        content = {**keys.model_dump(mode="json", exclude={"about", "corpus"}), "corpus": None}
        if keys.corpus is not None:
            content["corpus"] = corpora[keys.corpus].digest
        made[name] = Tokenizer(name, keys, canonical_digest(content))
    return made
