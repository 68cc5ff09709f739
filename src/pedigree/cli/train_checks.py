"""What is known to be wrong before the first step of the first model: told then, not hours later in the third one.

Looked at for every step that will be trained: settings, processes, device, memory, corpora, a tokenizer that is a file.
A tokenizer that is still to be trained, and the length of tokenized corpora, are looked at when they are there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.cli.train_steps import MODEL, missing_parent, overridden
from pedigree.cli.workplace import Workplace
from pedigree.errors import InputError, UsageError

if TYPE_CHECKING:
    from pedigree.family.steps import Step
    from pedigree.training.config import TrainingConfig


def check_steps(place: Workplace, steps: Sequence[Step], coming: Collection[str] = ()) -> None:
    """Make sure that all the steps can be begun.

    Args:
        place: where and how they are trained.
        steps: in the order in which they will be.
        coming: further members that will be made before the steps that start from them.

    Raises:
        PedigreeError: a setting, a device, a corpus, a tokenizer or the step before is not what it must be.
    """
    from pedigree.training.device import find_device
    from pedigree.training.metrics import check_tensorboard
    from pedigree.training.ranks import check_mesh
    from pedigree.training.sources import check_source

    device = find_device(place.device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    read: set[str] = set()
    for step in steps:
        config = overridden(step.training, place.overrides).beside(place.beside)
        check_mesh(config, world)
        if config.tensorboard:
            check_tensorboard()
        check_memory(step, device.type)
        parent = step.parents.get("from")
        folder = place.output / str(parent) / MODEL
        made = {*coming, *(other.name for other in steps)}
        if parent and parent not in made and not (folder / "config.json").is_file():
            raise missing_parent(place, step, folder)
        for source in [*config.sources, *config.evaluation.sources]:
            known = source.model_dump_json(exclude={"weight", "domain", "held_out"})
            if known not in read:
                check_source(source)
            read.add(known)
        check_tokenizer(place, step, config)


def check_tokenizer(place: Workplace, step: Step, config: TrainingConfig) -> None:
    """Make sure that a tokenizer that is a file is one, and holds what the recipe says.

    Raises:
        MissingInput, MalformedFile: as `Vocabulary.load`.
        UsageError: it knows more ids than the recipe says.
    """
    from pedigree.training.shards import Vocabulary

    keys = place.family.tokenizers[step.tokenizer].keys
    if keys.kind != "file":
        return
    size = Vocabulary.load(place.beside / str(keys.path), config.separator).size
    if size > keys.vocabulary:
        raise UsageError(
            "the tokenizer knows more ids than the recipe says", where=f"tokenizers.{step.tokenizer}.vocabulary",
            got=f"{size} ids in {keys.path}", expected=f"at most {keys.vocabulary}", fix=f"vocabulary: {size}",
        )  # fmt: skip


def check_memory(step: Step, device: str) -> None:
    """Make sure that the training state of a step fits into this machine, where that can be known.

    Raises:
        InputError: it does not.
    """
    from pedigree.model.sizes import parameters

    if device != "cpu":
        return
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    wanted = 16 * parameters(step.model).with_mtp
    if wanted > memory:
        raise InputError(
            "this model does not fit into the memory of this machine", where=step.name, got=f"{memory:,} bytes",
            expected=f"{wanted:,} bytes for weights, gradients and moments",
            fix="--size pico, or pedigree plan to see what it takes",
        )  # fmt: skip


@contextmanager
def placed(folder: Path) -> Iterator[None]:
    """Errors of the system that do not say where they happened name `folder`."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise
