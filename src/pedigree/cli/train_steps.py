"""What `pedigree train` does with one step of a recipe: overrides, tokenizer, model, run, files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pedigree.cli.earlier import set_aside, take_back
from pedigree.cli.recording import recorder_for
from pedigree.cli.train_results import finished_before, keep, made_of
from pedigree.cli.workplace import Workplace
from pedigree.errors import MalformedFile, MissingInput, OtherSettings, UsageError

if TYPE_CHECKING:
    import torch

    from pedigree.family.steps import Step
    from pedigree.model.decoder import Decoder
    from pedigree.records.recorder import Recorder
    from pedigree.records.training_run import StepResult
    from pedigree.training.config import TrainingConfig
    from pedigree.training.progress import Beat, Summary
    from pedigree.training.ranks import Ranks
    from pedigree.training.run import Run

MODEL = "model"  # folder of the finished weights in the folder of a step


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`key.path=value` words as a mapping; values are JSON where they can be, text otherwise.

    Raises:
        UsageError: a word without `=`.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(
                "this is no override", where="--set", got=repr(word), expected="KEY=VALUE",
                fix="--set optimizer.lr=0.001",
            )  # fmt: skip
        try:
            found[key.strip().replace("-", "_")] = json.loads(text)
        except ValueError:
            found[key.strip().replace("-", "_")] = text
    return found


def overridden(config: TrainingConfig, overrides: Mapping[str, Any]) -> TrainingConfig:
    """A config with other values at some key paths.

    Raises:
        UsageError: there is no such key, or the values do not fit.
    """
    from pydantic import ValidationError

    from pedigree.training.config import TrainingConfig

    values = config.model_dump(mode="json")
    for key, value in overrides.items():
        place: Any = values
        *path, last = key.split(".")
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            from pedigree.cli.options import closest

            known = [*place] if isinstance(place, dict) else [*values]
            near = closest(last, known)
            raise UsageError(
                "training has no such setting", where="--set", got=key, expected=f"one of {', '.join(known)}",
                fix=f"did you mean {'.'.join([*path, near])}?" if near else None,
            )  # fmt: skip
        place[last] = value
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        told = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # each setting is one, together they are none
            raise UsageError(f"these settings cannot be: {told}", where="--set") from error
        where = ".".join(map(str, first["loc"]))
        raise UsageError("this setting cannot be", where=f"--set {where}", got=first["input"], expected=told) from error


def tokenizer_of(place: Workplace, step: Step) -> Path:
    """The tokenizer.json of a step: the file that the recipe names, or one made now and kept."""
    from pedigree.family.tokenizer_files import tokenizer_file

    return tokenizer_file(place.family, step.tokenizer, place.beside, place.output)


def train_step(place: Workplace, step: Step) -> StepResult:
    """Train one step to its end, or as far as it gets.

    Raises:
        PedigreeError: something is missing, malformed or does not fit; before the first step is taken.
    """
    from pedigree.training.device import find_device

    config = overridden(step.training, place.overrides).beside(place.beside)
    output = place.output / step.name
    device = find_device(place.device)
    tokenizer = tokenizer_of(place, step)
    parents = {step.parents["from"]: place.output / step.parents["from"] / MODEL} if "from" in step.parents else {}
    missing = any(not folder.is_dir() for folder in parents.values())
    digest = "" if missing else made_of(step, config, tokenizer, parents)  # starting_model says what is missing
    done = finished_before(output, MODEL, digest) if place.start != "fresh" else None
    if done is None and place.keeps_earlier and digest and take_back(place, step.name, digest):
        done = finished_before(output, MODEL, digest)
    if done is not None:
        return done
    first = os.environ.get("RANK", "0") == "0"

    def attempt() -> StepResult:
        with recorder_for(output / "run.jsonl", place.warn, unrecorded=place.unrecorded or not first) as recorder:
            return _trained(place, step, config, tokenizer, device, recorder)

    try:
        result = attempt()
    except OtherSettings:
        if not place.keeps_earlier:
            raise
        set_aside(place, step.name)
        result = attempt()
    # Only now: until the record is whole it is being written beside the weights.
    if first and result.outcome == "finished":
        keep(result, config, output, MODEL, digest)
    return result


def _trained(
    place: Workplace, step: Step, config: TrainingConfig, tokenizer: Path, device: torch.device, recorder: Recorder
) -> StepResult:
    """The step as far as it gets, and its page."""
    from pedigree.training.carried_state import read_carried

    output = place.output / step.name
    show = place.progress
    run = trainer(
        place, step, config, tokenizer, device, recorder, output=output,
        progress=(lambda beat: show(step.name, beat)) if show else None,
    )  # fmt: skip
    model, vocabulary, facts = cast("Decoder", run.model), run.vocabulary, run.facts
    if run.start(place.start) == 0 and step.carries:
        run.begin_with(read_carried(state_of(place, step.parents["from"])))
    summary = run.work()
    if summary.outcome == "finished":
        write_model(run, model, step, tokenizer, output / MODEL, recorder.stamp)
        parameters = {
            "step_digest": step.digest, "seed": config.seed, "steps": summary.step, "tokens": summary.tokens,
            "loss": summary.loss, "floating_point_operations": summary.tokens * facts.operations_per_token,
        }  # fmt: skip
        operation = "finetune" if "from" in step.parents else "train"
        recorder.derive(
            {"operation": operation, "name": step.name, "outputs": [str(output / MODEL)], "parameters": parameters}
        )
    experts = None
    if summary.outcome == "finished" and step.model.experts is not None and run.texts and run.ranks.world == 1:
        from pedigree.training.moe_health import moe_health

        experts = moe_health(model, run.texts, config, vocabulary, device).to_dict()
    return _result(step, config, summary, output, run.ranks, experts)


def trainer(
    place: Workplace,
    step: Step,
    config: TrainingConfig,
    tokenizer: Path,
    device: torch.device,
    recorder: Recorder,
    *,
    output: Path,
    progress: Callable[[Beat], None] | None,
) -> Run:
    """The run of a step, ready to start.

    Args:
        place, step, config, tokenizer, device: what is trained, with which settings, on what.
        recorder: who is told.
        output: folder of the run: checkpoints, metrics.
        progress: called with each sign of life.

    Raises:
        PedigreeError: something is missing, malformed or does not fit.
    """
    from pedigree.family.tokenizer_files import separator_of
    from pedigree.model.sizes import operations
    from pedigree.training.fit import ModelFacts
    from pedigree.training.run import Run
    from pedigree.training.shards import Vocabulary

    vocabulary = Vocabulary.load(tokenizer, config.separator or separator_of(place.family, step.tokenizer))
    facts = ModelFacts(
        config=step.model.to_dict()
        | {"from": {key: place.family.members[name].digest for key, name in step.parents.items()}},
        vocab_size=step.model.vocab_size,
        n_positions=step.model.n_positions,
        operations_per_token=operations(step.model, config.sequence_length).training,
    )
    model = starting_model(place, step, config.seed)
    origin = {
        "recipe": str(place.recipe.path), "recipe_digest": place.recipe.digest, "recipe_step": step.name,
        "step_digest": step.digest, "parents": dict(step.parents), "overrides": dict(place.overrides),
        "seed": config.seed, "inputs": [
            {"path": str(place.output / name / MODEL), "role": "init" if key == "from" else key, "name": name}
            for key, name in step.parents.items()
        ],
    }  # fmt: skip
    return Run(
        model, facts, config, vocabulary, output=output, cache=place.output / "tokens", recorder=recorder,
        device=device, origin=origin, progress=progress,
    )  # fmt: skip


def starting_model(place: Workplace, step: Step, seed: int) -> Decoder:
    """A model with random weights, or with those of the step that this one continues.

    Raises:
        MissingInput: that step is not trained yet.
        MalformedFile: its weights do not fit.
    """
    from pedigree.model.decoder import Decoder
    from pedigree.model.hf_checkpoint import import_checkpoint

    model = Decoder(step.model, seed=seed)
    parent = step.parents.get("from")
    if parent is None:
        return model
    folder = place.output / parent / MODEL
    if not (folder / "config.json").is_file():
        raise missing_parent(place, step, folder)
    own, found = model.state_dict(), import_checkpoint(folder).state_dict()
    differing = sorted({*own} ^ {*found}) or [name for name in own if own[name].shape != found[name].shape]
    if differing:
        raise MalformedFile(
            "the weights of the step before do not fit", where=str(folder), got=f"{len(differing)} tensors that differ",
            expected=f"the shape and presence of {differing[0]}",
            fix=f"pedigree train {place.recipe.path} --only {parent} --fresh trains that step anew",
        )  # fmt: skip
    model.load_state_dict(found)
    return model


def moments_beside(model: Path) -> Path:
    """Where surgery leaves the state of the optimizer of a model."""
    return model.with_name(model.name + ".optimizer")


def state_of(place: Workplace, parent: str) -> Path:
    """The state of the optimizer that a step left: its newest checkpoint, or what surgery has moved along.

    Raises:
        MissingInput: there is none.
    """
    from pedigree.training.checkpoint import Checkpoints
    from pedigree.training.ranks import Ranks

    moved = moments_beside(place.output / parent / MODEL)
    if moved.is_dir():
        return moved
    whole = Checkpoints(place.output / parent / "checkpoints", Ranks()).whole()
    if not whole:
        raise MissingInput(
            "the step before has left no state of its optimizer", where=str(place.output / parent), got=parent,
            fix=f"pedigree run {place.recipe.path} --only {parent} --fresh, or moments: drop",
        )  # fmt: skip
    return whole[-1].path


def missing_parent(place: Workplace, step: Step, folder: Path) -> MissingInput:
    """The error where the weights that a step begins with are not in `folder`."""
    parent = step.parents["from"]
    verb = "train" if parent in place.family.steps else "run"
    return MissingInput(
        "the step that this one continues is not trained yet", where=str(folder), got=f"nothing for {step.name}",
        expected=f"the weights of {parent}", fix=f"pedigree {verb} {place.recipe.path} --only {parent}",
    )  # fmt: skip


def write_model(run: Run, model: Decoder, step: Step, tokenizer: Path, folder: Path, stamp: Mapping[str, Any]) -> None:
    """A Hugging Face directory: weights and config, tokenizer, and the place of their record."""
    from pedigree.model.hf_checkpoint import export_state
    from pedigree.training.parallel import whole_weights

    weights = whole_weights(model)
    if run.ranks.is_first:
        ids = {"bos_token_id": run.vocabulary.separator, "eos_token_id": run.vocabulary.separator}
        export_state(step.model, weights, folder, extra_keys=ids, force=True)
        shutil.copyfile(tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer, folder / "tokenizer.json")
        if stamp["record"] != "unrecorded":
            stamp = {"record": f"../{stamp['record']}"}  # the file lies in the folder of the step
        sidecar = {"schema": "pedigree/sidecar", "version": 1, "step": step.name, "digest": step.digest, **stamp}
        (folder / "pedigree.json").write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")


def _result(
    step: Step,
    config: TrainingConfig,
    summary: Summary,
    output: Path,
    ranks: Ranks,
    experts: dict[str, Any] | None,
) -> StepResult:
    """The record of a step, and its page."""
    from dataclasses import asdict

    from pedigree.cli.files import WRITTEN
    from pedigree.records.training_run import DomainScore, StepResult
    from pedigree.report.run_page import render_run
    from pedigree.training.metrics import read_metrics

    finished = summary.outcome == "finished"
    report = output / "report.html"
    result = StepResult(
        step=step.name, outcome=summary.outcome, digest=step.digest, steps=summary.step, tokens=summary.tokens,
        first_step=summary.first_step, loss=summary.loss, seconds=summary.seconds,
        tokens_per_second=summary.tokens_per_second, utilization=summary.utilization,
        scores=[DomainScore(**asdict(score)) for score in summary.scores], arithmetic=summary.arithmetic,
        experts=experts, decisions=[decision.to_dict() for decision in summary.decisions], output=str(output),
        model=str(output / MODEL) if finished else None, report=str(report),
    )  # fmt: skip
    if ranks.is_first:
        report.write_text(render_run(result, read_metrics(output / "metrics.jsonl")), encoding="utf-8")
        (output / "training.json").write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
        WRITTEN.append(report)
    return result
