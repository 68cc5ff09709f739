"""The whole examination of a size: which questions there are, which can be asked of what is made, with their truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pedigree.benchmark.families.foundry import made, workshop
from pedigree.benchmark.families.members import Member, SplitName, members
from pedigree.benchmark.families.questions import Question, questions, tree, unmerging
from pedigree.benchmark.families.sizes import Scale, scale_of
from pedigree.benchmark.families.split import Split
from pedigree.benchmark.families.truth import TruthBook
from pedigree.benchmark.runs import Task

SPLITS: tuple[SplitName, ...] = ("calibration", "test")


@dataclass(frozen=True)
class Merge:
    """A merge with its candidates: the true weights, zero for decoys."""

    task: Task
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Tree:
    """Several models with the true lines between them, as positions (ancestor, descendant)."""

    task: Task
    edges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Exam:
    """Everything that can be asked.

    Args:
        size: nano, pico or micro.
        members: all models of the size, steps on the way included.
        made: names of those that lie in the folder.
        asked: questions about two models, by the address of their task.
        pairs: their tasks.
        merges, trees: the other tasks.
        total: questions there would be if every model were made.
    """

    size: str
    members: tuple[Member, ...]
    made: frozenset[str]
    asked: Mapping[str, Question]
    pairs: tuple[Task, ...]
    merges: tuple[Merge, ...]
    trees: tuple[Tree, ...]
    total: int

    @property
    def tasks(self) -> list[Task]:
        """All tasks."""
        return [*self.pairs, *(merge.task for merge in self.merges), *(one.task for one in self.trees)]

    def models(self) -> tuple[int, int]:
        """Models made and models in all, steps on the way not counted."""
        names = [member.name for member in self.members if not member.step]
        return sum(name in self.made for name in names), len(names)


def exam(folder: Path, size: str, only: Sequence[str] = (), *, seed: int = 0) -> Exam:
    """The examination over what a folder holds.

    Args:
        folder: of the benchmark.
        size: nano, pico or micro.
        only: words of which one must occur in a model's name; strangers of other families drop out with them.
        seed: that the models were made with.
    """
    scale = scale_of(size, seed)
    everyone = tuple(members(size, seed))
    there = frozenset(made(folder, everyone, scale))
    book = TruthBook(everyone)
    keys = _keys(folder, everyone, scale, there)
    asked: dict[str, Question] = {}
    pairs, merges, trees, total = [], [], [], 0
    for name in SPLITS:
        split = Split.of(name, everyone)
        found = questions(book, split)
        total += len(found)
        for question in found:
            models = (question.a, question.b)
            if there.issuperset(models) and _is_wanted(models, only):
                task = Task("pair", name, models, tuple(keys[model] for model in models))
                pairs.append(task)
                asked[task.address] = question
        for member, parents, decoys in unmerging(book, split):
            several = (member.name, *parents, *decoys)
            if there.issuperset(several) and _is_wanted(several, only) and member.rung is not None:
                task = Task("merge", name, several, tuple(keys[model] for model in several))
                merges.append(Merge(task, (*member.rung.weights, *(0.0 for _ in decoys))))
        names, edges = tree(book, split)
        if names and there.issuperset(names) and _is_wanted(names, only):
            trees.append(Tree(Task("tree", name, names, tuple(keys[model] for model in names)), edges))
    return Exam(size, everyone, there, asked, tuple(pairs), tuple(merges), tuple(trees), total)


def _is_wanted(models: Sequence[str], only: Sequence[str]) -> bool:
    return not only or all(any(word in model for word in only) for model in models)


def _keys(folder: Path, everyone: Sequence[Member], scale: Scale, there: frozenset[str]) -> dict[str, str]:
    shop = workshop(folder, everyone, scale)
    return {name: shop.key(name) for name in there}
