"""Makes the models of a benchmark in a folder. What is there already is kept; one that fails does not stop the rest.

    FOLDER/models/NAME/          a model
    FOLDER/models/.workshop/     notes of what was made: the address of its content, losses, seconds
    FOLDER/failures.json         models that could not be made, and why

Law  a model is made again only if its recipe, its ancestors, its tokenizer or its text changed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pedigree.benchmark.families.members import Member, recipes
from pedigree.benchmark.families.sizes import Scale
from pedigree.benchmark.zoo.workshop import Workshop
from pedigree.errors import PedigreeError

MODELS = "models"
FAILURES = "failures.json"
OPERATION_SECONDS = 0.3
"""Of a derivation without training, saving and loading included."""

Told = Callable[[str, float, str], None]


@dataclass
class Made:
    """What lies in a folder after a run: names of models, and a sentence for each that could not be made."""

    names: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def workshop(folder: Path, members: Sequence[Member], scale: Scale) -> Workshop:
    """The workshop of a folder."""
    return Workshop(folder / MODELS, recipes(members), max_chars=scale.max_chars)


def made(folder: Path, members: Sequence[Member], scale: Scale) -> list[str]:
    """Names of the members that are made by their present recipe."""
    shop = workshop(folder, members, scale)
    return [member.name for member in members if shop.is_made(member.name)]


def estimate(members: Iterable[Member], scale: Scale) -> float:
    """Seconds on one free core that making these models takes, counted beforehand."""
    steps = sum(training.steps for member in members if (training := member.recipe.training) is not None)
    return steps * scale.seconds + OPERATION_SECONDS * len(list(members))


def wanted(members: Sequence[Member], only: Sequence[str]) -> list[Member]:
    """Members whose name contains one of the words, with the ancestors they need; all where no word is given."""
    if not only:
        return list(members)
    by_name = {member.name: member for member in members}
    found: set[str] = set()

    def take(name: str) -> None:
        if name not in found:
            found.add(name)
            recipe = by_name[name].recipe
            for parent in (*recipe.parents, *([recipe.teacher] if recipe.teacher else [])):
                take(parent)

    for member in members:
        if any(word in member.name for word in only):
            take(member.name)
    return [member for member in members if member.name in found]


def make(
    folder: Path, members: Sequence[Member], asked: Sequence[Member], scale: Scale, *, workers: int = 1,
    told: Told | None = None,
) -> Made:  # fmt: skip
    """Make the models that were asked for.

    Args:
        folder: of the benchmark.
        members: all members of the size.
        asked: those to make, parents included.
        scale: their scale.
        workers: processes; each takes whole families, donors before those that need them.
        told: called with (stage, share done, message).
    """
    (folder / MODELS).mkdir(parents=True, exist_ok=True)
    there = set(made(folder, members, scale))
    todo = [member for member in asked if member.name not in there]
    result = Made(sorted(there & {member.name for member in asked}))
    done = 0
    for group in _waves(todo):
        batches = [(folder, members, names, scale) for names in group.values()]
        for names, failures in _run(batches, workers):
            result.names += names
            result.failures |= failures
            done += len(names) + len(failures)
            if told is not None:
                told(
                    "make", done / max(1, len(todo)), f"{done} of {len(todo)} models, last {([*failures] or names)[-1]}"
                )
    _write_json(folder / FAILURES, result.failures)
    return result


def _waves(todo: Sequence[Member]) -> list[dict[str, list[str]]]:
    """Roots first; then derivatives by what they cost, so that a run that is stopped leaves most kinds behind. In a
    wave, models of one stem are one batch, since they stand on each other."""
    waves: list[dict[str, list[str]]] = [{}, {}, {}, {}]
    for member in todo:
        training = member.recipe.training
        if not member.recipe.parents and not member.recipe.teacher:
            waves[0][member.name] = [member.name]
            continue
        wave = 1 if training is None or member.distance < 1 else 2 if member.distance <= 1 else 3
        wave = 2 if member.recipe.teacher else wave
        stem = re.sub(r"\.(step\d+|x[\d.]+)$", "", member.name)
        waves[wave].setdefault(stem, []).append(member.name)
    return waves


def _run(batches: Sequence[tuple[Any, ...]], workers: int) -> Iterable[tuple[list[str], dict[str, str]]]:
    if workers <= 1:
        yield from (_make_batch(*batch) for batch in batches)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_make_batch, *batch) for batch in batches]):
            yield future.result()


def _make_batch(
    folder: Path, members: Sequence[Member], names: Sequence[str], scale: Scale
) -> tuple[list[str], dict[str, str]]:
    """Make models one after the other; a failure is kept as a sentence, and what stands on it fails too."""
    import torch

    torch.set_num_threads(1)
    shop = workshop(folder, members, scale)
    done: list[str] = []
    failures: dict[str, str] = {}
    for name in names:
        try:
            shop.make([name])
            done.append(name)
        except PedigreeError as error:
            failures[name] = error.sentence()
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError, IndexError) as error:
            failures[name] = f"{type(error).__name__}: {error}"
    return done, failures


def read_failures(folder: Path) -> Mapping[str, str]:
    """Models that could not be made at the last run, and why."""
    path = folder / FAILURES
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _write_json(path: Path, content: object) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.rename(path)
