"""A recipe read: one file, one family, at both sizes, or every problem in it at once.

Reading goes file -> tree with places -> sections at one size -> corpora, tokenizers and steps with their digests.

Laws
1. A step is content-addressed: its digest covers what it is (model, training, tokenizer, corpus) and the digests of
   its parents, nothing else. Comments, order, `about` and the names of steps do not count.
2. Both sizes are checked whenever a recipe is read, so that a recipe that works small cannot be broken large.
3. Nothing that a recipe names is opened here; the bytes of a corpus are recorded when they are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pedigree.family.materials import Corpus, Tokenizer, corpora_of, tokenizers_of
from pedigree.family.sections import SIZES, CompareKeys, EvaluateKeys, RecipeKeys, Size
from pedigree.family.sized import SizedRecipe
from pedigree.family.steps import Member, Step, StepReader
from pedigree.records.places import Node
from pedigree.records.problems import Problems
from pedigree.records.yaml_tree import parse_tree, read_text

Progress = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Family:
    """A recipe at one size: corpora, tokenizers and steps by name, steps in an order in which they can be run.

    `evaluate` says what is measured once they are made, `compare` what is compared.
    """

    name: str
    about: str
    size: Size
    corpora: Mapping[str, Corpus]
    tokenizers: Mapping[str, Tokenizer]
    members: Mapping[str, Member]
    evaluate: Mapping[str, EvaluateKeys]
    compare: CompareKeys

    @property
    def steps(self) -> dict[str, Step]:
        """The members that are trained; the others are made by operators."""
        return {name: member for name, member in self.members.items() if isinstance(member, Step)}


@dataclass(frozen=True)
class Recipe:
    """A recipe without problems: where it lies, the digest of its text, the size it means, the family at each size."""

    path: Path
    digest: str
    size: Size
    families: Mapping[Size, Family]

    def family(self, size: Size | None = None) -> Family:
        """The family at `size`, or at the size that the recipe means."""
        return self.families[size or self.size]


def read_recipe(path: Path, progress: Progress | None = None) -> Recipe:
    """Read and check a recipe, at both sizes; `progress` is told of each model, since operators are worked out on it.

    Raises:
        MissingInput: there is no such file.
        ProblemsFound: everything that is wrong with it, with file, line and column.
    """
    problems = Problems(path.name)
    text = read_text(path, problems)
    tree = parse_tree(text, problems) if text is not None else None
    problems.stop()
    if text is None or tree is None:  # both come with a problem, so this is for the type checker
        raise problems.error()
    families = {size: family for size in SIZES if (family := _family(tree, size, problems, progress)) is not None}
    problems.stop()
    digest = "sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()
    return Recipe(path, digest, tree.plain().get("size", "pico"), families)


def _family(tree: Node, size: Size, problems: Problems, progress: Progress | None) -> Family | None:
    """The family at one size. A broken top does not keep its sections from being looked at."""
    keys = problems.fitted(RecipeKeys, tree.plain(), tree, ())
    if keys is None and not isinstance(tree.value, dict):
        return None
    recipe = SizedRecipe.of(tree, size, problems)
    corpora = corpora_of(recipe)
    tokenizers = tokenizers_of(recipe, corpora)
    steps = StepReader(recipe, corpora, tokenizers, keys.seed if keys is not None else 0).steps(_told(size, progress))
    if keys is None:
        return None
    for at, pair in enumerate(keys.compare.pairs):
        for which, name in enumerate(pair):
            if name not in steps:
                recipe.unknown("models", name, ("compare", "pairs", at, which))
    evaluate = {name: _evaluation(name, asked, recipe, corpora, steps) for name, asked in keys.evaluate.items()}
    return Family(keys.family, keys.about, size, corpora, tokenizers, steps, evaluate, keys.compare)


def _told(size: Size, progress: Progress | None) -> Callable[[str, float], None]:
    """What is told of one size: which model is read, and the share of both sizes that is done."""

    def tell(name: str, share: float) -> None:
        if progress is not None:
            progress(f"reading at {size} size", (SIZES.index(size) + share) / len(SIZES), name)

    return tell


def _evaluation(
    name: str, asked: EvaluateKeys, recipe: SizedRecipe, corpora: Mapping[str, Corpus], steps: Mapping[str, Member]
) -> EvaluateKeys:
    """What is measured, with every model named; problems where a name or a window cannot be."""
    if asked.corpus not in corpora:
        recipe.unknown("corpora", asked.corpus, ("evaluate", name, "corpus"))
    for at, model in enumerate(asked.models):
        if model not in steps:
            recipe.unknown("models", model, ("evaluate", name, "models", at))
    models = asked.models or tuple(steps)
    shortest = min((steps[model].model.n_positions for model in models if model in steps), default=None)
    if shortest is not None and asked.sequence_length is not None and asked.sequence_length > shortest:
        recipe.problems.add(
            recipe.tree.find(("evaluate", name, "sequence_length"))[0].mark,
            "the windows are longer than the context of a model", path=("evaluate", name, "sequence_length"),
            got=f"{asked.sequence_length} tokens", expected=f"at most {shortest}",
            fix=f"sequence_length: {shortest}, or leave it out",
        )  # fmt: skip
    return asked.model_copy(update={"models": models})
