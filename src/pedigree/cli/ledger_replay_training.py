"""A stretch of a recorded training taken again: from a state whose digest is recorded, step by step, losses compared.

A run of the same settings, data, library and number of threads gives the same losses to the last bit; the ledger holds
six digits of some of them: of every saved state, and of signs of life. One state is drawn at random among those that
are still on disk, so that nobody knows beforehand which stretch will be looked at.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pedigree.errors import PedigreeError

if TYPE_CHECKING:
    from pedigree.cli.workplace import Workplace
    from pedigree.family.replay import Replayed
    from pedigree.family.steps import Step
    from pedigree.ledger.entry import Entry
    from pedigree.training.run import Run

DIGITS = 1e-5  # relative; six significant digits are recorded


def replayed_training(
    entries: Sequence[Entry], wanted: Iterable[int] | None, steps: int, warn: Callable[[str], None]
) -> list[Replayed]:
    """Take a stretch of every training again.

    Args:
        entries: all entries of the ledger, checked.
        wanted: the entries to look at; None for all.
        steps: how many steps of each.
        warn: told what the machinery of training wants to say.
    """
    from pedigree.ledger.edges import name_of
    from pedigree.ledger.statement import MATERIALS

    chosen = None if wanted is None else set(wanted)
    found: list[Replayed] = []
    for entry in entries:
        made = entry.leaf.kind == "derive" and entry.said is not None and entry.leaf.run is not None
        if not made or entry.said is None or (chosen is not None and entry.index not in chosen):
            continue
        run = [item for item in entries if item.leaf.run == entry.leaf.run]
        start = next((item for item in run if item.leaf.kind == "run.start"), None)
        if start is None or "recipe_step" not in start.facts:
            continue
        from pedigree.family.replay import Replayed

        parents = tuple(item.digest for item in entry.said.parents if item.role not in MATERIALS)
        told = (entry.index, entry.leaf.subjects[0], name_of(entry), parents)
        try:
            verdict, why, met = _stretch(start.facts, run, steps, warn)
        except (PedigreeError, OSError) as error:
            sentence = error.sentence() if isinstance(error, PedigreeError) else str(error)
            verdict, why, met = "DECLARED", f"it cannot be trained again here: {sentence}"[:300], False
        found.append(Replayed(*told, verdict, why, stretch=met))
    return found


def _stretch(
    facts: Mapping[str, Any], run: Sequence[Entry], steps: int, warn: Callable[[str], None]
) -> tuple[Literal["REPLAYED", "CONTRADICTED", "DECLARED"], str, bool]:  # fmt: skip
    """Verdict on one stretch, why, and whether it came out as recorded.

    A stretch that is the whole training is REPLAYED; of a shorter one the edge learns nothing but that it holds there.
    """
    import torch

    torch.set_num_threads(int(facts.get("threads") or torch.get_num_threads()))
    losses = _recorded_losses(run)
    states = [(step, path) for step, path in _states(run) if any(step < at <= step + steps for at in losses)]
    if not states:
        return "DECLARED", f"no recorded state is here with a recorded loss within {steps} steps behind it", False
    step, path = states[secrets.randbelow(len(states))]
    place, member = _workplace(facts, path, warn)
    with tempfile.TemporaryDirectory(prefix="pedigree-replay-") as name:
        taken = _losses_from(place, member, path, Path(name), step, steps)
    compared = {at: (losses[at], loss) for at, loss in taken.items() if at in losses}
    for at, (before, now) in sorted(compared.items()):
        if not abs(before - now) <= DIGITS * abs(before):
            told = f"trained again from step {step}, and the loss of step {at} is {now:.6g}, not {before:g}"
            if str(facts.get("torch")) != torch.__version__:
                return "DECLARED", f"{told}; torch is {torch.__version__} here and was {facts.get('torch')}", False
            return "CONTRADICTED", told, False
    if not compared:
        return "DECLARED", f"trained again from step {step}, and no recorded loss was met", False
    last, of = max(taken), int(facts.get("steps") or 0)
    told = f"steps {step + 1} to {last} of {of} trained again, {len(compared)} recorded losses met"
    return ("REPLAYED" if (step, last) == (0, of) else "DECLARED"), told, True


def _recorded_losses(run: Sequence[Entry]) -> dict[int, float]:
    """Losses by the number of steps taken; a roll-back makes those before it unclear, so they are left out."""
    found: dict[int, float] = {}
    for entry in run:
        facts = entry.facts
        if entry.leaf.kind == "run.decision" and "roll-back" in str(facts.get("action")):
            found.clear()
        if entry.leaf.kind in ("run.beat", "ckpt.save") and facts.get("loss") not in (None, ""):
            found[int(facts["step"])] = float(facts["loss"])
    return found


def _states(run: Sequence[Entry]) -> list[tuple[int, Path]]:
    """Saved states that are still on disk and are the recorded ones."""
    found: dict[int, Path] = {}
    for entry in run:
        if entry.leaf.kind != "ckpt.save" or not entry.leaf.subjects:
            continue
        path = Path(str(entry.facts.get("path", "")))
        state = path / "state.json"
        if state.is_file() and hashlib.sha256(state.read_bytes()).hexdigest() == entry.leaf.subjects[0]:
            found[int(entry.facts["step"])] = path
    return sorted(found.items())


def _workplace(facts: Mapping[str, Any], state: Path, warn: Callable[[str], None]) -> tuple[Workplace, Step]:
    """The step as it was: the recipe of the recorded digest, at the size and with the overrides of then.

    Raises:
        PedigreeError: the recipe is not here, or is another one now.
    """
    from typing import cast

    from pedigree.cli.workplace import Workplace
    from pedigree.errors import MissingInput
    from pedigree.family.recipe import read_recipe
    from pedigree.family.sections import Size

    recipe = read_recipe(Path(str(facts["recipe"])))
    overrides = dict(facts.get("overrides") or {})
    name = str(facts["recipe_step"])
    for size in (None, *_sizes()):
        family = recipe.family(cast("Size | None", size))
        member = family.steps.get(name)
        if member is not None and member.digest == facts.get("step_digest"):
            output = state.parents[2]
            place = Workplace(
                recipe, family, output, overrides, "resume", str(facts.get("device") or "cpu"), True, None, warn
            )
            return place, member
    raise MissingInput(
        "the recipe is another one now", where=str(recipe.path), got=recipe.digest, expected=facts.get("recipe_digest")
    )


def _sizes() -> tuple[str, ...]:
    from typing import get_args

    from pedigree.family.sections import Size

    return tuple(get_args(Size))


def _losses_from(place: Workplace, member: Step, state: Path, folder: Path, first: int, steps: int) -> dict[int, float]:
    """Losses by step, taken again from a saved state; nothing is written where the run itself lies."""
    from pedigree.cli.train_steps import overridden, tokenizer_of, trainer
    from pedigree.errors import MissingInput
    from pedigree.records.recorder import NullRecorder
    from pedigree.training.device import find_device

    config = overridden(member.training, place.overrides).beside(place.beside)
    quiet = {"log_every": 1, "checkpoint": config.checkpoint.model_copy(update={"every": 0}), "tensorboard": False}
    config = config.model_copy(update=quiet)
    _borrow(state, folder / "checkpoints" / state.name)
    losses: dict[int, float] = {}
    run: Run = trainer(
        place, member, config, tokenizer_of(place, member), find_device(place.device), NullRecorder(), output=folder,
        progress=lambda beat: losses.update({beat.step: beat.loss}),
    )  # fmt: skip
    if run.start("resume") != first:
        raise MissingInput("the state is not whole", where=str(state))
    for _ in range(min(steps, config.steps - first)):
        if not run.step():
            break
    return losses


def _borrow(state: Path, target: Path) -> None:
    """The files of a state under another name, without a copy where that can be."""
    import shutil

    target.mkdir(parents=True)
    for file in state.iterdir():
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copyfile(file, target / file.name)
